"""The transition table of an invocation: what each event does in each state.

Lambda runs Event invocations late, twice or never, and news of one invocation travels by several ways (the Invoke
call, the relay, the worker's own messages), so most events can come in most states. Each pair of state and event is
decided here: by an effect (a function of effects.py), as news that comes too late to matter (`ignored`), or as an error of
ours (`impossible`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from executors.aws_lambda.fleet import effects
from executors.aws_lambda.fleet.books import Books, Outcome
from executors.aws_lambda.fleet.events import (
    Connected,
    Done,
    Drained,
    Draining,
    DrainOverdue,
    Failed,
    Finished,
    Heartbeat,
    Idle,
    InvocationEvent,
    Invoked,
    InvokeRefused,
    InvokeThrottled,
    InvokeUnanswered,
    InvokeUnsent,
    LinkDown,
    LinkUp,
    Overdue,
    Ready,
    Refused,
    Retire,
    RetryDue,
    Running,
    Silent,
    TimeNearlyUp,
    Waiting,
)
from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.states import LIVE, TERMINAL, UNSEEN, State

REQUESTED, THROTTLED, INVOKED, CONNECTED, READY, RUNNING, DRAINING = (
    State.REQUESTED, State.THROTTLED, State.INVOKED, State.CONNECTED, State.READY, State.RUNNING, State.DRAINING,
)  # fmt: skip
FINISHED, LOST, EXPIRED, FAILED, DUPLICATE = (
    State.FINISHED, State.LOST, State.EXPIRED, State.FAILED, State.DUPLICATE,
)  # fmt: skip

Effect = Callable[[Books, Invocation, Any], Outcome]


class Rule(NamedTuple):
    """What an event does in a state: the effect, and the states it may lead to (none: it stays)."""

    effect: Effect
    to: tuple[State, ...] = ()


Kind = type[InvocationEvent]
Table = dict[tuple[State, Kind], Rule]

ANSWERS: tuple[Kind, ...] = (
    Invoked,
    InvokeThrottled,
    InvokeRefused,
    InvokeUnanswered,
    InvokeUnsent,
)
TASKS: tuple[Kind, ...] = (Running, Waiting, Done, Idle)
TIMERS: tuple[Kind, ...] = (RetryDue, Overdue, Silent, TimeNearlyUp, DrainOverdue)
LINK: tuple[Kind, ...] = (LinkUp, LinkDown, Refused)
WORKER: tuple[Kind, ...] = (Connected, Ready, *TASKS, Heartbeat, Draining, Finished, Failed)
OTHERS: tuple[Kind, ...] = (Drained, Retire)
EVENTS: tuple[Kind, ...] = (*ANSWERS, *LINK, *WORKER, *OTHERS, *TIMERS)

# (states, events, effect, states it may lead to)
_ROWS: list[tuple[Iterable[State], Iterable[Kind], Effect, tuple[State, ...]]] = [
    # Lambda's answer to an Invoke call
    ([REQUESTED], [Invoked], effects.accepted, (INVOKED,)),
    ([REQUESTED], [InvokeThrottled], effects.throttled, (THROTTLED, FAILED, FINISHED)),
    ([REQUESTED], [InvokeRefused], effects.refused, (FAILED,)),
    ([REQUESTED], [InvokeUnanswered], effects.unanswered, (INVOKED,)),
    ([REQUESTED], [InvokeUnsent], effects.unsent, (THROTTLED, FINISHED)),
    ([REQUESTED], [Overdue], effects.never_came, (EXPIRED,)),
    ([THROTTLED], [RetryDue], effects.asked_again, (REQUESTED,)),
    ([THROTTLED, INVOKED], ANSWERS, effects.impossible, ()),  # one call has one answer
    # ... which may come after the worker itself
    ([CONNECTED, READY, RUNNING, DRAINING, *TERMINAL], [Invoked], effects.named, ()),
    ([CONNECTED, READY, RUNNING, DRAINING, *TERMINAL], ANSWERS[1:], effects.ignored, ()),
    # The worker shows up, or does not
    (UNSEEN, [LinkUp], effects.linked, (CONNECTED, DRAINING)),
    (UNSEEN, [Connected], effects.connected, (CONNECTED, DRAINING)),
    ([INVOKED], [Overdue], effects.never_came, (EXPIRED,)),
    ([CONNECTED, READY, RUNNING, DRAINING], [LinkUp], effects.linked_again, ()),
    ([CONNECTED, READY, RUNNING, DRAINING], [Connected], effects.introduced, ()),
    ([CONNECTED], [Overdue], effects.not_ready, (EXPIRED,)),
    ([EXPIRED], [LinkUp], effects.came_late, (CONNECTED,)),
    ([EXPIRED], [Connected], effects.introduced_late, (CONNECTED,)),
    # It gets ready and works
    (UNSEEN, [Ready], effects.ready, (READY, DRAINING)),
    ([CONNECTED], [Ready], effects.ready, (READY,)),
    ([READY, RUNNING], [Ready], effects.ready_again, ()),
    (UNSEEN, [Running, Waiting], effects.works, (RUNNING, DRAINING)),
    ([CONNECTED, READY, RUNNING], [Running, Waiting], effects.works, (RUNNING,)),
    ([RUNNING], [Done], effects.task_done, (READY, RUNNING)),
    ([RUNNING], [Idle], effects.idles, (READY,)),
    ([READY], [Idle, Done], effects.beats, ()),
    ([*UNSEEN, CONNECTED], [Idle, Done], effects.beats, ()),
    (LIVE, [Heartbeat], effects.beats, ()),
    # It is let go
    ([REQUESTED, INVOKED], [Retire], effects.dismissed, ()),
    ([THROTTLED], [Retire], effects.cancelled, (FINISHED,)),
    ([CONNECTED, READY, RUNNING], [Retire], effects.retired, (DRAINING,)),
    ([READY, RUNNING], [TimeNearlyUp], effects.time_nearly_up, (DRAINING,)),
    ([*UNSEEN, CONNECTED, READY, RUNNING], [Draining], effects.leaves, (DRAINING,)),
    ([DRAINING], [Draining], effects.beats, ()),
    ([DRAINING], [Retire], effects.beats, ()),
    ([DRAINING], [Ready], effects.ready_too_late, ()),
    ([DRAINING], TASKS, effects.drains_on, ()),
    ([DRAINING], [Drained], effects.drained, ()),
    ([DRAINING], [DrainOverdue], effects.drains_too_long, (EXPIRED,)),
    ([*UNSEEN, CONNECTED, READY, RUNNING], [Drained], effects.ignored, ()),
    # It ends
    (LIVE, [Finished], effects.finished, (FINISHED,)),
    (LIVE, [Failed], effects.failed, (FAILED,)),
    (UNSEEN, [LinkDown], effects.ignored, ()),
    ([CONNECTED, READY, RUNNING], [LinkDown], effects.link_down, (LOST,)),
    ([DRAINING], [LinkDown], effects.gone, (FINISHED,)),
    ([CONNECTED, READY, RUNNING], [Silent], effects.silent, (LOST,)),
    # Lambda ran it twice
    ([*LIVE, *TERMINAL], [Refused], effects.doubled, ()),
    ([FINISHED, FAILED], [Connected], effects.doubled_late, ()),
    ([LOST], [Connected], effects.turned_away, ()),
    # News of what has ended already
    ([LOST, EXPIRED], [Finished], effects.finished_after_all, (FINISHED,)),
    ([LOST, EXPIRED], [Failed], effects.failed_after_all, (FAILED,)),
    ([FINISHED], [Finished], effects.settled, ()),
    ([FAILED], [Failed, Finished], effects.settled, ()),
    ([FINISHED], [Failed], effects.ignored, ()),
    ([LOST, EXPIRED], [LinkDown], effects.settled, ()),
    ([FINISHED, FAILED], [LinkDown], effects.ignored, ()),
    ([FINISHED, FAILED, LOST], [LinkUp], effects.ignored, ()),
    (TERMINAL, [Ready, *TASKS, Heartbeat, Draining, *OTHERS], effects.ignored, ()),
    ([DUPLICATE], [Connected, LinkUp, LinkDown, Finished, Failed], effects.ignored, ()),
    # Timers that were not set
    ([REQUESTED], [RetryDue], effects.impossible, ()),
    ([THROTTLED, READY, RUNNING, DRAINING], [Overdue], effects.impossible, ()),
    ([INVOKED, CONNECTED, READY, RUNNING, DRAINING], [RetryDue], effects.impossible, ()),
    ([*UNSEEN, DRAINING], [Silent], effects.impossible, ()),
    ([*UNSEEN, CONNECTED, DRAINING], [TimeNearlyUp], effects.impossible, ()),
    ([*UNSEEN, CONNECTED, READY, RUNNING], [DrainOverdue], effects.impossible, ()),
    (TERMINAL, TIMERS, effects.impossible, ()),
]  # fmt: skip


def _build() -> Table:
    table: Table = {}
    for states, events, effect, to in _ROWS:
        for state in states:
            for event in events:
                if (state, event) in table:
                    raise AssertionError(f"decided twice: {state}, {event.__name__}")
                table[state, event] = Rule(effect, to)
    return table


TABLE: Table = _build()
