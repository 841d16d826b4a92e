"""The states of one Lambda invocation, as its coordinator knows it."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where an invocation is; docs/coordinator.md shows how it gets from one to the next."""

    REQUESTED = "requested"
    """The Invoke call is on its way, or about to be made."""
    THROTTLED = "throttled"
    """Lambda refused the call for now, or could not be reached; it is made again after a pause."""
    INVOKED = "invoked"
    """Lambda has accepted the call; nothing has been heard of the worker."""
    CONNECTED = "connected"
    """The worker has its connection to the rendezvous and loads."""
    READY = "ready"
    """It is registered with the scheduler and has nothing to do."""
    RUNNING = "running"
    """It works on a task, or waits for what a task needs."""
    DRAINING = "draining"
    """It ends what it does, gives away what it holds, and leaves."""
    FINISHED = "finished"
    """It left as it was told to, or was never needed."""
    LOST = "lost"
    """Its connection broke, or it fell silent."""
    EXPIRED = "expired"
    """It never showed up, or overstayed its time."""
    FAILED = "failed"
    """It said what went wrong, or Lambda did."""
    DUPLICATE = "duplicate"
    """A second execution of an invocation that runs already; it was turned away."""


TERMINAL = frozenset({State.FINISHED, State.LOST, State.EXPIRED, State.FAILED, State.DUPLICATE})
"""Nothing is expected of these any more."""

LIVE = frozenset(State) - TERMINAL
"""These may use, or come to use, an execution environment."""

UNSEEN = frozenset({State.REQUESTED, State.THROTTLED, State.INVOKED})
"""Nothing has been heard of these workers yet."""

AT_WORK = frozenset({State.READY, State.RUNNING})
"""These count towards the target."""
