"""A link to a relay as a value: streams with credits that outlive the connection; no socket, no clock.

The adapter tells it of connections (`connected`, `lost`), bytes (`receive`) and time (`tick`), sends what
`take_output` gives, and looks after each call at `readable`, `opened`, `accepted` and `broken` for streams on which
something has happened. Times are seconds of a clock that never goes back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any

from executors.rendezvous import frames as f
from executors.rendezvous.errors import NameTaken, ProtocolError, Refused
from executors.rendezvous.link_stream import LinkStream, stream_key
from executors.rendezvous.names import peer_id

MAX_DATA = 128 * 1024


class LinkState(Enum):
    """Where a link stands with its relay."""

    IDLE = "idle"
    GREETING = "greeting"  # connected, the hello is out
    READY = "ready"
    LOST = "lost"  # to be connected again
    REFUSED = "refused"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Notice:
    """What the relay tells a controller: `event` is registered, gone or refused."""

    event: str
    name: str
    why: str = ""
    session: str = ""


class LinkCore:
    """All state of one link."""

    def __init__(
        self, name: str, session: str, *, window: int, first_stream: int, listens: bool = True
    ) -> None:
        self.name = name
        self.session = session
        self.window = window
        self.listens = listens
        self.epoch = 0
        self.state = LinkState.IDLE
        self.local_id = peer_id(name)
        self.ids: dict[int, str] = {self.local_id: name}
        self.streams: dict[int, LinkStream] = {}
        self.refusal: Refused | None = None
        self.ping_interval = 2.5
        self.heard = self.said = 0.0
        self.readable: set[LinkStream] = set()
        self.accepted: list[LinkStream] = []
        self.opened: list[LinkStream] = []
        self.broken: list[LinkStream] = []
        self.notices: list[Notice] = []
        self.registered: list[tuple[str, f.Code, str]] = []
        self._next_stream = first_stream
        self._reader = f.FrameReader()
        self._urgent: deque[f.Buffer] = deque()
        self._ready: deque[LinkStream] = deque()
        self._touched: set[LinkStream] = (
            set()
        )  # received or consumed since the last acknowledgement

    # The connection

    def connected(self, now: float) -> None:
        """A new connection: the hello goes first, with an epoch never used before."""
        self.epoch += 1
        self.state = LinkState.GREETING
        self._reader = f.FrameReader()
        self._urgent.clear()
        self.heard = self.said = now
        hello = {
            "versions": [f.VERSION],
            "name": self.name,
            "session": self.session,
            "epoch": self.epoch,
            "listens": self.listens,
        }
        self._urgent.append(f.serialize_json(f.HELLO, hello, source=self.local_id))

    def lost(self, now: float) -> None:
        """The connection has ended; all streams stall until the next."""
        if self.state in (LinkState.GREETING, LinkState.READY):
            self.state = LinkState.LOST
        self._urgent.clear()
        for stream in self.streams.values():
            if stream.stalled_since is None:
                stream.stalled_since = now

    def close(self, code: f.Code, why: str) -> None:
        """No connection will follow: all streams break."""
        if self.state is not LinkState.REFUSED:
            self.state = LinkState.CLOSED
        for stream in list(self.streams.values()):
            self._break(stream, code, why)

    def goodbye(self) -> None:
        """Tell the relay that we leave for good."""
        self._urgent.append(f.serialize_frame(f.GOODBYE))

    def receive(self, data: f.Buffer, now: float) -> None:
        """Bytes from the relay; raises ProtocolError for nonsense."""
        self.heard = now
        for header, payload in self._reader.feed(data):
            kind = header.kind
            if kind == f.DATA:
                self._data(header, payload)
            elif kind >= f.OPEN:
                self._stream_frame(header, payload)
            else:
                self._control(header, payload, now)

    def tick(self, now: float, resume_timeout: float) -> None:
        """Let time pass: acknowledgements, a ping, and streams whose other end did not come back."""
        if self.state is LinkState.READY:
            for stream in self._touched:
                if stream.error is None and (
                    stream.received > stream.acked_received
                    or stream.consumed + stream.window > stream.granted
                ):
                    self._send_window(stream)
            self._touched.clear()
            if now - self.said >= self.ping_interval:
                self._urgent.append(f.serialize_frame(f.PING))
        for stream in list(self.streams.values()):
            since = stream.stalled_since
            if since is not None and now - since >= resume_timeout:
                self.reset(stream, f.Code.TIMEOUT, f"no sign of {stream.peer} after a cut")

    @property
    def has_output(self) -> bool:
        return bool(self._urgent or (self._ready and self.state is LinkState.READY))

    @property
    def is_flushed(self) -> bool:
        """True if nothing waits to be sent, and all that was sent on streams has arrived at their other ends."""
        return not self.has_output and all(s.acked == s.written for s in self.streams.values())

    def take_output(self, budget: int, now: float) -> list[f.Buffer]:
        """Buffers to send now, about `budget` bytes: control frames first, then the streams in turn."""
        out: list[f.Buffer] = []
        urgent = self._urgent
        while urgent and budget > 0:
            frame = urgent.popleft()
            budget -= len(frame)
            out.append(frame)
        if self.state is LinkState.READY:
            ready = self._ready
            while ready and budget > 0:
                stream = ready.popleft()
                stream.queued = False
                if stream.can_send:
                    budget -= self._send_some(stream, out)
                    self._queue(stream)
        if out:
            self.said = now
        return out

    # Streams, from our side

    def open(self, target: str, patience: float, now: float, *, early: bytes = b"") -> LinkStream:
        """A stream to the peer `target`, which may take `patience` seconds to register."""
        number = self._next_stream
        self._next_stream += 1
        stream = LinkStream(
            number, self.local_id, peer_id(target), target, self.window, opened_here=True
        )
        stream.target = target
        stream.patience = patience
        self.streams[stream.key] = stream
        if self.state is LinkState.READY:
            self._send_open(stream)
        else:
            stream.stalled_since = now
        return stream

    def write(self, stream: LinkStream, buffers: list[memoryview]) -> None:
        """Queue bytes on a stream."""
        stream.write(buffers)
        self._queue(stream)

    def end(self, stream: LinkStream) -> None:
        """Nothing more will be written; what was written still goes out."""
        if not stream.ended:
            stream.ended = True
            self._queue(stream)

    def consumed(self, stream: LinkStream) -> None:
        """The reader has taken bytes from the inbox: grant credit when there is enough of it."""
        if stream.wants_window:
            if self.state is LinkState.READY and stream.error is None:
                self._send_window(stream)
        else:
            self._touched.add(stream)

    def reset(self, stream: LinkStream, code: f.Code, why: str) -> None:
        """End a stream at once, and tell the other end."""
        if stream.error is None:
            if self.state is LinkState.READY:
                self._send_reset(
                    stream.local_id, stream.peer_id, stream.number, stream.flags, code, why
                )
            self._break(stream, code, why)

    def accept(self, stream: LinkStream) -> None:
        """Take a stream that a peer has opened."""
        stream.granted = max(stream.granted, stream.consumed + stream.window)
        self._urgent.append(self._limit_frame(f.ACCEPT, stream))

    def register(self, name: str) -> None:
        """Ask for a further name; the answer comes in `registered`."""
        self.ids[peer_id(name)] = name
        if self.state is LinkState.READY:
            self._urgent.append(f.serialize_json(f.REGISTER, {"name": name}, source=self.local_id))

    # Frames that come in

    def _control(self, header: f.Header, payload: memoryview, now: float) -> None:
        kind = header.kind
        if kind == f.PING:
            pass  # it was heard, and our own pings answer
        elif kind == f.WELCOME:
            self._welcome(f.parse_json(payload), now)
        elif kind == f.REFUSED:
            answer = f.parse_json(payload)
            code, why = f.Code(int(answer.get("code", 0))), str(answer.get("why", ""))
            self.state = LinkState.REFUSED
            self.refusal = (NameTaken if code == f.Code.NAME_TAKEN else Refused)(
                f"the relay refuses {self.name}: {why}"
            )
        elif kind == f.REGISTERED:
            answer = f.parse_json(payload)
            code = f.Code(int(answer.get("code", 0)))
            self.registered.append((str(answer.get("name", "")), code, str(answer.get("why", ""))))
            if code:
                self.ids.pop(peer_id(str(answer.get("name", ""))), None)
        elif kind == f.GONE:
            answer = f.parse_json(payload)
            for stream in [s for s in self.streams.values() if s.peer_id == header.source]:
                self._break(
                    stream, f.Code.PEER_GONE, f"{stream.peer} has gone ({answer.get('why', '')})"
                )
        elif kind == f.NOTICE:
            answer = f.parse_json(payload)
            self.notices.append(
                Notice(*(str(answer.get(key, "")) for key in ("event", "name", "why", "session")))
            )
        elif kind != f.PONG:
            raise ProtocolError(f"a {f.Kind(kind).name} frame from a relay")

    def _welcome(self, answer: dict[str, Any], now: float) -> None:
        if self.state is not LinkState.GREETING or answer.get("version") != f.VERSION:
            raise ProtocolError("a WELCOME that answers no hello of ours")
        self.state = LinkState.READY
        self.ping_interval = min(
            self.ping_interval, max(0.01, float(answer.get("ping_interval", 2.5)))
        )
        for name in list(self.ids.values()):
            if name != self.name:
                self.register(name)
        for stream in list(self.streams.values()):
            if stream.opened_here and not stream.accepted:
                stream.rewind(stream.acked)
                stream.stalled_since = None
                self._send_open(stream)
                self._queue(stream)
            else:
                stream.stalled_since = stream.stalled_since or now
                self._urgent.append(self._limit_frame(f.RESUME, stream))

    def _stream_frame(self, header: f.Header, payload: memoryview) -> None:
        kind, number = header.kind, header.stream
        stream = self.streams.get(stream_key(number, opened_here=not header.flags & f.OPENER))
        if stream is not None and stream.peer_id != header.source:
            raise ProtocolError("a frame on a stream of others")
        if kind == f.OPEN:
            self._opened(header, payload, stream)
        elif stream is None:
            if kind not in (f.RESET, f.WINDOW, f.END):
                self._answer_unknown(header)
        elif kind == f.RESET:
            why = bytes(payload).decode("utf-8", "replace")
            try:
                code = f.Code(header.code)
            except ValueError:
                code = f.Code.ABORTED
            self._break(stream, code, why)
        elif kind == f.END:
            if header.offset == stream.received:
                stream.end_received = True
                self.readable.add(stream)
                self._send_window(stream)  # who closes its link waits for this
                self._finish(stream)
        else:
            self._credit(header, payload, stream)

    def _credit(self, header: f.Header, payload: memoryview, stream: LinkStream) -> None:
        kind = header.kind
        if len(payload) != f.LIMIT.size:
            raise ProtocolError("a window frame of a wrong size")
        (limit,) = f.LIMIT.unpack(payload)
        if kind == f.RESUME:
            stream.rewind(header.offset)
            stream.stalled_since = None
            if not header.flags & f.REPLY:
                self._urgent.append(self._limit_frame(f.RESUME, stream, flags=f.REPLY))
        else:
            stream.acknowledge(header.offset)
        if kind != f.WINDOW and not stream.accepted:
            stream.accepted = True
            self.accepted.append(stream)
        if limit > stream.send_limit:
            stream.send_limit = limit
        self._queue(stream)

    def _opened(self, header: f.Header, payload: memoryview, stream: LinkStream | None) -> None:
        if stream is not None:  # the opener was cut off before it saw our answer
            stream.rewind(0 if not stream.acked else stream.acked)
            self._urgent.append(self._limit_frame(f.ACCEPT, stream))
            self._queue(stream)
            return
        request = f.parse_json(payload)
        peer, target = str(request.get("from", "")), str(request.get("to", ""))
        if header.destination not in self.ids or peer_id(peer) != header.source:
            raise ProtocolError("an OPEN for somebody else")
        stream = LinkStream(
            header.stream, header.destination, header.source, peer, self.window, opened_here=False
        )
        stream.target = target
        stream.send_limit = header.offset
        self.streams[stream.key] = stream
        self.opened.append(stream)

    def _data(self, header: f.Header, payload: memoryview) -> None:
        flags = header.flags & f.OPENER
        stream = self.streams.get(~header.stream if flags else header.stream)
        if stream is None:
            self._answer_unknown(header)
            return
        if stream.peer_id != header.source:
            raise ProtocolError("data on a stream of others")
        if header.offset + header.length > stream.granted:
            self.reset(stream, f.Code.OVERRUN, "data beyond the credit")
        elif stream.deliver(header.offset, payload):
            self.readable.add(stream)
            if stream.wants_window:
                self._send_window(stream)
            else:
                self._touched.add(stream)

    # Frames that go out

    def _queue(self, stream: LinkStream) -> None:
        if not stream.queued and stream.can_send:
            stream.queued = True
            self._ready.append(stream)

    def _send_some(self, stream: LinkStream, out: list[f.Buffer]) -> int:
        """Append one frame of a stream to `out`; returns its size."""
        if stream.next == stream.written:
            out.append(self._frame(f.END, stream, offset=stream.written))
            stream.end_sent = True
            self._finish(stream)
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

    def _send_open(self, stream: LinkStream) -> None:
        request = {
            "from": self.ids[stream.local_id],
            "to": stream.target,
            "patience": stream.patience,
        }
        self._urgent.append(
            f.serialize_json(
                f.OPEN, request, source=stream.local_id, destination=stream.peer_id, stream=stream.number,
                offset=stream.granted, flags=f.OPENER,
            )
        )  # fmt: skip

    def _send_window(self, stream: LinkStream) -> None:
        if stream.stalled_since is not None:
            return  # the relay may not know the stream yet, and resuming says all this
        self._urgent.append(self._limit_frame(f.WINDOW, stream))

    def _limit_frame(self, kind: int, stream: LinkStream, *, flags: int = 0) -> bytes:
        stream.acked_received = stream.received
        stream.granted = max(stream.granted, stream.consumed + stream.window)
        limit = f.LIMIT.pack(stream.granted)
        return self._frame(kind, stream, payload=limit, offset=stream.received, flags=flags)

    def _frame(
        self,
        kind: int,
        stream: LinkStream,
        *,
        payload: bytes = b"",
        offset: int = 0,
        flags: int = 0,
    ) -> bytes:
        return f.serialize_frame(
            kind, payload, source=stream.local_id, destination=stream.peer_id, stream=stream.number,
            offset=offset, flags=flags | stream.flags,
        )  # fmt: skip

    def _answer_unknown(self, header: f.Header) -> None:
        flags = ~header.flags & f.OPENER
        self._send_reset(
            header.destination, header.source, header.stream, flags, f.Code.UNKNOWN_STREAM, ""
        )

    def _send_reset(
        self, source: int, destination: int, number: int, flags: int, code: f.Code, why: str
    ) -> None:
        self._urgent.append(
            f.serialize_frame(
                f.RESET, why.encode()[:1000], source=source, destination=destination, stream=number,
                flags=flags, code=code,
            )
        )  # fmt: skip

    def _break(self, stream: LinkStream, code: f.Code, why: str) -> None:
        if stream.error is None:
            stream.error = (code, why)
            stream.unsent.clear()
            stream.unacked.clear()
            self.streams.pop(stream.key, None)
            self._touched.discard(stream)
            self.broken.append(stream)

    def _finish(self, stream: LinkStream) -> None:
        if stream.is_finished:
            self.streams.pop(stream.key, None)
            self._touched.discard(stream)
