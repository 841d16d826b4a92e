"""What an environment's process is started with, and what has to be cleared away after it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from pathlib import Path

from tornado.httpserver import HTTPServer

from executors.local_lambda import sandbox
from executors.local_lambda.cgroups import ControlGroups, Group
from executors.local_lambda.environment import Environment
from executors.local_lambda.network import RUNTIME_PORT, Namespace, Network
from executors.local_lambda.process import EnvironmentProcess
from executors.local_lambda.quotas import MEBIBYTE, Settings
from executors.local_lambda.runtime_api import serve_runtime_api

_CREDENTIALS = {"access_key": "LOCALLAMBDA", "secret_key": "local", "token": "local"}


class Launcher:
    """Starts processes as shut in as this machine allows; `notices` says what it does not allow."""

    def __init__(self, settings: Settings, state: Path) -> None:
        """Find out what is possible.

        Raises: StartFailed where the settings ask for what is not.
        """
        self._settings = settings
        self._state = state
        self._servers: dict[str, HTTPServer] = {}
        self._groups: dict[str, Group] = {}
        self._namespaces: dict[str, Namespace] = {}
        self.notices: list[str] = []
        self._confinement = self._probe() if settings.isolate else None
        self._control = self._open_groups() if settings.cgroups else None
        self._network = Network() if settings.network == "isolated" else None

    @property
    def host_address(self) -> str:
        """The address at which environments reach this machine."""
        return self._network.host if self._network else "127.0.0.1"

    def launch(self, environment: Environment) -> EnvironmentProcess:
        """Start the process of an environment, and its Runtime API.

        Raises: OSError, StartFailed.
        """
        function = environment.function
        listener = self._listen(environment)
        self._servers[environment.id] = serve_runtime_api(environment, listener)
        group = self._make_group(environment)
        namespace = self._namespaces.get(environment.id)
        confinement = sandbox.Confinement(
            mounts=self._confinement is not None,
            user_namespace=self._confinement is not None and self._confinement.user_namespace,
            tmp_bytes=function.storage * MEBIBYTE,
            visible=(function.code.folder, *_import_folders(), *self._settings.visible),
            groups=group.entrances if group else (),
            network=namespace.descriptor if namespace else None,
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

    async def clear(self, environment: Environment) -> None:
        """Clear away what a dead environment leaves."""
        server = self._servers.pop(environment.id, None)
        if server is not None:
            server.stop()
            await server.close_all_connections()
        namespace = self._namespaces.pop(environment.id, None)
        if namespace is not None and self._network is not None:
            self._network.destroy(namespace)
        shutil.rmtree(self._tmp(environment), ignore_errors=True)
        group = self._groups.pop(environment.id, None)
        for _ in range(200 if group else 0):
            with contextlib.suppress(OSError):
                if group is None or group.remove():
                    return
            await asyncio.sleep(0.02)

    def close(self) -> None:
        """Clear away the rest."""
        if self._control is not None:
            self._control.close()
        if self._network is not None:
            self._network.close()

    # -- parts --------------------------------------------------------------------------------------------------

    def _listen(self, environment: Environment) -> socket.socket:
        if self._network is not None:
            namespace = self._namespaces[environment.id] = self._network.create()
            listener = self._network.listen(namespace)
            environment.port, environment.address = RUNTIME_PORT, namespace.address
        else:
            listener = socket.create_server(("127.0.0.1", 0), backlog=16)
            environment.port = listener.getsockname()[1]
        listener.setblocking(False)
        return listener

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
            **({"AWS_SESSION_TOKEN": keys["token"]} if keys["token"] else {}),
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
            self._tmp(environment).mkdir(parents=True)
            variables["TMPDIR"] = str(self._tmp(environment))
        return variables

    def _tmp(self, environment: Environment) -> Path:
        return self._state / "tmp" / environment.id

    # -- what this machine allows -------------------------------------------------------------------------------

    def _probe(self) -> sandbox.Confinement | None:
        confinement, why = sandbox.probe()
        if confinement is None:
            self.notices.append(
                f"no mounts for environments ({why}): code and root are writable, /tmp and /dev/shm are this machine's, "
                "and only TMPDIR is an environment's own"
            )
        return confinement

    def _open_groups(self) -> ControlGroups | None:
        opened = ControlGroups.open(cpu=self._settings.cpu_share)
        if isinstance(opened, str):
            self.notices.append(
                f"{opened}: memory is watched from outside, processes are not counted"
                + (", CPU is not shared out" if self._settings.cpu_share else "")
            )
            return None
        missing = {"pids", *(["cpu"] if self._settings.cpu_share else [])} - opened.controllers
        if missing:
            self.notices.append(f"no control group limits {' or '.join(sorted(missing))} here")
        return opened


def _import_path() -> list[str]:
    """What PYTHONPATH names here, for functions that live in the current installation."""
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def _import_folders() -> tuple[str, ...]:
    return (sys.prefix, sys.base_prefix, *_import_path())
