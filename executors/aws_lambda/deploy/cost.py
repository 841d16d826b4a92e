"""What a job costs, line by line: invocations, requests to S3, bytes that leave, an instance for the coordinator."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from executors.aws_lambda.deploy import pricing
from executors.aws_lambda.deploy.errors import DeploymentError
from executors.aws_lambda.fleet import pricing as lambda_pricing

GB = 1e9


@dataclass(frozen=True)
class Usage:
    """What a job uses.

    workers, seconds: invocations, and the mean time of each in s; memory, storage: MB; reads, writes: requests to S3;
    downloaded: bytes out of AWS; relayed: bytes that workers send through a relay on EC2; log: bytes; instance,
    instance_seconds: an EC2 type and its time.
    """

    workers: int
    seconds: float
    memory: int = 1769
    storage: int = 512
    architecture: str = "x86_64"
    region: str = "us-east-1"
    reads: int = 0
    writes: int = 0
    downloaded: int = 0
    relayed: int = 0
    log: int = 0
    instance: str | None = None
    instance_seconds: float = 0.0


@dataclass(frozen=True)
class Line:
    """One item: so much of something, at a price each, in dollars."""

    what: str
    amount: float
    unit: str
    price: float

    @property
    def dollars(self) -> float:
        return self.amount * self.price

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "dollars": self.dollars}


@dataclass(frozen=True)
class Cost:
    """The items of a job's cost, and where the prices are from."""

    lines: tuple[Line, ...]
    sources: tuple[str, ...]

    @property
    def dollars(self) -> float:
        return sum(line.dollars for line in self.lines)

    def to_dict(self) -> dict[str, Any]:
        lines = [line.to_dict() for line in self.lines]
        return {"dollars": self.dollars, "lines": lines, "prices": list(self.sources)}


def cost(usage: Usage) -> Cost:
    """Price a job's usage; lines of nothing are left out. Raises: DeploymentError for what has no known price."""
    prices = lambda_pricing.prices(usage.region, usage.architecture)
    total = usage.workers * usage.seconds
    extra = max(0, usage.storage - lambda_pricing.FREE_STORAGE) / 1024
    lines = [
        Line("Lambda memory", total * usage.memory / 1024, "GB-s", prices.gb_second),
        Line("Lambda requests", usage.workers, "requests", prices.request),
        Line("Lambda storage", total * extra, "GB-s", prices.storage_gb_second),
        Line("S3 reads", usage.reads, "requests", pricing.S3_READ),
        Line("S3 writes", usage.writes, "requests", pricing.S3_WRITE),
        Line("out of AWS", usage.downloaded / GB, "GB", pricing.INTERNET_GB),
        Line("through the relay", usage.relayed / GB, "GB", 2 * pricing.REGIONAL_GB),
        Line("log", usage.log / GB, "GB", pricing.LOG_GB),
        *_instance(usage),
    ]
    sources = (
        f"{lambda_pricing.SOURCE}, {usage.region}, {lambda_pricing.AS_OF}",
        f"{pricing.SOURCE}, {pricing.AS_OF}",
    )
    return Cost(tuple(line for line in lines if line.amount), sources)


def _instance(usage: Usage) -> list[Line]:
    if usage.instance is None:
        return []
    price = pricing.INSTANCE_HOUR.get(usage.instance)
    if price is None:
        known = ", ".join(sorted(pricing.INSTANCE_HOUR))
        raise DeploymentError(f"no price known for {usage.instance}: known are {known}")
    hours = usage.instance_seconds / 3600
    return [
        Line(f"EC2 {usage.instance}", hours, "h", price),
        Line("public address", hours, "h", pricing.PUBLIC_ADDRESS_HOUR),
    ]
