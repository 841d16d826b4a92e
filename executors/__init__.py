"""Executors run Dask graphs, on this machine or on any Dask cluster; they know nothing of video.

What users need is imported on first use: what lies here and needs no Dask can be had without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from executors.base import (
        Cancelled,
        Counts,
        Executor,
        ExecutorError,
        Graph,
        InvalidExecutor,
        InvalidResult,
        Key,
        OnCounts,
        OnResult,
        WorkerLost,
        WrongUse,
    )
    from executors.open import open_executor
    from executors.tries import TryElsewhere
    from executors.waiting import NoWorkers

_HOMES = {
    "Cancelled": "executors.base",
    "Counts": "executors.base",
    "Executor": "executors.base",
    "ExecutorError": "executors.base",
    "Graph": "executors.base",
    "InvalidExecutor": "executors.base",
    "InvalidResult": "executors.base",
    "Key": "executors.base",
    "NoWorkers": "executors.waiting",
    "OnCounts": "executors.base",
    "OnResult": "executors.base",
    "TryElsewhere": "executors.tries",
    "WorkerLost": "executors.base",
    "WrongUse": "executors.base",
    "open_executor": "executors.open",
}

__all__ = [
    "Cancelled",
    "Counts",
    "Executor",
    "ExecutorError",
    "Graph",
    "InvalidExecutor",
    "InvalidResult",
    "Key",
    "NoWorkers",
    "OnCounts",
    "OnResult",
    "TryElsewhere",
    "WorkerLost",
    "WrongUse",
    "open_executor",
]

__distribution__ = "excamera-dask"  # whose file this is: others have packages of this name


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'executors' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
