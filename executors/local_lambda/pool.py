"""All environments: found for an invocation, started, watched for memory, kept for a while, thrown away."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from executors.local_lambda import reports
from executors.local_lambda.environment import Environment
from executors.local_lambda.errors import LocalLambdaError
from executors.local_lambda.functions import Function
from executors.local_lambda.launcher import Launcher
from executors.local_lambda.logs import LogStore
from executors.local_lambda.quotas import Settings

_WATCH = 0.05  # seconds between looks at the memory of busy environments, if looking is cheap
_WATCH_SHARE = 0.05  # of a core, at most, goes into looking


class Pool:
    """Execution environments of all functions."""

    def __init__(self, settings: Settings, launcher: Launcher, logs: LogStore) -> None:
        self._settings = settings
        self._launcher = launcher
        self._logs = logs
        self._environments: dict[str, Environment] = {}
        self._gate = asyncio.Semaphore(settings.parallel_starts or 4 * (os.cpu_count() or 1))
        self._clearing: set[asyncio.Task[None]] = set()

    # -- for invocations ----------------------------------------------------------------------------------------

    def find_idle(self, function: Function) -> Environment | None:
        """The environment that rested last, if there is one for the function as it is now."""
        fitting = [
            environment
            for environment in self._environments.values()
            if environment.state == "idle" and environment.function.revision == function.revision
        ]
        return max(fitting, key=lambda environment: environment.idle_since, default=None)

    async def start(self, function: Function) -> tuple[Environment, dict[str, Any] | None]:
        """A new environment at the end of its init phase, and the error document if that failed.

        As on Lambda, an init phase that takes too long is begun again, with the time limit of the function.
        Raises: OSError or LocalLambdaError where no process can be had.
        """
        try:
            return await self._start(function, self._settings.init_timeout)
        except TimeoutError:
            pass
        try:
            return await self._start(function, float(function.timeout))
        except TimeoutError as error:
            (environment,) = error.args
            return environment, reports.timeout_error("", float(function.timeout))

    def retire(self, name: str, revision: str | None = None) -> None:
        """Discard the environments of a function, except of `revision`; busy ones after their invocation."""
        for environment in list(self._environments.values()):
            if environment.function.name == name and environment.function.revision != revision:
                environment.retired = True
                if environment.state == "idle":
                    environment.discard()

    def describe(self) -> list[dict[str, Any]]:
        """All environments, as plain values."""
        return [environment.describe() for environment in self._environments.values()]

    # -- life ---------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look after memory and idle environments, for ever."""
        while True:
            begun = time.monotonic()
            for environment in list(self._environments.values()):
                if environment.state in ("starting", "ready", "busy"):
                    environment.check_memory()
                elif environment.state == "idle" and (
                    begun - environment.idle_since > self._settings.idle_lifetime
                ):
                    environment.discard()
            took = time.monotonic() - begun
            await asyncio.sleep(max(_WATCH, took / _WATCH_SHARE))

    async def close(self) -> None:
        """Kill all environments, and wait until they are gone."""
        for environment in list(self._environments.values()):
            environment.discard()
        for _ in range(500):
            if not self._environments and not self._clearing:
                break
            await asyncio.sleep(0.01)

    async def _start(
        self, function: Function, limit: float
    ) -> tuple[Environment, dict[str, Any] | None]:
        """As `start`, once; a TimeoutError carries the environment."""
        environment = Environment(
            function,
            lambda stream: self._logs.stream(function.log_group, stream),
            freeze=self._settings.freeze,
            on_idle=self._rested,
            on_dead=self._died,
        )
        self._environments[environment.id] = environment
        try:
            async with self._gate:
                return environment, await environment.start(self._launcher.launch, limit)
        except TimeoutError:
            raise TimeoutError(environment) from None
        except (OSError, LocalLambdaError):
            environment.discard()
            self._died(environment)
            raise

    def _rested(self, environment: Environment) -> None:
        if environment.retired:
            environment.discard()

    def _died(self, environment: Environment) -> None:
        self._environments.pop(environment.id, None)
        task = asyncio.ensure_future(self._launcher.clear(environment))
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)
