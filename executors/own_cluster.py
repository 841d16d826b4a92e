"""Executors that start a cluster of their own and end it, whatever interrupts them."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any

import dask.config
from distributed import Client

from executors.base import InvalidExecutor
from executors.dask import DaskExecutor, OwnClient, cause
from executors.dask_config import require_usable

logger = logging.getLogger("excamera")

IDLE_TIMEOUT = "distributed.scheduler.idle-timeout"
"""The one setting of the user's that is not followed: it would end the cluster of a job before its first task."""


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C in this thread wait until the end; processes and threads started meanwhile never see it.

    A terminal sends it to all processes, but it is the client that ends the others.
    """
    resource_tracker.ensure_running()  # which would let the signal through when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def ends_whole() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until what is being ended has ended: the second of two must not leave half of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with interrupts_wait():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if came:
            signal.raise_signal(signal.SIGTERM)


class OwnClusterExecutor(DaskExecutor):
    """Runs graphs on the cluster that `start` makes, which ends with the executor; `check` may refuse it."""

    def __init__(
        self,
        start: Callable[[], Any],
        *,
        check: Callable[[Any], None] | None = None,
        warm_up: Callable[[], None] | None = None,
    ) -> None:
        self._cluster: Any = None
        require_usable("client")
        if dask.config.get(IDLE_TIMEOUT, None) is not None:
            logger.warning(
                "%s is not followed by this cluster, which ends with its job", IDLE_TIMEOUT
            )
        try:
            with interrupts_wait():
                with dask.config.set({IDLE_TIMEOUT: None}):
                    self._cluster = start()
                if check is not None:
                    check(self._cluster)
                super().__init__(self._connect(), warm_up=warm_up)
        except BaseException:
            if self._cluster is not None:
                with ends_whole():
                    self._cluster.close()
            raise
        self._owns_client = True

    def _connect(self) -> Client:
        try:
            return OwnClient(self._cluster, set_as_default=False)
        except Exception as error:
            raise InvalidExecutor(
                f"the cluster runs, but nothing can connect to it: {cause(error)}"
            ) from error

    def close(self) -> None:
        with ends_whole():
            super().close()
            self._cluster.close()
