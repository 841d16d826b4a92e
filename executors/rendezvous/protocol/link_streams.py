"""All the streams of one link as one of their ends sees them: frames of peers in, frames for peers out.

`LinkCore` adds the connection to the relay that carries them, `BulkWay` a second one for large amounts.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Protocol

from executors.rendezvous.errors import ProtocolError
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.line import Line
from executors.rendezvous.protocol.names import peer_id
from executors.rendezvous.protocol.stream_end import StreamEnd, stream_key
from executors.rendezvous.protocol.texts import shown

MAX_DATA = 128 * 1024
REMEMBERED = 1024  # streams that have finished last


class SecondWay(Protocol):
    """What streams need of a second way for large amounts."""

    def queue(self, stream: StreamEnd) -> None:
        """A stream that goes by it may have something to say."""

    def offer(self, stream: StreamEnd) -> bytes | None:
        """The frame with which a stream asks to go by it; None where it stays on TLS."""

    def key_frame(self, header: f.Header, payload: memoryview, stream: StreamEnd) -> None:
        """What the other end says of it."""

    def answer(self, stream: StreamEnd) -> None:
        """More has arrived on a stream whose other end has asked to go by it."""

    def forget(self, stream: StreamEnd) -> None:
        """A stream has ended."""


class LinkStreams:
    """The part of a link that has to do with its peers."""

    second: SecondWay

    def __init__(self, line: Line, *, window: int, first_stream: int) -> None:
        self.window = window
        self.ends: dict[int, StreamEnd] = {}
        self.readable: set[StreamEnd] = set()
        self.accepted: list[StreamEnd] = []
        self.opened: list[StreamEnd] = []
        self.broken: list[StreamEnd] = []
        self._line = line
        self._next_stream = first_stream
        self._ready: deque[StreamEnd] = deque()
        self._finished: OrderedDict[int, None] = OrderedDict()
        # received or consumed since the last acknowledgement
        self._touched: set[StreamEnd] = set()

    # From our side

    def open(self, target: str, patience: float, now: float) -> StreamEnd:
        """A stream to the peer `target`, which may take `patience` seconds to register."""
        number = self._next_stream
        self._next_stream += 1
        stream = StreamEnd(
            number, self._line.local_id, peer_id(target), target, self.window, opened_here=True
        )
        stream.target = target
        stream.patience = patience
        self.ends[stream.key] = stream
        if self._line.is_ready:
            self._send_open(stream)
        else:
            stream.stalled_since = now
        return stream

    def write(self, stream: StreamEnd, buffers: list[memoryview]) -> None:
        """Queue bytes on a stream."""
        stream.write(buffers)
        self.queue(stream)

    def end(self, stream: StreamEnd) -> None:
        """Nothing more will be written; what was written still goes out."""
        if not stream.ended:
            stream.ended = True
            self.queue(stream)

    def consumed(self, stream: StreamEnd) -> None:
        """The reader has taken bytes from the inbox: grant credit when there is enough of it."""
        if stream.wants_window:
            if self._line.is_ready and stream.error is None:
                self._send_window(stream)
        else:
            self._touched.add(stream)

    def reset(self, stream: StreamEnd, code: f.Code, why: str) -> None:
        """End a stream at once, and tell the other end."""
        if stream.error is None:
            if self._line.is_ready:
                self._send_reset(
                    stream.local_id, stream.peer_id, stream.number, stream.flags, code, why
                )
            self.break_off(stream, code, why)

    def accept(self, stream: StreamEnd) -> None:
        """Take a stream that a peer has opened."""
        stream.granted = max(stream.granted, stream.consumed + stream.window)
        self._line.urgent.append(self._limit_frame(f.ACCEPT, stream, code=self._line.rank))

    # Frames that come in

    def take_frame(self, header: f.Header, payload: memoryview) -> None:
        """Whatever a peer says but data. Raises ProtocolError, or what unpacking raises, for nonsense."""
        kind, number = header.kind, header.stream
        stream = self.ends.get(stream_key(number, opened_here=not header.flags & f.OPENER))
        if stream is not None and stream.peer_id != header.source:
            return  # a peer makes mischief on a stream of others; the relay would refuse him if it knew the stream
        if kind == f.OPEN:
            self._opened(header, payload, stream)
        elif stream is None:
            if kind not in (f.RESET, f.WINDOW, f.END):
                self._answer_unknown(header)
        elif kind == f.RESET:
            self._was_reset(header, payload, stream)
        elif kind == f.END:
            if header.offset == stream.received:
                stream.end_received = True
                self.readable.add(stream)
                self._send_window(stream)  # who closes its link waits for this
                self.finish(stream)
        elif kind == f.KEY:
            self.second.key_frame(header, payload, stream)
        else:
            self._credit(header, payload, stream)

    def _was_reset(self, header: f.Header, payload: memoryview, stream: StreamEnd) -> None:
        try:
            code = f.Code(header.code)
        except ValueError:
            code = f.Code.ABORTED
        if code == f.Code.FINISHED and stream.ended and stream.end_received:
            stream.acknowledge(stream.written + 1)
            self.finish(stream)
            return
        if code == f.Code.UNKNOWN_STREAM and header.offset != f.RESUME:
            # a relay forgets a stream once both ends have passed it: ask the other end, which knows
            if not stream.doubted:
                stream.doubted = True
                stream.stalled_since = self._line.heard
                self.ask(stream)
            return
        self.break_off(stream, code, shown(bytes(payload).decode("utf-8", "replace")))

    def _credit(self, header: f.Header, payload: memoryview, stream: StreamEnd) -> None:
        kind = header.kind
        if len(payload) != f.LIMIT.size:
            raise ProtocolError("a window frame of a wrong size")
        (limit,) = f.LIMIT.unpack(payload)
        if kind == f.RESUME:
            stream.tells_finish = True
            stream.rewind(header.offset)
            stream.stalled_since = None
            stream.doubted = False
            if not header.flags & f.REPLY:
                self._line.urgent.append(self._limit_frame(f.RESUME, stream, flags=f.REPLY))
        else:
            stream.acknowledge(header.offset)
        if kind == f.ACCEPT:
            stream.peer_rank = header.code
        if kind != f.WINDOW and not stream.accepted:
            stream.accepted = True
            self.accepted.append(stream)
        if limit > stream.send_limit:
            stream.send_limit = limit
        self.queue(stream)
        self.finish(stream)

    def _opened(self, header: f.Header, payload: memoryview, stream: StreamEnd | None) -> None:
        if stream is not None:  # the opener was cut off before it saw our answer
            stream.rewind(0 if not stream.acked else stream.acked)
            self._line.urgent.append(self._limit_frame(f.ACCEPT, stream, code=self._line.rank))
            self.queue(stream)
            return
        request = f.parse_json(payload)
        peer, target = str(request.get("from", "")), str(request.get("to", ""))
        if header.destination not in self._line.ids or peer_id(peer) != header.source:
            raise ProtocolError("an OPEN for somebody else")
        stream = StreamEnd(
            header.stream, header.destination, header.source, peer, self.window, opened_here=False
        )
        stream.target = target
        stream.peer_rank = header.code
        stream.send_limit = header.offset
        self.ends[stream.key] = stream
        self.opened.append(stream)

    def take_data(self, header: f.Header, payload: memoryview) -> None:
        """A DATA frame."""
        flags = header.flags & f.OPENER
        stream = self.ends.get(~header.stream if flags else header.stream)
        if stream is None:
            self._answer_unknown(header)
            return
        if stream.peer_id != header.source:
            return
        if header.offset + header.length > stream.granted:
            self.reset(stream, f.Code.OVERRUN, "data beyond the credit")
        elif stream.deliver(header.offset, payload):
            self.arrived(stream)

    def arrived(self, stream: StreamEnd) -> None:
        """Data has come in on a stream: wake its reader, and acknowledge when there is enough of it."""
        self.readable.add(stream)
        if stream.wants_window:
            self._send_window(stream)
        else:
            self._touched.add(stream)
        if stream.offered is not None:
            self.second.answer(stream)

    # Frames that go out

    @property
    def has_output(self) -> bool:
        return bool(self._ready and self._line.is_ready)

    def take_output(self, budget: int, out: list[f.Buffer]) -> None:
        """Append about `budget` bytes to `out`, of the streams in turn."""
        ready = self._ready
        while ready and budget > 0:
            stream = ready.popleft()
            stream.queued = False
            if stream.can_send:
                budget -= self._send_some(stream, out)
                self.queue(stream)

    def acknowledge(self) -> None:
        """Grant the credit that is due, on streams on which something was received or consumed."""
        for stream in self._touched:
            if stream.error is None and (
                stream.received > stream.acked_received
                or stream.consumed + stream.window > stream.granted
            ):
                self._send_window(stream)
        self._touched.clear()

    def resume(self, stream: StreamEnd, now: float) -> None:
        """Go on after a cut: open it again, or ask the other end what it has."""
        if stream.opened_here and not stream.accepted:
            stream.rewind(stream.acked)
            stream.stalled_since = None
            self._send_open(stream)
            self.queue(stream)
        else:
            stream.stalled_since = stream.stalled_since or now
            self.ask(stream)

    def ask(self, stream: StreamEnd) -> None:
        """Tell the other end what we have, and ask what it has."""
        self._line.urgent.append(self._limit_frame(f.RESUME, stream))

    def queue(self, stream: StreamEnd) -> None:
        """It sends in its turn, if it can."""
        if stream.seal is not None:
            self.second.queue(stream)
        elif not stream.queued and stream.can_send:
            stream.queued = True
            self._ready.append(stream)

    def _send_some(self, stream: StreamEnd, out: list[f.Buffer]) -> int:
        """Append one frame of a stream to `out`; returns its size."""
        if stream.seal is not None:
            return 0  # it has got a key since it was queued
        offer = self.second.offer(stream)
        if offer is not None:
            out.append(offer)
            return len(offer)
        if stream.next == stream.written:
            out.append(self.frame(f.END, stream, offset=stream.written))
            stream.end_sent = True
            self.finish(stream)
            return f.HEADER_SIZE
        offset, parts, size = stream.take(MAX_DATA)
        head = f.HEADER.pack(
            size, f.DATA, stream.flags, 0, stream.local_id, stream.peer_id, stream.number, offset
        )
        if size <= 16384 or len(parts) > 8:
            out.append(b"".join((head, *parts)))
        else:
            out.append(head)
            out.extend(parts)
        return f.HEADER_SIZE + size

    def _send_open(self, stream: StreamEnd) -> None:
        request = {
            "from": self._line.ids[stream.local_id],
            "to": stream.target,
            "patience": stream.patience,
        }
        self._line.urgent.append(
            f.serialize_json(
                f.OPEN, request, source=stream.local_id, destination=stream.peer_id, stream=stream.number,
                offset=stream.granted, flags=f.OPENER, code=self._line.rank,
            )
        )  # fmt: skip

    def _send_window(self, stream: StreamEnd) -> None:
        if stream.stalled_since is not None:
            return  # the relay may not know the stream yet, and resuming says all this
        self._line.urgent.append(self._limit_frame(f.WINDOW, stream))

    def _limit_frame(self, kind: int, stream: StreamEnd, *, flags: int = 0, code: int = 0) -> bytes:
        stream.tells_finish = stream.tells_finish or kind == f.RESUME
        stream.acked_received = stream.received
        stream.granted = max(stream.granted, stream.consumed + stream.window)
        limit = f.LIMIT.pack(stream.granted)
        offset = stream.received + stream.end_received
        return self.frame(kind, stream, payload=limit, offset=offset, flags=flags, code=code)

    def frame(
        self,
        kind: int,
        stream: StreamEnd,
        *,
        payload: bytes = b"",
        offset: int = 0,
        flags: int = 0,
        code: int = 0,
    ) -> bytes:
        """A frame of that stream, to its other end."""
        return f.serialize_frame(
            kind, payload, source=stream.local_id, destination=stream.peer_id, stream=stream.number,
            offset=offset, flags=flags | stream.flags, code=code,
        )  # fmt: skip

    def _answer_unknown(self, header: f.Header) -> None:
        key = stream_key(header.stream, opened_here=not header.flags & f.OPENER)
        code = f.Code.FINISHED if key in self._finished else f.Code.UNKNOWN_STREAM
        flags = ~header.flags & f.OPENER
        self._send_reset(
            header.destination, header.source, header.stream, flags, code, "", header.kind
        )  # fmt: skip

    def _send_reset(
        self, source: int, destination: int, number: int, flags: int, code: f.Code, why: str, kind: int = 0
    ) -> None:  # fmt: skip
        self._line.urgent.append(
            f.serialize_frame(
                f.RESET, why.encode()[:1000], source=source, destination=destination, stream=number,
                flags=flags, code=code, offset=kind,
            )
        )  # fmt: skip

    def break_off(self, stream: StreamEnd, code: f.Code, why: str) -> None:
        """End a stream here, without a word to the other end."""
        if stream.error is None:
            self.second.forget(stream)
            stream.error = (code, why)
            stream.unsent.clear()
            stream.unacked.clear()
            self.ends.pop(stream.key, None)
            self._touched.discard(stream)
            self.broken.append(stream)

    def finish(self, stream: StreamEnd) -> None:
        """Forget a stream if both ends know that all is said."""
        if stream.is_finished and self.ends.pop(stream.key, None) is not None:
            self.second.forget(stream)
            self._touched.discard(stream)
            self._finished[stream.key] = None
            if stream.tells_finish and self._line.is_ready:
                # the relay may have learnt of the stream again, and would wait for ends that have passed already
                self._send_reset(
                    stream.local_id,
                    stream.peer_id,
                    stream.number,
                    stream.flags,
                    f.Code.FINISHED,
                    "",
                )
            if len(self._finished) > REMEMBERED:
                self._finished.popitem(last=False)
