"""A byte stream to a peer, as coroutines around a `StreamEnd` of a link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from executors.rendezvous.credentials import Credential
from executors.rendezvous.errors import (
    LinkClosed,
    PeerGone,
    PeerUnknown,
    RendezvousError,
    StreamBroken,
)
from executors.rendezvous.options import LinkOptions
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.link_core import LinkCore
from executors.rendezvous.protocol.names import ROLES, RelayAddress
from executors.rendezvous.protocol.stream_end import StreamEnd


class Carrier(Protocol):
    """The link that a stream is on."""

    relay: RelayAddress
    credential: Credential
    options: LinkOptions
    loop: asyncio.AbstractEventLoop
    drainers: set[Stream]

    @property
    def core(self) -> LinkCore: ...
    def consumed(self, stream: StreamEnd) -> None: ...
    def tell_streams(self) -> None: ...
    def flush(self) -> None: ...


class Stream:
    """A byte stream to a peer. One reader and one writer at a time."""

    def __init__(self, link: Carrier, core: StreamEnd) -> None:
        self.link = link
        self.core = core
        self._readable: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self.accepted: asyncio.Future[None] | None = None
        self._closed = False
        self.on_close: Callable[[], None] | None = None
        core.waker = self

    @property
    def peer(self) -> str:
        """The name of the other end."""
        return self.core.peer

    @property
    def peer_role(self) -> str:
        """The role in the credential of the other end: `worker` until it has said more, which relays check."""
        return ROLES[self.core.peer_rank] if self.core.peer_rank < len(ROLES) else ROLES[0]

    @property
    def closed(self) -> bool:
        """True once nothing can be read any more or we have closed it."""
        core = self.core
        return self._closed or core.error is not None or (core.end_received and not core.inbox)

    async def read_into(self, buffer: memoryview) -> None:
        """Fill `buffer`; raises StreamBroken, also where the stream ends before it is full."""
        core = self.core
        full = core.want(buffer)
        try:
            self.link.consumed(core)
            while not full:
                if core.error is not None or self._closed:
                    raise self.failure()
                if core.end_received:
                    raise StreamBroken(f"{core.peer} has closed the stream")
                self._readable = asyncio.get_running_loop().create_future()
                await self._readable
                full = core.wanted is None
        finally:
            core.wanted = None
            self._readable = None

    async def write(self, buffers: list[memoryview]) -> None:
        """Queue `buffers` (kept by reference until they have arrived); waits while too much is unsent."""
        core = self.core
        if core.error is not None or self._closed or core.end_received or core.ended:
            raise self.failure()
        self.link.core.streams.write(core, buffers)
        self.link.flush()
        await self._drain(self.link.options.high_water)

    async def _drain(self, most: int) -> None:
        core = self.core
        while core.unsent_bytes > most and core.error is None:
            self._drained = asyncio.get_running_loop().create_future()
            self._drain_below = most
            self.link.drainers.add(self)
            try:
                await self._drained
            finally:
                self._drained = None
                self.link.drainers.discard(self)
        if core.error is not None:
            raise self.failure()

    async def close(self, timeout: float = 5.0) -> None:
        """End the stream once all that was written is sent; waits for that, at most `timeout` seconds."""
        core = self.core
        if self._closed or core.error is not None:
            self._closed = True
            return
        self._closed = True
        self.link.core.streams.end(core)
        self.link.flush()
        self._wake_reader()
        if core.unsent_bytes:
            try:
                async with asyncio.timeout(timeout):
                    await self._drain(0)
            except (TimeoutError, RendezvousError):
                pass

    def abort(self) -> None:
        """End the stream at once; what was written may be lost."""
        if not self._closed or self.core.unsent_bytes:
            self._closed = True
            if self.core.key in self.link.core.streams.ends:
                self.link.core.streams.reset(self.core, f.Code.ABORTED, "aborted")
                self.link.tell_streams()

    def failure(self) -> RendezvousError:
        if self.core.error is None:
            return StreamBroken(f"the stream to {self.core.peer} is closed")
        code, why = self.core.error
        return stream_error(self.core.peer or self.core.target, code, why)

    def _wake_reader(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    def on_readable(self) -> None:
        core = self.core
        if core.wanted is None or core.end_received:
            self._wake_reader()
        if core.end_received and not self._closed:
            self.link.core.streams.end(
                core
            )  # nobody half-closes: what we still have to say, nobody reads
            if not core.inbox and self.on_close is not None:
                self.on_close()

    def on_sent(self) -> None:
        drained = self._drained
        if (
            drained is not None
            and not drained.done()
            and self.core.unsent_bytes <= self._drain_below
        ):
            drained.set_result(None)

    def on_accepted(self) -> None:
        if self.accepted is not None and not self.accepted.done():
            self.accepted.set_result(None)

    def on_broken(self) -> None:
        self._wake_reader()
        self.on_accepted()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self.on_close is not None:
            self.on_close()


def stream_error(peer: str, code: f.Code, why: str) -> RendezvousError:
    """The exception for a stream that was reset."""
    tail = f": {why}" if why else ""
    if code == f.Code.PEER_GONE:
        return PeerGone(f"{peer} has gone{tail}")
    if code in (f.Code.UNKNOWN_PEER, f.Code.NOT_LISTENING):
        return PeerUnknown(f"nobody listens as {peer}{tail}")
    if code == f.Code.CLOSED:
        return LinkClosed(why or "the link to the relay is closed")
    return StreamBroken(f"the stream to {peer} is broken ({code.name.lower()}){tail}")
