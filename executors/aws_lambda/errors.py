"""What can go wrong with a cluster of Lambda functions, each with one clear line."""

from __future__ import annotations

from executors.base import ExecutorError, InvalidExecutor, WrongUse


class LambdaError(ExecutorError):
    """Base of the errors of Lambda clusters."""


class NotDeployed(LambdaError, InvalidExecutor):
    """The function, its configuration or the account does not allow the cluster that is asked for."""


class InvalidOption(LambdaError, WrongUse):
    """An option of the cluster has a value that it cannot have."""


class ClusterStopped(LambdaError):
    """The cluster gave up: its budget is spent, or its workers cannot start."""
