"""The comm backend `rdv://` of `distributed`: comms are streams of a link.

A message on a stream is the number of its frames (8 bytes), their sizes (8 bytes each), then the frames; all numbers
little-endian. Each frame arrives in a buffer of its own, since the objects made of them live on their own; runs of frames
under 32 KiB are read together first. A frame is not cut into shards unless it may be compressed: who receives them would
hold it twice while he joins them.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import sys
import weakref
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import dask.config
from dask.utils import parse_bytes
from distributed.comm.core import (
    BaseListener,
    Comm,
    CommClosedError,
    Connector,
    FatalCommClosedError,
)
from distributed.comm.registry import Backend
from distributed.comm.utils import from_frames, to_frames
from distributed.protocol.utils import host_array
from distributed.utils import ensure_memoryview, nbytes

from executors.rendezvous.errors import InvalidAddress, PeerGone, Refused, RendezvousError
from executors.rendezvous.link import Link
from executors.rendezvous.operations import Guard, guard_for
from executors.rendezvous.plain_messages import plain_answer, plain_said
from executors.rendezvous.protocol.names import WORKER, PeerAddress, RelayAddress
from executors.rendezvous.security import RendezvousSecurity
from executors.rendezvous.stream import Stream

logger = logging.getLogger(__name__)

PREFIX = "rdv://"
COUNT = struct.Struct("<Q")
OWN_BUFFER = 32 * 1024
SHARED = 4 * 1024
"""Bytes of small frames that may share a buffer for good."""
WHOLE = sys.maxsize
MAX_FRAMES = 1 << 24
MAX_REQUEST = 64 << 20
"""Bytes that a worker may say to a server at once; what it answers may be a result, and larger."""


class RendezvousComm(Comm):
    """An established comm over a stream."""

    def __init__(self, stream: Stream, local: str, peer: str, deserialize: bool = True) -> None:
        self._closed = False
        self.guard: Guard | None = None  # set where the other end may not ask for everything
        self._asked: Any = None  # of the other end, last
        self.largest: int | None = None  # bytes of a message, where more is not believed
        super().__init__(deserialize=deserialize)
        self._local_addr = local
        self._peer_addr = peer
        self._stream = stream
        self._shard = parse_bytes(dask.config.get("distributed.comm.shard"))
        self._finalizer = weakref.finalize(self, _drop, stream, repr(self))
        self._finalizer.atexit = False

    @property
    def _compresses(self) -> bool:
        return bool(self.handshake_options.get("compression"))

    @property
    def local_address(self) -> str:
        return self._local_addr

    @property
    def peer_address(self) -> str:
        return self._peer_addr

    @property
    def same_host(self) -> bool:
        """True where both ends are the same peer; two workers are never known to share a machine."""
        return self._local_addr == self._peer_addr

    @property
    def distrusts(self) -> bool:
        """True where the other end may not run code here: we are no worker, and it is one."""
        ours = self._stream.link.credential.role
        return ours != WORKER and self._stream.peer_role == WORKER

    async def read(self, deserializers: Any = None) -> Any:
        """The next message; raises CommClosedError, also after one that its sender has no right to."""
        message = await self._read(deserializers)
        refusal = None if self.guard is None else self.guard.refusal(message)
        if refusal is None:
            return message
        logger.warning("refused of %s: %s", self._peer_addr, refusal)
        answer = None if self.guard is None else self.guard.answer(message, refusal)
        if answer is not None:
            await self.write(answer)
            await self.close()
        self.abort()
        raise CommClosedError(f"in {self}: {refusal}")

    async def _read(self, deserializers: Any) -> Any:
        try:
            if self._closed:
                raise CommClosedError(f"{self} is closed")
            frames = await self._read_frames()
        except RendezvousError as error:
            self._close()
            raise CommClosedError(f"in {self}: {error}") from error
        except (MemoryError, OverflowError, ValueError) as error:  # sizes that cannot be
            self.abort()
            raise CommClosedError(f"in {self}: a message too large: {error}") from error
        # some of the message may have been read: nothing after it makes sense
        except BaseException:
            self.abort()
            raise
        try:
            if frames and self.distrusts:
                frames[0] = self._plain(frames)
            return await from_frames(
                frames,
                deserialize=self.deserialize,
                deserializers=deserializers,
                allow_offload=self.allow_offload,
            )
        except EOFError as error:
            self.abort()
            raise CommClosedError(f"in {self}: a truncated message") from error
        except Exception as error:
            if not self.distrusts or self.deserialize:
                raise
            self.abort()
            raise CommClosedError(f"in {self}: no message: {error}") from error

    def _plain(self, frames: list[Any]) -> Any:
        if self.guard is None:
            return plain_answer(frames, self._asked)
        return plain_said(frames)

    async def _read_frames(self) -> list[Any]:
        stream = self._stream
        head = bytearray(COUNT.size)
        await stream.read_into(memoryview(head))
        (count,) = COUNT.unpack(head)
        if count > (MAX_FRAMES if self.largest is None else self.largest // COUNT.size):
            raise CommClosedError(f"in {self}: a message of {count} frames")
        packed = bytearray(COUNT.size * count)
        await stream.read_into(memoryview(packed))
        sizes = struct.unpack(f"<{count}Q", packed)
        if self.largest is not None and sum(sizes) > self.largest:
            raise CommClosedError(f"in {self}: a message of {sum(sizes)} bytes")
        frames: list[Any] = []
        for start, stop in _blocks(sizes):
            size = sum(sizes[start:stop])
            block = host_array(size)
            if size:
                await stream.read_into(block)
            frames += [block] if stop == start + 1 else _apart(block, sizes[start:stop])
        return frames

    async def write(self, msg: Any, serializers: Any = None, on_error: str = "message") -> int:
        """Send a message; returns its size in bytes. Raises CommClosedError."""
        if self.closed():
            raise CommClosedError(f"{self} is closed")
        if self.guard is not None:
            self.guard.hear(msg)
        self._asked = msg.get("op") if isinstance(msg, dict) else None
        frames = await to_frames(
            msg,
            allow_offload=self.allow_offload,
            serializers=serializers,
            on_error=on_error,
            context={
                "sender": self.local_info,
                "recipient": self.remote_info,
                **self.handshake_options,
            },
            frame_split_size=self._shard if self._compresses else WHOLE,
        )
        sizes = [nbytes(frame) for frame in frames]
        buffers: list[memoryview] = []
        small: list[Any] = [struct.pack(f"<{len(sizes) + 1}Q", len(sizes), *sizes)]
        for frame, size in zip(frames, sizes, strict=True):
            if size < OWN_BUFFER:
                small.append(frame)
                continue
            if small:
                buffers.append(memoryview(b"".join(small)))
                small = []
            buffers.append(ensure_memoryview(frame))
        if small:
            buffers.append(memoryview(b"".join(small)))
        try:
            await self._stream.write(buffers)
        except RendezvousError as error:
            self._close()
            raise CommClosedError(f"in {self}: {error}") from error
        except BaseException:
            self.abort()
            raise
        return sum(sizes)

    async def close(self) -> None:
        """Send what was written, then end the stream."""
        if not self._closed:
            self._close()
            await self._stream.close()

    def abort(self) -> None:
        """End the stream at once."""
        if not self._closed:
            self._close()
            self._stream.abort()

    def closed(self) -> bool:
        """True once either side has closed it."""
        return self._closed or self._stream.closed

    def _close(self) -> None:
        self._closed = True
        self._finalizer.detach()


def _blocks(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Cut frames into runs [start, stop) that share a buffer: small ones together, large ones alone."""
    blocks: list[tuple[int, int]] = []
    start = 0
    for index, size in enumerate(sizes):
        if size >= OWN_BUFFER:
            if start < index:
                blocks.append((start, index))
            blocks.append((index, index + 1))
            start = index + 1
    if start < len(sizes):
        blocks.append((start, len(sizes)))
    return blocks


def _apart(block: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """The frames of a block: copies, or whoever keeps one of them would keep them all, but for a few bytes."""
    ends = list(accumulate(sizes))
    views = [block[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    if block.nbytes <= SHARED:
        return views
    return [memoryview(bytearray(view)) for view in views]


def _drop(stream: Stream, what: str) -> None:
    """Close the stream of a comm that was forgotten without being closed."""
    if not stream.closed and not stream.link.loop.is_closed():
        logger.warning("Closing dangling stream in %s", what)
        stream.link.loop.call_soon_threadsafe(stream.abort)


class RendezvousConnector(Connector):
    """Opens comms to names at relays."""

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Comm:
        """A comm to `host:port/name`; raises OSError kinds while it cannot be had, Fatal where it never will."""
        security = _security(connection_args)
        target = PeerAddress.parse(address)
        try:
            link = await security.link_to(target.relay)
            stream = await link.open(target.name, security.options.listen_patience)
        except (Refused, PeerGone) as error:
            raise FatalCommClosedError(str(error)) from error
        except RendezvousError as error:
            raise CommClosedError(str(error)) from error
        local = f"{PREFIX}{link.relay}/{link.core.name}"
        return RendezvousComm(stream, local, PREFIX + address, deserialize)


class RendezvousListener(BaseListener):
    """Registers a name at the relay, and takes the streams that are opened to it."""

    prefix = PREFIX

    def __init__(
        self,
        address: str,
        comm_handler: Callable[[Comm], Any],
        deserialize: bool = True,
        allow_offload: bool = True,
        **connection_args: Any,
    ) -> None:
        super().__init__()
        self._security = _security(connection_args)
        self._name, self._relay = self._parse(address, connection_args.get("default_name"))
        self.comm_handler = comm_handler
        self.deserialize = deserialize
        self.allow_offload = allow_offload
        self._link: Link | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _parse(self, address: str, default: str | None) -> tuple[str, RelayAddress]:
        """An address may be `host:port/name`, or empty: our own name at our own relay."""
        if not address.strip("/"):
            return default or self._security.credential.name, self._security.relay
        peer = PeerAddress.parse(address)
        return peer.name, peer.relay

    async def start(self) -> None:
        """Register; raises NameTaken, Refused, LinkClosed."""
        link = await self._security.link_to(self._relay)
        await link.listen(self._name, self._on_stream)
        self._link = link

    def stop(self) -> None:
        """Refuse new streams."""
        link, self._link = self._link, None
        if link is not None:
            link.stop_listening(self._name)
            self.abort_handshaking_comms()

    def _on_stream(self, stream: Stream) -> None:
        task = asyncio.get_running_loop().create_task(self._handle(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, stream: Stream) -> None:
        peer = f"{PREFIX}{stream.link.relay}/{stream.peer}"
        comm = RendezvousComm(stream, self.contact_address, peer, self.deserialize)
        comm.allow_offload = self.allow_offload
        server = getattr(self.comm_handler, "__self__", None)
        guard = guard_for(server, peer, stream.peer) if stream.peer_role == WORKER else None
        comm.largest = MAX_REQUEST if comm.distrusts else None
        try:
            await self.on_connection(comm)
        except CommClosedError:
            logger.debug("%s closed its stream before the handshake was over", peer)
            return
        comm.guard = guard
        await self.comm_handler(comm)

    @property
    def listen_address(self) -> str:
        """`rdv://host:port/name`."""
        return f"{PREFIX}{self._relay}/{self._name}"

    @property
    def contact_address(self) -> str:
        """The same: a relay is reached from everywhere under one address."""
        return self.listen_address


class RendezvousBackend(Backend):
    """What `distributed` finds under the scheme `rdv`."""

    def get_connector(self) -> Connector:
        return RendezvousConnector()

    def get_listener(
        self,
        loc: str,
        handle_comm: Callable[[Comm], Any],
        deserialize: bool,
        **connection_args: Any,
    ) -> RendezvousListener:
        return RendezvousListener(loc, handle_comm, deserialize, **connection_args)

    def get_address_host(self, loc: str) -> str:
        """The peer's own name: every peer counts as a host of its own, or all would look like one."""
        return loc.rpartition("/")[2]

    def resolve_address(self, loc: str) -> str:
        return loc

    def get_local_address_for(self, loc: str) -> str:
        """Empty: a listener of an empty address registers its own name."""
        return ""


def _security(connection_args: dict[str, Any]) -> RendezvousSecurity:
    security = connection_args.get("rendezvous")
    if not isinstance(security, RendezvousSecurity):
        raise InvalidAddress("rdv:// needs security=RendezvousSecurity(relay, credential)")
    return security
