"""What Lambda costs: dollars a GB-second, a request and a GB-second of ephemeral storage, by region.

Source: the AWS price list of the service AWSLambda, on demand, first tier (https://aws.amazon.com/lambda/pricing/), taken from a
public copy of what the AWS pricing calculator gave out (calculator.aws/pricing/2.0/meteredUnitMaps/lambda) some time after
August 2024; a public copy of the price list of 2026-08-21 had the same rates for us-east-2, the others were not compared
again. Free tiers, volume tiers, savings plans and taxes are left out. `FleetSettings.prices` overrides the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from executors.aws_lambda.fleet.errors import UnknownPrice

SOURCE = "AWS price list of Lambda, on demand, first tier"
AS_OF = "2024-08"
"""The earliest that the table can be from."""
FREE_STORAGE = 512
"""MB of ephemeral storage that cost nothing."""

ARCHITECTURES = ("x86_64", "arm64")

_USUAL = (16.6667, 13.3334, 0.20)

# Micro-dollars a GB-second on x86_64 and on arm64, dollars a million requests; nano-dollars a GB-second of storage.
_TABLE: dict[str, tuple[float, float, float, float]] = {
    "af-south-1": (22.1000, 17.6800, 0.27, 40.4),
    "ap-east-1": (22.9200, 18.3000, 0.28, 40.7),
    "ap-northeast-1": (*_USUAL, 37.0),
    "ap-northeast-2": (*_USUAL, 35.2),
    "ap-northeast-3": (*_USUAL, 37.0),
    "ap-south-1": (*_USUAL, 35.2),
    "ap-southeast-1": (*_USUAL, 37.0),
    "ap-southeast-2": (*_USUAL, 37.0),
    "ap-southeast-4": (*_USUAL, 37.0),
    "ap-southeast-5": (15.0000, 12.0000, 0.18, 33.3),
    "ca-central-1": (*_USUAL, 34.0),
    "eu-central-1": (*_USUAL, 36.7),
    "eu-central-2": (18.3334, 14.6667, 0.22, 44.1),
    "eu-north-1": (*_USUAL, 32.3),
    "eu-south-1": (19.5172, 15.6138, 0.23, 35.7),
    "eu-west-1": (*_USUAL, 34.0),
    "eu-west-2": (*_USUAL, 35.8),
    "eu-west-3": (*_USUAL, 35.8),
    "me-south-1": (20.6667, 16.5334, 0.25, 37.4),
    "sa-east-1": (*_USUAL, 58.6),
    "us-east-1": (*_USUAL, 30.9),
    "us-east-2": (*_USUAL, 30.9),
    "us-west-1": (*_USUAL, 37.0),
    "us-west-2": (*_USUAL, 30.9),
}


@dataclass(frozen=True)
class Prices:
    """Dollars: `gb_second` of memory, `request`, `storage_gb_second` of ephemeral storage beyond 512 MB."""

    gb_second: float
    request: float
    storage_gb_second: float

    def per_second(self, memory: int, ephemeral_storage: int = FREE_STORAGE) -> float:
        """Dollars a second of one running invocation; memory and storage in MB."""
        storage = max(0, ephemeral_storage - FREE_STORAGE)
        return memory / 1024 * self.gb_second + storage / 1024 * self.storage_gb_second

    def invocation(
        self, seconds: float, memory: int, ephemeral_storage: int = FREE_STORAGE
    ) -> float:
        """Dollars of one invocation of so many seconds."""
        return self.request + seconds * self.per_second(memory, ephemeral_storage)


def regions() -> tuple[str, ...]:
    """The regions whose prices are known."""
    return tuple(_TABLE)


def prices(region: str, architecture: str = "x86_64") -> Prices:
    """The prices of a region.

    Raises: UnknownPrice.
    """
    if architecture not in ARCHITECTURES:
        raise UnknownPrice(f"unknown architecture {architecture!r}: use x86_64 or arm64")
    row = _TABLE.get(region)
    if row is None:
        raise UnknownPrice(
            f"no prices known for the region {region!r}: check its name, or give a cluster fleet_options "
            "with prices (gb_second, request, storage_gb_second in dollars)"
        )
    x86_64, arm64, requests, storage = row
    micro = x86_64 if architecture == "x86_64" else arm64
    return Prices(_round(micro * 1e-6), _round(requests * 1e-6), _round(storage * 1e-9))


def dearest(architecture: str = "x86_64") -> Prices:
    """The highest of all known prices: a cautious guess for a region that is not in the table."""
    known = [prices(region, architecture) for region in _TABLE]
    return Prices(
        max(price.gb_second for price in known),
        max(price.request for price in known),
        max(price.storage_gb_second for price in known),
    )


def _round(dollars: float) -> float:
    return round(dollars, 15)
