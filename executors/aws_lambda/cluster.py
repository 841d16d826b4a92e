"""`LambdaCluster`: a Dask cluster whose workers are invocations of a Lambda function."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import Callable
from typing import Any, Unpack

import dask
from distributed.core import Status, rpc
from distributed.utils import silence_logging_cmgr

from executors.aws_lambda import registration
from executors.aws_lambda.at_exit import close_at_exit
from executors.aws_lambda.attached import AttachedCluster, remove_access, write_access
from executors.aws_lambda.backend import Backend, open_backend
from executors.aws_lambda.blame import BlamingScheduler
from executors.aws_lambda.config import SCHEDULER_CONFIG, setting, workers_config
from executors.aws_lambda.coordinator import Coordinator
from executors.aws_lambda.errors import InvalidOption, LambdaError
from executors.aws_lambda.fleet import Fleet
from executors.aws_lambda.invitations import COORDINATOR, SCHEDULER, Invitations, at_relay
from executors.aws_lambda.invoker import Invoker
from executors.aws_lambda.options import LambdaOptions, spelt_out
from executors.aws_lambda.post_mortem import PostMortem
from executors.aws_lambda.records.clusters import ClusterFolder
from executors.aws_lambda.relays import Relays
from executors.aws_lambda.scaling import ScalableCluster
from executors.aws_lambda.wanted import Wanted
from executors.dask import cause
from executors.dask_config import require_usable, unless_configured
from executors.rendezvous import RelayProcess, RendezvousSecurity
from executors.rendezvous.protocol.names import CONTROLLER
from executors.rendezvous.protocol.texts import shown

logger = logging.getLogger("distributed.excamera.cluster")

CLOSE_GRACE = 10.0
CLOCK_SKEW = 60.0
NO_WORKERS_AFTER_STOP = 1.0


@spelt_out
class LambdaCluster(ScalableCluster):
    """Lambda functions as Dask workers, behind a rendezvous; an interface like that of Dask's other cluster managers.

    >>> with LambdaCluster(n_workers=1000) as cluster, cluster.get_client() as client:
    ...     client.submit(sum, [1, 2]).result()

    What is not given is as `excamera.lambda` in Dask's configuration says.

    Raises: `executors.ExecutorError` (most often LambdaError) with one line when something is not as it must be.
    """

    def __init__(self, n_workers: int | None = None, **options: Unpack[LambdaOptions]) -> None:
        require_usable("scheduler", elsewhere=("worker",))
        self._options = Wanted({"n_workers": n_workers, **options})
        self._wanted: int = self._options["n_workers"]
        self._stack = contextlib.AsyncExitStack()
        self._on_stop: list[Callable[[str], None]] = []
        self._on_notice: list[Callable[[str], None]] = []
        self._stop_reason: str | None = None
        self._starting: asyncio.Task[Any] | None = None
        self._closing: asyncio.Task[None] | None = None
        self.backend: Backend | None = None
        self.scheduler: BlamingScheduler | None = None
        self.coordinator: Coordinator | None = None
        super().__init__(
            asynchronous=self._options["asynchronous"],
            loop=self._options["loop"],
            name=self._options["name"] or f"excamera-{secrets.token_hex(4)}",
            quiet=self._options["quiet"],
        )
        if not self.called_from_running_loop:
            self._loop_runner.start()
            try:
                self.sync(self._start)
            except BaseException:
                self._abandon()
                raise
            close_at_exit(self)

    @property
    def relays(self) -> list[RelayProcess]:
        """The relays that were started here."""
        return self._relays.processes

    far_apart = True
    """What crosses between workers passes through the relay."""

    @classmethod
    def from_name(cls, name: str, **options: Any) -> AttachedCluster:
        """Attach to a cluster of this machine that another process runs; options: asynchronous, loop.

        Raises: UnknownCluster, LambdaError.
        """
        return AttachedCluster(name, **options)

    # Starting and ending

    def __await__(self) -> Any:
        async def started() -> LambdaCluster:
            if self.status == Status.created:
                await self._start()
            return self

        return started().__await__()

    def _abandon(self) -> None:
        """Starting went wrong, or was interrupted: let what was begun be ended before the loop stops."""
        with contextlib.suppress(Exception):
            self.sync(self._undo_start, callback_timeout=2 * CLOSE_GRACE)
        self._loop_runner.stop()

    async def _undo_start(self) -> None:
        if self._starting is not None:
            if not self._starting.cancelling():  # a second time would cut the clearing up short
                self._starting.cancel()
            await asyncio.wait([self._starting])
        if self.status == Status.running:  # it came to its end all the same
            await self._close()

    async def _start(self) -> None:
        self.status = Status.starting
        self._starting = asyncio.current_task()
        try:
            await self._open()
            await super()._start()
            assert self.coordinator is not None
            self._folder.update(dashboard=self.dashboard_link or None)
            self.coordinator.scale(self._wanted)
        except BaseException:
            self.status = Status.failed
            await self._stack.aclose()
            self.status = Status.closed
            raise

    async def _open(self) -> None:
        """Backend, authority, relay, scheduler, coordinator; each is closed again with the stack, in reverse."""
        enter = self._stack
        silence = self._options["silence_logs"]
        if silence is not None:
            enter.enter_context(silence_logging_cmgr(silence))
        self.backend = await self._open_backend()
        host = self.backend.relay_host
        self._relays = await Relays.open(
            self._options.relays, host, enter, self._tell, self._wanted
        )
        credential = self._relays.authority.issue(
            at_relay(self.name, SCHEDULER),
            names=(at_relay(self.name, COORDINATOR),),
            role=CONTROLLER,
        )
        first, *others = self._relays.addresses
        try:
            self.security = RendezvousSecurity(
                first, credential, also=others, reconnect_timeout=math.inf
            )
        except (ValueError, LookupError, TypeError) as error:
            raise InvalidOption(f"Dask's configuration distributed.comm.rdv: {error}") from error
        enter.push_async_callback(self.security.close)
        await self._relays.reach(self.security)
        self.scheduler = await self._start_scheduler()
        enter.push_async_callback(self.scheduler.close)
        self._local_address = self.scheduler.listeners[1].contact_address
        self.scheduler_comm = rpc(
            self._local_address, connection_args=self.security.get_connection_args("client")
        )
        await self._start_coordinator()

    async def _open_backend(self) -> Backend:
        """In a thread; where nobody waits for it any more, it is closed again as soon as it is there."""
        loop = asyncio.get_running_loop()
        workers = max(1, self._wanted)
        wanted = self._options
        where, options = wanted["backend"], wanted["backend_options"]
        opening = loop.run_in_executor(None, open_backend, where, wanted.function, workers, options)
        try:
            backend = await asyncio.shield(opening)
        except asyncio.CancelledError:
            backend = await opening
            await loop.run_in_executor(None, backend.close)
            raise
        self._stack.push_async_callback(loop.run_in_executor, None, backend.close)
        return backend

    async def _start_scheduler(self) -> BlamingScheduler:
        registration.install()
        with dask.config.set(unless_configured(SCHEDULER_CONFIG)):
            options = {"dashboard_address": "127.0.0.1:0", **self._options["scheduler_options"]}
            places: dict[str, Any] = {
                "protocol": ["rdv", "tls"],
                "host": ["", "127.0.0.1"],
                "port": [None, 0],
            }
            try:
                scheduler = await BlamingScheduler(security=self.security, **places, **options)
            except Exception as error:  # a preload, a port, an option of Dask's own
                raise LambdaError(f"Dask's scheduler cannot start: {cause(error)}") from error
        watch = asyncio.create_task(self._end_with(scheduler))
        self._stack.callback(watch.cancel)
        arguments = self.security.get_listen_args("scheduler")
        for relay in self._relays.addresses[1:]:
            await scheduler.listen(f"rdv://{relay}/{at_relay(self.name, SCHEDULER)}", **arguments)
        return scheduler

    async def _end_with(self, scheduler: BlamingScheduler) -> None:
        """Where Dask's scheduler has closed by itself, all the rest does."""
        await scheduler.finished()
        if self._closing is None and self.status == Status.running:
            self._closing = asyncio.ensure_future(self._close_all())

    async def _start_coordinator(self) -> None:
        """The fleet with its log, and the server that workers report to."""
        assert self.backend is not None and self.scheduler is not None
        backend = self.backend
        settings = self._options.fleet_settings(backend, f"{self.name}-w")
        fleet = Fleet(settings)
        self._folder = ClusterFolder.create(
            self.name,
            started=time.time(),
            function=backend.function_name,
            region=backend.region,
            relay=",".join(self._relays.addresses),
            scheduler=self._local_address,
            backend=backend.name,
            settings=settings.to_dict(),
        )
        self._stack.callback(lambda: self._folder.end(time.time(), self._stop_reason or "closed"))
        relays = self._relays
        write_access(self._folder.path, self._local_address, relays.addresses[0], relays.authority)
        self._stack.callback(remove_access, self._folder.path)
        self.scheduler.handlers["lambda_scale"] = lambda n: self._want(setting("n-workers", n))
        self.scheduler.handlers["lambda_let_go"] = lambda names: self._want_fewer(set(names))
        self.scheduler.handlers["register_nanny_plugin"] = _no_nanny
        self.scheduler.handlers["lambda_snapshot"] = lambda: fleet.snapshot().to_dict()
        versions = self._options["versions"]
        self._payload = Invitations(
            self.name,
            relays,
            lifetime=backend.timeout + self._options["start_timeout"] + CLOCK_SKEW,
            margin=settings.deadline_margin / 2,
            worker_options=self._options["worker_options"],
        )
        self.coordinator = Coordinator(
            fleet,
            scheduler=self.scheduler,
            invoker=Invoker(backend.client, backend.function_name, versions),
            make_payload=self._payload,
            versions=versions,
            on_log=self._folder.write,
            on_notice=self._tell,
            on_stop=self._stopped,
            post_mortem=None
            if backend.logs is None
            else PostMortem(backend.logs, backend.function_name),
        )
        self._stack.push_async_callback(self.coordinator.close, "the cluster closes", CLOSE_GRACE)
        await self.coordinator.start()
        for relay in relays.addresses:
            await self.coordinator.listen_at(relay, at_relay(self.name, COORDINATOR), self.security)

    async def _close(self) -> None:
        """Whoever is interrupted while waiting for it: it goes on, and can be waited for again."""
        if self._closing is None:
            if self.status == Status.closed:
                return
            self._closing = asyncio.ensure_future(self._close_all())
        await asyncio.shield(self._closing)

    async def _close_all(self) -> None:
        self.status = Status.closing
        if self._adaptive is not None:
            self._adaptive.stop()
        await super()._close()
        self.status = Status.closing  # Dask says otherwise already
        await self._stack.aclose()
        self.status = Status.closed

    def close(self, timeout: float | None = None) -> Any:
        """End all workers, the scheduler and the relay that was started here."""
        waiting = super().close(timeout)
        if not self.asynchronous:
            self._loop_runner.stop()
        return waiting  # of an asynchronous cluster, to be awaited

    # Scaling

    @property
    def target(self) -> int:
        """Workers wanted."""
        return self._wanted

    @property
    def worker_memory(self) -> int:
        """Bytes of memory of one worker."""
        if self.backend is None:
            raise LambdaError(f"{self.name} has not started: await it first")
        return self.backend.memory << 20

    @property
    def worker_threads(self) -> int:
        """Tasks that one worker runs at once."""
        return self._options.threads

    @property
    def room(self) -> float:
        """Workers that its relays may serve."""
        return math.inf if self.coordinator is None else self._relays.room

    def scale(self, n: int = 0, memory: str | int | None = None, cores: int | None = None) -> Any:
        """As ScalableCluster's; workers get Dask's configuration as it is now."""
        if self.coordinator is not None:
            self.coordinator.workers_config = workers_config()
        return super().scale(n, memory, cores)

    def _want(self, workers: int) -> None:
        if self.status in (Status.closing, Status.closed):
            return
        if self.coordinator is not None:  # else it will be told when it begins
            self._relays.check_room(workers)
            self.coordinator.scale(workers)
        self._wanted = workers

    def _want_fewer(self, names: set[str]) -> None:
        """Those that leave already do not count any more."""
        assert self.coordinator is not None
        gone = {name for name in names if name not in self.coordinator.fleet.books.roster.draining}
        self._wanted = max(0, self._wanted - len(gone))
        self.coordinator.let_go(gone, self._wanted)

    @property
    def plan(self) -> set[str]:
        """Names of the workers that there are or will be; those that leave are not among them."""
        assert self.coordinator is not None
        known = {
            name for pool in self.coordinator.fleet.books.roster.held.values() for name in pool
        }
        missing = self._wanted - len(known)
        return known | {f"to-come-{number}" for number in range(max(0, missing))}

    @property
    def requested(self) -> set[str]:
        return self.plan

    def on_stop(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the reason when the cluster gives up: its budget is spent, or no worker can start."""
        self._on_stop.append(listener)
        if self._stop_reason is not None:
            listener(self._stop_reason)

    def last_failure(self) -> str | None:
        """What went wrong with the worker that failed last, if any did."""
        assert self.coordinator is not None
        ended = reversed(list(self.coordinator.fleet.books.roster))
        return next((one.error for one in ended if one.error), None)

    def on_notice(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with each line that the coordinator has for the user; until then they are warnings."""
        self._on_notice.append(listener)

    def _tell(self, text: str) -> None:
        text = shown(text)
        if not self._on_notice:
            self._log(text)
            logger.warning("%s: %s", self.name, text)
        _call(self._on_notice, text)

    def _stopped(self, reason: str) -> None:
        """No worker will come any more: tasks that wait for one fail with Dask's NoWorkerError rather than wait for ever."""
        self._stop_reason = reason = shown(reason)
        if self.scheduler is not None:
            self.scheduler.no_workers_timeout = NO_WORKERS_AFTER_STOP
        if not self._on_stop:  # whoever listens tells it
            self._tell(f"stopped: {reason}")
        _call(self._on_stop, reason)


def _no_nanny(**_: Any) -> None:
    """Dask would keep such a plugin for nannies that never come."""
    raise LambdaError(
        "Lambda's workers have no nanny, so a NannyPlugin does nothing: give a WorkerPlugin, upload_file, or what the "
        "function itself has (its image, its environment variables)"
    )


def _call(listeners: list[Callable[[str], None]], text: str) -> None:
    """An error in a listener is its own: the fleet goes on."""
    for listener in list(listeners):
        try:
            listener(text)
        except Exception:
            logger.exception("a listener of the cluster failed")
