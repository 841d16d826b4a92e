"""What can happen to a fleet. Each event says when it happened and by whose clock.

Events are values; whoever makes them (the invoker, the relay's notices, the workers' control messages, a timer)
hands them to `Fleet.handle`. Times are seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

COORDINATOR = "coordinator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`at`: seconds since the epoch by `clock`, the coordinator's own or that of the worker so named."""

    at: float
    clock: str = COORDINATOR


# To the fleet as a whole


@dataclass(frozen=True, slots=True)
class TargetChanged(Event):
    """So many workers are wanted from now on."""

    workers: int


@dataclass(frozen=True, slots=True)
class WorkArrived(Event):
    """Tasks wait for a worker: a fleet that let idle workers go grows again, up to what was asked for."""

    tasks: int


@dataclass(frozen=True, slots=True)
class IdleMayGo(Event):
    """The idle worker of this name holds nothing that others do not have, or cannot be given."""

    worker: str


@dataclass(frozen=True, slots=True)
class Tick(Event):
    """Time has passed (`Fleet.next_tick` tells when one is due)."""


@dataclass(frozen=True, slots=True)
class Stop(Event):
    """Let everybody go: after their task (`drain`) or at once. Nothing is invoked any more."""

    reason: str = "stopped"
    drain: bool = True


@dataclass(frozen=True, slots=True)
class RelayLost(Event):
    """The coordinator has no connection to a relay any more: it hears nothing of workers, and new ones could not connect."""


@dataclass(frozen=True, slots=True)
class RelayBack(Event):
    """All relays can be reached again; workers come back by themselves, unless it took too long for them."""


# To one invocation


@dataclass(frozen=True, slots=True)
class InvocationEvent(Event):
    """Concerns the invocation `name`."""

    name: str


# ... from Lambda's Invoke API: one answer for each `Invoke`


@dataclass(frozen=True, slots=True)
class Invoked(InvocationEvent):
    """Lambda accepted the call."""

    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class InvokeThrottled(InvocationEvent):
    """Lambda has no capacity for it now (429). `jitter` in [0, 1) replaces the one from the fleet's seed."""

    reason: str = ""
    jitter: float | None = None


@dataclass(frozen=True, slots=True)
class InvokeRefused(InvocationEvent):
    """Lambda refused the call; `fatal` if it would refuse every other one as well."""

    error: str
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class InvokeUnanswered(InvocationEvent):
    """The call failed on its way; Lambda may have accepted it or not."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class InvokeUnsent(InvocationEvent):
    """The call never left this machine, or never got to Lambda: it cannot be reached now."""

    error: str = ""


# ... from the relay


@dataclass(frozen=True, slots=True)
class LinkUp(InvocationEvent):
    """The relay registered a connection under this name."""


@dataclass(frozen=True, slots=True)
class LinkDown(InvocationEvent):
    """The connection ended; `relay_lost` if the relay went away, after which workers come back by themselves.

    `task`: key of the task that the scheduler takes to have run there.
    """

    why: str = ""
    relay_lost: bool = False
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Refused(InvocationEvent):
    """The relay turned away a second connection under this name: Lambda ran the invocation twice."""

    why: str = ""
    request_id: str | None = None


# ... from the worker


@dataclass(frozen=True, slots=True)
class Connected(InvocationEvent):
    """The worker's first message. `remaining`: seconds until Lambda ends it; `memory` in MB."""

    request_id: str | None = None
    log_stream: str | None = None
    cold: bool | None = None
    memory: int | None = None
    remaining: float | None = None


@dataclass(frozen=True, slots=True)
class Ready(InvocationEvent):
    """The scheduler knows the worker, by this address."""

    address: str | None = None


@dataclass(frozen=True, slots=True)
class Running(InvocationEvent):
    """It works on the task `key`: the stage, and the number of the piece of work (a chunk, say); `repeatable` if whoever made
    the task lets it be run twice at once."""

    key: str
    stage: str | None = None
    number: int | None = None
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Waiting(InvocationEvent):
    """The task `key` waits for something; it does not count as slow meanwhile."""

    key: str
    stage: str | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Done(InvocationEvent):
    """The task `key` has ended (needed only where workers run several tasks at once)."""

    key: str


@dataclass(frozen=True, slots=True)
class Idle(InvocationEvent):
    """The worker has nothing to do."""


@dataclass(frozen=True, slots=True)
class Heartbeat(InvocationEvent):
    """It lives; `rss`: bytes of resident memory."""

    rss: int | None = None


@dataclass(frozen=True, slots=True)
class Draining(InvocationEvent):
    """The worker leaves by itself, or confirms that it was told to."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Finished(InvocationEvent):
    """The invocation ended well; `billed`: seconds, if known."""

    reason: str = ""
    billed: float | None = None


@dataclass(frozen=True, slots=True)
class Failed(InvocationEvent):
    """The invocation ended with an error, told by itself or by Lambda (timeout, out of memory, import error).

    `task`: key of the task that the scheduler takes to have run there.
    """

    error: str
    log_tail: str = ""
    billed: float | None = None
    task: str | None = None


# ... from whoever runs the scheduler


@dataclass(frozen=True, slots=True)
class Drained(InvocationEvent):
    """The scheduler has moved everything off the worker: it may go."""


@dataclass(frozen=True, slots=True)
class Retire(InvocationEvent):
    """This worker is not needed any more. `lower_target`: it is not to be replaced."""

    reason: str = "retired"
    lower_target: bool = False


# ... from the fleet's own timers


@dataclass(frozen=True, slots=True)
class RetryDue(InvocationEvent):
    """The pause after a throttle is over, and Lambda's ramp has room."""


@dataclass(frozen=True, slots=True)
class Overdue(InvocationEvent):
    """What was to come next has not come in time: the answer, the connection, or the readiness."""

    what: str


@dataclass(frozen=True, slots=True)
class Silent(InvocationEvent):
    """Heartbeats are missing, or a worker has not come back after its relay was lost."""

    what: str


@dataclass(frozen=True, slots=True)
class TimeNearlyUp(InvocationEvent):
    """Lambda will end the function soon."""


@dataclass(frozen=True, slots=True)
class DrainOverdue(InvocationEvent):
    """A worker that drains takes too long."""


# Of an event into its line of the event log

_ELSEWHERE = ("at", "clock", "name", "request_id", "repeatable")
_FIELDS: dict[type[Event], tuple[str, ...]] = {}


def detail_of(event: InvocationEvent) -> dict[str, Any]:
    """The fields of an event that say something, but those that every line has."""
    kind = type(event)
    names = _FIELDS.get(kind)
    if names is None:
        all_names = (field.name for field in fields(event))
        names = _FIELDS[kind] = tuple(name for name in all_names if name not in _ELSEWHERE)
    found = {}
    for name in names:
        value = getattr(event, name)
        if value is not None and value != "":
            found[name] = value
    return found
