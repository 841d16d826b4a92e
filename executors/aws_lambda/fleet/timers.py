"""What time alone will bring about for one invocation, and when."""

from __future__ import annotations

import heapq
import math

from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.books import Books
from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.states import State

Due = tuple[float, ev.InvocationEvent | str]
"""A time, and an event that comes about then or the name of something the fleet does by itself."""

NEVER: Due = (math.inf, "")


def due(one: Invocation, books: Books) -> Due:
    """The next thing; its time may lie in the past."""
    match one.state:
        case State.READY | State.RUNNING:
            return _at_work(one, books)
        case State.REQUESTED:
            return _overdue(
                one, books, books.settings.answer_timeout, "no answer to the Invoke call"
            )
        case State.INVOKED:
            patience = books.settings.appear_timeout
            return _overdue(one, books, patience, "accepted by Lambda, but not connected")
        case State.THROTTLED:
            return NEVER if one.retry_at is None else (one.retry_at, "retry")
        case State.CONNECTED:
            patience = books.settings.ready_timeout
            late = _overdue(one, books, patience, "connected, but not ready")
            return min(late, _silent(one, books), key=_time)
        case State.DRAINING:
            return _drain_overdue(one, books)
    return NEVER if one.ghost_until is None else (one.ghost_until, "ghost")


def _at_work(one: Invocation, books: Books) -> Due:
    settings = books.settings
    found = _silent(one, books)
    if one.deadline is not None:
        drain_at = one.deadline - settings.deadline_margin
        leave_at = drain_at - settings.replace_ahead
        if not one.leaving and leave_at < found[0]:
            found = (leave_at, "leave")
        elif one.leaving and drain_at < found[0]:
            found = (drain_at, ev.TimeNearlyUp(one.name, at=books.now))
    if one.state is State.READY:
        if settings.idle_timeout is not None and one.idle_since is not None:
            idle_at = one.idle_since + settings.idle_timeout
            if idle_at < found[0]:
                found = (idle_at, "idle")
    elif settings.straggler_factor is not None:
        slow_at = _slow(one, books)
        if slow_at < found[0]:
            found = (slow_at, "slow")
    return found


def _slow(one: Invocation, books: Books) -> float:
    """When the first of its tasks will be slow, or when to look again if that cannot be said yet."""
    first = math.inf
    for task in one.tasks.values():
        if task.repeatable:
            at = books.stragglers.slow_at(task)
            first = min(
                first, books.now + books.settings.straggler_seconds + 1 if at is None else at
            )
    return first


def _silent(one: Invocation, books: Books) -> Due:
    if books.relay_lost_at is not None:  # nobody can be heard
        return math.inf, ""
    patience = books.settings.heartbeat_timeout
    when = one.last_seen + patience
    what = "no heartbeat for {:g} s"
    lost = one.link_lost_at if one.misses_relay else None
    if lost is not None and lost + books.settings.reconnect_grace < when:
        patience = books.settings.reconnect_grace
        when = lost + patience
        what = "has not come back {:g} s after its relay was lost"
    if when > books.now:  # words only when they are needed
        return when, ""
    return when, ev.Silent(one.name, what.format(patience), at=books.now)


def _overdue(one: Invocation, books: Books, patience: float, what: str) -> Due:
    when = one.since + patience
    if when > books.now:
        return when, ""
    return when, ev.Overdue(one.name, f"{what} within {patience:g} s", at=books.now)


def _drain_overdue(one: Invocation, books: Books) -> Due:
    if one.exit_told is not None:
        when = one.exit_told + books.exit_grace
    else:
        when = one.drain_until if one.drain_until is not None else books.now
    return when, ev.DrainOverdue(one.name, at=books.now)


def _time(found: Due) -> float:
    return found[0]


def arm(books: Books, one: Invocation) -> None:
    """See to it that an invocation is looked at when the next thing is due; what is put off is found out then."""
    when = due(one, books)[0]
    if when != math.inf and (one.timer_at is None or when < one.timer_at):
        one.timer_at = when
        books.armed += 1
        heapq.heappush(books.timers, (when, books.armed, one))
