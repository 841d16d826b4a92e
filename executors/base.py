"""What an executor is: something that runs one Dask graph and hands over results as they complete."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from dask.highlevelgraph import HighLevelGraph
from dask.typing import Key

Graph = HighLevelGraph
"""Annotations of its layers (`priority`, `retries`, `workers`) are Dask's own."""

REPEATABLE = "repeatable"
"""Annotation of tasks that may be run twice at once: always the same result, and nothing done but that."""

COUNTS_INTERVAL = 0.5
"""Seconds between two looks at how far a graph is."""

OnResult = Callable[[Key, Any], None]


class Counts(NamedTuple):
    """How far one kind of task of a running graph is: those whose keys begin with the same name."""

    total: int
    running: int
    done: int


OnCounts = Callable[[Mapping[str, Counts]], None]


class ExecutorError(Exception):
    """Base of the errors that are the executor's own, not the task's.

    A class that says `stays_where_it_is` is none that a task may fail with, as far as whoever waits for it believes.
    """


class InvalidExecutor(ExecutorError):
    """The executor asked for does not exist or cannot be reached."""


class WrongUse(InvalidExecutor):
    """What was asked for can be nowhere: an option's value, or two that exclude each other."""


class WorkerLost(ExecutorError):
    """Workers died again and again while running one task, or the scheduler went away."""


class InvalidResult(ExecutorError):
    """A task's result is of a kind that does not travel from where it ran, or a worker has sent something else."""


class Cancelled(ExecutorError):
    """The run was cancelled."""

    stays_where_it_is = True


class Executor(ABC):
    """Runs Dask graphs; a context manager that releases everything it started."""

    name: str
    """One word or address for people: "sync", "local", "tcp://..."."""

    far_apart = False
    """Whether what crosses between workers is dear, so that each task should read its own input."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """Tasks that can run at the same time, at least 1."""

    @property
    def foreseen(self) -> int | None:
        """Tasks that may run at the same time later on, at least `workers`; None where nobody can tell."""
        return self.workers

    @property
    @abstractmethod
    def memory(self) -> int:
        """Bytes of memory that all workers have together; 0 if unknown."""

    @property
    def addresses(self) -> list[str]:
        """What Dask calls the workers that are there now, sorted; none where all tasks run in one place anyway."""
        return []

    @property
    def present(self) -> int | None:
        """Workers that can take tasks now; None where all have been there from the start."""
        return None

    @property
    def spent(self) -> float | None:
        """Dollars that the workers have cost until now, as far as known; None where nobody is paid."""
        return None

    @abstractmethod
    def run(
        self,
        graph: Graph,
        keys: Sequence[Key],
        on_result: OnResult,
        on_counts: OnCounts | None = None,
    ) -> None:
        """Run `graph` until each of `keys` has been handed to `on_result`, in order of completion.

        A result is let go after its `on_result`, which is called in the caller's thread.
        `on_counts` hears about every kind of task from time to time. A task's exception is raised
        here as itself; then, as after an exception in a callback or KeyboardInterrupt, what has not
        started never will.

        A task that raises TryElsewhere is run again, on another worker where there is one.

        Raises: WorkerLost, NoWorkers, Cancelled, and whatever tasks and callbacks raise.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Make the `run` in progress end with Cancelled; callable from any thread."""

    _notice: Callable[[str], None] = staticmethod(logging.getLogger("excamera").warning)

    def on_notice(self, listener: Callable[[str], None]) -> None:
        """Call `listener`, from any thread, with each line that the executor has for the user; else they are logged."""
        self._notice = listener

    def close(self) -> None:  # noqa: B027 - nothing to release is the common case
        """Release what this executor started; what it was given stays open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def kind_of(key: Key) -> str:
    """What tasks are counted by: the first element of their keys."""
    return str(key[0] if isinstance(key, tuple) else key)
