"""Faults on purpose, by the number of the call, so that a test that fails fails again in the same way."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Self

from executors.local_lambda.errors import InvalidSettings


@dataclasses.dataclass(frozen=True)
class Faults:
    """Which calls of Invoke go wrong, counted from 1 for each function (not for DryRun).

    duplicate: Event calls that are delivered twice; lose: Event calls that are accepted and never delivered;
    delay: Event calls that are delivered so many seconds late (real ones, not scaled); throttle: calls of either kind
    that get 429; server_error: calls of either kind that get 500; kill: the process of the environment is killed so
    many seconds after such a call was delivered to it.
    """

    duplicate: frozenset[int] = frozenset()
    lose: frozenset[int] = frozenset()
    delay: Mapping[int, float] = dataclasses.field(default_factory=dict)
    throttle: frozenset[int] = frozenset()
    server_error: frozenset[int] = frozenset()
    kill: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def seeded(cls, seed: int, calls: int, *, delay_by: float = 1.0, **shares: float) -> Self:
        """Faults in about these shares (0 to 1) of the first `calls` calls, always the same for the same seed.

        Faults.seeded(7, 1000, lose=0.01, duplicate=0.02)
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name, share in shares.items():
            if name not in known or not 0 <= share <= 1:
                raise InvalidSettings(f"{name}={share} is no share of a fault: {', '.join(known)}")
        chosen: dict[str, Any] = {}
        for name, share in shares.items():
            numbers = [call for call in range(1, calls + 1) if _fraction(seed, name, call) < share]
            timed = name in ("delay", "kill")
            chosen[name] = dict.fromkeys(numbers, delay_by) if timed else frozenset(numbers)
        return cls(**chosen)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the server."""
        return {
            field.name: dict(value) if isinstance(value, Mapping) else sorted(value)
            for field in dataclasses.fields(self)
            for value in [getattr(self, field.name)]
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The same back (JSON has made strings of the keys)."""
        plain: dict[str, Any] = {
            name: {int(key): float(item) for key, item in value.items()}
            if isinstance(value, Mapping)
            else frozenset(value)
            for name, value in values.items()
        }
        return cls(**plain)


def _fraction(seed: int, name: str, call: int) -> float:
    digest = hashlib.blake2b(f"{seed} {name} {call}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64
