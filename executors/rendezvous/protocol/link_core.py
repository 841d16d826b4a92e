"""A link to a relay as a value: streams with credits that outlive the connection; no socket, no clock.

The adapter tells it of connections (`connected`, `lost`), bytes (`receive`) and time (`tick`), sends what
`take_output` gives, and looks after each call at `readable`, `opened`, `accepted` and `broken` for streams on which
something has happened. Times are seconds of a clock that never goes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from executors.rendezvous.errors import NameTaken, ProtocolError, Refused
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.bulk_way import BulkWay
from executors.rendezvous.protocol.line import Line, LinkState
from executors.rendezvous.protocol.link_streams import LinkStreams
from executors.rendezvous.protocol.names import peer_id
from executors.rendezvous.protocol.stream_end import StreamEnd

QUESTIONS = 2  # after which a stream may be given up


@dataclass(frozen=True, slots=True)
class Notice:
    """What the relay tells a controller: `event` is registered, gone or refused."""

    event: str
    name: str
    why: str = ""
    session: str = ""


class LinkCore:
    """All state of one link: its line to the relay, the streams on it, and the bulk connection beside it."""

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
        self.name = name
        self.session = session
        self.listens = listens
        self.line = Line(name, rank)
        self.streams = LinkStreams(self.line, window=window, first_stream=first_stream)
        self.bulk = BulkWay(self.line, self.streams, new_key=new_key, least=bulk_from)
        self.streams.second = self.bulk
        self.epoch = 0
        self.refusal: Refused | None = None
        self.ping_interval = 2.5
        self.said = 0.0
        self.notices: list[Notice] = []
        self.registered: list[tuple[str, f.Code, str]] = []
        self._reader = f.FrameReader()

    # The connection

    def connected(self, now: float) -> None:
        """A new connection: the hello goes first, with an epoch never used before."""
        self.epoch += 1
        self.line.state = LinkState.GREETING
        self._reader = f.FrameReader()
        self.line.urgent.clear()
        self.line.heard = self.said = now
        hello = {
            "versions": [f.VERSION],
            "name": self.name,
            "session": self.session,
            "epoch": self.epoch,
            "listens": self.listens,
        }
        self.line.urgent.append(f.serialize_json(f.HELLO, hello, source=self.line.local_id))

    def lost(self, now: float) -> None:
        """The connection has ended; all streams stall until the next."""
        if self.line.state in (LinkState.GREETING, LinkState.READY):
            self.line.state = LinkState.LOST
        self.line.urgent.clear()
        for stream in self.streams.ends.values():
            if stream.stalled_since is None:
                stream.stalled_since = now
        self.bulk.lost()

    def close(self, code: f.Code, why: str) -> None:
        """No connection will follow: all streams break."""
        if self.line.state is not LinkState.REFUSED:
            self.line.state = LinkState.CLOSED
        self.bulk.close()
        for stream in list(self.streams.ends.values()):
            self.streams.break_off(stream, code, why)

    def goodbye(self) -> None:
        """Tell the relay that we leave for good."""
        self.line.urgent.append(f.serialize_frame(f.GOODBYE))

    def receive(self, data: f.Buffer, now: float) -> None:
        """Bytes from the relay; raises ProtocolError for nonsense."""
        self.line.heard = now
        try:
            for header, payload in self._reader.feed(data):
                kind = header.kind
                if kind == f.DATA:
                    self.streams.take_data(header, payload)
                elif kind >= f.OPEN:
                    self.streams.take_frame(header, payload)
                else:
                    self._control(header, payload, now)
        except (ValueError, TypeError, OverflowError) as error:
            raise ProtocolError(f"nonsense in a frame: {error}") from error

    def tick(self, now: float, resume_timeout: float) -> None:
        """Let time pass: acknowledgements, a ping, and streams whose other end did not come back."""
        if self.line.is_ready:
            self.streams.acknowledge()
            for stream in list(self.streams.ends.values()):
                self._ask_again(stream, now, resume_timeout)
            if now - self.said >= self.ping_interval:
                self.line.urgent.append(f.serialize_frame(f.PING))
        for stream in list(self.streams.ends.values()):
            since = stream.stalled_since
            if since is not None and now - since >= resume_timeout:
                self.streams.reset(stream, f.Code.TIMEOUT, f"no sign of {stream.peer} after a cut")

    def _ask_again(self, stream: StreamEnd, now: float, resume_timeout: float) -> None:
        """Ask on a stream of which the other end should have said something: it may have been swallowed.

        A relay drops a RESUME for an end that is not back yet, an end that has finished the stream sends none itself, and
        sealed data can be lost without a cut if somebody on the way wants that.
        """
        waited, due = stream.waited(now), stream.answer_due
        if due is None or now - stream.asked < due:
            return
        if waited >= resume_timeout and stream.asks >= QUESTIONS:
            self._give_up(stream)
            return
        stream.bulk_refused = stream.bulk_refused or stream.asks > 0
        stream.asked = now
        stream.asks += 1
        self.streams.ask(stream)

    def _give_up(self, stream: StreamEnd) -> None:
        """The other end answers nothing, though its link lives."""
        if stream.end_received and stream.acked == stream.written:
            stream.acknowledge(stream.written + 1)  # all was said: it has gone without a last word
            stream.tells_finish = False
            self.streams.finish(stream)
        else:
            self.streams.reset(stream, f.Code.TIMEOUT, f"no answer from {stream.peer}")

    @property
    def has_output(self) -> bool:
        return bool(self.line.urgent) or self.streams.has_output

    @property
    def is_flushed(self) -> bool:
        """True if nothing waits to be sent, and all that was sent on streams has arrived at their other ends."""
        arrived = all(end.acked == end.written for end in self.streams.ends.values())
        return arrived and not self.has_output and self.bulk.is_flushed

    def take_output(self, budget: int, now: float) -> list[f.Buffer]:
        """Buffers to send now, about `budget` bytes: control frames first, then the streams in turn."""
        out: list[f.Buffer] = []
        urgent = self.line.urgent
        while urgent and budget > 0:
            frame = urgent.popleft()
            budget -= len(frame)
            out.append(frame)
        if self.line.is_ready:
            self.streams.take_output(budget, out)
        if out:
            self.said = now
        return out

    def register(self, name: str) -> None:
        """Ask for a further name; the answer comes in `registered`."""
        self.line.ids[peer_id(name)] = name
        if self.line.is_ready:
            self.line.urgent.append(
                f.serialize_json(f.REGISTER, {"name": name}, source=self.line.local_id)
            )

    # What the relay says

    def _control(self, header: f.Header, payload: memoryview, now: float) -> None:
        kind = header.kind
        if kind == f.PING:
            pass  # it was heard, and our own pings answer
        elif kind == f.WELCOME:
            self._welcome(f.parse_json(payload), now)
        elif kind == f.REFUSED:
            answer = f.parse_json(payload)
            code, why = f.Code(int(answer.get("code", 0))), str(answer.get("why", ""))
            self.line.state = LinkState.REFUSED
            self.refusal = (NameTaken if code == f.Code.NAME_TAKEN else Refused)(
                f"the relay refuses {self.name}: {why}"
            )
        elif kind == f.REGISTERED:
            answer = f.parse_json(payload)
            code = f.Code(int(answer.get("code", 0)))
            self.registered.append((str(answer.get("name", "")), code, str(answer.get("why", ""))))
            if code:
                self.line.ids.pop(peer_id(str(answer.get("name", ""))), None)
        elif kind == f.GONE:
            answer = f.parse_json(payload)
            for stream in [s for s in self.streams.ends.values() if s.peer_id == header.source]:
                self.streams.break_off(
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
        if self.line.state is not LinkState.GREETING or answer.get("version") != f.VERSION:
            raise ProtocolError("a WELCOME that answers no hello of ours")
        self.line.state = LinkState.READY
        self.ping_interval = min(
            self.ping_interval, max(0.01, float(answer.get("ping_interval", 2.5)))
        )
        for name in list(self.line.ids.values()):
            if name != self.name:
                self.register(name)
        for stream in list(self.streams.ends.values()):
            self.streams.resume(stream, now)
        self.bulk.welcome(str(answer.get("bulk", "")), float(answer.get("ping_interval", 2.5)))
