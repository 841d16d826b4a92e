"""Executors run Dask graphs, on this machine or on any Dask cluster; they know nothing of video."""

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
