"""What Lambda does with an Event invocation that did not succeed. Pure: ages in, delays out, in AWS's seconds.

Throttles and faults of Lambda itself go back to the queue, with delays that double from 1 s to 5 minutes, until the
event is too old. A function error is retried twice, after 1 and 2 minutes.
"""

from __future__ import annotations

import dataclasses

from executors.local_lambda.functions import EventConfig
from executors.local_lambda.quotas import ERROR_DELAYS, THROTTLE_DELAYS

AGE_EXCEEDED = "EventAgeExceeded"
RETRIES_EXHAUSTED = "RetriesExhausted"
ZERO_CONCURRENCY = "ZeroReservedConcurrency"
DELETED = "FunctionDeleted"


@dataclasses.dataclass
class Attempts:
    """What has become of one event so far."""

    throttles: int = 0
    errors: int = 0

    def throttled(self, age: float, config: EventConfig, reserved: int | None) -> float | str:
        """Seconds until the next try after a throttle at this age; or why there is none."""
        if reserved == 0:
            return ZERO_CONCURRENCY
        first, last = THROTTLE_DELAYS
        delay = min(last, first * 2.0 ** min(self.throttles, 16))
        self.throttles += 1
        return _in_time(age, delay, config)

    def failed(self, age: float, config: EventConfig) -> float | str:
        """Seconds until the next try after a function error at this age; or why there is none."""
        if self.errors >= config.retries:
            return RETRIES_EXHAUSTED
        delay = ERROR_DELAYS[self.errors]
        self.errors += 1
        return _in_time(age, delay, config)


def _in_time(age: float, delay: float, config: EventConfig) -> float | str:
    return delay if age + delay <= config.age else AGE_EXCEEDED
