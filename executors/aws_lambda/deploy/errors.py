"""What can go wrong between this machine and a function in AWS; each message is one line with the fix."""

from __future__ import annotations

from executors.base import ExecutorError


class DeploymentError(ExecutorError):
    """A build, a deployment or a check of one failed."""


class VersionMismatch(DeploymentError):
    """Client, scheduler and workers do not run the same software."""
