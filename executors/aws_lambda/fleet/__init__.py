"""The coordinator's core: what Lambda invocations there are, what state each is in, and what to do next.

No I/O: `Fleet` takes events and gives actions (docs/coordinator.md). What looks at a fleet afterwards is in `records`.
"""

from executors.aws_lambda.fleet import actions, events
from executors.aws_lambda.fleet.errors import (
    FleetError,
    ImpossibleTransition,
    InvalidSettings,
    UnknownPrice,
)
from executors.aws_lambda.fleet.fleet import Fleet
from executors.aws_lambda.fleet.pricing import Prices, prices
from executors.aws_lambda.fleet.settings import FleetSettings
from executors.aws_lambda.fleet.snapshot import InvocationView, Snapshot
from executors.aws_lambda.fleet.states import LIVE, TERMINAL, State

__all__ = [
    "LIVE",
    "TERMINAL",
    "Fleet",
    "FleetError",
    "FleetSettings",
    "ImpossibleTransition",
    "InvalidSettings",
    "InvocationView",
    "Prices",
    "Snapshot",
    "State",
    "UnknownPrice",
    "actions",
    "events",
    "prices",
]
