"""A relay as a child process of this one; its private key is made there and never leaves it.

Over its pipes the child sends, one JSON object a line: a certificate signing request, then the address it listens
on. It gets its certificate, and ends when its standard input does: no relay outlives its parent.
"""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import asdict
from typing import Any, Self

from executors.child_python import child_environment, module_command
from executors.rendezvous.credentials import Authority
from executors.rendezvous.errors import RendezvousError
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.protocol.names import RelayAddress

START_TIMEOUT = 30.0


class RelayProcess:
    """A running relay; make one with `await RelayProcess.start(authority)`."""

    def __init__(
        self,
        authority: Authority,
        host: str,
        port: int,
        advertise: str,
        limits: Limits,
        workers: int = 0,
    ) -> None:
        self._authority = authority
        self._host = host
        self._port = port
        self._advertise = advertise
        self._limits = limits
        self._workers = workers
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""

    @classmethod
    async def start(
        cls,
        authority: Authority,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        advertise: str | None = None,
        limits: Limits | None = None,
        workers: int = 0,
    ) -> Self:
        """Start a relay that listens on `host`; `advertise` is the host that peers are told.

        workers: for so many it must have room. Raises RendezvousError.
        """
        told = advertise or reachable_host(host)
        relay = cls(authority, host, port, told, limits or Limits(), workers)
        await relay._launch()
        return relay

    async def restart(self) -> None:
        """Start it again at the same address, after it has ended or been killed."""
        if self.is_running:
            await self.stop()
        await self._launch()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process id of the child."""
        if self._process is None:
            raise RendezvousError("the relay is not running")
        return self._process.pid

    async def stop(self, timeout: float = 5.0) -> None:
        """End it; kills it when it does not end within `timeout` seconds."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            if process.stdin is not None:
                process.stdin.close()
            try:
                async with asyncio.timeout(timeout):
                    await process.wait()
            except TimeoutError:
                process.kill()
        await process.wait()

    async def kill(self) -> None:
        """End it as a crash would: SIGKILL, no goodbye."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()

    async def stats(self) -> dict[str, Any]:
        """What the relay has counted since it started."""
        return await self._ask({"op": "stats"})

    async def _launch(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *module_command("executors.rendezvous"),
            "--child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=child_environment(),
        )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                order = {
                    "host": self._host,
                    "port": self._port,
                    "limits": asdict(self._limits),
                    "workers": self._workers,
                }
                request = await self._ask(order)
                answer = {
                    "certificate": self._authority.certify_relay(request["request"]),
                    "authority": self._authority.certificate,
                }
                bound = await self._ask(answer)
        except BaseException:
            await self.kill()
            raise
        self._port = int(bound["port"])
        self.address = str(RelayAddress(self._advertise, self._port))

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RendezvousError("the relay is not running")
        process.stdin.write(json.dumps(message).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise RendezvousError("the relay ended before it answered")
        answer = json.loads(line)
        if "error" in answer:
            raise RendezvousError(f"the relay cannot start: {answer['error']}")
        if not isinstance(answer, dict):
            raise RendezvousError("the relay answers nonsense")
        return answer


def reachable_host(host: str) -> str:
    """`host`, or an address of this machine where `host` means all of them."""
    if host in ("", "0.0.0.0", "::"):
        from distributed.utils import get_ip

        return str(get_ip())
    return host
