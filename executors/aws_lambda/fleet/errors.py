"""What can go wrong with a fleet, besides the workers themselves."""

from __future__ import annotations

from executors.base import ExecutorError


class FleetError(ExecutorError):
    """Base of the errors that a fleet raises."""


class InvalidSettings(FleetError):
    """The settings of a fleet contradict each other or are out of range."""


class UnknownPrice(FleetError):
    """No price is known for a region or an architecture."""


class ImpossibleTransition(FleetError):
    """An event came in a state where only an error of ours can have made it."""
