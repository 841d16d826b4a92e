"""The life of a worker within one invocation: link, control stream, Dask worker, until told to go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask.config
import psutil
from dask.utils import parse_bytes

from executors.aws_lambda.ending import FRESH
from executors.aws_lambda.facts import Facts
from executors.aws_lambda.log_tail import LogTail
from executors.aws_lambda.payload import Payload
from executors.dask_config import require_usable
from executors.rendezvous import NameTaken, Refused, RendezvousSecurity

LINK_TIMEOUT = 20.0
HEARTBEAT = 5.0
LAST_MOMENT = 3.0
"""Seconds before the function's time limit at which a worker leaves whatever it is doing."""
MEMORY_ALARM = 0.95
MEMORY_LOOK = 0.25
EXIT_GRACE = 2.0
MAX_SPILL = "distributed.worker.memory.max-spill"
SPILL_SHARE = 0.8
"""Of the room that the function's storage has, the rest being left to tasks."""

_served: dict[str, int] = {}
"""Coordinators that this environment had work from, and how often their workers had been restarted when it first did."""

logger = logging.getLogger("distributed.excamera")


async def live(payload: Payload, facts: Facts) -> dict[str, Any]:
    """Connect, work, leave; returns how it ended: {"outcome": ..., "reason": ...}."""
    with dask.config.set(payload.config):
        return await _live(payload, facts)


async def _live(payload: Payload, facts: Facts) -> dict[str, Any]:
    from executors.rendezvous import Credential

    security = RendezvousSecurity(payload.relay, Credential.from_dict(payload.credential))
    try:
        await asyncio.wait_for(security.link(), LINK_TIMEOUT)
    except NameTaken as error:
        return {"outcome": "duplicate", "reason": str(error)}
    except (Refused, OSError, TimeoutError) as error:
        return {"outcome": "unreachable", "reason": str(error) or type(error).__name__}
    try:
        with LogTail() as tail:
            return await _Life(payload, facts, security, tail).run()
    finally:
        await security.close()
        # a thread of the old one may wait for a task that never ends, and asyncio would wait for that thread
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))


class _Life:
    """One worker under the coordinator's control."""

    def __init__(
        self, payload: Payload, facts: Facts, security: RendezvousSecurity, tail: LogTail
    ) -> None:
        self.payload, self.facts, self.security, self.tail = payload, facts, security, tail
        self.control: Any = None
        self.worker: Any = None
        self.reason = "the worker closed"
        self._told: dict[str, Any] = {}
        self._let_go: asyncio.Event = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._hands_over = False
        self._welcome = asyncio.Event()
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def run(self) -> dict[str, Any]:
        from distributed.comm import connect

        arguments = self.security.get_connection_args("worker")
        self.control = await connect(self.payload.coordinator, timeout=LINK_TIMEOUT, **arguments)
        watchers: list[asyncio.Task[None]] = []
        try:
            await self._say_connected()
            watchers = [asyncio.create_task(f()) for f in (self._talk, self._obey)]
            await self._wait_for_work(watchers)
            await self._work(watchers)
            return await self._finish("finished", reason=self.reason)
        except _Leave as leave:
            answer = await self._finish("finished", reason=str(leave))
            return {**answer, FRESH: True} if leave.fresh else answer
        except Exception as error:
            logger.exception("worker failed")
            return await self._finish("failed", error=_one_line(error), log_tail=self.tail.text())
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            self.control.abort()

    async def _say_connected(self) -> None:
        from executors.aws_lambda.deploy.versions import installed

        facts = self.facts
        await self.control.write(
            {
                "op": "connected",
                "invocation": self.payload.invocation,
                "request_id": facts.request_id,
                "log_stream": facts.log_stream,
                "function_version": facts.function_version,
                "cold": facts.cold,
                "memory": facts.memory,
                "versions": installed(),
                "clock": time.time(),
                "remaining": facts.deadline - time.time(),
                "pid": os.getpid(),
            }
        )

    async def _wait_for_work(self, watchers: list[asyncio.Task[None]]) -> None:
        """Only now does the coordinator know of this execution: it may be one that Lambda runs a second time."""
        welcome = asyncio.create_task(self._welcome.wait())
        try:
            await _first_of([welcome, *watchers])
        finally:
            welcome.cancel()
        cluster = self.payload.coordinator.rpartition("/")[2]
        generation = self._told.get("generation", 0)
        if _served.setdefault(cluster, generation) < generation:
            raise _Leave("it served before the workers were restarted", fresh=True)

    async def _work(self, watchers: list[asyncio.Task[None]]) -> None:
        """Be a Dask worker until it is closed, whoever closes it; watchers may end it at any time."""
        from executors.aws_lambda.worker import Worker

        folder = tempfile.mkdtemp(prefix="excamera-worker-")
        try:
            config = json.loads(self._told.get("config", "{}"))
            with (
                dask.config.set(dask.config.merge(dask.config.config, config)),
                dask.config.set({MAX_SPILL: _most_spilled(folder, self._told.get("storage"))}),
            ):
                require_usable()
                options: dict[str, Any] = {
                    "nthreads": 1,
                    "memory_limit": self.facts.memory or "auto",
                    "dashboard": False,
                    "death_timeout": LINK_TIMEOUT,
                    **self.payload.worker_options,
                }
                self.worker = Worker(
                    self.payload.scheduler,
                    name=self.payload.invocation,
                    protocol="rdv",
                    security=self.security,
                    local_directory=folder,
                    **options,
                )
                self.worker.stream_handlers["close"] = self._closed_by_dask
                starting = asyncio.create_task(self._start_worker())
                watchers.append(starting)
                await _first_of(watchers)
                watchers.remove(starting)
                watchers += [
                    asyncio.create_task(f())
                    for f in (self._beat, self._watch_memory, self._watch_deadline)
                ]
                closed = [self.worker.finished(), self._let_go.wait()]
                await _first_of([*map(asyncio.ensure_future, closed), *watchers])
                if not self._hands_over:
                    raise _Leave(self.reason, fresh=True)
        finally:
            await self._close_worker()
            shutil.rmtree(folder, ignore_errors=True)

    async def _start_worker(self) -> None:
        from executors.aws_lambda.activity import Activity

        await self.worker
        later = asyncio.get_running_loop().call_later
        await self.worker.plugin_add(Activity(self._messages.put_nowait, later), name="activity")
        self._messages.put_nowait({"op": "ready", "worker_address": self.worker.address})

    def _closed_by_dask(self, reason: str = "", **_: Any) -> None:
        """It is not asked to come back as it was: a task that runs is not waited for, and the environment ends."""
        self.reason = reason or self.reason
        self._let_go.set()

    async def _close_worker(self) -> None:
        if self.worker is None:
            return
        with contextlib.suppress(Exception):
            await asyncio.wait_for(
                self.worker.close(timeout=EXIT_GRACE, executor_wait=False, reason=self.reason),
                2 * EXIT_GRACE,
            )

    async def _talk(self) -> None:
        """Send what there is to say, in order."""
        while True:
            await self.control.write(await self._messages.get())

    async def _obey(self) -> None:
        """Do what the coordinator says; ends with the control stream."""
        while True:
            try:
                message = await self.control.read()
            except OSError:
                raise _Leave("the coordinator has gone") from None
            op = message.get("op")
            if op == "work":
                self._told = message
                self._welcome.set()
            if op == "exit":
                raise _Leave(message.get("reason", "told to exit"))
            if op == "drain":
                drain = self._drain(message.get("reason", "told to drain"))
                self._draining = asyncio.create_task(drain)  # kept, or it may be collected half-way

    async def _drain(self, reason: str) -> None:
        """Hand over results to other workers, then close."""
        self.reason = reason
        self._hands_over = True
        self._messages.put_nowait({"op": "draining"})
        if self.worker is not None:
            await self.worker.close_gracefully(reason=reason)

    async def _beat(self) -> None:
        while True:
            self._messages.put_nowait({"op": "heartbeat", "rss": _memory_used()})
            await asyncio.sleep(HEARTBEAT)

    async def _watch_memory(self) -> None:
        """Lambda kills without a word; say it a moment before."""
        limit = self.facts.memory
        while limit:
            used = _memory_used()
            if used > MEMORY_ALARM * limit:
                raise MemoryError(f"out of memory: {used >> 20} of {limit >> 20} MB in use")
            await asyncio.sleep(MEMORY_LOOK)

    async def _watch_deadline(self) -> None:
        """Drain before the time limit even if nobody says so, and leave at the last moment."""
        await asyncio.sleep(max(0.0, self.facts.deadline - self.payload.margin - time.time()))
        drained = asyncio.create_task(self._drain("the function's time limit is near"))
        await asyncio.sleep(max(0.0, self.facts.deadline - LAST_MOMENT - time.time()))
        drained.cancel()
        raise _Leave("the function's time limit is reached")

    async def _finish(self, op: str, **told: Any) -> dict[str, Any]:
        """The last word to the coordinator, if it still listens, and the answer to Lambda."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.control.write({"op": op, **told}), EXIT_GRACE)
            await asyncio.wait_for(self.control.close(), EXIT_GRACE)
        told.pop("log_tail", None)
        return {"outcome": op, **told}


class _Leave(Exception):
    """Leave now; the message says why. fresh: what the tasks left in this environment is to go too."""

    def __init__(self, reason: str, *, fresh: bool = False) -> None:
        super().__init__(reason)
        self.fresh = fresh


async def _first_of(tasks: list[asyncio.Task[Any]]) -> None:
    """Wait until one of the tasks ends, and raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _most_spilled(folder: str, storage: int | None) -> int:
    """Bytes that Dask may write into `folder`: what the user allows, and what the function's storage has room for."""
    free = shutil.disk_usage(folder).free
    room = int(SPILL_SHARE * (free if storage is None else min(free, storage)))
    wanted = dask.config.get(MAX_SPILL)
    return room if wanted in (None, False) else min(room, parse_bytes(wanted))


def _memory_used() -> int:
    """Resident bytes of this process and of what it started."""
    process = psutil.Process()
    used = process.memory_info().rss
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            used += child.memory_info().rss
    return int(used)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, MemoryError) and text
        else "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    )
