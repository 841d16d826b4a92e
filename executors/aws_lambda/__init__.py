"""Lambda functions as Dask workers: the cluster, its coordinator, the worker that Lambda runs, a Lambda for this machine.

Names are imported when they are used: a worker that starts needs few of them.
"""

from importlib import import_module
from typing import Any

_PLACES = {
    "LambdaCluster": "cluster",
    "LambdaExecutor": "executor",
    "LambdaError": "errors",
    "NotDeployed": "errors",
    "ClusterStopped": "errors",
}

__all__ = ["ClusterStopped", "LambdaCluster", "LambdaError", "LambdaExecutor", "NotDeployed"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
