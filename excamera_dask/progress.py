"""What a running job tells: plain events, one callback; rendering them is somebody else's work.

A callback gets each event in the order in which things happen, in the thread that called `encode`; only what an executor
has to say (a Notice) may come from another. It must be quick; an exception in it ends the job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from excamera_dask.planning import Plan
from executors import Counts

STAGES = ("survey", "skeleton", "load", "code", "encode", "final_state", "replace", "rebase", "mux")
"""Stages in the order of a chunk's life, as the names in `StageCounts`: of all methods, each of which has some."""


@dataclass(frozen=True)
class Notice:
    """One line for people: compiling kernels, continuing an interrupted job, a warning about the source."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Started:
    """The plan is made and tasks will now run; `frames_done` of an interrupted job are there already."""

    plan: Plan
    executor: str
    workers: int
    frames_done: int = 0
    bytes_done: int = 0


@dataclass(frozen=True)
class StageCounts:
    """Tasks of each stage: total, running, done. Sent twice a second at most.

    workers: those that are there now; spent: dollars until now. Both are None where workers do not come and go.
    """

    counts: Mapping[str, Counts]
    workers: int | None = None
    spent: float | None = None


@dataclass(frozen=True)
class ChunkDone:
    """A chunk has its final bytes; frames and bytes count all chunks that have."""

    chunk: int
    frames_done: int
    bytes_done: int
    chunks_done: int


Event = Notice | Started | StageCounts | ChunkDone
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The callback of those who do not listen."""
