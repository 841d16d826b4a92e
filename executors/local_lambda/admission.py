"""Who may run now: the concurrency of the account and of a function, and the ramp. No clock inside."""

from __future__ import annotations

import dataclasses

ACCOUNT = "ConcurrentInvocationLimitExceeded"
RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"
RATE = "FunctionInvocationRateLimitExceeded"


@dataclasses.dataclass
class _Usage:
    running: int = 0
    tokens: float = 0.0
    at: float = 0.0


class Admission:
    """Counts executions. `ramp` environments may be added in `period` seconds by each function, refilled evenly."""

    def __init__(self, ramp: int, period: float) -> None:
        self._ramp = ramp
        self._period = period
        self._usage: dict[str, _Usage] = {}
        self.peak = 0

    def running(self, name: str | None = None) -> int:
        """Executions now, of one function or of all."""
        if name is None:
            return sum(usage.running for usage in self._usage.values())
        return self._usage[name].running if name in self._usage else 0

    def enter(
        self,
        name: str,
        now: float,
        *,
        cold: bool,
        reserved: int | None,
        others: set[str],
        pool: int,
    ) -> str | None:
        """Begin an execution of the function `name`, unless it is throttled; then say for which reason.

        cold: it needs a new environment; reserved: its own limit, if it has one; others: the functions that share
        `pool` executions with it, if it has none.
        """
        usage = self._usage.setdefault(name, _Usage(tokens=float(self._ramp), at=now))
        if reserved is not None:
            if usage.running >= reserved:
                return RESERVED
        elif sum(self.running(each) for each in others | {name}) >= pool:
            return ACCOUNT
        refill = (now - usage.at) * self._ramp / self._period
        usage.tokens, usage.at = min(float(self._ramp), usage.tokens + refill), now
        if cold:
            if usage.tokens < 1.0:
                return RATE
            usage.tokens -= 1.0
        usage.running += 1
        self.peak = max(self.peak, self.running())
        return None

    def leave(self, name: str) -> None:
        """End an execution."""
        self._usage[name].running -= 1
