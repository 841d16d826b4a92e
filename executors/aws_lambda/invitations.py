"""What each invocation is sent: where to connect, and a credential of its own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from executors.aws_lambda.config import links_config
from executors.aws_lambda.payload import Payload
from executors.aws_lambda.relays import Relays

COORDINATOR, SCHEDULER = "coordinator", "scheduler"
"""The parts of a cluster that workers reach through its relays."""


def at_relay(cluster: str, part: str) -> str:
    """The name of a part at relays, which other clusters may use as well."""
    return f"{cluster}-{part}"


class Invitations:
    """Makes the event of one invocation of a cluster after another, spread over the relays; may be called from threads.

    lifetime: seconds for which a credential is valid; margin: seconds before the function's time limit at which workers leave.
    """

    def __init__(
        self,
        cluster: str,
        relays: Relays,
        lifetime: float,
        margin: float,
        worker_options: Mapping[str, Any],
    ) -> None:
        self._cluster = cluster
        self._relays = relays
        self._lifetime = timedelta(seconds=lifetime)
        self._margin = margin
        self._worker_options = dict(worker_options)
        self._turn = itertools.count()

    def __call__(self, name: str) -> bytes:
        credential = self._relays.authority.issue(name, lifetime=self._lifetime)
        addresses = self._relays.addresses
        relay = addresses[next(self._turn) % len(addresses)]
        return Payload(
            invocation=name,
            relay=relay,
            credential=credential.to_dict(),
            scheduler=f"rdv://{relay}/{at_relay(self._cluster, SCHEDULER)}",
            coordinator=f"rdv://{relay}/{at_relay(self._cluster, COORDINATOR)}",
            margin=self._margin,
            worker_options=self._worker_options,
            config=links_config(),
        ).to_json()
