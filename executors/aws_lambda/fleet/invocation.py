"""What is known of one invocation, and the roster of all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from executors.aws_lambda.fleet.states import AT_WORK, LIVE, TERMINAL, UNSEEN, State


class Task:
    """A task that a worker has in hand."""

    __slots__ = ("key", "number", "repeatable", "since", "stage", "waiting")

    def __init__(
        self,
        key: str,
        stage: str | None,
        number: int | None,
        since: float,
        waiting: bool,
        repeatable: bool = False,
    ) -> None:
        self.key = key
        self.stage = stage
        self.number = number
        self.since = since
        self.waiting = waiting
        self.repeatable = repeatable


class Invocation:
    """One Lambda invocation. Times are the coordinator's; None is "not yet"."""

    __slots__ = (
        "address", "attempts", "blamed", "cold", "cut", "deadline", "dismissed", "drain_until", "ended_at", "error", "exit_told",
        "ghost_until", "idle_since", "invoked_at", "last_seen", "leaving", "link_lost_at", "linked_at", "log_stream",
        "log_tail", "memory", "name", "presumed", "ready_at", "reason", "request_id", "requested_at", "retry_at", "rss", "serial",
        "since", "slot", "slot_held", "started_at", "state", "tasks", "timer_at", "twins", "unsent",
    )  # fmt: skip

    def __init__(self, name: str, slot: int, serial: int, now: float) -> None:
        self.name = name
        self.slot = slot
        self.serial = serial
        self.slot_held = True
        self.state = State.REQUESTED
        self.since = self.requested_at = self.last_seen = now
        self.attempts = 0
        self.unsent = 0
        self.retry_at: float | None = None
        self.invoked_at: float | None = None
        self.linked_at: float | None = None
        self.link_lost_at: float | None = None
        self.ready_at: float | None = None
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.deadline: float | None = None
        self.idle_since: float | None = None
        self.drain_until: float | None = None
        self.exit_told: float | None = None
        self.ghost_until: float | None = None
        self.timer_at: float | None = None
        self.leaving = False
        self.dismissed = False
        self.cut = False
        self.presumed = False
        """Whether it is billed for, though nothing was ever heard of it."""
        self.blamed: str | None = None
        """Key of the task that it died of, as far as the scheduler knows."""
        self.tasks: dict[str, Task] = {}
        self.twins = 0
        self.request_id: str | None = None
        self.log_stream: str | None = None
        self.cold: bool | None = None
        self.memory: int | None = None
        self.address: str | None = None
        self.rss: int | None = None
        self.reason = ""
        self.error: str | None = None
        self.log_tail = ""

    @property
    def misses_relay(self) -> bool:
        """Whether nothing was heard of it since its relay was lost."""
        return self.link_lost_at is not None and self.last_seen <= self.link_lost_at

    def __repr__(self) -> str:
        return f"<Invocation {self.name} {self.state}>"


class Roster:
    """All invocations by name, and those that count towards the target by state.

    An invocation that is dismissed (unseen and not wanted any more) or leaving (its replacement is on its way)
    does not count. All changes are O(1).
    """

    def __init__(self, remembered: int) -> None:
        self.by_name: dict[str, Invocation] = {}
        self.held: dict[State, dict[str, Invocation]] = {
            state: {} for state in LIVE if state is not State.DRAINING
        }
        self.draining: dict[str, Invocation] = {}
        self.dismissed: dict[str, Invocation] = {}
        self.leaving: dict[str, Invocation] = {}
        self.ended: dict[State, int] = dict.fromkeys(TERMINAL, 0)
        self.live = 0
        self.count = 0
        """Invocations that count towards the target, or will."""
        self.at_work = 0
        """Those among them that are ready or running."""
        self.unseen = 0
        """Invocations that have been asked for and not been heard of, wanted or not."""
        self._old: deque[str] = deque()
        self._remembered = remembered

    def __iter__(self) -> Iterator[Invocation]:
        return iter(list(self.by_name.values()))  # whole, for those who look from other threads

    def add(self, invocation: Invocation) -> None:
        """A new invocation, in its state."""
        self.by_name[invocation.name] = invocation
        self._enter(invocation)
        if invocation.state in TERMINAL:
            self._forget_oldest(invocation.name)

    def move(self, invocation: Invocation, state: State) -> None:
        """Change its state."""
        was_over = invocation.state in TERMINAL
        self._leave(invocation)
        if state not in AT_WORK:
            invocation.leaving = False
        if state not in UNSEEN:
            invocation.dismissed = False
        invocation.state = state
        self._enter(invocation)
        if state in TERMINAL and not was_over:
            self._forget_oldest(invocation.name)

    def mark(
        self, invocation: Invocation, *, dismissed: bool = False, leaving: bool = False
    ) -> None:
        """Change whether a live invocation counts."""
        self._leave(invocation)
        invocation.dismissed = dismissed
        invocation.leaving = leaving
        self._enter(invocation)

    def _enter(self, invocation: Invocation) -> None:
        if invocation.state in TERMINAL:
            self.ended[invocation.state] += 1
        else:
            self._pool(invocation)[invocation.name] = invocation
            self._tally(invocation, 1)

    def _leave(self, invocation: Invocation) -> None:
        if invocation.state in TERMINAL:
            self.ended[invocation.state] -= 1
        else:
            del self._pool(invocation)[invocation.name]
            self._tally(invocation, -1)

    def _pool(self, invocation: Invocation) -> dict[str, Invocation]:
        if invocation.state is State.DRAINING:
            return self.draining
        if invocation.dismissed:
            return self.dismissed
        if invocation.leaving:
            return self.leaving
        return self.held[invocation.state]

    def _tally(self, invocation: Invocation, change: int) -> None:
        self.live += change
        state = invocation.state
        if state in UNSEEN:
            self.unseen += change
        if state is State.DRAINING or invocation.dismissed or invocation.leaving:
            return
        self.count += change
        if state in AT_WORK:
            self.at_work += change

    def _forget_oldest(self, name: str) -> None:
        self._old.append(name)
        while len(self._old) > self._remembered:
            oldest = self.by_name.get(self._old.popleft())
            if oldest is not None and oldest.state in TERMINAL and oldest.ghost_until is None:
                del self.by_name[oldest.name]
