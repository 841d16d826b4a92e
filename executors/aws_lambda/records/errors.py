"""Errors of what looks at fleets afterwards."""

from __future__ import annotations

from executors.aws_lambda.fleet.errors import FleetError


class EventLogError(FleetError):
    """An event log cannot be written, or is not one."""


class DamagedCard(FleetError):
    """The file that says what a cluster is does not."""


class UnknownCluster(FleetError):
    """No cluster of that name is known on this machine."""


class PlotUnavailable(FleetError):
    """A picture was asked for, and what draws it is not installed."""
