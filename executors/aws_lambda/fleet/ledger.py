"""What a fleet has spent, counted as it runs."""

from __future__ import annotations


class Ledger:
    """Dollars of all invocations, the running ones up to the moment of asking; O(1) for any number of them.

    rate: dollars a second of one running invocation; request: dollars of one invocation.
    """

    def __init__(self, rate: float, request: float) -> None:
        self.rate = rate
        self.request = request
        self.running = 0
        self._settled = 0.0
        self._starts = 0.0
        self._origin: float | None = None

    def start(self, at: float) -> None:
        """An invocation runs since `at`."""
        if self._origin is None:
            self._origin = at
        self.running += 1
        self._starts += at - self._origin
        self._settled += self.request

    def move_start(self, old: float, new: float) -> None:
        """One that was taken to run since `old` runs since `new`."""
        self._starts += new - old

    def stop(self, started: float, at: float) -> None:
        """An invocation that runs since `started` ended at `at`."""
        assert self._origin is not None
        self.running -= 1
        self._starts -= started - self._origin
        self._settled += max(0.0, at - started) * self.rate

    def add(self, seconds: float, requests: int = 0) -> None:
        """Bill some seconds (negative to correct) and requests at once."""
        self._settled += seconds * self.rate + requests * self.request

    def spent(self, now: float) -> float:
        """Dollars until `now`."""
        if self.running == 0 or self._origin is None:
            return self._settled
        return self._settled + self.rate * (self.running * (now - self._origin) - self._starts)
