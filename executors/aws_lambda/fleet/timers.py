"""What time alone will bring about for one invocation, and when."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.states import State

if TYPE_CHECKING:
    from executors.aws_lambda.fleet.books import Books

Due = tuple[float, ev.InvocationEvent | str]
"""A time, and an event that comes about then or the name of something the fleet does by itself."""

NEVER: Due = (math.inf, "")


def due(one: Invocation, fleet: Books) -> Due:
    """The next thing; its time may lie in the past."""
    match one.state:
        case State.READY | State.RUNNING:
            return _at_work(one, fleet)
        case State.REQUESTED:
            return _overdue(
                one, fleet, fleet.settings.answer_timeout, "no answer to the Invoke call"
            )
        case State.INVOKED:
            patience = fleet.settings.appear_timeout
            return _overdue(one, fleet, patience, "accepted by Lambda, but not connected")
        case State.THROTTLED:
            return NEVER if one.retry_at is None else (one.retry_at, "retry")
        case State.CONNECTED:
            patience = fleet.settings.ready_timeout
            late = _overdue(one, fleet, patience, "connected, but not ready")
            return min(late, _silent(one, fleet), key=_time)
        case State.DRAINING:
            return _drain_overdue(one, fleet)
    return NEVER if one.ghost_until is None else (one.ghost_until, "ghost")


def _at_work(one: Invocation, fleet: Books) -> Due:
    settings = fleet.settings
    found = _silent(one, fleet)
    if one.deadline is not None:
        drain_at = one.deadline - settings.deadline_margin
        leave_at = drain_at - settings.replace_ahead
        if not one.leaving and leave_at < found[0]:
            found = (leave_at, "leave")
        elif one.leaving and drain_at < found[0]:
            found = (drain_at, ev.TimeNearlyUp(one.name, at=fleet.now))
    if one.state is State.READY:
        if settings.idle_timeout is not None and one.idle_since is not None:
            idle_at = one.idle_since + settings.idle_timeout
            if idle_at < found[0]:
                found = (idle_at, "idle")
    elif settings.straggler_factor is not None:
        slow_at = _slow(one, fleet)
        if slow_at < found[0]:
            found = (slow_at, "slow")
    return found


def _slow(one: Invocation, fleet: Books) -> float:
    """When the first of its tasks will be slow, or when to look again if that cannot be said yet."""
    first = math.inf
    for task in one.tasks.values():
        if task.repeatable:
            at = fleet.stragglers.slow_at(task)
            first = min(
                first, fleet.now + fleet.settings.straggler_seconds + 1 if at is None else at
            )
    return first


def _silent(one: Invocation, fleet: Books) -> Due:
    if fleet.relay_lost_at is not None:  # nobody can be heard
        return math.inf, ""
    patience = fleet.settings.heartbeat_timeout
    when = one.last_seen + patience
    what = "no heartbeat for {:g} s"
    lost = one.link_lost_at if one.misses_relay else None
    if lost is not None and lost + fleet.settings.reconnect_grace < when:
        patience = fleet.settings.reconnect_grace
        when = lost + patience
        what = "has not come back {:g} s after its relay was lost"
    if when > fleet.now:  # words only when they are needed
        return when, ""
    return when, ev.Silent(one.name, what.format(patience), at=fleet.now)


def _overdue(one: Invocation, fleet: Books, patience: float, what: str) -> Due:
    when = one.since + patience
    if when > fleet.now:
        return when, ""
    return when, ev.Overdue(one.name, f"{what} within {patience:g} s", at=fleet.now)


def _drain_overdue(one: Invocation, fleet: Books) -> Due:
    if one.exit_told is not None:
        when = one.exit_told + fleet.exit_grace
    else:
        when = one.drain_until if one.drain_until is not None else fleet.now
    return when, ev.DrainOverdue(one.name, at=fleet.now)


def _time(found: Due) -> float:
    return found[0]
