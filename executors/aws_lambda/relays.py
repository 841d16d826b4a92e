"""The relays of a cluster: those that run already, or some that are started here and kept alive."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from executors.aws_lambda.errors import InvalidOption, NotDeployed
from executors.rendezvous import (
    Authority,
    RelayAddress,
    RelayProcess,
    RendezvousError,
    RendezvousSecurity,
)
from executors.rendezvous.descriptors import check_limit, hard_limit, room

LOOK = 0.2  # seconds between two looks at whether a relay still runs
REACH_TIMEOUT = 5.0
RESTART_PAUSE = 1.0


@dataclass(frozen=True)
class RelaySpec:
    """Which relays a cluster wants.

    relay: addresses "host:port" of those that run, commas between, whose authority `security` must be given too; None starts
    `relays` here, which listen on `host` from `port` on (0: any free ones) and are told to workers as `advertise`.
    """

    relay: str | None
    security: Authority | str | Path | None
    relays: int
    host: str | None
    port: int
    advertise: str | None


class Relays:
    """Relays with the authority that they and their peers belong to; closed with the stack they were opened in."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.addresses: list[str] = []
        self.processes: list[RelayProcess] = []

    @classmethod
    async def open(
        cls,
        spec: RelaySpec,
        host: str,
        stack: contextlib.AsyncExitStack,
        notice: Callable[[str], None],
        workers: int = 0,
    ) -> Relays:
        """Take the relays that are given, or start some; host: where those listen unless the spec says; workers: for so
        many there must be room.

        Raises: InvalidOption, NotDeployed, RendezvousError.
        """
        known = spec.security
        authority = (
            known if known is None or isinstance(known, Authority) else Authority.load(known)
        )
        if spec.relay is None:
            relays = cls(authority or Authority.create())
            for number in range(spec.relays):
                port = spec.port and spec.port + number
                await relays._start(spec, host, port, stack, notice, _share(workers, spec.relays))
            return relays
        if authority is None:
            raise InvalidOption(
                f"relay {spec.relay}: give the folder of its authority too (--relay-authority, in Python security)"
            )
        relays = cls(authority)
        relays.addresses = [address.strip() for address in spec.relay.split(",")]
        return relays

    async def reach(self, security: RendezvousSecurity) -> None:
        """Links to all relays, before anything is built on them: what is wrong with one is told as it is."""
        links = {
            asyncio.ensure_future(security.link_to(RelayAddress.parse(address))): address
            for address in self.addresses
        }
        done, waiting = await asyncio.wait(
            links, timeout=REACH_TIMEOUT, return_when=asyncio.FIRST_EXCEPTION
        )
        for link in waiting:
            link.cancel()
        for link in done:
            link.result()
        if waiting:
            silent = " and ".join(links[link] for link in links if link in waiting)
            raise NotDeployed(
                f"no relay answers at {silent} within {REACH_TIMEOUT:g} s: "
                "does it run, and may this machine reach it?"
            )

    def check_room(self, workers: int) -> None:
        """Raise InvalidOption, in one line, where those that were started here may not open enough files for so many."""
        if self.processes:
            try:
                check_limit(_share(workers, len(self.processes)), hard_limit())
            except RendezvousError as error:
                raise InvalidOption(str(error)) from error

    @property
    def room(self) -> float:
        """Workers that those which were started here may serve; of others nobody knows."""
        return len(self.processes) * room(hard_limit()) if self.processes else math.inf

    async def _start(
        self,
        spec: RelaySpec,
        host: str,
        port: int,
        stack: contextlib.AsyncExitStack,
        notice: Callable[[str], None],
        workers: int,
    ) -> None:
        relay = await RelayProcess.start(
            self.authority,
            host=spec.host or host,
            port=port,
            advertise=spec.advertise,
            workers=workers,
        )
        self.processes.append(relay)
        self.addresses.append(str(relay.address))
        stack.push_async_callback(relay.stop)
        watch = asyncio.create_task(_keep(relay, notice))
        stack.callback(watch.cancel)


def _share(workers: int, relays: int) -> int:
    """Workers of one of so many relays, at the most."""
    return -(-workers // relays)


async def _keep(relay: RelayProcess, notice: Callable[[str], None]) -> None:
    """Start a relay again whenever it has died; links come back to it, and their streams go on."""
    told = False
    while True:
        await asyncio.sleep(LOOK)
        if relay.is_running:
            told = False
            continue
        try:
            if not told:
                notice("the rendezvous has ended; starting it again")
            await relay.restart()
        except Exception as error:  # such as an address that another program has taken meanwhile
            if not told:
                notice(f"{error}; trying again until it can")
            await asyncio.sleep(RESTART_PAUSE)
        told = True
