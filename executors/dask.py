"""Run graphs on any Dask cluster, through a `distributed.Client`."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from distributed import Client, Future, KilledWorker, Security, WorkerPlugin
from distributed.comm import parse_address, parse_host_port
from distributed.comm.registry import get_backend

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
    WorkerLost,
    kind_of,
)


class WarmUp(WorkerPlugin):
    """Calls a function once in each worker, in a thread beside the worker's first tasks."""

    name = "warm-up"

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def setup(self, worker: Any) -> None:
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # a task that needs what failed will say so
            self.function()


class DaskExecutor(Executor):
    """Runs graphs through a client of somebody's cluster; closing leaves both as they are."""

    def __init__(self, client: Client, *, warm_up: Callable[[], None] | None = None) -> None:
        if client.asynchronous:
            raise InvalidExecutor(
                "the client is asynchronous: give a Client made with asynchronous=False"
            )
        if client.status != "running":
            raise InvalidExecutor(f"the client is {client.status}: give one that is connected")
        self.client = client
        self.name = str(client.scheduler_info(n_workers=0)["address"])
        self._done: queue.SimpleQueue[Future | BaseException] | None = None
        self._owns_client = False
        self.far_apart = bool(getattr(client.cluster, "far_apart", False))
        if warm_up is not None:
            self._register(WarmUp(warm_up))

    def _register(self, plugin: WarmUp) -> None:
        try:
            self.client.register_plugin(plugin)
        except Exception as error:  # of whatever kind, the scheduler hands on its words alone
            raise InvalidExecutor(f"a worker cannot load what its tasks need: {error}") from error

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        warm_up: Callable[[], None] | None = None,
        timeout: float = 10.0,
        **options: Any,
    ) -> Self:
        """Connect to the scheduler at `address` (tcp:// or tls://); closing closes the connection only."""
        try:
            _check_address(address, options.get("security"))
            client = Client(address, timeout=timeout, set_as_default=False, **options)
        except (OSError, ValueError, TypeError) as error:
            raise InvalidExecutor(
                f"no Dask scheduler answers at {address}: {_first_line(error)}"
            ) from error
        executor = cls(client, warm_up=warm_up)
        executor.name = address
        executor._owns_client = True
        return executor

    @property
    def workers(self) -> int:
        return max(1, sum(self.client.nthreads().values()))

    @property
    def memory(self) -> int:
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [worker["memory_limit"] or 0 for worker in workers]
        return sum(limits) if all(limits) else 0

    def run(
        self,
        graph: Graph,
        keys: Sequence[Key],
        on_result: OnResult,
        on_counts: OnCounts | None = None,
    ) -> None:
        done: queue.SimpleQueue[Future | BaseException] = queue.SimpleQueue()
        self._done = done
        futures: dict[Key, Future] = {}
        try:
            futures = dict(zip(keys, self.client.get(graph, list(keys), sync=False), strict=True))
            for future in futures.values():
                future.add_done_callback(done.put)
            watch = _Watch(self.client, graph, on_counts)
            while futures:
                for key, result in self._gather(_next_batch(done, watch)):
                    on_result(key, result)
                    futures.pop(key).release()
            watch.finish()
        finally:
            self._done = None
            self._forget(list(futures.values()))

    def _gather(self, finished: list[Future]) -> list[tuple[Key, Any]]:
        for future in finished:
            if future.status != "finished":
                raise _failure(future, self.name)
        try:
            values = self.client.gather(finished)
        except KilledWorker as error:
            raise _killed(error) from error
        return [(future.key, value) for future, value in zip(finished, values, strict=True)]

    def _forget(self, futures: list[Future]) -> None:
        if not futures or self.client.status != "running":
            return
        with contextlib.suppress(Exception):  # the error that brought us here matters more
            for future in futures:
                future.release()  # cancelling a graph piece by piece trips over Dask's own assertions

    def cancel(self) -> None:
        self.fail(Cancelled("cancelled"))

    def fail(self, error: BaseException) -> None:
        """Make the `run` in progress end with `error`; callable from any thread."""
        done = self._done
        if done is not None:
            done.put(error)

    def close(self) -> None:
        if self._owns_client:
            self.client.close()


class _Watch:
    """Tells `on_counts` about each layer of a running graph, as the scheduler sees it."""

    def __init__(self, client: Client, graph: Graph, on_counts: OnCounts | None) -> None:
        self._client = client
        self._on_counts = on_counts
        self._totals = Counter(map(kind_of, graph))
        self._seen: set[str] = set()
        self._next = time.monotonic()

    def timeout(self) -> float | None:
        return None if self._on_counts is None else max(0.0, self._next - time.monotonic())

    def look(self) -> None:
        if self._on_counts is None or time.monotonic() < self._next:
            return
        states = self._client.run_on_scheduler(_group_states, names=list(self._totals))
        self._seen |= set(states)
        self._on_counts({name: self._counts(name, states.get(name)) for name in self._totals})
        self._next = time.monotonic() + COUNTS_INTERVAL

    def _counts(self, name: str, states: Mapping[str, int] | None) -> Counts:
        total = self._totals[name]
        if (
            states is None
        ):  # the scheduler does not know the layer yet, or has forgotten all its tasks
            return Counts(total, 0, total if name in self._seen else 0)
        return Counts(total, states["running"], states["done"])

    def finish(self) -> None:
        if self._on_counts is not None:
            self._on_counts({name: Counts(total, 0, total) for name, total in self._totals.items()})


def _group_states(names: list[str], dask_scheduler: Any = None) -> dict[str, dict[str, int]]:
    found = {}
    for name in names:
        group = dask_scheduler.task_groups.get(name)
        if group is not None:
            running = group.states["processing"]
            waiting = sum(
                group.states[state] for state in ("waiting", "queued", "no-worker", "erred")
            )
            found[name] = {
                "running": running,
                "done": sum(group.states.values()) - running - waiting,
            }
    return found


def _next_batch(done: queue.SimpleQueue[Future | BaseException], watch: _Watch) -> list[Future]:
    """Wait for finished futures and take all there are."""
    batch: list[Future] = []
    while not batch:
        watch.look()
        with contextlib.suppress(queue.Empty):
            batch.append(_wanted(done.get(timeout=watch.timeout())))
    with contextlib.suppress(queue.Empty):
        while True:
            batch.append(_wanted(done.get_nowait()))
    return batch


def _wanted(ended: Future | BaseException) -> Future:
    if isinstance(ended, BaseException):
        raise ended
    return ended


def _failure(future: Future, name: str) -> BaseException:
    if future.status in ("cancelled", "lost"):
        return WorkerLost(f"the connection to the scheduler at {name} was lost")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return _killed(error)
    return error.with_traceback(future.traceback())  # type: ignore[no-any-return]


def _killed(error: KilledWorker) -> WorkerLost:
    return WorkerLost(
        f"{error.allowed_failures + 1} workers died while running {error.task}: out of memory? "
        "(use fewer workers, or larger ones)"
    )


def _check_address(address: str, security: Any) -> None:
    """Refuse what Client would fail at late and loudly; ValueError says what is missing."""
    scheme, place = parse_address(address)
    get_backend(scheme)
    if scheme in ("tcp", "tls"):
        parse_host_port(place)
    if scheme != "tls" or security is not None:
        return
    if Security().get_connection_args("client").get("ssl_context") is None:
        raise ValueError(
            "tls:// needs certificates: set ca-file, client.cert and client.key under distributed.comm.tls in "
            "Dask's configuration"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
