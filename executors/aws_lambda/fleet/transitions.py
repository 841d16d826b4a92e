"""The transition table of an invocation: what each event does in each state.

Lambda runs Event invocations late, twice or never, and news of one invocation travels by several ways (the Invoke
call, the relay, the worker's own messages), so most events can come in most states. Each pair of state and event is
decided here: by an effect (a method of `Lifecycle`), as news that comes too late to matter, or as an
error of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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
from executors.aws_lambda.fleet.states import LIVE, TERMINAL, UNSEEN, State

REQUESTED, THROTTLED, INVOKED, CONNECTED, READY, RUNNING, DRAINING = (
    State.REQUESTED, State.THROTTLED, State.INVOKED, State.CONNECTED, State.READY, State.RUNNING, State.DRAINING,
)  # fmt: skip
FINISHED, LOST, EXPIRED, FAILED, DUPLICATE = (
    State.FINISHED, State.LOST, State.EXPIRED, State.FAILED, State.DUPLICATE,
)  # fmt: skip

IGNORE = "ignore"
IMPOSSIBLE = "impossible"


class Rule(NamedTuple):
    """What an event does in a state: the effect by name, and the states it may lead to (none: it stays)."""

    do: str
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
_ROWS: list[tuple[Iterable[State], Iterable[Kind], str, tuple[State, ...]]] = [
    # Lambda's answer to an Invoke call
    ([REQUESTED], [Invoked], "accepted", (INVOKED,)),
    ([REQUESTED], [InvokeThrottled], "throttled", (THROTTLED, FAILED, FINISHED)),
    ([REQUESTED], [InvokeRefused], "refused", (FAILED,)),
    ([REQUESTED], [InvokeUnanswered], "unanswered", (INVOKED,)),
    ([REQUESTED], [InvokeUnsent], "unsent", (THROTTLED, FINISHED)),
    ([REQUESTED], [Overdue], "never_came", (EXPIRED,)),
    ([THROTTLED], [RetryDue], "asked_again", (REQUESTED,)),
    ([THROTTLED, INVOKED], ANSWERS, IMPOSSIBLE, ()),  # one call has one answer
    # ... which may come after the worker itself
    ([CONNECTED, READY, RUNNING, DRAINING, *TERMINAL], [Invoked], "named", ()),
    ([CONNECTED, READY, RUNNING, DRAINING, *TERMINAL], ANSWERS[1:], IGNORE, ()),
    # The worker shows up, or does not
    (UNSEEN, [LinkUp], "linked", (CONNECTED, DRAINING)),
    (UNSEEN, [Connected], "connected", (CONNECTED, DRAINING)),
    ([INVOKED], [Overdue], "never_came", (EXPIRED,)),
    ([CONNECTED, READY, RUNNING, DRAINING], [LinkUp], "linked_again", ()),
    ([CONNECTED, READY, RUNNING, DRAINING], [Connected], "introduced", ()),
    ([CONNECTED], [Overdue], "not_ready", (EXPIRED,)),
    ([EXPIRED], [LinkUp], "came_late", (CONNECTED,)),
    ([EXPIRED], [Connected], "introduced_late", (CONNECTED,)),
    # It gets ready and works
    (UNSEEN, [Ready], "ready", (READY, DRAINING)),
    ([CONNECTED], [Ready], "ready", (READY,)),
    ([READY, RUNNING], [Ready], "ready_again", ()),
    (UNSEEN, [Running, Waiting], "works", (RUNNING, DRAINING)),
    ([CONNECTED, READY, RUNNING], [Running, Waiting], "works", (RUNNING,)),
    ([RUNNING], [Done], "task_done", (READY, RUNNING)),
    ([RUNNING], [Idle], "idles", (READY,)),
    ([READY], [Idle, Done], "beats", ()),
    ([*UNSEEN, CONNECTED], [Idle, Done], "beats", ()),
    (LIVE, [Heartbeat], "beats", ()),
    # It is let go
    ([REQUESTED, INVOKED], [Retire], "dismissed", ()),
    ([THROTTLED], [Retire], "cancelled", (FINISHED,)),
    ([CONNECTED, READY, RUNNING], [Retire], "retired", (DRAINING,)),
    ([READY, RUNNING], [TimeNearlyUp], "time_nearly_up", (DRAINING,)),
    ([*UNSEEN, CONNECTED, READY, RUNNING], [Draining], "leaves", (DRAINING,)),
    ([DRAINING], [Draining], "beats", ()),
    ([DRAINING], [Retire], "beats", ()),
    ([DRAINING], [Ready], "ready_too_late", ()),
    ([DRAINING], TASKS, "drains_on", ()),
    ([DRAINING], [Drained], "drained", ()),
    ([DRAINING], [DrainOverdue], "drains_too_long", (EXPIRED,)),
    ([*UNSEEN, CONNECTED, READY, RUNNING], [Drained], IGNORE, ()),
    # It ends
    (LIVE, [Finished], "finished", (FINISHED,)),
    (LIVE, [Failed], "failed", (FAILED,)),
    (UNSEEN, [LinkDown], IGNORE, ()),
    ([CONNECTED, READY, RUNNING], [LinkDown], "link_down", (LOST,)),
    ([DRAINING], [LinkDown], "gone", (FINISHED,)),
    ([CONNECTED, READY, RUNNING], [Silent], "silent", (LOST,)),
    # Lambda ran it twice
    ([*LIVE, *TERMINAL], [Refused], "doubled", ()),
    ([FINISHED, FAILED], [Connected], "doubled_late", ()),
    ([LOST], [Connected], "turned_away", ()),
    # News of what has ended already
    ([LOST, EXPIRED], [Finished], "finished_after_all", (FINISHED,)),
    ([LOST, EXPIRED], [Failed], "failed_after_all", (FAILED,)),
    ([FINISHED], [Finished], "settled", ()),
    ([FAILED], [Failed, Finished], "settled", ()),
    ([FINISHED], [Failed], IGNORE, ()),
    ([LOST, EXPIRED], [LinkDown], "settled", ()),
    ([FINISHED, FAILED], [LinkDown], IGNORE, ()),
    ([FINISHED, FAILED, LOST], [LinkUp], IGNORE, ()),
    (TERMINAL, [Ready, *TASKS, Heartbeat, Draining, *OTHERS], IGNORE, ()),
    ([DUPLICATE], [Connected, LinkUp, LinkDown, Finished, Failed], IGNORE, ()),
    # Timers that were not set
    ([REQUESTED], [RetryDue], IMPOSSIBLE, ()),
    ([THROTTLED, READY, RUNNING, DRAINING], [Overdue], IMPOSSIBLE, ()),
    ([INVOKED, CONNECTED, READY, RUNNING, DRAINING], [RetryDue], IMPOSSIBLE, ()),
    ([*UNSEEN, DRAINING], [Silent], IMPOSSIBLE, ()),
    ([*UNSEEN, CONNECTED, DRAINING], [TimeNearlyUp], IMPOSSIBLE, ()),
    ([*UNSEEN, CONNECTED, READY, RUNNING], [DrainOverdue], IMPOSSIBLE, ()),
    (TERMINAL, TIMERS, IMPOSSIBLE, ()),
]  # fmt: skip


def _build() -> Table:
    table: Table = {}
    for states, events, do, to in _ROWS:
        for state in states:
            for event in events:
                if (state, event) in table:
                    raise AssertionError(f"decided twice: {state}, {event.__name__}")
                table[state, event] = Rule(do, to)
    return table


TABLE: Table = _build()
