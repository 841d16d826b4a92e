"""When to give up: many invocations fail in the same way, or too many fail at all."""

from __future__ import annotations

import re
from collections import OrderedDict, deque

REMEMBERED = 10_000
"""Tasks of which a tally is kept."""
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|[0-9a-fA-F]{8,}(?:-[0-9a-fA-F]+)*|\d+")


class Breaker:
    """Counts failures with the same error, until an invocation has become ready."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: dict[str, int] = {}

    def fail(self, error: str) -> int | None:
        """An invocation failed before it was ready; how many did so alike, once that is enough to give up."""
        kind = kind_of_error(error)
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        return count if count >= self._limit else None


class Tally:
    """Adds up what happened to tasks, by their keys; the oldest are forgotten first."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._sums: OrderedDict[str, float] = OrderedDict()
        self._remembered = remembered

    def add(self, key: str, amount: float) -> float:
        """So much more; how much that is in all."""
        self._sums[key] = total = self._sums.get(key, 0) + amount
        self._sums.move_to_end(key)
        if len(self._sums) > self._remembered:
            self._sums.popitem(last=False)
        return total

    def forget(self, key: str) -> None:
        """It has come to its end."""
        self._sums.pop(key, None)


class RetryLimit:
    """How many replacements of failed invocations a whole fleet may make within a window of time."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._times: deque[float] = deque()

    def note(self, now: float) -> None:
        """A replacement is made."""
        self._times.append(now)

    def next_at(self, now: float, limit: int) -> float | None:
        """When the next replacement may be made, if that is later than now."""
        while self._times and self._times[0] + self._window <= now:
            self._times.popleft()
        over = len(self._times) - limit
        return None if over < 0 else self._times[over] + self._window


def kind_of_error(error: str) -> str:
    """The last line of an error without its numbers and identifiers, by which errors are compared."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return _NUMBERS.sub("#", lines[-1]) if lines else ""
