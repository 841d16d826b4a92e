"""One execution environment: a process, its Runtime API, its log stream, and what happens between them.

    starting -> ready -> busy -> idle -> busy -> idle ...        any of them -> dead
                                (frozen)

An invocation ends when the runtime asks for the next one, when its process ends, or at the time limit.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import secrets
import time
from collections.abc import Callable
from typing import Any

from executors.local_lambda import reports
from executors.local_lambda.functions import Function
from executors.local_lambda.logs import LogStream
from executors.local_lambda.process import EnvironmentProcess
from executors.local_lambda.quotas import MEBIBYTE, RESPONSE_PAYLOAD
from executors.local_lambda.sandbox import refusal

Spawn = Callable[["Environment"], EnvironmentProcess]


@dataclasses.dataclass
class Invocation:
    """What one call gives to a handler."""

    request_id: str
    payload: bytes
    trace: str
    client_context: str | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of it. kind: "ok", "error" (the function's), "timeout", "memory", "exit" or "init"."""

    kind: str
    payload: bytes
    tail: bytes
    duration: float
    init: float | None
    billed: int

    @property
    def failed(self) -> bool:
        """True for everything that Lambda calls a function error."""
        return self.kind != "ok"


class Environment:
    """One execution environment of a function; `on_idle` and `on_dead` tell its owner."""

    def __init__(
        self,
        function: Function,
        open_stream: Callable[[str], LogStream],
        *,
        freeze: bool,
        on_idle: Callable[[Environment], None],
        on_dead: Callable[[Environment], None],
    ) -> None:
        self.id = secrets.token_hex(16)
        # as it is now: an update makes new environments
        self.function = dataclasses.replace(function)
        day = datetime.datetime.now(datetime.UTC).strftime("%Y/%m/%d")
        self.stream = f"{day}/[$LATEST]{self.id}"
        self.log = open_stream(self.stream)
        self.state = "starting"
        self.retired = False  # to be discarded after its invocation
        self.invocations = 0
        self.idle_since = 0.0
        self.port = 0
        self.address = "127.0.0.1"
        self.process: EnvironmentProcess | None = None
        self._freeze = freeze
        self._on_idle = on_idle
        self._on_dead = on_dead
        self._begun = 0.0
        self._init: float | None = None
        self._ready: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting: asyncio.Future[Invocation] | None = None
        self._current: Invocation | None = None
        self._delivered = 0.0
        self._deadline = 0.0
        self._answer: tuple[str, bytes] | None = None
        self._over_memory = False
        self._ended: asyncio.Future[Outcome] | None = None
        self._alarm: asyncio.TimerHandle | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self, spawn: Spawn, limit: float) -> dict[str, Any] | None:
        """Start the process and wait for the end of the init phase; returns the error document if it failed.

        Raises: TimeoutError after `limit` seconds, OSError or LocalLambdaError where no process can be had.
        """
        self._begun = time.monotonic()
        self.log.write("INIT_START Runtime Version: local\tRuntime Version ARN: local")
        self.process = spawn(self)
        try:
            async with asyncio.timeout(limit):
                error = await asyncio.shield(self._ready)
        except TimeoutError:
            self.log.write(reports.init_report_line(limit, "timeout"))
            self.discard()
            raise
        self._init = time.monotonic() - self._begun
        if error is None:
            return None
        document: dict[str, Any] = json.loads(error)
        kind = document.get("errorType")
        self.log.write(reports.init_report_line(self._init, "error", kind))
        return document

    def discard(self) -> None:
        """Kill the process and never use the environment again."""
        self.state = "dead"
        if self.process is not None and self.process.status is None:
            self.process.kill()

    def check_memory(self) -> None:
        """Kill the environment if it holds more memory than the function has."""
        process, limit = self.process, self.function.memory * MEBIBYTE
        if process is not None and process.status is None and process.measure() > limit:
            self._over_memory = True
            process.kill()

    def describe(self) -> dict[str, Any]:
        """What one wants to know of it, as plain values."""
        return {
            "id": self.id,
            "function": self.function.name,
            "state": self.state,
            "frozen": bool(self.process and self.process.frozen),
            "pid": self.process.pid if self.process else None,
            "runtime_api_port": self.port,
            "address": self.address,
            "request_id": self._current.request_id if self._current else None,
            "invocations": self.invocations,
            "log_group": self.function.log_group,
            "log_stream": self.stream,
        }

    # -- an invocation ------------------------------------------------------------------------------------------

    async def invoke(self, invocation: Invocation) -> Outcome:
        """Give the invocation to the runtime and wait for its end."""
        assert self.process is not None
        loop = asyncio.get_running_loop()
        self.state = "busy"
        self.invocations += 1
        self._current, self._answer = invocation, None
        self._ended = loop.create_future()
        self._delivered = time.monotonic()
        self._deadline = time.time() + self.function.timeout
        self.log.begin()
        self.log.write(f"START RequestId: {invocation.request_id} Version: $LATEST")
        self._alarm = loop.call_later(self.function.timeout, self._out_of_time)
        if self.process.status is not None:
            self.process_exited(self.process.status)
            return await self._ended
        self.process.thaw()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(invocation)
        return await self._ended

    def failed_init(self, invocation: Invocation, document: dict[str, Any]) -> Outcome:
        """The outcome of an invocation whose environment did not come up."""
        self._current, self._delivered = invocation, time.monotonic()
        self.discard()
        self.log.begin()
        self.log.write(f"START RequestId: {invocation.request_id} Version: $LATEST")
        return self._outcome("init", reports.document(document), "error", document.get("errorType"))

    # -- what the Runtime API calls -----------------------------------------------------------------------------

    async def next(self) -> tuple[Invocation, float]:
        """The next invocation and its deadline (seconds since 1970): waits, frozen, until there is one."""
        if not self._ready.done():
            self._ready.set_result(None)
        if self._ended is not None and not self._ended.done():
            self._finish()
        elif self.state == "starting":
            self.state = "ready"  # for the invocation that it was started for
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            return await self._waiting, self._deadline
        finally:
            self._waiting = None

    def is_current(self, request_id: str) -> bool:
        """True if this is the invocation that the runtime works on and has not answered."""
        return (
            self._current is not None
            and self._current.request_id == request_id
            and self._answer is None
        )

    def answer(self, payload: bytes) -> bool:
        """The runtime's response; False if it is too large."""
        if len(payload) > RESPONSE_PAYLOAD:
            error = reports.response_too_large(len(payload), RESPONSE_PAYLOAD)
            self._answer = "error", reports.document(error)
            return False
        self._answer = "ok", payload
        return True

    def answer_error(self, payload: bytes) -> None:
        """The runtime's report that the handler has failed."""
        self._answer = "error", payload

    def init_failed(self, payload: bytes) -> None:
        """The runtime's report that the handler cannot be loaded."""
        if not self._ready.done():
            self._ready.set_result(payload)

    # -- ends ---------------------------------------------------------------------------------------------------

    def process_output(self, data: bytes) -> None:
        """Output of the processes."""
        self.log.feed(data)

    def process_exited(self, status: int) -> None:
        """The runtime's process has ended."""
        assert self.process is not None
        over = self._over_memory or self.process.out_of_memory()
        if not self._ready.done():
            document = reports.exit_error(self._current.request_id if self._current else "", status)
            if why := refusal(self.log.tail()):
                document["errorMessage"] += f". {why}"
            self._ready.set_result(reports.document(document))
        elif self._ended is not None and not self._ended.done() and self._current is not None:
            document = reports.exit_error(self._current.request_id, status)
            if self._answer is not None:  # it answered, then left
                self._end(*self._answer, None, None)
            elif over:
                self._end("memory", reports.document(document), "error", "Runtime.OutOfMemory")
            else:
                self._end("exit", reports.document(document), "error", "Runtime.ExitError")
        self.state = "dead"
        self.log.close()
        self._on_dead(self)

    def _out_of_time(self) -> None:
        assert self._current is not None and self.process is not None
        request_id, limit = self._current.request_id, float(self.function.timeout)
        self.process.read_output()
        self.log.flush()
        self.log.write(reports.timeout_line(request_id, limit, time.time()))
        self.state = "dead"
        document = reports.document(reports.timeout_error(request_id, limit))
        self._end("timeout", document, "timeout", None)
        self.discard()

    def _finish(self) -> None:
        """The runtime asks for more: the invocation has ended with the answer that it gave."""
        assert self._current is not None and self.process is not None
        if self._answer is None:
            document = reports.exit_error(self._current.request_id, 0)
            self._answer = "error", reports.document(document)
        self.process.read_output()
        kind, payload = self._answer
        error_type = _error_type(payload) if kind == "error" else None
        self._end(kind, payload, "error" if kind == "error" else None, error_type)
        if self.state != "dead":
            self._rest()

    def _rest(self) -> None:
        assert self.process is not None
        self.state = "idle"
        self.idle_since = time.monotonic()
        if self._freeze:
            self.process.freeze()
        self._on_idle(self)

    def _end(self, kind: str, payload: bytes, status: str | None, error_type: str | None) -> None:
        assert self._ended is not None
        if self._alarm is not None:
            self._alarm.cancel()
        outcome = self._outcome(kind, payload, status, error_type)
        if not self._ended.done():
            self._ended.set_result(outcome)

    def _outcome(
        self, kind: str, payload: bytes, status: str | None, error_type: str | None
    ) -> Outcome:
        assert self._current is not None
        request_id = self._current.request_id
        duration = time.monotonic() - self._delivered
        if status == "timeout":
            duration = float(self.function.timeout)
        init, self._init = self._init, None  # reported, and paid for, once
        peak = self.process.high_water() if self.process else 0
        if error_type == "Runtime.OutOfMemory":
            peak = self.function.memory * MEBIBYTE
        self.log.flush()
        self.log.write(f"END RequestId: {request_id}")
        memory = self.function.memory
        self.log.write(
            reports.report_line(request_id, duration, memory, peak, init, status, error_type)
        )
        self._current = None
        billed = reports.billed(duration, init)
        return Outcome(kind, payload, self.log.tail(), duration, init, billed)


def _error_type(payload: bytes) -> str:
    try:
        return str(json.loads(payload).get("errorType", "Unknown"))
    except (ValueError, AttributeError):
        return "Unknown"
