"""A link that has a second, bare connection for large amounts: their bytes are sealed from end to end, not by TLS twice.

A stream begins on the TLS connection. When much is unsent on it, its sender offers a key (KEY, over TLS) and sends nothing
until the other end has all that went before and has a bulk connection of its own (KEY, REPLY); then what it has to
say, and its END, go by bulk connections, in order. A cut of either connection cuts the link: all streams resume on TLS.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from executors.rendezvous.errors import ProtocolError
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.link_core import LinkCore
from executors.rendezvous.protocol.link_streams import MAX_DATA, LinkState
from executors.rendezvous.protocol.seal import BadSeal, Seal
from executors.rendezvous.protocol.stream_end import StreamEnd, stream_key

REKEY_AFTER = 1 << 36  # bytes under one key; AES-GCM would bear more


class BulkState(Enum):
    """Where a link stands with its bulk connection."""

    NONE = "none"
    WANTED = "wanted"  # the adapter is to connect
    UP = "up"
    NEVER = "never"  # switched off, not offered by the relay, or tried in vain


class BulkLinkCore(LinkCore):
    """All state of one link with its bulk connection; `bulk_from` unsent bytes of a stream call for it, 0 never."""

    def __init__(
        self,
        name: str,
        session: str,
        *,
        window: int,
        first_stream: int,
        new_key: Callable[[], bytes],
        bulk_from: int,
        listens: bool = True,
        rank: int = 0,
    ) -> None:
        super().__init__(
            name, session, window=window, first_stream=first_stream, listens=listens, rank=rank
        )
        self.bulk_from = bulk_from
        self.bulk = BulkState.NEVER
        # so often, in seconds, the relay says something on an idle bulk connection
        self.relay_pings = 2.5
        self.token = b""  # shows the relay whose bulk connection it is
        self.rekey_after = REKEY_AFTER
        self.bad_seals = 0
        self._new_key = new_key
        self._bulk_ready: deque[StreamEnd] = deque()
        self._offers: set[StreamEnd] = set()

    # The connection

    def lost(self, now: float) -> None:
        super().lost(now)
        self.bulk = BulkState.NEVER
        self._offers.clear()
        for stream in self._bulk_ready:
            stream.bulk_queued = False
        self._bulk_ready.clear()
        for stream in self.streams.values():
            stream.forget_seals()

    def close(self, code: f.Code, why: str) -> None:
        self.bulk = BulkState.NEVER
        super().close(code, why)

    def no_more_bulk(self) -> None:
        """Offer no more keys, and wait for no answer: what is left goes over TLS, or as it went before."""
        self.bulk_from = 0
        for stream in self.streams.values():
            if stream.asking is not None:
                stream.asking, stream.bulk_refused = None, True
                self._queue(stream)

    def bulk_failed(self) -> None:
        """No bulk connection could be had: all goes over TLS until the link is connected anew."""
        self.bulk = BulkState.NEVER
        self._answer_offers()

    def receive_bulk(self, data: memoryview) -> int:
        """Take the whole frames at the head of `data`; returns their size. Raises ProtocolError for nonsense."""
        start, end = 0, len(data)
        while end - start >= f.HEADER_SIZE:
            header = f.parse_header(data, start)
            stop = start + f.HEADER_SIZE + header.length
            if stop > end:
                break
            if header.kind == f.PONG:
                self.bulk = BulkState.UP
                self._answer_offers()
            elif header.kind == f.PING:
                pass  # it was heard
            elif header.kind in (f.DATA, f.END) and header.length >= f.TAG_SIZE:
                self._sealed(header, data[start:stop])
            else:
                raise ProtocolError(f"a {f.Kind(header.kind).name} frame on a bulk connection")
            start = stop
        return start

    def take_bulk_output(self, budget: int) -> list[f.Buffer]:
        """Sealed frames to send now, about `budget` bytes, of the streams in turn."""
        out: list[f.Buffer] = []
        ready = self._bulk_ready
        while ready and budget > 0 and self.has_bulk_output:
            stream = ready.popleft()
            stream.bulk_queued = False
            if stream.seal is not None and stream.can_send:
                if stream.seal.used >= self.rekey_after:
                    self._urgent.append(self._offer(stream))
                else:
                    out.append(self._seal_some(stream, stream.seal))
                    budget -= len(out[-1])
            self._queue(stream)
        return out

    @property
    def has_bulk_output(self) -> bool:
        return bool(
            self._bulk_ready and self.bulk is BulkState.UP and self.state is LinkState.READY
        )

    @property
    def is_flushed(self) -> bool:
        """Also True only once the other ends have seen our ends: a GOODBYE over TLS would overtake them."""
        ending = any(
            s.seal is not None and s.ended and not s.end_acked for s in self.streams.values()
        )
        return super().is_flushed and not self.has_bulk_output and not ending

    def _welcome(self, answer: dict[str, Any], now: float) -> None:
        super()._welcome(answer, now)
        self.relay_pings = float(answer.get("ping_interval", 2.5))
        token = str(answer.get("bulk", ""))
        if token and self.bulk_from:
            self.token = bytes.fromhex(token)
            self.bulk = BulkState.NONE

    # Sending

    def _queue(self, stream: StreamEnd) -> None:
        if stream.seal is None:
            super()._queue(stream)
        elif not stream.bulk_queued and stream.can_send:
            stream.bulk_queued = True
            self._bulk_ready.append(stream)

    def _send_some(self, stream: StreamEnd, out: list[f.Buffer]) -> int:
        if stream.seal is not None:
            return 0  # it has got a key since it was queued
        if self._calls_for_bulk(stream):
            out.append(self._offer(stream))
            return len(out[-1])
        return super()._send_some(stream, out)

    def _calls_for_bulk(self, stream: StreamEnd) -> bool:
        """True if a stream should offer a key now; wants the bulk connection where there is none yet."""
        if (
            not self.bulk_from
            or self.bulk is BulkState.NEVER
            or stream.unsent_bytes < self.bulk_from
            or stream.bulk_refused
            or not stream.accepted
        ):
            return False
        if self.bulk is BulkState.NONE:
            self.bulk = BulkState.WANTED
        return self.bulk is BulkState.UP

    def _offer(self, stream: StreamEnd) -> bytes:
        """The frame that offers a key; the stream says nothing until it is answered."""
        key = self._new_key()
        stream.keys = stream.keys % 0xFFFF + 1
        stream.seal, stream.asking = None, Seal(key, stream.keys)
        return self._frame(f.KEY, stream, payload=key, offset=stream.next, code=stream.keys)

    def _seal_some(self, stream: StreamEnd, seal: Seal) -> bytearray:
        ids = stream.local_id, stream.peer_id, stream.number
        if stream.next == stream.written:
            stream.end_sent = True
            self._finish(stream)
            return seal.frame(f.END, stream.flags, ids, stream.written, b"")
        offset, parts, _ = stream.take(MAX_DATA)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return seal.frame(f.DATA, stream.flags, ids, offset, data)

    # Frames that come in

    def _credit(self, header: f.Header, payload: memoryview, stream: StreamEnd) -> None:
        if header.kind != f.KEY:
            super()._credit(header, payload, stream)
        elif header.flags & f.REPLY:
            self._offer_answered(header, bool(payload), stream)
        elif header.offset > stream.granted:
            self.reset(stream, f.Code.OVERRUN, "a key for what is beyond the credit")
        else:
            stream.offered = Seal(bytes(payload), header.code), header.offset
            self._offers.add(stream)
            if self.bulk is BulkState.NONE and self.bulk_from:
                self.bulk = BulkState.WANTED
            self._answer_offer(stream)

    def _offer_answered(self, header: f.Header, yes: bool, stream: StreamEnd) -> None:
        seal = stream.asking
        if seal is None or seal.number != header.code:
            return  # of before a cut
        stream.acknowledge(header.offset)
        stream.asking = None
        stream.seal = seal if yes else None
        stream.bulk_refused = not yes
        stream.tells_finish = True  # the relay does not count sealed ENDs
        self._queue(stream)

    def _answer_offers(self) -> None:
        for stream in list(self._offers):
            self._answer_offer(stream)

    def _answer_offer(self, stream: StreamEnd) -> None:
        """Take a stream's key once all that was sent over TLS has arrived, or turn it down."""
        if stream.offered is None:
            return
        seal, offset = stream.offered
        yes = self.bulk is BulkState.UP and not stream.distrusts
        if yes and stream.received < offset:
            return
        if self.bulk is BulkState.WANTED and not stream.distrusts:
            return
        self._offers.discard(stream)
        stream.offered = None
        stream.unseal = seal if yes else None
        stream.tells_finish = True
        answer = b"\1" if yes else b""
        self._urgent.append(
            self._frame(
                f.KEY, stream, payload=answer, offset=stream.received, flags=f.REPLY, code=seal.number
            )
        )  # fmt: skip

    def _arrived(self, stream: StreamEnd) -> None:
        super()._arrived(stream)
        self._answer_offer(stream)

    def _sealed(self, header: f.Header, frame: memoryview) -> None:
        stream = self.streams.get(
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
            self._stream_frame(header._replace(length=0), memoryview(b""))
        elif room is not None:
            stream.filled(size)
            self._arrived(stream)
        elif header.offset + size > stream.granted:
            self.reset(stream, f.Code.OVERRUN, "data beyond the credit")
        elif stream.deliver(header.offset, buffer, own=True):
            self._arrived(stream)
        else:
            self._distrust(stream)  # under one key frames come in order: one was taken out

    def _distrust(self, stream: StreamEnd) -> None:
        """Somebody on the way changes or takes sealed frames: have what is missing sent again, the rest over TLS."""
        self.bad_seals += 1
        stream.unseal = None
        stream.distrusts = True
        self._urgent.append(self._limit_frame(f.RESUME, stream))

    def _break(self, stream: StreamEnd, code: f.Code, why: str) -> None:
        self._offers.discard(stream)
        stream.offered = None
        super()._break(stream, code, why)

    def _finish(self, stream: StreamEnd) -> None:
        super()._finish(stream)
        if stream.is_finished:
            self._offers.discard(stream)
