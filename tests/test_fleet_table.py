"""The transition table: every pair is decided, every effect is used, the diagram in the docs is the table's."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from executors.aws_lambda.fleet import Fleet, ImpossibleTransition, State, effects, events
from executors.aws_lambda.fleet.diagram import mermaid, with_diagram
from executors.aws_lambda.fleet.effects import ignored, impossible
from executors.aws_lambda.fleet.states import LIVE, TERMINAL
from executors.aws_lambda.fleet.transitions import (
    ANSWERS,
    EVENTS,
    TABLE,
    TIMERS,
)

PAGE = Path(__file__).parents[1] / "docs" / "coordinator.md"


def every_event() -> set[type]:
    kinds = (kind for _, kind in inspect.getmembers(events, inspect.isclass))
    bases = (events.Event, events.InvocationEvent)
    return {
        kind for kind in kinds if issubclass(kind, events.InvocationEvent) and kind not in bases
    }


def test_every_event_in_every_state_is_decided() -> None:
    assert set(EVENTS) == every_event()
    assert set(TABLE) == {(state, event) for state in State for event in EVENTS}


def test_every_effect_is_used() -> None:
    functions = {
        function
        for name, function in inspect.getmembers(effects, inspect.isfunction)
        if function.__module__ == effects.__name__ and not name.startswith("_")
    }
    assert functions == {rule.effect for rule in TABLE.values()}


def test_states_are_live_or_ended_and_every_live_one_can_end() -> None:
    assert set(State) == LIVE | TERMINAL and not LIVE & TERMINAL
    for state in LIVE:
        assert any(to in TERMINAL for event in EVENTS for to in TABLE[state, event].to)


def test_what_is_ignored_or_impossible_leads_nowhere() -> None:
    assert all(not rule.to for rule in TABLE.values() if rule.effect in (ignored, impossible))


def test_only_our_own_answers_and_timers_can_be_impossible() -> None:
    found = {event for (_, event), rule in TABLE.items() if rule.effect is impossible}
    assert found and found <= {*ANSWERS, *TIMERS}


def test_a_second_answer_to_one_call_is_an_error_of_ours() -> None:
    fleet = Fleet()
    fleet.handle(events.TargetChanged(1, at=0.0))
    fleet.handle(events.Invoked("worker-0-0", at=0.1))
    with pytest.raises(ImpossibleTransition, match="Invoked for worker-0-0, which is invoked"):
        fleet.handle(events.Invoked("worker-0-0", at=0.2))


def test_the_diagram_in_the_docs_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert with_diagram(page) == page, "run: python tests/test_fleet_table.py"


def test_the_diagram_shows_every_state_and_every_change() -> None:
    drawn = mermaid()
    for state in State:
        assert state in drawn
    for event in EVENTS:
        leads = any(TABLE[state, event].to for state in State)
        assert (event.__name__ in drawn) == (leads or event is events.Refused)


if __name__ == "__main__":
    PAGE.write_text(with_diagram(PAGE.read_text()))
