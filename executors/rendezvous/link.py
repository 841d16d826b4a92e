"""The link of one process to one relay: asyncio around `LinkCore`, with reconnection."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import ssl
from collections.abc import Callable
from datetime import UTC, datetime

from executors.rendezvous.bulk_connection import BulkConnection
from executors.rendezvous.credentials import Credential, relay_server_name
from executors.rendezvous.errors import (
    LinkClosed,
    NameTaken,
    PeerUnknown,
    ProtocolError,
    Refused,
    RendezvousError,
)
from executors.rendezvous.options import LinkOptions
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.bulk_way import BulkState
from executors.rendezvous.protocol.line import LinkState
from executors.rendezvous.protocol.link_core import LinkCore, Notice
from executors.rendezvous.protocol.names import ROLES, RelayAddress
from executors.rendezvous.protocol.stream_end import StreamEnd
from executors.rendezvous.stream import Stream
from executors.rendezvous.tls import close_transport, link_context
from executors.rendezvous.tls_connection import TlsConnection

logger = logging.getLogger(__name__)

WRITE_BATCH = 512 * 1024
TICK = 0.5
BULK_LOSSES = 5  # so many in a row, none of which lived for BULK_LIFE seconds, mean that something on the way breaks them
BULK_LIFE = 60.0
TURNED_AWAY = 3  # so many times in a row mean that the relay does not like our certificate
Handler = Callable[[Stream], None]


class _TurnedAway(ConnectionResetError):
    """The relay has closed the connection after the TLS handshake, without a word."""


class Link:
    """One registered name at one relay; streams in and out of it survive short cuts of the connection.

    It belongs to the event loop in which `connect` ran. `closed` is done once it has ended for good: with None
    after `close`, else with the error.
    """

    def __init__(
        self,
        relay: RelayAddress | str,
        credential: Credential,
        options: LinkOptions | None = None,
        *,
        listens: bool = True,
    ) -> None:
        self.relay = RelayAddress.parse(relay)
        self.credential = credential
        self.options = options or LinkOptions.make()
        self.core = LinkCore(
            credential.name,
            secrets.token_hex(16),
            window=self.options.window,
            first_stream=secrets.randbits(32) << 32 | 1,
            new_key=lambda: secrets.token_bytes(f.KEY_SIZE),
            bulk_from=self.options.bulk_from,
            listens=listens,
            rank=ROLES.index(credential.role),
        )
        self.on_notice: list[Callable[[Notice], None]] = []
        self.on_state: list[Callable[[bool], None]] = []
        """Called with False when the relay is lost, with True when it is back."""
        self.reconnections = 0
        self._context = link_context(credential)
        self._server_name = relay_server_name(credential.authority)
        self._protocol: TlsConnection | None = None
        self.bulk: BulkConnection | None = None
        self._bulk_losses = 0
        self._ready: asyncio.Future[None] | None = None
        self._registering: dict[str, asyncio.Future[None]] = {}
        self._handlers: dict[str, Handler] = {}
        self._stopped: set[str] = set()
        self._waiting: list[tuple[float, StreamEnd]] = []
        self.drainers: set[Stream] = set()
        self._reconnecting: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._last_tick = 0.0
        self._closing = False

    # Life

    async def connect(self, timeout: float | None = None) -> None:
        """Connect and register; raises NameTaken, Refused, or LinkClosed when no relay answers in time."""
        self.loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[RendezvousError | None] = self.loop.create_future()
        try:
            await self._establish(self.options.connect_timeout if timeout is None else timeout)
        except BaseException as error:
            self._end(error if isinstance(error, RendezvousError) else LinkClosed("not connected"))
            raise
        self._last_tick = self.loop.time()
        self._ticker = self.loop.call_later(TICK, self._tick)

    async def close(self, timeout: float = 5.0) -> None:
        """Send what is unsent, say goodbye, and leave; at most `timeout` seconds."""
        if self._closing:
            return
        self._closing = True
        deadline = self.loop.time() + timeout
        self.core.bulk.give_up()
        for each in list(self.core.streams.ends.values()):
            self.core.streams.end(each)
        self.flush()
        while self._is_up and not self.core.is_flushed and self.loop.time() < deadline:
            await asyncio.sleep(0.01)
        if self._is_up:
            self.core.goodbye()
            self.flush()
        self._end(None)

    def abort(self) -> None:
        """Leave at once without a goodbye, as a killed process does (the relay sees a cut)."""
        self._closing = True
        if self._protocol is not None and self._protocol.transport is not None:
            self._protocol.transport.abort()
        self._end(LinkClosed("aborted"))

    @property
    def _is_up(self) -> bool:
        return self._protocol is not None and self.core.line.state is LinkState.READY

    def _end(self, error: RendezvousError | None) -> None:
        self._closing = True
        if self._ticker is not None:
            self._ticker.cancel()
        task = self._reconnecting
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        self.core.close(f.Code.CLOSED, str(error) if error else "the link was closed")
        self.tell_streams()
        for waiting in self._registering.values():
            if not waiting.done():
                waiting.set_exception(error or LinkClosed("the link was closed"))
        if self._protocol is not None and self._protocol.transport is not None:
            # Its end takes the bulk connection with it; earlier a GOODBYE could be lost.
            close_transport(self._protocol.transport)
        else:
            self._drop_bulk()
        if not self.closed.done():
            self.closed.set_result(error)

    # Connecting

    async def _establish(self, timeout: float, known: bool = False) -> None:
        """Try until it works, the relay refuses, or `timeout` seconds have passed.

        known: the relay took us before, so whoever is there now and does not is not to be believed.
        """
        deadline = self.loop.time() + timeout
        pause, turned_away = 0.02, 0
        cause: BaseException | None = None
        while self.loop.time() < deadline:
            try:
                async with asyncio.timeout(min(timeout, self.options.connect_timeout)):
                    await self._attempt()
                return
            except Refused:
                raise
            except ssl.SSLCertVerificationError as error:
                cause = error
                if not known:
                    text = f"{self.relay} is no relay of our authority: {error.verify_message}"
                    raise Refused(text) from error
            except _TurnedAway as error:
                cause, turned_away = error, turned_away + 1
                if turned_away == TURNED_AWAY and not known:
                    raise Refused(self._turned_away()) from error
            except (OSError, ProtocolError) as error:
                cause, turned_away = error, 0
            left = max(0.0, deadline - self.loop.time())
            await asyncio.sleep(min(random.uniform(pause / 2, pause), left))
            pause = min(0.5, pause * 2)
        tail = f" ({cause})" if cause and str(cause) else ""
        raise LinkClosed(f"no relay answers at {self.relay} within {timeout:g} s{tail}") from cause

    def _turned_away(self) -> str:
        """With TLS 1.3 a client learns that its certificate was not liked from the end of the connection alone."""
        expires = self.credential.expires
        reason = f" (it expired at {expires:%H:%M:%S} UTC)" if expires <= datetime.now(UTC) else ""
        return f"the relay {self.relay} refuses the credential of {self.core.name}{reason}"

    async def _attempt(self) -> None:
        self._ready = self.loop.create_future()
        protocol = TlsConnection(self)
        self._protocol = protocol
        try:
            await self.loop.create_connection(
                lambda: protocol,
                self.relay.host,
                self.relay.port,
                ssl=self._context,
                server_hostname=self._server_name,
            )
            protocol.transport.set_write_buffer_limits(high=WRITE_BATCH)
            self.core.connected(self.loop.time())
            self.flush()
            await self._ready
        except BaseException:
            self._protocol = None
            if protocol.transport is not None:
                protocol.transport.abort()
            raise
        finally:
            self._ready = None

    async def _reconnect(self) -> None:
        try:
            await self._establish(self.options.reconnect_timeout, known=True)
            self.reconnections += 1
            self._tell_state(True)
            logger.info("%s is back at relay %s", self.credential.name, self.relay)
        except RendezvousError as error:
            self._reconnecting = None
            self._end(error)
            return
        finally:
            self._reconnecting = None
        if self._protocol is None:  # lost again in the same moment
            self._start_reconnecting()

    def _tell_state(self, is_up: bool) -> None:
        if not self._closing:
            for callback in list(self.on_state):
                callback(is_up)

    def _start_reconnecting(self) -> None:
        if not self._closing and self._reconnecting is None:
            self._reconnecting = self.loop.create_task(self._reconnect())

    def lost(self, protocol: TlsConnection) -> None:
        """The connection has ended."""
        if protocol is not self._protocol:
            return
        self._protocol = None
        self._drop_bulk()
        was_ready = self.core.line.state is LinkState.READY
        refusal = self.core.refusal
        self.core.lost(self.loop.time())
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(_TurnedAway("the relay closed the connection"))
            return
        if refusal is not None:
            self._end(refusal)
        elif was_ready:
            self._tell_state(False)
            self._start_reconnecting()

    # The bulk connection

    def _drop_bulk(self) -> None:
        bulk, self.bulk = self.bulk, None
        if bulk is not None:
            bulk.abort()

    def bulk_lost(self, bulk: BulkConnection) -> None:
        """It has ended: without it the link goes on over TLS if it never came up, else it connects anew."""
        if bulk is not self.bulk:
            return
        self.bulk = None
        was_up = bulk.is_up
        bulk.abort()
        if self._closing:
            self.core.bulk.failed()
            return
        long_lived = self.loop.time() - bulk.since >= BULK_LIFE
        self._bulk_losses = 1 if long_lived else self._bulk_losses + 1
        if self._bulk_losses == BULK_LOSSES:
            logger.warning("the relay %s: bulk connections break; all goes over TLS", self.relay)
            self.core.bulk.least = 0
        if was_up and self._protocol is not None:
            self._protocol.transport.abort()
            self.lost(self._protocol)
        elif not was_up:
            self.core.bulk.failed()
            self.flush()

    # Moving

    def received(self, protocol: TlsConnection, data: memoryview) -> None:
        """Bytes have come from the relay."""
        if protocol is not self._protocol:
            return
        try:
            self.core.receive(data, self.loop.time())
        except ProtocolError as error:
            logger.warning("relay %s: %s", self.relay, error)
            protocol.transport.abort()
            return
        self.tell_streams()

    def tell_streams(self) -> None:
        """Tell the streams what has happened to them, and send what there is to send."""
        core, streams = self.core, self.core.streams
        if streams.readable:
            readable, streams.readable = streams.readable, set()
            for stream in readable:
                if stream.waker is not None:
                    stream.waker.on_readable()
        while streams.accepted:
            stream = streams.accepted.pop()
            if stream.waker is not None:
                stream.waker.on_accepted()
        while streams.broken:
            stream = streams.broken.pop()
            if stream.waker is not None:
                stream.waker.on_broken()
        while streams.opened:
            self._dispatch(streams.opened.pop(0))
        while core.notices:
            notice = core.notices.pop(0)
            for callback in list(self.on_notice):
                callback(notice)
        while core.registered:
            self._registered(*core.registered.pop(0))
        if (
            core.line.state is LinkState.READY
            and self._ready is not None
            and not self._ready.done()
        ):
            self._ready.set_result(None)
        elif core.refusal is not None and self._ready is not None and not self._ready.done():
            self._ready.set_exception(core.refusal)
        self.flush()

    def flush(self) -> None:
        """Hand what there is to send to TLS, and to the bulk connection, while they take it."""
        protocol = self._protocol
        if protocol is None or protocol.transport is None:
            return
        if self.bulk is not None:
            self.bulk.send()
        core, now = self.core, self.loop.time()
        while protocol.writable and core.has_output:
            buffers = core.take_output(WRITE_BATCH, now)
            if not buffers:
                break
            if len(buffers) == 1:
                protocol.transport.write(buffers[0])
            else:
                protocol.transport.writelines(buffers)
        if core.bulk.state is BulkState.WANTED and self.bulk is None:
            self.bulk = BulkConnection(self)
        for stream in self.drainers:
            stream.on_sent()

    def consumed(self, stream: StreamEnd) -> None:
        """Something was read from a stream: its sender may get credit."""
        self.core.streams.consumed(stream)
        if self.core.has_output:
            self.flush()

    def _tick(self) -> None:
        now = self.loop.time()
        late = now - self._last_tick > 2 * TICK + self.options.ping_interval
        self._last_tick = now
        self._ticker = self.loop.call_later(TICK, self._tick)
        # this process was stopped or busy: that nothing was heard says nothing of the relay
        if late:
            self.core.line.heard = now
        protocol = self._protocol
        if (
            protocol is not None
            and self._is_up
            and now - self.core.line.heard >= self.options.silence
        ):
            logger.warning(
                "relay %s has been silent for %.1f s", self.relay, now - self.core.line.heard
            )
            protocol.transport.abort()
            self.lost(protocol)
        if self.bulk is not None:
            self.bulk.tick(now, late)
        self.core.tick(now, self.options.resume_timeout)
        for deadline, stream in [w for w in self._waiting if w[0] <= now]:
            self._waiting.remove((deadline, stream))
            self.core.streams.reset(stream, f.Code.NOT_LISTENING, "nobody listens under this name")
        self.tell_streams()

    # Streams and names

    async def open(self, name: str, timeout: float | None = None) -> Stream:
        """A stream to the peer `name`; waits up to `timeout` seconds for it to register and accept.

        Raises PeerGone at once for one that has gone, PeerUnknown where nobody registered in time.
        """
        if self._closing:
            raise LinkClosed(f"the link of {self.core.name} is closed")
        patience = self.options.connect_timeout if timeout is None else timeout
        stream = Stream(self, self.core.streams.open(name, patience, self.loop.time()))
        stream.accepted = self.loop.create_future()
        self.flush()
        try:
            async with asyncio.timeout(patience):
                await stream.accepted
        except TimeoutError:
            stream.abort()
            raise PeerUnknown(f"{name} did not answer within {patience:g} s") from None
        except BaseException:
            stream.abort()
            raise
        if stream.core.error is not None:
            raise stream.failure()
        return stream

    async def listen(self, name: str, handler: Handler) -> None:
        """Register `name` unless it is ours already, and call `handler` for each stream that is opened to it."""
        if name in self._handlers:
            raise NameTaken(f"this process listens as {name} already")
        self._handlers[name] = handler
        self._stopped.discard(name)
        if name not in self.core.line.ids.values():
            registering: asyncio.Future[None] = self.loop.create_future()
            self._registering[name] = registering
            self.core.register(name)
            self.flush()
            try:
                await registering
            except BaseException:
                del self._handlers[name]
                raise
            finally:
                del self._registering[name]
        waiting, self._waiting = self._waiting, []
        for deadline, stream in waiting:
            if stream.target == name:
                self._dispatch(stream)
            else:
                self._waiting.append((deadline, stream))
        self.flush()

    def stop_listening(self, name: str) -> None:
        """Refuse streams to `name` from now on; those that are open stay."""
        if self._handlers.pop(name, None) is not None:
            self._stopped.add(name)

    def _dispatch(self, stream: StreamEnd) -> None:
        handler = self._handlers.get(stream.target)
        if handler is not None:
            self.core.streams.accept(stream)
            handler(Stream(self, stream))
        elif stream.target in self._stopped:
            self.core.streams.reset(stream, f.Code.NOT_LISTENING, "its listener has stopped")
        else:
            self._waiting.append((self.loop.time() + self.options.listen_patience, stream))

    def _registered(self, name: str, code: f.Code, why: str) -> None:
        waiting = self._registering.get(name)
        if waiting is None or waiting.done():
            if code:
                logger.warning("relay %s refuses the name %s: %s", self.relay, name, why)
        elif code:
            waiting.set_exception((NameTaken if code == f.Code.NAME_TAKEN else Refused)(why))
        else:
            waiting.set_result(None)
