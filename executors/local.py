"""Run graphs on this machine: in this thread (`sync`) or in one process a core (`local`)."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
import psutil
from dask.callbacks import Callback
from dask.local import get_sync
from dask.system import CPU_COUNT
from dask.utils import ensure_dict
from distributed import LocalCluster

from executors.base import (
    COUNTS_INTERVAL,
    Cancelled,
    Counts,
    Executor,
    Graph,
    InvalidExecutor,
    Key,
    OnCounts,
    OnResult,
    kind_of,
)
from executors.dask import cause
from executors.dask_config import require_certificates, require_usable, unless_configured
from executors.dask_values import TLS
from executors.own_cluster import OwnClusterExecutor, ends_whole
from executors.tries import tried_in_place
from executors.worker_processes import processes_refused

DASK_CONFIG = {"distributed.admin.log-length": 0, "distributed.admin.low-level-log-length": 0}
"""What Dask is told where the user's configuration says nothing."""
ENCRYPTING = ("scheduler", "worker", "client")
"""Those that have certificates of their own."""
CLOSE_GRACE = 0.5  # seconds that busy workers are given to end by themselves
THREADS_A_PROCESS = 4  # kernels run without the interpreter's lock, what is between them does not
_TEMPORARY = "temporary directory"
"""Part of what `tempfile` says where it finds none."""
_DIED = "failed to start worker process"
"""Part of what Dask says of a process that ended before it said why."""
_TOO_MANY = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC)
MEMORY_SHARE = 0.8  # of what is free when the cluster starts


class SyncExecutor(Executor):
    """Dask's synchronous scheduler: everything in the caller's thread, for debugging."""

    name = "sync"

    def __init__(self) -> None:
        self._cancelled = threading.Event()

    @property
    def workers(self) -> int:
        return 1

    @property
    def memory(self) -> int:
        return free_memory()

    def run(
        self,
        graph: Graph,
        keys: Sequence[Key],
        on_result: OnResult,
        on_counts: OnCounts | None = None,
    ) -> None:
        if not keys:
            return
        self._cancelled.clear()
        with _HandOver(graph, keys, on_result, on_counts, self._cancelled):
            get_sync(tried_in_place(ensure_dict(graph), self._notice), list(keys))

    def cancel(self) -> None:
        self._cancelled.set()


class _HandOver(Callback):
    """Hands each wanted result over when its task ends, and lets go of it."""

    def __init__(
        self,
        graph: Graph,
        keys: Sequence[Key],
        on_result: OnResult,
        on_counts: OnCounts | None,
        cancelled: threading.Event,
    ) -> None:
        self._wanted = set(keys)
        self._on_result = on_result
        self._on_counts = on_counts
        self._cancelled = cancelled
        self._totals = Counter(map(kind_of, graph))
        self._done: Counter[str] = Counter()
        self._next = time.monotonic()
        super().__init__(pretask=self._start_task, posttask=self._end_task)

    def _start_task(self, key: Key, graph: Any, state: Any) -> None:
        if self._cancelled.is_set():
            raise Cancelled("cancelled")
        self._tell(kind_of(key))

    def _end_task(self, key: Key, value: Any, graph: Any, state: Any, worker: Any) -> None:
        self._done[kind_of(key)] += 1
        if key in self._wanted:
            self._on_result(key, value)
        for finished in (key, *state["dependencies"][key]):
            if finished in self._wanted and not state["waiting_data"].get(finished):
                state["cache"][finished] = None
        self._tell(None, last=self._done.total() == self._totals.total())

    def _tell(self, running: str | None, last: bool = False) -> None:
        if self._on_counts is None or (time.monotonic() < self._next and not last):
            return
        self._on_counts(
            {
                name: Counts(total, int(name == running), self._done[name])
                for name, total in self._totals.items()
            }
        )
        self._next = time.monotonic() + COUNTS_INTERVAL


class LocalExecutor(OwnClusterExecutor):
    """A cluster of worker processes on this machine, ended with the executor."""

    def __init__(
        self,
        workers: int | None = None,
        *,
        memory_per_worker: int | None = None,
        warm_up: Callable[[], None] | None = None,
        dashboard_address: str | None = None,
    ) -> None:
        free = free_memory()
        count = workers or _default_workers(free, memory_per_worker)
        super().__init__(lambda: _start_cluster(count, free, dashboard_address), warm_up=warm_up)
        self.name = "local"

    def close(self) -> None:
        with ends_whole():
            pids = (nanny.pid for nanny in self._cluster.workers.values())
            workers = [pid for pid in pids if pid]  # a nanny whose worker died has none
            killer = threading.Timer(CLOSE_GRACE, _kill, [workers])
            killer.start()
            try:
                super().close()
            finally:
                killer.cancel()


def _start_cluster(workers: int, memory: int, dashboard_address: str | None) -> LocalCluster:
    """Raises InvalidExecutor where worker processes cannot start, and says why."""
    refused = processes_refused()
    if refused is not None:
        raise InvalidExecutor(refused)
    require_usable("scheduler", "nanny", "worker", tls=_wants_tls())
    require_certificates(*ENCRYPTING)
    try:
        return _make_cluster(workers, memory, dashboard_address)
    except Exception as error:
        reason = cause(error)
        if _DIED in reason and _is_unguarded():
            raise InvalidExecutor(
                'worker processes cannot start: put what a script does under `if __name__ == "__main__":`, or use '
                'executor="sync"'
            ) from error
        raise InvalidExecutor(
            f"worker processes cannot start ({reason}): {_cure(reason)}use --executor sync"
        ) from error


def _wants_tls() -> bool:
    if dask.config.get("distributed.comm.default-scheme") == "tls":
        return True
    return bool(dask.config.get("distributed.comm.require-encryption", None)) or _has_certificates()


def _has_certificates() -> bool:
    """Dask reads them then, whether or not it encrypts."""
    given = [dask.config.get(f"{TLS}.{role}.cert", None) for role in ENCRYPTING]
    return bool(dask.config.get(f"{TLS}.ca-file", None)) and any(given)


def _is_unguarded() -> bool:
    """Whether processes, which import the caller's script, would come to where it starts processes."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        return script is not None and "__main__" not in Path(script).read_text(errors="replace")
    except OSError:
        return False


def _cure(reason: str) -> str:
    if _TEMPORARY in reason:
        return "set TMPDIR to a folder that can be written, or "
    if os.strerror(errno.ENOSPC) in reason:
        return "make room in /dev/shm and in the folder for temporary files, or "
    if any(os.strerror(number) in reason for number in _TOO_MANY):
        return "give them fewer --workers, or "
    return ""


def _make_cluster(workers: int, memory: int, dashboard_address: str | None) -> LocalCluster:
    threads = _threads(workers)
    with dask.config.set(unless_configured(DASK_CONFIG)):
        return LocalCluster(
            n_workers=workers // threads,
            threads_per_worker=threads,
            processes=True,
            memory_limit=int(memory / workers) * threads,
            dashboard_address=dashboard_address or "127.0.0.1:0",
            scheduler_kwargs={"dashboard": dashboard_address is not None},
            silence_logs=logging.CRITICAL,
        )


def _kill(processes: list[int]) -> None:
    """End busy workers: first what they started, so that they can clean up, then them."""
    workers = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            workers.append(psutil.Process(process))
            for member in workers[-1].children(recursive=True):
                member.kill()
    _, busy = psutil.wait_procs(workers, timeout=CLOSE_GRACE)
    for worker in busy:
        with contextlib.suppress(psutil.Error):
            worker.kill()


def free_memory() -> int:
    """Bytes that a job may plan with: a share of what is free now."""
    return int(psutil.virtual_memory().available * MEMORY_SHARE)


def _threads(workers: int) -> int:
    """Workers that share a process, and with it the pictures that they hand to each other."""
    return max(n for n in range(1, THREADS_A_PROCESS + 1) if workers % n == 0)


def _default_workers(free: int, memory_per_worker: int | None) -> int:
    cores = int(os.environ.get("EXCAMERA_WORKERS", 0)) or CPU_COUNT
    if memory_per_worker is None:
        return cores
    return max(1, min(cores, free // memory_per_worker))
