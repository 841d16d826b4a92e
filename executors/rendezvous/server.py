"""The relay's adapter: a server of TLS and of bulk connections, on one port, around `RelayCore`."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from executors.rendezvous.arena import Arena
from executors.rendezvous.credentials import read_identity
from executors.rendezvous.errors import InvalidCredential
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.protocol.relay_core import Connection, RelayCore
from executors.rendezvous.protocol.strangers import Strangers
from executors.rendezvous.tls import close_transport

logger = logging.getLogger(__name__)

WRITE_BATCH = 256 * 1024
JOIN = 32 * 1024
TICK = 0.25
BACKLOG = 4096
SOON = 0.05
ACCEPTS = 64  # connections accepted before others get their turn
_EXPIRED = 10  # OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED


class RelayServer:
    """Listens, and moves bytes between the connections and the core."""

    def __init__(self, context: ssl.SSLContext, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.core = RelayCore(self.limits)
        self.arena = Arena()
        self.by_connection: dict[Connection, _Connected] = {}
        self._context = context
        self._shaking: set[asyncio.Task[None]] = set()
        self._strangers: Strangers[_Stranger] = Strangers(
            self.limits.pending_connections, self.limits.pending_per_address
        )
        self._socket: socket.socket | None = None
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address that was bound."""
        self.loop = asyncio.get_running_loop()
        found = await self.loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        self._socket = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        self._socket.setblocking(False)
        self.loop.add_reader(self._socket, self._accept)
        self._ticker = self.loop.call_later(TICK, self._tick)
        bound = self._socket.getsockname()
        return bound[0], bound[1]

    async def stop(self) -> None:
        """Close the listening socket and every connection."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._socket is not None:
            self.loop.remove_reader(self._socket)
            self._socket.close()
        for task in list(self._shaking):
            task.cancel()
        for protocol in list(self.by_connection.values()):
            protocol.transport.abort()
        await asyncio.sleep(0)

    def stats(self) -> dict[str, Any]:
        """What has been counted since the start, as JSON can carry it."""
        return {**self.core.counts(), "handshaking": len(self._shaking)}

    def _accept(self) -> None:
        """Greet the connections that wait; where there are too many, strangers who have said nothing go for them."""
        listening = self._socket
        assert listening is not None
        for _ in range(ACCEPTS):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of file descriptors: let some go first
                logger.error("cannot accept: %s", error)
                self.loop.remove_reader(listening)
                self.loop.call_later(SOON if self._turn_away_oldest() else 1.0, self._accept_again)
                return
            if not self._has_room():
                self.core.stats.refused["CONNECTIONS"] += 1
                accepted.close()
                continue
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._receive(accepted, address)

    def _has_room(self) -> bool:
        """For one connection more, if a stranger has to go for it."""
        core = self.core
        registered = len(core.connections) - core.strangers
        if registered + len(self._strangers) < self.limits.connections:
            return True
        return registered < self.limits.connections and self._turn_away_oldest()

    def _receive(self, accepted: socket.socket, address: Any) -> None:
        stranger = _Stranger()
        task = self.loop.create_task(self._greet(accepted, address, stranger))
        stranger.drop = task.cancel

        def greeted(done: asyncio.Task[None]) -> None:
            self._shaking.discard(done)
            if done.cancelled():
                accepted.close()
            if stranger.drop == task.cancel:  # it came to no connection
                self._strangers.leave(stranger)

        self._shaking.add(task)
        task.add_done_callback(greeted)
        self._turn_away(self._strangers.come(stranger, str(address[0])))

    def _turn_away_oldest(self) -> bool:
        return self._turn_away(self._strangers.oldest())

    def _turn_away(self, stranger: _Stranger | None) -> bool:
        if stranger is None:
            return False
        self.core.stats.refused["CONNECTIONS"] += 1
        self._strangers.leave(stranger)
        stranger.drop()
        return True

    def known(self, stranger: _Stranger) -> None:
        """It has shown who it is, or has gone."""
        self._strangers.leave(stranger)

    def _accept_again(self) -> None:
        if self._socket is not None and self._socket.fileno() >= 0:
            self.loop.add_reader(self._socket, self._accept)

    async def _greet(self, accepted: socket.socket, address: Any, stranger: _Stranger) -> None:
        """A connection begins with TLS, or as a bulk connection does."""
        deadline = self.loop.time() + self.limits.handshake_timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self._readable(accepted)
                self._strangers.speaks(stranger)
                if accepted.recv(1, socket.MSG_PEEK) == f.BULK_MAGIC[:1]:
                    await self._attach_bulk(accepted, address)
                    return
        except (OSError, TimeoutError) as error:
            accepted.close()
            self.refused("HANDSHAKE", address, error)
            return
        except asyncio.CancelledError:
            accepted.close()
            raise
        await self._shake_hands(accepted, address, deadline, stranger)

    async def _shake_hands(
        self, accepted: socket.socket, address: Any, deadline: float, stranger: _Stranger
    ) -> None:
        try:
            await self.loop.connect_accepted_socket(
                lambda: _Connected(self, stranger=stranger),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=max(0.001, deadline - self.loop.time()),
            )
        except ssl.SSLCertVerificationError as error:
            expired = error.verify_code == _EXPIRED
            self.refused("EXPIRED" if expired else "CREDENTIAL", address, error)
        except (OSError, TimeoutError) as error:  # of which ssl.SSLError is one
            self.refused("HANDSHAKE", address, error)
        except asyncio.CancelledError:
            accepted.close()
            raise

    async def _readable(self, accepted: socket.socket) -> None:
        readable: asyncio.Future[None] = self.loop.create_future()
        self.loop.add_reader(accepted, _wake, readable)
        try:
            await readable
        finally:
            self.loop.remove_reader(accepted)

    async def _attach_bulk(self, accepted: socket.socket, address: Any) -> None:
        """The bulk connection of a link, if it shows a token that we gave to one."""
        said = b""
        while len(said) < len(f.BULK_MAGIC) + f.TOKEN_SIZE:
            part = await self.loop.sock_recv(accepted, len(f.BULK_MAGIC) + f.TOKEN_SIZE - len(said))
            if not part:
                raise ConnectionResetError("it ended before its token")
            said += part
        token = said[len(f.BULK_MAGIC) :] if said.startswith(f.BULK_MAGIC) else b""
        bulk = self.core.connect_bulk(token, self.loop.time())
        if bulk is None:
            logger.info("refused a bulk connection of %s", address)
            accepted.close()
            return
        await self.loop.connect_accepted_socket(lambda: _Connected(self, bulk), accepted)

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
        self.flush()


class _Stranger:
    """A connection that has shown no credential yet; `drop` ends it."""

    __slots__ = ("drop",)

    drop: Callable[[], Any]


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class _Connected(asyncio.BufferedProtocol):
    """A connection after the TLS handshake, or the bulk connection that the core knows as `bulk`."""

    __slots__ = ("_tail", "_view", "connection", "server", "stranger", "transport", "writable")

    def __init__(
        self,
        server: RelayServer,
        bulk: Connection | None = None,
        stranger: _Stranger | None = None,
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
            self.stranger.drop = transport.abort
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
            self.server.known(stranger)

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
