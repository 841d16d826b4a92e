"""How fast Lambda may be asked: a token bucket for its ramp, pauses after throttles, single tries while it is out of reach."""

from __future__ import annotations

import math
import zlib

TICK = 1e-6
"""Seconds that floating-point times since the epoch can still tell apart; a token is whole that close to its time."""


class TokenBucket:
    """Holds at most `burst` tokens and gains `rate` a second; the time of each call comes from outside."""

    def __init__(self, burst: float, rate: float) -> None:
        self.burst = burst
        self.rate = rate
        self._tokens = float(burst)
        self._whole = 1 - min(0.5, rate * TICK)
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        self._fill(now)
        if self._tokens < self._whole:
            return False
        self._tokens -= 1
        return True

    def empty(self, now: float) -> None:
        """Lambda says that its burst is used up: go on at the rate alone."""
        self._fill(now)
        self._tokens = min(self._tokens, 0.0)

    def next_at(self, now: float) -> float:
        """When there is a token again; `now` if there is one."""
        self._fill(now)
        return now if self._tokens >= self._whole else now + (1 - self._tokens) / self.rate

    def _fill(self, now: float) -> None:
        if self._at is not None and now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now if self._at is None else max(now, self._at)


class Outage:
    """While Lambda cannot be reached one call at a time tries, up to `limit` seconds apart, until one gets through."""

    def __init__(self, base: float, limit: float) -> None:
        self.since: float | None = None
        """When the first call could not be sent; None: Lambda can be reached as far as is known."""
        self.next_at = -math.inf
        """When the next call may be made."""
        self._base = base
        self._limit = limit
        self._tries = 0

    def begin(self, now: float) -> None:
        """A call could not be sent."""
        if self.since is None:
            self.since = now
            self._tries = 0
            self.tried(now)

    def tried(self, now: float) -> None:
        """A call is made: the next one waits, if this is an outage."""
        if self.since is not None:
            self._tries += 1
            self.next_at = now + pause(self._tries, self._base, self._limit, 1.0)

    def end(self) -> None:
        """A call got through."""
        self.since = None
        self.next_at = -math.inf


def pause(attempt: int, base: float, limit: float, jitter: float) -> float:
    """Seconds to wait before attempt number `attempt` (from 1): doubling, between half of it and all of it."""
    ceiling = min(limit, base * 2.0 ** min(attempt - 1, 60))
    return ceiling * (0.5 + 0.5 * jitter)


def jitter(seed: int, name: str, attempt: int) -> float:
    """A number in [0, 1) that is always the same for the same arguments, and spread evenly over others."""
    return zlib.crc32(f"{seed}/{name}/{attempt}".encode()) / 2**32
