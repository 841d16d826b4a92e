"""All environments: found for an invocation, started, watched for memory, kept for a while, thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer

from executors.aws_lambda.emulator import sandbox
from executors.aws_lambda.emulator.cgroups import ControlGroups, Group
from executors.aws_lambda.emulator.environment import Environment
from executors.aws_lambda.emulator.functions import Function
from executors.aws_lambda.emulator.logs import LogStore
from executors.aws_lambda.emulator.process import EnvironmentProcess
from executors.aws_lambda.emulator.quotas import MEBIBYTE, Settings
from executors.aws_lambda.emulator.runtime_api import serve_runtime_api

_WATCH = 0.05  # seconds between looks at the memory of busy environments, if looking is cheap
_WATCH_SHARE = 0.05  # of a core, at most, goes into looking
_CREDENTIALS = {"access_key": "LOCALLAMBDA", "secret_key": "local", "token": "local"}


class Pool:
    """Execution environments of all functions."""

    def __init__(self, settings: Settings, state: Path, logs: LogStore) -> None:
        self._settings = settings
        self._state = state
        self._logs = logs
        self._environments: dict[str, Environment] = {}
        self._servers: dict[str, HTTPServer] = {}
        self._groups: dict[str, Group] = {}
        self._gate = asyncio.Semaphore(settings.parallel_starts or 4 * (os.cpu_count() or 1))
        self._tasks: set[asyncio.Task[Any]] = set()
        self.notices: list[str] = []
        self._confinement = self._probe() if settings.isolate else None
        self._control = self._open_groups() if settings.cgroups else None

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

        Raises: OSError where no process can be had.
        """
        environment = Environment(
            function,
            lambda stream: self._logs.stream(function.log_group, stream),
            freeze=self._settings.freeze,
            init_timeout=self._settings.init_timeout,
            on_idle=self._rested,
            on_dead=self._died,
        )
        self._environments[environment.id] = environment
        try:
            async with self._gate:
                return environment, await environment.start(self._spawn)
        except OSError:
            environment.discard()
            self._died(environment)
            raise

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
                if environment.state in ("starting", "busy") and environment.process is not None:
                    environment.check_memory()
                elif environment.state == "idle":
                    self._expire(environment, begun)
            took = time.monotonic() - begun
            await asyncio.sleep(max(_WATCH, took / _WATCH_SHARE))

    async def close(self) -> None:
        """Kill all environments, and wait until they are gone."""
        for environment in list(self._environments.values()):
            environment.discard()
        for _ in range(500):
            if not self._environments:
                break
            await asyncio.sleep(0.01)
        if self._control is not None:
            self._control.close()

    def _expire(self, environment: Environment, now: float) -> None:
        if now - environment.idle_since > self._settings.idle_lifetime:
            environment.discard()

    def _rested(self, environment: Environment) -> None:
        if environment.retired:
            environment.discard()

    def _died(self, environment: Environment) -> None:
        self._environments.pop(environment.id, None)
        server = self._servers.pop(environment.id, None)
        if server is not None:
            server.stop()
            self._later(server.close_all_connections())
        group = self._groups.pop(environment.id, None)
        if group is not None:
            self._later(_remove(group))

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- a new process ------------------------------------------------------------------------------------------

    def _spawn(self, environment: Environment) -> EnvironmentProcess:
        function = environment.function
        listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        environment.port = listener.getsockname()[1]
        listener.setblocking(False)
        self._servers[environment.id] = serve_runtime_api(environment, listener)
        group = self._make_group(environment)
        confinement = sandbox.Confinement(
            mounts=self._confinement is not None,
            user_namespace=self._confinement is not None and self._confinement.user_namespace,
            tmp_bytes=function.storage * MEBIBYTE,
            visible=(function.code.folder, *_interpreter_folders()),
            groups=group.entrances if group else (),
        )
        return EnvironmentProcess(
            confinement,
            [sys.executable, "-m", "awslambdaric", function.handler],
            self._variables(environment),
            function.code.folder,
            group,
            environment.process_output,
            environment.process_exited,
        )

    def _variables(self, environment: Environment) -> dict[str, str]:
        function, settings = environment.function, self._settings
        keys = _CREDENTIALS | (settings.credentials or {})
        variables = {
            "PATH": os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"])),
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "PYTHONPATH": os.pathsep.join(_import_path()),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LAMBDA_TASK_ROOT": function.code.folder,
            "LAMBDA_RUNTIME_DIR": "/var/runtime",
            **function.variables,
            "_HANDLER": function.handler,
            "AWS_REGION": settings.region,
            "AWS_DEFAULT_REGION": settings.region,
            "AWS_ACCESS_KEY_ID": keys["access_key"],
            "AWS_SECRET_ACCESS_KEY": keys["secret_key"],
            "AWS_SESSION_TOKEN": keys["token"],
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": function.log_group,
            "AWS_LAMBDA_LOG_STREAM_NAME": environment.stream,
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{environment.port}",
        }
        if self._confinement is None:
            folder = self._state / "tmp" / environment.id
            folder.mkdir(parents=True)
            variables["TMPDIR"] = str(folder)
        return variables

    def _make_group(self, environment: Environment) -> Group | None:
        if self._control is None:
            return None
        function = environment.function
        # Its files in /tmp count as memory of the group, but not on Lambda: this limit is for what grows faster
        # than the watch looks.
        limit = function.memory + (function.storage if self._confinement else 0)
        share = function.memory if self._settings.cpu_share else None
        group = self._control.create(environment.id, limit * MEBIBYTE, share)
        self._groups[environment.id] = group
        return group

    def _probe(self) -> sandbox.Confinement | None:
        confinement, why = sandbox.probe()
        if confinement is None:
            self.notices.append(
                f"no mounts for environments ({why}): code and root are writable, /tmp is shared, only TMPDIR is their own"
            )
        return confinement

    def _open_groups(self) -> ControlGroups | None:
        opened = ControlGroups.open()
        if isinstance(opened, str):
            self.notices.append(
                f"{opened}: memory is watched from outside, and processes are not counted"
            )
            return None
        if "pids" not in opened.controllers:
            self.notices.append("no control group for processes: they are not counted")
        return opened


async def _remove(group: Group) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            if group.remove():
                return
        await asyncio.sleep(0.02)


def _import_path() -> list[str]:
    """What PYTHONPATH names here, for functions that live in the current installation."""
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def _interpreter_folders() -> tuple[str, ...]:
    return (sys.prefix, sys.base_prefix, *_import_path())
