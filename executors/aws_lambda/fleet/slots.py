"""The places of a fleet's workers: each is filled by one invocation after another, and bounds how often that goes wrong."""

from __future__ import annotations

import heapq
from collections import deque


class Slots:
    """Places numbered from 0, lowest first; one that failed is free again only after a pause."""

    def __init__(self, retries: int, window: float) -> None:
        self._retries = retries
        self._window = window
        self._free: list[tuple[float, int]] = []
        self._count = 0
        self._used: list[int] = []
        self._failures: dict[int, deque[float]] = {}

    def grow(self, count: int) -> None:
        """Have at least so many places."""
        while self._count < count:
            heapq.heappush(self._free, (float("-inf"), self._count))
            self._used.append(0)
            self._count += 1

    def take(self, now: float) -> tuple[int, int] | None:
        """(place, how often it was filled before), or None if none is free now."""
        if not self._free or self._free[0][0] > now:
            return None
        slot = heapq.heappop(self._free)[1]
        before = self._used[slot]
        self._used[slot] += 1
        return slot, before

    def next_free(self) -> tuple[float, int] | None:
        """When which place is the next to be free (in the past if one is); None if all are taken."""
        return self._free[0] if self._free else None

    def release(self, slot: int, at: float | None = None) -> None:
        """The place is free from `at` on, at once if None."""
        blocked = self._blocked_until(slot)
        times = [time for time in (at, blocked) if time is not None]
        heapq.heappush(self._free, (max(times, default=float("-inf")), slot))

    def failures(self, slot: int, now: float) -> int:
        """How often the place went wrong within the window."""
        failures = self._failures.get(slot)
        while failures and failures[0] + self._window <= now:
            failures.popleft()
        return len(failures) if failures else 0

    def fail(self, slot: int, now: float) -> None:
        """The invocation in this place went wrong."""
        self._failures.setdefault(slot, deque()).append(now)
        self.failures(slot, now)

    def _blocked_until(self, slot: int) -> float | None:
        """A place with more failures than retries waits until one is older than the window."""
        failures = self._failures.get(slot)
        if not failures or len(failures) <= self._retries:
            return None
        return failures[len(failures) - 1 - self._retries] + self._window
