"""An event of one invocation, applied: by the transition table to the books, the log and the timers."""

from __future__ import annotations

from typing import Any

from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.books import Books
from executors.aws_lambda.fleet.effects import ignored
from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.states import TERMINAL, State
from executors.aws_lambda.fleet.timers import arm
from executors.aws_lambda.fleet.transitions import TABLE


def apply(books: Books, one: Invocation, event: ev.InvocationEvent) -> None:
    """Do what the table says of an event in an invocation's state. Raises ImpossibleTransition."""
    rule = TABLE[one.state, type(event)]
    if rule.effect is ignored:
        return
    outcome = rule.effect(books, one, event)
    if outcome is not None:
        assert outcome in rule.to, (one, event, outcome)
        _move(books, one, outcome, event)
    if type(event) is not ev.Heartbeat:
        arm(books, one)


def _move(books: Books, one: Invocation, state: State, event: ev.InvocationEvent) -> None:
    origin = one.state
    was_over = origin in TERMINAL
    if State.INVOKED in (origin, state):
        books.expect(one, state is State.INVOKED)
    books.roster.move(one, state)
    one.since = books.now
    if origin is State.THROTTLED:
        books.retry_queue.pop(one.name, None)
    detail = ev.detail_of(event)
    if len(one.tasks) > 1:
        detail["beside"] = len(one.tasks) - 1
    if state in TERMINAL:
        if not was_over:
            books.close(one, state)
        detail.update(_outcome_of(books, one))
    books.log(event, one, origin, state, detail)


def _outcome_of(books: Books, one: Invocation) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if one.reason:
        found["reason"] = one.reason
    if one.error is not None:
        found["error"] = one.error
    if one.started_at is not None:
        found["started"] = one.started_at
        found["dollars"] = round(books.cost_of(one), 9)
    return found
