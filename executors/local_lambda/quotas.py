"""Lambda's published quotas, and the settings of a local Lambda, which start from them.

Source of the figures: "Lambda quotas" and "Asynchronous invocation" in AWS's Lambda Developer Guide.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

from executors.local_lambda.errors import InvalidSettings

MEBIBYTE = 1 << 20
SYNC_PAYLOAD = 6 * MEBIBYTE  # bytes of a RequestResponse event
ASYNC_PAYLOAD = 1 * MEBIBYTE  # bytes of an Event event
UPLOAD = 70_167_211  # bytes of a request with a function's zip file, of 50 MiB, in base64
RESPONSE_PAYLOAD = 6_291_556  # bytes that a handler may return
ENVIRONMENT_BYTES = 4096  # all environment variables of a function
LOG_TAIL = 4096  # bytes of LogType=Tail
UNZIPPED_BYTES = 262_144_000  # of a function's zip file
DESCRIPTORS = 1024
PROCESSES = 1024
MEMORY = (128, 10_240)  # MB
TIMEOUT = (1, 900)  # seconds
EPHEMERAL_STORAGE = (512, 10_240)  # MB
MEMORY_PER_CPU = 1769  # MB of memory that come with one vCPU
ACCOUNT_CONCURRENCY = 1000
UNRESERVED_MINIMUM = 100  # executions that reservations must leave to the other functions
RAMP = 1000  # environments that a function may add in each RAMP_PERIOD
RAMP_PERIOD = 10.0  # seconds
EVENT_AGE = (60, 21_600)  # seconds that an Event may wait
EVENT_RETRIES = (0, 2)
ERROR_DELAYS = (60.0, 120.0)  # seconds before the first and the second retry of a function error
THROTTLE_DELAYS = (1.0, 300.0)  # seconds: doubles from the first to the last


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a local Lambda differs from the real one; every field has the real value, or the nearest that fits.

    region, account: what ARNs and the environment name.
    concurrency: executions at once in the whole account.
    ramp, ramp_period: environments a function may add in a period of so many seconds (before scaling).
    time_scale: seconds here for a second of AWS's waits (retries of Event invocations, their maximum age, the ramp).
        The time limit of a function is not scaled: its work is not either.
    init_timeout: seconds for the init phase (10 on Lambda; more here, since all environments share these cores).
    idle_lifetime: seconds that an idle environment is kept.
    parallel_starts: environments that start at once, by default four a core; the others wait.
    isolate: give each environment its own mounts (read-only code and root, /tmp of its own, no /dev/shm).
    cgroups: limit memory and processes with control groups where they can be written.
    cpu_share: give each environment the share of CPU that its memory buys on Lambda (needs cgroups).
    network: "host", or "isolated": nothing comes in, and environments cannot reach each other (needs root).
    visible: folders that environments see, read-only, although they lie under /tmp.
    freeze: stop environments between invocations.
    activation_delay: seconds that a new function stays Pending.
    credentials: the temporary credentials that environments see: keys access_key, secret_key, token.
    """

    region: str = "us-east-1"
    account: str = "123456789012"
    concurrency: int = ACCOUNT_CONCURRENCY
    ramp: int = RAMP
    ramp_period: float = RAMP_PERIOD
    time_scale: float = 1.0
    init_timeout: float = 60.0
    idle_lifetime: float = 300.0
    parallel_starts: int | None = None
    isolate: bool = True
    cgroups: bool = True
    cpu_share: bool = False
    network: str = "host"
    visible: tuple[str, ...] = ()
    freeze: bool = True
    activation_delay: float = 0.0
    credentials: dict[str, str] | None = None

    def __post_init__(self) -> None:
        positive = ("concurrency", "ramp", "ramp_period", "time_scale", "init_timeout")
        for name in positive:
            if not getattr(self, name) > 0:
                raise InvalidSettings(f"{name} must be above 0, not {getattr(self, name)}")
        if self.parallel_starts is not None and self.parallel_starts < 1:
            raise InvalidSettings(f"parallel_starts must be 1 or more, not {self.parallel_starts}")
        if self.network not in ("host", "isolated"):
            raise InvalidSettings(f"network is {self.network!r}: use 'host' or 'isolated'")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The settings that `dataclasses.asdict` made into plain values."""
        return cls(**values)
