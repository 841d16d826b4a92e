"""What a fleet wants done. Whoever feeds it events carries the actions out, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Action:
    """Something to do."""


@dataclass(frozen=True, slots=True)
class Invoke(Action):
    """Call Lambda for a worker of this name, and tell how that went.

    `attempt`: how often this same call was throttled, or could not be sent, before.
    """

    name: str
    slot: int
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Drain(Action):
    """Tell the worker to take no new task and to end what it does."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class RetireFromScheduler(Action):
    """Have the scheduler move everything off the worker and let it go; then send the event Drained.

    `outlived`: its time is up, and it ran what it runs now for most of it.
    """

    name: str
    address: str | None
    outlived: bool = False


@dataclass(frozen=True, slots=True)
class RemoveFromScheduler(Action):
    """The worker is gone: have the scheduler forget it now and run its tasks elsewhere.

    `blame`: what it ran may have been the cause, and counts among the workers that a task may lose.
    """

    name: str
    address: str | None
    reason: str
    blame: bool = False


@dataclass(frozen=True, slots=True)
class Exit(Action):
    """Tell the worker to end at once."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cut(Action):
    """Have the relay cut the worker's connection and accept no other under its name."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Speculate(Action):
    """Have the task `key` run on another worker as well: here it takes far longer than is usual for its stage.

    It is said again of the same task, with twice the patience each time.
    """

    name: str
    key: str
    stage: str
    seconds: float
    median: float


@dataclass(frozen=True, slots=True)
class AskIdle(Action):
    """The worker has had nothing to do for long: send IdleMayGo where no data would be lost with it, or nothing."""

    name: str


@dataclass(frozen=True, slots=True)
class Notice(Action):
    """One line for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class StopAll(Action):
    """The fleet gives up, for this one reason; it lets go of its workers by the actions that follow."""

    reason: str


@dataclass(frozen=True, slots=True)
class LogEntry(Action):
    """One line for the event log.

    `at` is by `clock`; `seen` is the coordinator's time. `invocation`, `origin` and `to` are None where the
    whole fleet is concerned.
    """

    at: float
    clock: str
    seen: float
    invocation: str | None
    origin: str | None
    to: str | None
    event: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    request_id: str | None = None
