"""The relay's adapter: a server of TLS and of bulk connections, on one port, around `RelayCore`."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
import time
from collections.abc import Coroutine
from typing import Any

from executors.rendezvous.arena import Arena
from executors.rendezvous.credentials import read_identity
from executors.rendezvous.door import Door, Stranger
from executors.rendezvous.errors import InvalidCredential
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol import openings
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.protocol.relay_core import Connection, RelayCore
from executors.rendezvous.tls import close_transport

logger = logging.getLogger(__name__)

WRITE_BATCH = 256 * 1024
JOIN = 32 * 1024
TICK = 0.25
BACKLOG = 4096
_EXPIRED = 10  # OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED


class RelayServer:
    """Listens, and moves bytes between the connections and the core."""

    def __init__(self, context: ssl.SSLContext, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.core = RelayCore(self.limits)
        self.arena = Arena()
        self.by_connection: dict[Connection, _Connected] = {}
        self._context = context
        self._greetings: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address that was bound."""
        self.loop = asyncio.get_running_loop()
        found = await self.loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        listening = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        listening.setblocking(False)
        self.door = Door(self, listening)
        self._ticker = self.loop.call_later(TICK, self._tick)
        bound = listening.getsockname()
        return bound[0], bound[1]

    async def stop(self) -> None:
        """Close the listening socket and every connection."""
        if self._ticker is not None:
            self._ticker.cancel()
            self.door.close()
        for task in list(self._greetings):
            task.cancel()
        for protocol in list(self.by_connection.values()):
            protocol.transport.abort()
        await asyncio.sleep(0)

    def stats(self) -> dict[str, Any]:
        """What has been counted since the start, as JSON can carry it."""
        return {**self.core.counts(), "handshaking": len(self.door)}

    @property
    def registered(self) -> int:
        """Connections with a hello."""
        return len(self.core.connections) - self.core.strangers

    def shake_hands(self, stranger: Stranger, timeout: float) -> None:
        """Begin the TLS handshake of a connection that has said a whole ClientHello."""
        task = self._begin(self._shake_hands(stranger, timeout))
        stranger.end = task.cancel

        def shaken(done: asyncio.Task[None]) -> None:
            if done.cancelled():
                stranger.socket.close()
            if stranger.end == task.cancel:  # it came to no connection
                self.door.leave(stranger)

        task.add_done_callback(shaken)

    def _begin(self, greeting: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(greeting)
        self._greetings.add(task)
        task.add_done_callback(self._greetings.discard)
        return task

    async def _shake_hands(self, stranger: Stranger, timeout: float) -> None:
        try:
            await self.loop.connect_accepted_socket(
                lambda: _Connected(self, stranger=stranger),
                stranger.socket,
                ssl=self._context,
                ssl_handshake_timeout=timeout,
            )
        except ssl.SSLCertVerificationError as error:
            expired = error.verify_code == _EXPIRED
            self.refused("EXPIRED" if expired else "CREDENTIAL", stranger.address, error)
        except (OSError, TimeoutError) as error:  # of which ssl.SSLError is one
            self.refused("HANDSHAKE", stranger.address, error)

    def attach_bulk(self, accepted: socket.socket, address: Any) -> None:
        """The bulk connection of a link, if it shows a token that we gave to one."""
        said = accepted.recv(openings.BULK_SIZE)
        token = said[len(f.BULK_MAGIC) :] if said.startswith(f.BULK_MAGIC) else b""
        bulk = self.core.connect_bulk(token, self.loop.time())
        if bulk is None:
            logger.info("refused a bulk connection of %s", address)
            accepted.close()
            return
        self._begin(self._connect_bulk(accepted, bulk))

    async def _connect_bulk(self, accepted: socket.socket, bulk: Connection) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: _Connected(self, bulk), accepted)
        except OSError:
            accepted.close()
            self.core.disconnect(bulk, "it was lost at once", self.loop.time())

    def refused(self, kind: str, address: Any, error: Exception) -> None:
        """Count a connection that did not come to its hello."""
        self.core.stats.refused[kind] += 1
        logger.info("refused a connection of %s: %s", address, error)

    def flush(self) -> None:
        """Send, close, pause and resume as the core wants it."""
        core, protocols = self.core, self.by_connection
        while core.dirty or core.flow_changed:
            dirty, core.dirty = core.dirty, set()
            for connection in dirty:
                protocol = protocols.get(connection)
                if protocol is not None:
                    protocol.send()
            changed, core.flow_changed = core.flow_changed, set()
            for connection in changed:
                protocol = protocols.get(connection)
                if protocol is not None:
                    protocol.mute(connection.muted)
        if core.closing:
            closing, core.closing = core.closing, set()
            for connection in closing:
                protocol = protocols.get(connection)
                if protocol is not None:
                    protocol.close()

    def _tick(self) -> None:
        now = self.loop.time()
        self._ticker = self.loop.call_later(TICK, self._tick)
        self.core.tick(now)
        self.core.expire(time.time(), now)
        self.door.tick(now)
        self.flush()


class _Connected(asyncio.BufferedProtocol):
    """A connection after the TLS handshake, or the bulk connection that the core knows as `bulk`."""

    __slots__ = ("_tail", "_view", "connection", "server", "stranger", "transport", "writable")

    def __init__(
        self,
        server: RelayServer,
        bulk: Connection | None = None,
        stranger: Stranger | None = None,
    ) -> None:
        self.server = server
        self.stranger = stranger  # until its hello
        self.transport: Any = None
        self.connection = bulk
        self.writable = True
        self._tail = b""
        self._view: memoryview | None = None

    def connection_made(self, transport: Any) -> None:
        server = self.server
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_BATCH)
        if self.connection is not None:
            if self.connection.close_reason is not None:  # its link was lost in the meantime
                transport.abort()
                return
            server.by_connection[self.connection] = self
            self.mute(self.connection.muted)
            self.send()
            return
        if self.stranger is not None:
            self.stranger.end = transport.abort
        try:
            identity = read_identity(transport.get_extra_info("peercert") or {})
        except InvalidCredential as error:
            server.refused("CREDENTIAL", transport.get_extra_info("peername"), error)
            transport.abort()
            return
        token = secrets.token_bytes(f.TOKEN_SIZE)
        self.connection = server.core.connect(identity, server.loop.time(), token)
        server.by_connection[self.connection] = self

    def get_buffer(self, sizehint: int) -> memoryview:
        self._view = self.server.arena.place(self._tail)
        return self._view[len(self._tail) :] if self._tail else self._view

    def buffer_updated(self, nbytes: int) -> None:
        view, self._view = self._view, None
        if view is None:
            return
        size = len(self._tail) + nbytes
        view = view[:size]
        self._tail = b""
        self.server.arena.keep(size)
        self._cut(view)
        del view
        if self.stranger is not None and self.connection is not None and self.connection.greeted:
            self._is_known()
        self.server.flush()

    def _is_known(self) -> None:
        stranger, self.stranger = self.stranger, None
        if stranger is not None:
            self.server.door.leave(stranger)

    def _cut(self, view: memoryview) -> None:
        """Give the whole frames in `view` to the core, and keep the rest."""
        server, connection = self.server, self.connection
        if connection is None:
            return
        core, now = server.core, server.loop.time()
        start, end = 0, len(view)
        while end - start >= f.HEADER_SIZE:
            (length,) = f.LENGTH.unpack_from(view, start)
            if length > f.MAX_CONTROL and not core.admits(connection, view[start + 4], length, now):
                return
            stop = start + f.HEADER_SIZE + length
            if stop > end:
                break
            core.receive(connection, view[start:stop], now)
            start = stop
        if start < end:
            self._tail = bytes(view[start:])

    def send(self) -> None:
        """Hand frames to TLS while it takes them."""
        connection = self.connection
        if connection is None:
            return
        core, now = self.server.core, self.server.loop.time()
        while self.writable and connection.out:
            frames = core.take_output(connection, WRITE_BATCH, now)
            if len(frames) == 1:
                self.transport.write(frames[0])
            elif sum(map(len, frames)) <= JOIN:
                self.transport.write(b"".join(frames))
            else:
                self.transport.writelines(frames)

    def close(self) -> None:
        """Send what there is, if the other side takes it, and close."""
        close_transport(self.transport)
        if not self.writable:
            self.transport.abort()

    def mute(self, muted: bool) -> None:
        if muted:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.writable = False
        if self.connection is not None:
            self.connection.blocked_since = self.server.loop.time()

    def resume_writing(self) -> None:
        self.writable = True
        if self.connection is not None:
            self.connection.blocked_since = None
            self.send()
            self.server.flush()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        server = self.server
        self._is_known()
        connection, self.connection = self.connection, None
        if connection is not None:
            server.by_connection.pop(connection, None)
            server.core.disconnect(connection, "lost", server.loop.time())
            server.flush()
