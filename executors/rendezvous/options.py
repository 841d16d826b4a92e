"""How a link behaves: window, reconnection, silence; from arguments or from `distributed.comm.rdv.*`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import dask.config
from dask.utils import parse_bytes, parse_timedelta

from executors.rendezvous.protocol.frames import EARLY_CREDIT

_BYTES = ("window", "high_water", "bulk_from")


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Sizes in bytes, times in seconds."""

    window: int = 4 << 20  # credit of each direction of a stream
    high_water: int = 64 << 20  # a writer waits while more than this is unsent on its stream
    connect_timeout: float = 10.0
    reconnect_timeout: float = 30.0  # how long a cut link tries to come back; infinity: for ever
    resume_timeout: float = 30.0  # how long a stream waits for its other end after a cut
    ping_interval: float = 2.5
    silence: float = 7.5  # a relay that is silent for so long is dead
    bulk_from: int = 256 << 10  # so much unsent on a stream asks for bulk connections; 0: never
    bulk_timeout: float = 5.0  # for a bulk connection; without one all goes over TLS
    listen_patience: float = 10.0  # how long a stream waits here for a listener of its name

    def __post_init__(self) -> None:
        if self.window < EARLY_CREDIT:
            raise ValueError(
                f"a window of {self.window} bytes is too small: at least {EARLY_CREDIT}"
            )
        if not self.silence > self.ping_interval > 0:
            raise ValueError("ping_interval must be above 0 and below silence")

    @classmethod
    def make(cls, **given: Any) -> Self:
        """Options from `given`, else from the config `distributed.comm.rdv`, else the defaults."""
        known = {each.name for each in fields(cls)}
        unknown = set(given) - known
        if unknown:
            raise TypeError(f"unknown options of a link: {', '.join(sorted(unknown))}")
        config = dask.config.get("distributed.comm.rdv", None) or {}
        values = {key.replace("-", "_"): value for key, value in config.items()}
        values = {key: value for key, value in values.items() if key in known} | given
        return cls(**{key: _parse(key, value) for key, value in values.items()})


def _parse(key: str, value: Any) -> Any:
    if isinstance(value, float):  # infinity too
        return value
    return parse_bytes(value) if key in _BYTES else parse_timedelta(value)
