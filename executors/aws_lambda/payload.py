"""What an invocation is told: where to connect, as whom, and what kind of worker to be. No long-lived secret."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from executors.base import ExecutorError

PAYLOAD_VERSION = 1
PROBE = {"excamera": PAYLOAD_VERSION, "probe": True}
"""The event that only asks whether the function can start, and with which versions."""


class InvalidPayload(ExecutorError):
    """An invocation was given an event that is not ours, or of another version."""


@dataclass(frozen=True)
class Payload:
    """The event of one invocation.

    invocation: the name that its credential lets it claim; relay: "host:port"; credential: short-lived, as
    `Credential.to_dict` gives it; scheduler, coordinator: rdv:// addresses; worker_options: keywords of
    `distributed.Worker`; config: Dask configuration of links, by full names (the rest comes by the control stream);
    margin: seconds before the function's time limit at which a worker leaves by itself.
    """

    invocation: str
    relay: str
    credential: dict[str, str]
    scheduler: str
    coordinator: str
    margin: float = 15.0
    worker_options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The bytes that Lambda is given."""
        return json.dumps({"excamera": PAYLOAD_VERSION, **asdict(self)}).encode()

    @classmethod
    def from_event(cls, event: Any) -> Payload:
        """Read an event as Lambda hands it over. Raises InvalidPayload."""
        if not isinstance(event, dict) or "excamera" not in event:
            raise InvalidPayload(
                "this function is a worker of excamera and is invoked by its cluster: excamera encode --executor lambda"
            )
        told = dict(event)
        version = told.pop("excamera")
        if version != PAYLOAD_VERSION:
            raise InvalidPayload(
                f"payload of version {version}, this function reads {PAYLOAD_VERSION}: "
                "run excamera lambda build and excamera lambda deploy"
            )
        try:
            return cls(**told)
        except TypeError as error:
            raise InvalidPayload(f"payload is incomplete or of another version: {error}") from None
