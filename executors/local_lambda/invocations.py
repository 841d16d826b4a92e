"""From a call of Invoke to an environment: admission, cold and warm starts, the queue of Event invocations, faults."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import secrets
import signal
import time
import uuid
from typing import Any

from executors.local_lambda import admission, errors, retries
from executors.local_lambda.admission import Admission
from executors.local_lambda.environment import Environment, Invocation, Outcome
from executors.local_lambda.faults import Faults
from executors.local_lambda.functions import Function, Functions
from executors.local_lambda.pool import Pool
from executors.local_lambda.quotas import Settings


class Dispatcher:
    """Runs invocations, and counts what happens."""

    def __init__(self, settings: Settings, functions: Functions, pool: Pool) -> None:
        self._settings = settings
        self._functions = functions
        self._pool = pool
        self._admission = Admission(settings.ramp, settings.ramp_period * settings.time_scale)
        self._calls: collections.Counter[str] = collections.Counter()
        self._faults: dict[str, Faults] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.counts: collections.Counter[str] = collections.Counter()
        self.dropped: list[dict[str, Any]] = []
        self.queued = 0

    def set_faults(self, name: str, faults: Faults) -> None:
        """From now on count the calls of this function from 1, and let these go wrong."""
        self._calls[name] = 0
        self._faults[name] = faults

    def stats(self) -> dict[str, Any]:
        """What has happened so far."""
        environments = collections.Counter(each["state"] for each in self._pool.describe())
        return {
            **dict.fromkeys(_COUNTS, 0),
            **self.counts,
            "queued": self.queued,
            "running": self._admission.running(),
            "peak_running": self._admission.peak,
            "environments": dict(environments),
            "dropped": self.dropped,
        }

    async def call(self, function: Function, kind: str, invocation: Invocation) -> Outcome | None:
        """One call of Invoke: the outcome of a RequestResponse, None for an Event, which goes on by itself.

        Raises: ApiError.
        """
        faults, number = self._next_call(function)
        self.counts[f"{kind.lower()}_calls"] += 1
        if number in faults.server_error:
            self.counts["server_errors"] += 1
            raise errors.service_error()
        if number in faults.throttle:
            self.counts["throttles"] += 1
            raise errors.throttled(admission.RESERVED if function.reserved else admission.ACCOUNT)
        if kind == "RequestResponse":
            return await self._run_now(function, invocation, faults.kill.get(number))
        if number in faults.lose:
            self.counts["lost"] += 1
            return None
        copies = 1
        if number in faults.duplicate:
            self.counts["duplicated"] += 1
            copies = 2
        for _ in range(copies):
            self._spawn(
                self._deliver(
                    function, invocation, faults.delay.get(number, 0.0), faults.kill.get(number)
                )
            )
        return None

    async def close(self) -> None:
        """Drop whatever waits."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- both kinds ---------------------------------------------------------------------------------------------

    async def _run_now(
        self, function: Function, invocation: Invocation, kill_after: float | None
    ) -> Outcome:
        """Run it in an idle or a new environment.

        Raises: ApiError(429) where there is no concurrency for it, ApiError(500) where no process can be had.
        """
        idle = self._pool.find_idle(function)
        reason = self._admit(function, cold=idle is None)
        if reason is not None:
            self.counts["throttles"] += 1
            raise errors.throttled(reason)
        try:
            if idle is not None:
                idle.state = "busy"  # before anything else can take it
                self.counts["warm_starts"] += 1
                outcome = await self._run_in(idle, invocation, kill_after)
            else:
                self.counts["cold_starts"] += 1
                outcome = await self._run_cold(function, invocation, kill_after)
        except (OSError, errors.LocalLambdaError) as error:
            self.counts["server_errors"] += 1
            raise errors.ApiError(
                502, "EC2UnexpectedException", f"no environment can be started: {error}"
            ) from error
        finally:
            self._admission.leave(function.name)
        self.counts["succeeded" if outcome.kind == "ok" else "function_errors"] += 1
        if outcome.kind in ("timeout", "memory", "exit", "init"):
            self.counts[outcome.kind] += 1
        return outcome

    async def _run_cold(
        self, function: Function, invocation: Invocation, kill_after: float | None
    ) -> Outcome:
        environment, failure = await self._pool.start(function)
        if failure is None:
            environment.state = "busy"
            return await self._run_in(environment, invocation, kill_after)
        return environment.failed_init(invocation, failure)

    async def _run_in(
        self, environment: Environment, invocation: Invocation, kill_after: float | None
    ) -> Outcome:
        if kill_after is not None and environment.process is not None:
            self.counts["killed"] += 1
            asyncio.get_running_loop().call_later(kill_after, _kill, environment, invocation)
        return await environment.invoke(invocation)

    def _admit(self, function: Function, *, cold: bool) -> str | None:
        shared = {each.name for each in self._functions if each.reserved is None}
        return self._admission.enter(
            function.name,
            time.monotonic(),
            cold=cold,
            reserved=function.reserved,
            others=shared,
            pool=self._functions.unreserved(),
        )

    def _next_call(self, function: Function) -> tuple[Faults, int]:
        self._calls[function.name] += 1
        return self._faults.get(function.name, Faults()), self._calls[function.name]

    # -- Event --------------------------------------------------------------------------------------------------

    async def _deliver(
        self, function: Function, invocation: Invocation, late: float, kill_after: float | None
    ) -> None:
        """Try, and try again, as Lambda's queue of asynchronous invocations does."""
        scale = self._settings.time_scale
        born = time.monotonic()
        attempts = retries.Attempts()
        self.queued += 1
        try:
            await asyncio.sleep(late)
            while True:
                if not self._functions.holds(function):
                    self._drop(function, invocation, retries.DELETED)
                    return
                try:
                    outcome = await self._run_queued(function, invocation, kill_after)
                    age = (time.monotonic() - born) / scale
                    if not outcome.failed:
                        return
                    wait = attempts.failed(age, function.events)
                except errors.ApiError:
                    age = (time.monotonic() - born) / scale
                    wait = attempts.throttled(age, function.events, function.reserved)
                if isinstance(wait, str):
                    self._drop(function, invocation, wait)
                    return
                self.counts["retries"] += 1
                await asyncio.sleep(wait * scale)
        finally:
            self.queued -= 1

    async def _run_queued(
        self, function: Function, invocation: Invocation, kill_after: float | None
    ) -> Outcome:
        """As `_run_now`; while it runs, it is not in the queue."""
        self.queued -= 1
        try:
            return await self._run_now(function, invocation, kill_after)
        finally:
            self.queued += 1

    def _drop(self, function: Function, invocation: Invocation, why: str) -> None:
        self.counts["events_dropped"] += 1
        self.dropped.append(
            {"function": function.name, "request_id": invocation.request_id, "condition": why}
        )

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_COUNTS = (
    *("requestresponse_calls", "event_calls", "cold_starts", "warm_starts", "succeeded"),
    *("function_errors", "timeout", "memory", "exit", "init", "throttles", "server_errors"),
    *("retries", "events_dropped", "lost", "duplicated", "killed"),
)


def new_invocation(payload: bytes, client_context: str | None) -> Invocation:
    """An invocation with a request id of its own."""
    trace = f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)};Parent={secrets.token_hex(8)};Sampled=0"
    return Invocation(str(uuid.uuid4()), payload, trace, client_context)


def _kill(environment: Environment, invocation: Invocation) -> None:
    process = environment.process
    if environment.is_current(invocation.request_id) and process and process.status is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
