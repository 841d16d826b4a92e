"""The bulk connection of a link: a bare TCP connection to its relay, on which nothing but sealed frames travels."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from executors.rendezvous.errors import ProtocolError
from executors.rendezvous.options import LinkOptions
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.bulk_way import BulkState
from executors.rendezvous.protocol.link_core import LinkCore
from executors.rendezvous.protocol.names import RelayAddress

logger = logging.getLogger(__name__)

WRITE_BATCH = 256 * 1024
BUFFER = 512 * 1024  # holds the largest frame and what came with it


class Owner(Protocol):
    """The link whose bulk connection it is."""

    loop: asyncio.AbstractEventLoop
    relay: RelayAddress
    options: LinkOptions
    core: LinkCore
    bulk: BulkConnection | None

    def bulk_lost(self, bulk: BulkConnection) -> None: ...
    def tell_streams(self) -> None: ...
    def flush(self) -> None: ...


class BulkConnection(asyncio.BufferedProtocol):
    """Connects, shows its token, and moves frames between the socket and the link's core."""

    def __init__(self, link: Owner) -> None:
        self.link = link
        self.transport: Any = None
        self.writable = False
        self._buffer = memoryview(bytearray(BUFFER))
        self._filled = 0
        self.since = self.heard = link.loop.time()
        self.is_up = False  # the relay has taken the token
        self._answered = asyncio.Event()
        self._bad_seals = link.core.bulk.bad_seals
        self._task = link.loop.create_task(self._connect())

    async def _connect(self) -> None:
        """Tell the core how it went: BulkState.UP comes with the relay's answer."""
        link = self.link
        try:
            async with asyncio.timeout(link.options.bulk_timeout):
                await link.loop.create_connection(lambda: self, link.relay.host, link.relay.port)
                self.transport.write(f.BULK_MAGIC + link.core.bulk.token)
                await self._answered.wait()
        except (OSError, TimeoutError):
            link.bulk_lost(self)

    def abort(self) -> None:
        """Close the connection at once."""
        self.writable = False
        if self._task is not asyncio.current_task():
            self._task.cancel()
        if self.transport is not None:
            self.transport.abort()

    def tick(self, now: float, late: bool) -> None:
        """Notice a relay that says nothing any more; `late` where this process itself was stopped."""
        if late:
            self.heard = now
            return
        silence = max(self.link.options.silence, 3 * self.link.core.bulk.relay_pings)
        if self.is_up and now - self.heard >= silence:
            self.link.bulk_lost(self)

    def send(self) -> None:
        """Hand sealed frames to the socket while it takes them."""
        way = self.link.core.bulk
        while self.writable and way.has_output:
            for frame in way.take_output(WRITE_BATCH):
                self.transport.write(frame)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.set_write_buffer_limits(high=WRITE_BATCH)
        self.writable = True

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        link = self.link
        if link.bulk is not self:
            return
        self.heard = link.loop.time()
        end = self._filled + nbytes
        try:
            taken = link.core.bulk.receive(self._buffer[:end])
        except ProtocolError:
            link.bulk_lost(self)
            return
        if link.core.bulk.state is BulkState.UP and not self.is_up:
            self.is_up = True
            self._answered.set()
            # from here on we and the relay live with it
            self.transport.write(f.serialize_frame(f.PING))
        if link.core.bulk.bad_seals > self._bad_seals:
            self._bad_seals = link.core.bulk.bad_seals
            logger.warning("relay %s: sealed frames come changed, or not at all", link.relay)
        self._filled = end - taken
        if taken and self._filled:
            self._buffer[: self._filled] = self._buffer[taken:end]
        link.tell_streams()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self.link.bulk_lost(self)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.link.flush()
