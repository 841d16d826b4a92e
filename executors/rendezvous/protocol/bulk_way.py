"""A link's second way, a bare connection for large amounts: their bytes are sealed from end to end, not by TLS twice.

A stream begins on the TLS connection. When much is unsent on it, its sender offers a key (KEY, over TLS) and sends nothing
until the other end has all that went before and has a bulk connection of its own (KEY, REPLY); then what it has to
say, and its END, go by bulk connections, in order. A cut of either connection cuts the link: all streams resume on TLS.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from executors.rendezvous.errors import ProtocolError
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.line import Line
from executors.rendezvous.protocol.link_streams import MAX_DATA, LinkStreams
from executors.rendezvous.protocol.seal import BadSeal, Seal
from executors.rendezvous.protocol.stream_end import StreamEnd, stream_key

REKEY_AFTER = 1 << 36  # bytes under one key; AES-GCM would bear more


class BulkState(Enum):
    """Where a link stands with its bulk connection."""

    NONE = "none"
    WANTED = "wanted"  # the adapter is to connect
    UP = "up"
    NEVER = "never"  # switched off, not offered by the relay, or tried in vain


class BulkWay:
    """A link's bulk connection as a value; `least` unsent bytes of a stream call for it, 0 never."""

    def __init__(
        self, line: Line, streams: LinkStreams, *, new_key: Callable[[], bytes], least: int
    ) -> None:
        self.least = least
        self.state = BulkState.NEVER
        # so often, in seconds, the relay says something on an idle bulk connection
        self.relay_pings = 2.5
        self.token = b""  # shows the relay whose bulk connection it is
        self.rekey_after = REKEY_AFTER
        self.bad_seals = 0
        self._line = line
        self._streams = streams
        self._new_key = new_key
        self._ready: deque[StreamEnd] = deque()
        self._offers: set[StreamEnd] = set()

    # The connection

    def welcome(self, token: str, relay_pings: float) -> None:
        """The relay lets us have one, if it gives a token."""
        self.relay_pings = relay_pings
        if token and self.least:
            self.token = bytes.fromhex(token)
            self.state = BulkState.NONE

    def lost(self) -> None:
        """The link's connection has ended, and this one with it: what was agreed is void."""
        self.state = BulkState.NEVER
        self._offers.clear()
        for stream in self._ready:
            stream.bulk_queued = False
        self._ready.clear()
        for stream in self._streams.ends.values():
            stream.forget_seals()

    def close(self) -> None:
        """No connection will follow."""
        self.state = BulkState.NEVER

    def give_up(self) -> None:
        """Offer no more keys, and wait for no answer: what is left goes over TLS, or as it went before."""
        self.least = 0
        for stream in self._streams.ends.values():
            if stream.asking is not None:
                stream.asking, stream.bulk_refused = None, True
                self._streams.queue(stream)

    def failed(self) -> None:
        """No bulk connection could be had: all goes over TLS until the link is connected anew."""
        self.state = BulkState.NEVER
        self._answer_offers()

    def receive(self, data: memoryview) -> int:
        """Take the whole frames at the head of `data`; returns their size. Raises ProtocolError for nonsense."""
        start, end = 0, len(data)
        while end - start >= f.HEADER_SIZE:
            header = f.parse_header(data, start)
            stop = start + f.HEADER_SIZE + header.length
            if stop > end:
                break
            if header.kind == f.PONG:
                self.state = BulkState.UP
                self._answer_offers()
            elif header.kind == f.PING:
                pass  # it was heard
            elif header.kind in (f.DATA, f.END) and header.length >= f.TAG_SIZE:
                self._sealed(header, data[start:stop])
            else:
                raise ProtocolError(f"a {f.Kind(header.kind).name} frame on a bulk connection")
            start = stop
        return start

    def take_output(self, budget: int) -> list[f.Buffer]:
        """Sealed frames to send now, about `budget` bytes, of the streams in turn."""
        out: list[f.Buffer] = []
        ready = self._ready
        while ready and budget > 0 and self.has_output:
            stream = ready.popleft()
            stream.bulk_queued = False
            if stream.seal is not None and stream.can_send:
                if stream.seal.used >= self.rekey_after:
                    self._line.urgent.append(self._key(stream))
                else:
                    out.append(self._seal_some(stream, stream.seal))
                    budget -= len(out[-1])
            self._streams.queue(stream)
        return out

    @property
    def has_output(self) -> bool:
        return bool(self._ready and self.state is BulkState.UP and self._line.is_ready)

    @property
    def is_flushed(self) -> bool:
        """True only once the other ends have seen our sealed ends too: a GOODBYE over TLS would overtake them."""
        ending = any(
            end.seal is not None and end.ended and not end.end_acked
            for end in self._streams.ends.values()
        )
        return not self.has_output and not ending

    # Sending

    def queue(self, stream: StreamEnd) -> None:
        """A stream with a key sends in its turn, if it can."""
        if not stream.bulk_queued and stream.can_send:
            stream.bulk_queued = True
            self._ready.append(stream)

    def offer(self, stream: StreamEnd) -> bytes | None:
        """The frame that offers a key, where there is much to say; the stream says nothing until it is answered."""
        return self._key(stream) if self._is_called_for(stream) else None

    def _is_called_for(self, stream: StreamEnd) -> bool:
        """True if a stream should offer a key now; wants the bulk connection where there is none yet."""
        if (
            not self.least
            or self.state is BulkState.NEVER
            or stream.unsent_bytes < self.least
            or stream.bulk_refused
            or not stream.accepted
        ):
            return False
        if self.state is BulkState.NONE:
            self.state = BulkState.WANTED
        return self.state is BulkState.UP

    def _key(self, stream: StreamEnd) -> bytes:
        """The frame that offers a key; the stream says nothing until it is answered."""
        key = self._new_key()
        stream.keys = stream.keys % 0xFFFF + 1
        stream.seal, stream.asking = None, Seal(key, stream.keys)
        return self._streams.frame(f.KEY, stream, payload=key, offset=stream.next, code=stream.keys)

    def _seal_some(self, stream: StreamEnd, seal: Seal) -> bytearray:
        ids = stream.local_id, stream.peer_id, stream.number
        if stream.next == stream.written:
            stream.end_sent = True
            self._streams.finish(stream)
            return seal.frame(f.END, stream.flags, ids, stream.written, b"")
        offset, parts, _ = stream.take(MAX_DATA)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return seal.frame(f.DATA, stream.flags, ids, offset, data)

    # Frames that come in

    def key_frame(self, header: f.Header, payload: memoryview, stream: StreamEnd) -> None:
        """The other end offers a key, or answers our offer."""
        if header.flags & f.REPLY:
            self._offer_answered(header, bool(payload), stream)
        elif header.offset > stream.granted:
            self._streams.reset(stream, f.Code.OVERRUN, "a key for what is beyond the credit")
        else:
            stream.offered = Seal(bytes(payload), header.code), header.offset
            self._offers.add(stream)
            if self.state is BulkState.NONE and self.least:
                self.state = BulkState.WANTED
            self.answer(stream)

    def _offer_answered(self, header: f.Header, yes: bool, stream: StreamEnd) -> None:
        seal = stream.asking
        if seal is None or seal.number != header.code:
            return  # of before a cut
        stream.acknowledge(header.offset)
        stream.asking = None
        stream.seal = seal if yes else None
        stream.bulk_refused = not yes
        stream.tells_finish = True  # the relay does not count sealed ENDs
        self._streams.queue(stream)

    def _answer_offers(self) -> None:
        for stream in list(self._offers):
            self.answer(stream)

    def answer(self, stream: StreamEnd) -> None:
        """Take a stream's key once all that was sent over TLS has arrived, or turn it down."""
        if stream.offered is None:
            return
        seal, offset = stream.offered
        yes = self.state is BulkState.UP and not stream.distrusts
        if yes and stream.received < offset:
            return
        if self.state is BulkState.WANTED and not stream.distrusts:
            return
        self._offers.discard(stream)
        stream.offered = None
        stream.unseal = seal if yes else None
        stream.tells_finish = True
        answer = b"\1" if yes else b""
        self._line.urgent.append(
            self._streams.frame(
                f.KEY, stream, payload=answer, offset=stream.received, flags=f.REPLY, code=seal.number
            )
        )  # fmt: skip

    def _sealed(self, header: f.Header, frame: memoryview) -> None:
        stream = self._streams.ends.get(
            stream_key(header.stream, opened_here=not header.flags & f.OPENER)
        )
        unseal = stream.unseal if stream is not None else None
        if stream is None or unseal is None or unseal.number != header.code:
            return  # of before a cut: it will come again
        size = header.length - f.TAG_SIZE
        room = stream.room(header.offset, size) if header.kind == f.DATA else None
        buffer = memoryview(bytearray(size)) if room is None else room
        try:
            unseal.open_into(frame, header, buffer)
        except BadSeal:
            self._distrust(stream)
            return
        if header.kind == f.END:
            self._streams.take_frame(header._replace(length=0), memoryview(b""))
        elif room is not None:
            stream.filled(size)
            self._streams.arrived(stream)
        elif header.offset + size > stream.granted:
            self._streams.reset(stream, f.Code.OVERRUN, "data beyond the credit")
        elif stream.deliver(header.offset, buffer, own=True):
            self._streams.arrived(stream)
        else:
            self._distrust(stream)  # under one key frames come in order: one was taken out

    def _distrust(self, stream: StreamEnd) -> None:
        """Somebody on the way changes or takes sealed frames: have what is missing sent again, the rest over TLS."""
        self.bad_seals += 1
        stream.unseal = None
        stream.distrusts = True
        self._streams.ask(stream)

    def forget(self, stream: StreamEnd) -> None:
        """A stream has ended."""
        self._offers.discard(stream)
        stream.offered = None
