"""The relay's adapter: an asyncio TLS server around `RelayCore`."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from typing import Any

from executors.rendezvous import frames as f
from executors.rendezvous.credentials import read_identity
from executors.rendezvous.errors import InvalidCredential, ProtocolError
from executors.rendezvous.limits import Limits
from executors.rendezvous.relay_core import Connection, RelayCore

logger = logging.getLogger(__name__)

WRITE_BATCH = 256 * 1024
TICK = 0.25


class RelayServer:
    """Listens, and moves bytes between the connections and the core."""

    def __init__(self, context: ssl.SSLContext, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.core = RelayCore(self.limits)
        self._context = context
        self._protocols: set[_Protocol] = set()
        self._by_connection: dict[Connection, _Protocol] = {}
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address that was bound."""
        self.loop = asyncio.get_running_loop()
        self._server = await self.loop.create_server(
            lambda: _Protocol(self),
            host,
            port,
            ssl=self._context,
            backlog=4096,
            ssl_handshake_timeout=self.limits.handshake_timeout,
        )
        self._ticker = self.loop.call_later(TICK, self._tick)
        bound = self._server.sockets[0].getsockname()
        return bound[0], bound[1]

    async def stop(self) -> None:
        """Close the listening socket and every connection."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._server is not None:
            self._server.close()
        for protocol in list(self._protocols):
            protocol.transport.abort()
        await asyncio.sleep(0)

    def stats(self) -> dict[str, Any]:
        """What has been counted since the start, as JSON can carry it."""
        return self.core.counts()

    def flush(self) -> None:
        """Send, close, pause and resume as the core wants it."""
        core = self.core
        while core.dirty or core.flow_changed:
            dirty, core.dirty = core.dirty, set()
            for connection in dirty:
                protocol = self._by_connection.get(connection)
                if protocol is not None:
                    protocol.send()
            changed, core.flow_changed = core.flow_changed, set()
            for connection in changed:
                protocol = self._by_connection.get(connection)
                if protocol is not None:
                    protocol.mute(connection.muted)
        if core.closing:
            closing, core.closing = core.closing, set()
            for connection in closing:
                protocol = self._by_connection.get(connection)
                if protocol is not None:
                    protocol.transport.close()

    def _tick(self) -> None:
        now = self.loop.time()
        self._ticker = self.loop.call_later(TICK, self._tick)
        self.core.tick(now)
        self.core.expire(time.time(), now)
        self.flush()


class _Protocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: RelayServer) -> None:
        self.server = server
        self.transport: Any = None
        self.connection: Connection | None = None
        self.writable = True
        self._partial = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        server = self.server
        server._protocols.add(self)
        try:
            identity = read_identity(transport.get_extra_info("peercert") or {})
        except (InvalidCredential, KeyError) as error:
            logger.info("a connection without a usable certificate: %s", error)
            server.core.stats.refused["CREDENTIAL"] += 1
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=WRITE_BATCH)
        self.connection = server.core.connect(identity, server.loop.time())
        server._by_connection[self.connection] = self

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        if connection is None:
            return
        server = self.server
        core, now = server.core, server.loop.time()
        if self._partial:
            self._partial += data
            view = memoryview(self._partial)
            self._partial = bytearray()
        else:
            view = memoryview(data)
        start, end = 0, len(view)
        while end - start >= f.HEADER_SIZE:
            (length,) = f.LENGTH.unpack_from(view, start)
            try:
                f.check_header(view[start + 4], length)
            except ProtocolError as error:
                core._refuse(connection, f.Code.MALFORMED, str(error), now)
                break
            stop = start + f.HEADER_SIZE + length
            if stop > end:
                break
            core.receive(connection, view[start:stop], now)
            start = stop
        if start < end:
            self._partial = bytearray(view[start:])
        server.flush()

    def send(self) -> None:
        connection = self.connection
        if connection is None:
            return
        core = self.server.core
        while self.writable and connection.out:
            frames = core.take_output(connection, WRITE_BATCH, self.server.loop.time())
            if len(frames) == 1:
                self.transport.write(frames[0])
            else:
                self.transport.writelines(frames)

    def mute(self, muted: bool) -> None:
        if muted:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.send()
        self.server.flush()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        server = self.server
        server._protocols.discard(self)
        connection, self.connection = self.connection, None
        if connection is not None:
            server._by_connection.pop(connection, None)
            server.core.disconnect(connection, "lost", server.loop.time())
            server.flush()
