"""Run graphs on any Dask cluster, through a `distributed.Client`."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from distributed import Client, Future, KilledWorker, Security, WorkerPlugin
from distributed.comm import get_address_host, parse_address, parse_host_port
from distributed.comm.registry import get_backend
from distributed.scheduler import NoValidWorkerError, NoWorkerError

from executors.base import (
    COUNTS_INTERVAL,
    Cancelled,
    Counts,
    Executor,
    ExecutorError,
    Graph,
    InvalidExecutor,
    Key,
    OnCounts,
    OnResult,
    WorkerLost,
    WrongUse,
    kind_of,
)
from executors.dask_config import require_usable
from executors.growth import workers_to_come
from executors.same_install import (
    BLOCKED,
    CURE,
    REFUSES,
    Question,
    is_blocked,
    lacking,
    require_handlers,
    require_same,
)
from executors.tries import TRIES, TryElsewhere, told
from executors.waiting import LOOK_INTERVAL, NoWorkers, Patience

CONNECT_PAUSE = 0.2
"""Seconds between two tries to connect."""
ERROR_TIMEOUT = 2.0
"""Seconds within which a failed task's error is there, unless it is run again."""


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


class OwnClient(Client):
    """Dask's client, which closes at once where it cannot start: Dask's does when Python ends, and waits for a loop that has
    ended."""

    def start(self, **options: Any) -> None:
        try:
            super().start(**options)
        except BaseException:
            with contextlib.suppress(Exception):
                self.close(timeout=ERROR_TIMEOUT)
            raise


class DaskExecutor(Executor):
    """Runs graphs through a client of somebody's cluster; closing leaves both as they are."""

    waits_for_workers = True
    """Whether it is told and given up here when there are none; else whoever starts them sees to it."""

    def __init__(
        self,
        client: Client,
        *,
        warm_up: Callable[[], None] | None = None,
        same: Question | None = None,
    ) -> None:
        """same: what must be equal here, on the scheduler and on the workers; raises InvalidExecutor where it is not."""
        if client.asynchronous:
            raise InvalidExecutor(
                "the client is asynchronous: give a Client made with asynchronous=False"
            )
        if client.status != "running":
            raise InvalidExecutor(f"the client is {client.status}: give one that is connected")
        self.client = client
        self.name = str(client.scheduler_info(n_workers=0)["address"])
        self._done: queue.SimpleQueue[Future | BaseException] | None = None
        self._tried: dict[Key, list[str]] = {}
        """Tasks that were not to blame for their failure, and the workers where that was."""
        self._owns_client = False
        self.far_apart = bool(getattr(client.cluster, "far_apart", False))
        self._patience = Patience(lambda text: self._notice(text))
        if same is not None and not self.far_apart:  # who starts far workers compares them
            require_same(client, same)
        if not self.far_apart:
            require_handlers(client)
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
        same: Question | None = None,
        timeout: float = 10.0,
        **options: Any,
    ) -> Self:
        """Connect to the scheduler at `address` (tcp:// or tls://); closing closes the connection only."""
        require_usable("client", tls=address.startswith("tls:") and not options.get("security"))
        try:
            _check_address(address, options.get("security"))
        except ValueError as error:
            raise WrongUse(f"{address}: {_first_line(error)}") from error
        try:
            _await_listener(address, timeout)
            client = OwnClient(address, timeout=timeout, set_as_default=False, **options)
        except Exception as error:
            if is_blocked(error):
                raise InvalidExecutor(
                    f"the scheduler at {address}: {REFUSES.format('identity')}"
                ) from error
            raise InvalidExecutor(
                f"no Dask scheduler answers at {address}: {_first_line(error)}"
            ) from error
        try:
            executor = cls(client, warm_up=warm_up, same=same)
        except BaseException:
            client.close()
            raise
        executor.name = address
        executor._owns_client = True
        return executor

    @property
    def workers(self) -> int:
        return max(1, sum(self.client.nthreads().values()))

    @property
    def foreseen(self) -> int | None:
        cluster = self.client.cluster
        if cluster is None:  # anybody may start workers at any time
            return None
        return max(self.workers, self._threads * workers_to_come(cluster))

    @property
    def _threads(self) -> int:
        """Of one worker."""
        return max(1, *self.client.nthreads().values(), 1)

    @property
    def addresses(self) -> list[str]:
        return sorted(self.client.nthreads())

    @property
    def memory(self) -> int:
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [worker["memory_limit"] or 0 for worker in workers]
        limits = limits or [getattr(self.client.cluster, "worker_memory", 0)]
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
            with self._connected():
                wanted = self.client.get(graph, list(keys), sync=False)
            futures = dict(zip(keys, wanted, strict=True))
            for future in futures.values():
                future.add_done_callback(done.put)
            watch = _Watch(self._ask, graph, on_counts)
            self._patience.begin(self.name)
            self._tried = {}
            while futures:
                ended = {future.key: future for future in self._next_batch(done, watch)}
                kinds = _by_kind(futures[key] for key in ended if key in futures)
                for key, result in self._gather(kinds.ended):
                    on_result(key, result)
                    futures.pop(key).release()
                if kinds.unlucky:
                    self._try_elsewhere(kinds.unlucky)
                for future in (*(future for future, _ in kinds.unlucky), *kinds.running):
                    future.add_done_callback(done.put)
            watch.finish()
        finally:
            self._done = None
            self._forget(list(futures.values()))

    def _ask(self, question: Callable[..., Any], **arguments: Any) -> Any:
        """Run a function on the scheduler. Raises WorkerLost where that has gone, InvalidExecutor where it runs none."""
        with self._connected():
            try:
                return self.client.run_on_scheduler(question, **arguments)
            except ValueError as error:
                if not is_blocked(error):
                    raise
                raise InvalidExecutor(f"the scheduler at {self.name}: {BLOCKED}") from error

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        """Whatever Dask raises when its connections are closed while it uses them is WorkerLost."""
        try:
            yield
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, ExecutorError | KilledWorker) or not (
                isinstance(error, OSError) or self.client.status != "running"
            ):
                raise
            if not isinstance(error, OSError):
                raise WorkerLost(
                    f"the connection to the scheduler at {self.name} was closed"
                ) from error
            raise WorkerLost(
                f"the scheduler at {self.name} does not answer any more ({_first_line(error)})"
            ) from error

    def _next_batch(
        self, done: queue.SimpleQueue[Future | BaseException], watch: _Watch
    ) -> list[Future]:
        """Wait for futures that have ended and take all there are."""
        batch: list[Future] = []
        while not batch:
            watch.look()
            if self._patience.is_due():
                running, paused = self._ask(_look_after, again=list(self._tried))
                self._patience.look(running or not self.waits_for_workers, paused)
            with contextlib.suppress(queue.Empty):
                batch.append(_wanted(done.get(timeout=watch.timeout())))
        self._patience.there_are(1)
        with contextlib.suppress(queue.Empty):
            while True:
                batch.append(_wanted(done.get_nowait()))
        return batch

    def _try_elsewhere(self, unlucky: list[tuple[Future, TryElsewhere]]) -> None:
        """Have failed tasks run once more. Raises what failed too often."""
        keys = [future.key for future, _ in unlucky]
        before, self._tried = self._tried, self._ask(_run_again, keys=keys, tried=self._tried)
        numbers = [len(places) for key, places in self._tried.items() if places != before.get(key)]
        if max(numbers, default=0) >= TRIES:
            raise unlucky[0][1]
        if numbers:
            self._notice(told(unlucky[0][1], max(numbers) + 1))

    def _finished(self, ended: list[Future]) -> list[Future]:
        """Those of which there is a result; raises what one failed with. Lost results are waited for again."""
        lost = [future for future in ended if future.status in ("lost", "pending")]
        self._await_again(lost)
        finished = [future for future in ended if future not in lost]
        for future in finished:
            if future.status in ("error", "cancelled"):  # one may be lost in this moment
                raise _failure(future, self.name)
        return finished

    def _await_again(self, lost: Iterable[Future]) -> None:
        """Wait for futures whose results have gone with their workers: they are computed again."""
        client: Any = self.client
        assert self._done is not None
        for future in lost:
            client.futures[future.key].reset()  # before the scheduler is asked what it has
            client._send_to_scheduler({"op": "report-key", "key": future.key})
            future.add_done_callback(self._done.put)

    def _gather(self, ended: list[Future]) -> list[tuple[Key, Any]]:
        finished = self._finished(ended)
        try:
            with self._connected():
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

    def __init__(self, ask: Callable[..., Any], graph: Graph, on_counts: OnCounts | None) -> None:
        self._ask = ask
        self._on_counts = on_counts
        self._totals = Counter(map(kind_of, graph))
        self._seen: set[str] = set()
        self._next = time.monotonic()

    def timeout(self) -> float:
        return LOOK_INTERVAL if self._on_counts is None else max(0.0, self._next - time.monotonic())

    def look(self) -> None:
        if self._on_counts is None or time.monotonic() < self._next:
            return
        states = self._ask(_group_states, names=list(self._totals))
        self._seen |= set(states)
        self._on_counts({name: self._counts(name, states.get(name)) for name in self._totals})
        self._next = time.monotonic() + COUNTS_INTERVAL

    def _counts(self, name: str, states: Mapping[str, int] | None) -> Counts:
        total = self._totals[name]
        # the scheduler does not know the layer yet, or has forgotten all its tasks
        if states is None:
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


class _Kinds(NamedTuple):
    """What has become of futures of which it was told that they have ended."""

    ended: list[Future]
    unlucky: list[tuple[Future, TryElsewhere]]
    running: list[Future]  # which begin anew already, because what they hang on does


def _by_kind(futures: Iterable[Future]) -> _Kinds:
    kinds = _Kinds([], [], [])
    for future in futures:
        error = None
        with contextlib.suppress(TimeoutError):  # it began anew in this very moment
            error = future.exception(timeout=ERROR_TIMEOUT) if future.status == "error" else None
        if isinstance(error, TryElsewhere):
            kinds.unlucky.append((future, error))
        elif future.status == "pending":
            kinds.running.append(future)
        else:
            kinds.ended.append(future)
    return kinds


def _run_again(
    keys: list[Key], tried: dict[Key, list[str]], dask_scheduler: Any = None
) -> dict[Key, list[str]]:
    """Where tasks that failed end these keys, run them again unless one has failed TRIES times: on other machines, else other
    workers, else anywhere. Returns `tried` with the workers of these failures. Runs on the scheduler."""
    roots = _failed_themselves(dask_scheduler.tasks.get(key) for key in keys)
    for task in roots:
        tried[task.key] = [*tried.get(task.key, ()), *(task.erred_on or ("unknown",))]
    if any(len(tried[task.key]) >= TRIES for task in roots):
        return tried
    for task in roots:
        failed = tried[task.key]
        machines = {get_address_host(place) for place in failed if "://" in place}
        others = [place for place in dask_scheduler.workers if place not in failed]
        elsewhere = [place for place in others if get_address_host(place) not in machines]
        if others:
            dask_scheduler.set_restrictions({task.key: elsewhere or others})
    dask_scheduler.stimulus_retry(keys=[task.key for task in roots])
    return tried


def _look_after(again: list[Key], dask_scheduler: Any = None) -> tuple[int, int]:
    """Workers that take tasks or run some, and those that pause; tasks that run `again` elsewhere run anywhere where there is
    no elsewhere any more. Runs on the scheduler."""
    found = [dask_scheduler.tasks[key] for key in again if key in dask_scheduler.tasks]
    stranded = [task for task in found if task.state == "no-worker" and task.worker_restrictions]
    for task in stranded:
        task.worker_restrictions = None
    if stranded:
        dask_scheduler.transitions({task.key: "processing" for task in stranded}, "try-anywhere")
    running = sum(
        worker in dask_scheduler.running
        or bool(worker.executing)  # a paused one ends what it has begun
        for worker in dask_scheduler.workers.values()
    )
    return running, len(dask_scheduler.workers) - running


def _failed_themselves(tasks: Iterable[Any]) -> list[Any]:
    """The scheduler's tasks that failed, rather than what they hang on, in all that hangs together with the given ones: what
    is run again must not wait for one that is not."""
    together, waiting = set(), list(tasks)
    while waiting:
        task = waiting.pop()
        if task is not None and task.state == "erred" and task not in together:
            together.add(task)
            waiting += (*task.dependents, *task.dependencies)
    return [task for task in together if not any(one.state == "erred" for one in task.dependencies)]


def _wanted(ended: Future | BaseException) -> Future:
    if isinstance(ended, BaseException):
        raise ended
    return ended


def _failure(future: Future, cluster: str) -> BaseException:
    if future.status == "cancelled" and future.client.status == "running":
        return WorkerLost(f"{cluster} was restarted, or the job's tasks were cancelled there")
    if future.status == "cancelled":
        return WorkerLost(f"the connection to the scheduler at {cluster} was lost")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return _killed(error)
    if isinstance(error, NoWorkerError | NoValidWorkerError):
        return NoWorkers(
            f"{cluster} has had no worker for a task for {error.timeout:g} s, and distributed.scheduler.no-workers-timeout in "
            "its Dask configuration allows no more: raise that, or start workers first"
        )
    name = lacking(error)
    if name is not None:
        return InvalidExecutor(f"a worker of {cluster} lacks {name}: {CURE}")
    return error.with_traceback(future.traceback())


def _killed(error: KilledWorker) -> WorkerLost:
    return WorkerLost(
        f"{error.allowed_failures + 1} workers died while running {error.task}: out of memory? "
        "(use fewer workers, or larger ones)"
    )


def _check_address(address: str, security: Any) -> None:
    """Refuse what Client would fail at late and loudly; ValueError says what is missing."""
    scheme, place = parse_address(address)
    try:
        get_backend(scheme)
    except ValueError:
        raise ValueError(f"unknown address scheme {scheme!r}, use tcp:// or tls://") from None
    if scheme in ("tcp", "tls") and not 0 < parse_host_port(place)[1] < 65536:
        raise ValueError("a port is a number from 1 to 65535")
    if scheme != "tls" or security is not None:
        return
    if Security().get_connection_args("client").get("ssl_context") is None:
        raise ValueError(
            "tls:// needs certificates: set ca-file, client.cert and client.key under distributed.comm.tls in "
            "Dask's configuration"
        )


def _await_listener(address: str, timeout: float) -> None:
    """Wait until somebody listens at a scheduler's address; unlike a Client that tries to connect, this can be interrupted.

    Raises: OSError.
    """
    scheme, place = parse_address(address)
    if scheme not in ("tcp", "tls"):
        return
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(parse_host_port(place), timeout).close()
            return
        except socket.gaierror:
            raise
        except OSError:
            if time.monotonic() + CONNECT_PAUSE >= end:
                raise
            time.sleep(CONNECT_PAUSE)


def cause(error: BaseException) -> str:
    """What is at the bottom of an error, in one line."""
    while below := error.__cause__ or error.__context__:
        error = below
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
