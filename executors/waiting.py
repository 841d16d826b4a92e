"""What is said, and when it is given up, while a cluster has no worker that could take a task."""

from __future__ import annotations

import time
from collections.abc import Callable

import dask.config
from dask.utils import parse_timedelta

from executors.base import ExecutorError
from executors.dask_values import require_value

TIMEOUT = "excamera.workers-timeout"
"""Dask's configuration of how long a first worker is waited for, and processes of our own that do not come or all pause
("10 minutes"; null: for ever)."""
DEFAULT_TIMEOUT = "5 minutes"
FIRST_NOTICE = 5.0
"""Seconds without a worker before that is told."""
NEXT_NOTICE = 60.0
LOOK_INTERVAL = 1.0
"""Seconds between two looks."""


class NoWorkers(ExecutorError):
    """A cluster has had no worker that takes tasks within the time that was allowed."""


class Patience:
    """Watches how many workers a cluster has; `notice` is told where there are none, and again, and when some come."""

    def __init__(
        self,
        notice: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._where = ""
        self._next_look = clock()
        self._notice = notice
        self._clock = clock
        self._had_any = False
        self._rest()

    def begin(self, where: str) -> None:
        """A job begins at the cluster of this name or address: nobody has waited for it until now."""
        self._where = where
        self._rest()

    def _rest(self) -> None:
        self._since: float | None = None
        self._told: float | None = None

    def is_due(self) -> bool:
        """Whether it is time to look again."""
        return self._clock() >= self._next_look

    def look(self, running: int, paused: int) -> None:
        """Take the numbers of workers that take tasks, and of those that pause for want of memory.

        Raises: NoWorkers, InvalidExecutor.
        """
        now = self._clock()
        self._next_look = now + LOOK_INTERVAL
        if running:
            self.there_are(running)
            return
        if self._since is None:
            self._since = now
        waited = now - self._since
        limit = _limit()
        # processes on this machine come back at once or never
        hopeless = not self._had_any or not self._is_elsewhere
        if limit is not None and waited >= limit and hopeless:
            raise NoWorkers(
                f"{self._state(waited, paused)}: {self._cure(paused)} "
                f"(DASK_EXCAMERA__WORKERS_TIMEOUT=1h waits longer)"
            )
        due = FIRST_NOTICE if self._told is None else self._told + NEXT_NOTICE
        if waited >= due:
            self._told = waited
            self._notice(self._line(waited, paused))

    def there_are(self, running: int) -> None:
        """Some take tasks, as is seen by what they do."""
        if self._told is not None:
            self._notice(f"{_some(running)} at {self._where}: going on")
        self._had_any = True
        self._rest()

    def _line(self, waited: float, paused: int) -> str:
        lost = ", since it lost them all" if self._had_any and not paused else ""
        wanted = "them" if paused else "one"
        return f"{self._state(waited, paused)}{lost}: waiting for {wanted}; {self._cure(paused)}"

    def _state(self, waited: float, paused: int) -> str:
        if paused:
            return f"all {paused} workers of {self._where} have paused for want of memory for {waited:.0f} s"
        return f"{self._where} has had no worker for {waited:.0f} s"

    @property
    def _is_elsewhere(self) -> bool:
        return "://" in self._where

    def _cure(self, paused: int) -> str:
        if paused:
            return "give them more memory, or raise distributed.worker.memory.pause"
        if not self._is_elsewhere:
            return "its processes cannot start or are killed at once"
        return f"start some with `dask worker {self._where}`"


def _some(count: int) -> str:
    return "a worker is there" if count == 1 else f"{count} workers are there"


def _limit() -> float | None:
    """Seconds; None for ever."""
    value = dask.config.get(TIMEOUT, DEFAULT_TIMEOUT)
    require_value(TIMEOUT, value)
    return None if value is None else float(parse_timedelta(value))
