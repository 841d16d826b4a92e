"""How long something that is not as it should be is waited for, and when that is told."""

from __future__ import annotations

import math


class Patience:
    """Told after `notice` seconds, and again after twice as long each time; over after `limit` seconds."""

    def __init__(self, notice: float, limit: float) -> None:
        self._notice = notice
        self._limit = limit
        self._since: float | None = None
        self._next_notice = math.inf
        self.told = False

    def look(self, lasts: bool, now: float) -> tuple[bool, bool]:
        """Whether it is to be told now, and whether it has lasted too long; lasts: whether it is so now."""
        if not lasts:
            self._since, self.told = None, False
            return False, False
        if self._since is None:
            self._since, self._next_notice = now, now + self._notice
        due = now >= self._next_notice
        if due:
            self.told = True
            self._next_notice = now + (now - self._since) + self._notice
        return due, now >= self._since + self._limit

    def passed(self, now: float) -> float:
        """Seconds for which it has lasted."""
        return 0.0 if self._since is None else now - self._since

    @property
    def next_at(self) -> float:
        """When to look again at the latest."""
        return (
            math.inf if self._since is None else min(self._next_notice, self._since + self._limit)
        )
