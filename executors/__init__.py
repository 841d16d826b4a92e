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

_ELSEWHERE = {
    "NoWorkers": "executors.waiting",
    "TryElsewhere": "executors.tries",
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
    if name not in __all__:
        raise AttributeError(f"module 'executors' has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "executors.base")), name)
