"""What a fleet is to do, and how patient it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from executors.aws_lambda.fleet.errors import InvalidSettings
from executors.aws_lambda.fleet.pricing import Prices


@dataclass(frozen=True)
class FleetSettings:
    """All times are seconds, all money is US dollars, memory and storage are MB as Lambda counts them."""

    # the function
    memory: int = 1769
    """MB; 1,769 are one virtual processor."""
    ephemeral_storage: int = 512
    timeout: float = 900.0
    """Seconds after which Lambda ends the function."""
    architecture: str = "x86_64"
    region: str = "us-east-1"
    prices: Prices | None = None
    """Overrides the price table."""

    # how many
    minimum: int = 0
    """Idle workers are not retired below this."""
    concurrency: int | None = None
    """Execution environments that may exist at once: reserved concurrency, or what the account has left."""
    overprovision: float = 1.0
    """Invocations made for each worker that is missing; the surplus goes when the target is ready."""
    canaries: int = 0
    """Invoke this many first, and the others when one has connected; 0: all at once."""
    threads: int = 1
    """Tasks that one worker runs at once."""

    # Lambda's ramp
    burst: int = 1000
    rate: float = 100.0
    """Invocations a second after the burst: 1,000 more environments every 10 s."""

    # patience
    answer_timeout: float = 60.0
    """For Lambda's answer to an Invoke call."""
    appear_timeout: float = 60.0
    """From Lambda's answer until the worker has connected."""
    ready_timeout: float = 60.0
    """From the connection until the worker is ready."""
    heartbeat_timeout: float = 30.0
    reconnect_grace: float = 15.0
    """For workers to come back after their relay was lost."""
    idle_timeout: float | None = None
    drain_timeout: float = 30.0
    """For a worker to drain, before it is told to exit."""
    exit_grace: float = 5.0
    """For a worker to go after it was told to exit, before it is cut off."""
    deadline_margin: float = 30.0
    """Before Lambda ends the function, its worker is drained."""
    replace_ahead: float = 15.0
    """Before that, its replacement is invoked."""

    # retries
    backoff: float = 0.5
    backoff_limit: float = 30.0
    throttle_retries: int = 30
    """Times that one call is made again after a throttle."""
    outage_pause: float = 5.0
    """The longest between two tries while Lambda cannot be reached from here."""
    outage_timeout: float = 300.0
    """Of having no worker that is ready, for whatever reason, or no relay, until the fleet gives up."""
    notice_after: float = 15.0
    """Of the same, until that is told; then again after twice as long each time."""
    retries_per_slot: int = 5
    """Replacements of a worker that went wrong, in one place of the fleet, within a window."""
    retries_per_window: int | None = None
    """The same for the whole fleet; None: as many as there are workers wanted, at least 20."""
    retry_window: float = 600.0
    breaker: int = 5
    """Invocations that fail with the same error, before any gets ready, until the fleet gives up."""
    seed: int = 0
    """Of the jitter."""

    # stragglers
    straggler_factor: float | None = 4.0
    """A task is slow beyond this multiple of its stage's median; None: never."""
    straggler_seconds: float = 5.0
    """... and not before this."""
    straggler_samples: int = 8
    """... and not before so many tasks of the stage have ended."""

    # money
    budget: float | None = None
    unseen_seconds: float = 25.0
    """What an invocation that has not connected is taken to cost at most: it leaves when it finds no relay."""
    budget_drain: float = 10.0
    """For draining when the budget runs out; its cost is kept in reserve."""
    spend_interval: float = 10.0
    """Between two lines about spending in the event log."""

    # names and memory
    prefix: str = "worker"
    remembered: int = 10_000
    """Ended invocations that are kept, so that late news of them is understood."""

    def __post_init__(self) -> None:
        self._check_numbers()
        positive = (
            "memory", "ephemeral_storage", "timeout", "burst", "rate", "answer_timeout", "appear_timeout",
            "ready_timeout", "heartbeat_timeout", "drain_timeout", "backoff", "backoff_limit",
            "outage_pause", "outage_timeout", "notice_after",
            "retry_window", "breaker", "threads", "spend_interval", "straggler_samples",
        )  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                raise InvalidSettings(f"{name} must be positive, not {getattr(self, name)}")
        not_negative = (
            "minimum", "canaries", "reconnect_grace", "exit_grace", "deadline_margin", "replace_ahead",
            "throttle_retries", "retries_per_slot", "unseen_seconds", "budget_drain", "straggler_seconds",
        )  # fmt: skip
        for name in not_negative:
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} must not be negative, but is {getattr(self, name)}")
        self._check_optional()

    def _check_numbers(self) -> None:
        for one in fields(self):
            value, kind = getattr(self, one.name), str(one.type)
            is_absent = value is None and kind.endswith("None")
            if (
                kind.startswith(("int", "float"))
                and not is_absent
                and not isinstance(value, (int, float))
            ):
                raise InvalidSettings(f"{one.name} must be a number, not {value!r}")

    def _check_optional(self) -> None:
        for name in ("concurrency", "idle_timeout", "budget", "retries_per_window"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidSettings(f"{name} must be positive, not {value}")
        if self.overprovision < 1:
            raise InvalidSettings(f"overprovision must be at least 1, not {self.overprovision}")
        if self.straggler_factor is not None and self.straggler_factor <= 1:
            raise InvalidSettings(
                f"straggler_factor must be more than 1, not {self.straggler_factor}"
            )
        if self.deadline_margin + self.replace_ahead >= self.timeout:
            raise InvalidSettings(
                f"a timeout of {self.timeout:g} s leaves no time to work: deadline_margin + replace_ahead "
                f"are {self.deadline_margin + self.replace_ahead:g} s"
            )
        if self.concurrency is not None and self.minimum > self.concurrency:
            raise InvalidSettings(
                f"minimum {self.minimum} is more than the concurrency {self.concurrency}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in cluster.json."""
        return asdict(self)
