"""Building the workers' image, deploying the function, and finding out beforehand what would go wrong.

Names are loaded when they are first used: a worker compares versions and has no use for boto3.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from executors.aws_lambda.deploy.checks import (
        ConfigurationRefused,
        Finding,
        Problem,
        Target,
        examine,
        preflight,
        require,
    )
    from executors.aws_lambda.deploy.errors import DeploymentError, VersionMismatch
    from executors.aws_lambda.deploy.session import AwsRefused, Place
    from executors.aws_lambda.deploy.versions import installed, mismatch, require_same

_HOMES = {
    "AwsRefused": "session",
    "ConfigurationRefused": "checks",
    "DeploymentError": "errors",
    "Finding": "checks",
    "Place": "session",
    "Problem": "checks",
    "Target": "checks",
    "VersionMismatch": "errors",
    "examine": "checks",
    "installed": "versions",
    "mismatch": "versions",
    "preflight": "checks",
    "require": "checks",
    "require_same": "versions",
}

__all__ = [
    "AwsRefused",
    "ConfigurationRefused",
    "DeploymentError",
    "Finding",
    "Place",
    "Problem",
    "Target",
    "VersionMismatch",
    "examine",
    "installed",
    "mismatch",
    "preflight",
    "require",
    "require_same",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
