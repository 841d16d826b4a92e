"""A Lambda cluster that another process of this machine runs, found again by its name."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from distributed.core import Status, rpc
from distributed.objects import SchedulerInfo
from tornado.ioloop import PeriodicCallback

from executors.aws_lambda.errors import LambdaError
from executors.aws_lambda.records.clusters import ClusterFolder
from executors.aws_lambda.scaling import ScalableCluster
from executors.rendezvous import Authority, Credential, RendezvousSecurity
from executors.rendezvous.protocol.names import CLIENT

ACCESS = "access.json"
LIFETIME = timedelta(days=2)
LOOK = 1.0
GONE = "the cluster does not run any more"


class AttachedCluster(ScalableCluster):
    """The interface of a LambdaCluster that somebody else runs; closing it only lets go of it."""

    far_apart = True

    def __init__(self, name: str, *, asynchronous: bool = False, loop: Any = None) -> None:
        folder = ClusterFolder.open(name)
        if not folder.is_alive():
            raise LambdaError(f"{name}: {GONE} (excamera cluster list shows those that do)")
        self._scheduler_address, self.security = _read_access(folder)
        self._settings = folder.card.settings
        super().__init__(asynchronous=asynchronous, loop=loop, name=name, quiet=True)
        if not self.called_from_running_loop:
            self._loop_runner.start()
            try:
                self.sync(self._start)
            except BaseException:
                self._loop_runner.stop()
                raise

    def __await__(self) -> Any:
        async def started() -> AttachedCluster:
            if self.status == Status.created:
                await self._start()
            return self

        return started().__await__()

    async def _start(self) -> None:
        arguments = self.security.get_connection_args("client")
        self.scheduler_comm = rpc(self._scheduler_address, connection_args=arguments)
        look = PeriodicCallback(self._look, 1000 * LOOK)  # the owner alone is told of each change
        self.periodic_callbacks["look"] = look
        await self._look()
        look.start()
        self.status = Status.running

    async def _look(self) -> None:
        assert self.scheduler_comm is not None
        self.scheduler_info = SchedulerInfo(await self.scheduler_comm.identity(n_workers=-1))

    @property
    def worker_threads(self) -> int:
        """Tasks that one worker runs at once."""
        return int(self._settings["threads"])

    @property
    def worker_memory(self) -> int:
        """Bytes of memory of one worker."""
        return int(self._settings["memory"]) << 20

    async def _want(self, workers: int) -> None:
        assert self.scheduler_comm is not None
        await self.scheduler_comm.lambda_scale(n=workers)

    async def _want_fewer(self, names: set[str]) -> None:
        assert self.scheduler_comm is not None
        await self.scheduler_comm.lambda_let_go(names=sorted(names))

    @property
    def target(self) -> int:
        """Workers that its coordinator wants."""
        return int(self.snapshot()["asked"])

    def snapshot(self) -> Any:
        """What its coordinator sees: counts of states, spending, invocations; plain values."""
        return self.sync(self._snapshot)

    async def _snapshot(self) -> Any:
        assert self.scheduler_comm is not None
        return await self.scheduler_comm.lambda_snapshot()

    def close(self, timeout: float | None = None) -> Any:
        """Let go of the cluster, which goes on."""
        waiting = super().close(timeout)
        if not self.asynchronous:
            self._loop_runner.stop()
        return waiting

    @property
    def plan(self) -> set[str]:
        """Names of the workers that the scheduler knows."""
        return self.observed

    @property
    def requested(self) -> set[str]:
        return self.plan


def write_access(folder: Path, scheduler: str, relay: str, authority: Authority) -> None:
    """Let other processes of this user connect to the cluster of `folder`."""
    credential = authority.issue(f"client-{os.getpid()}", role=CLIENT, lifetime=LIFETIME)
    told = {"scheduler": scheduler, "relay": relay, "credential": credential.to_dict()}
    descriptor = os.open(folder / ACCESS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(told, file)


def remove_access(folder: Path) -> None:
    """Nobody can connect any more: forget the credential."""
    (folder / ACCESS).unlink(missing_ok=True)


def _read_access(folder: ClusterFolder) -> tuple[str, RendezvousSecurity]:
    try:
        told = json.loads((folder.path / ACCESS).read_text())
    except (OSError, ValueError):
        raise LambdaError(f"{folder.card.name}: {GONE}, or is another user's") from None
    security = RendezvousSecurity(told["relay"], Credential.from_dict(told["credential"]))
    return told["scheduler"], security
