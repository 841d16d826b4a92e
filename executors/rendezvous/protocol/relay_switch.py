"""Frames between registered peers: streams, credit, queues, and what is stored for those who are not there yet."""

from __future__ import annotations

from collections import OrderedDict

from executors.rendezvous.errors import ProtocolError
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.fair_queue import Budget, cost
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.protocol.names import peer_id
from executors.rendezvous.protocol.relay_records import Connection, Peer, RelayedStream, Stats

COPY_BELOW = 64 * 1024
COPY_FROM = 16 << 20  # bytes that wait in all, from which on no view of a larger buffer is kept


def _sender(flags: int) -> int:
    """Which end has sent a frame, as a bit: 1 the opener, 2 the acceptor."""
    return 1 if flags & f.OPENER else 2


class RelaySwitch:
    """The half of a relay that moves frames; `RelayCore` decides who takes part."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.peers: dict[int, Peer] = {}  # by every id they have registered
        self.gone: OrderedDict[int, tuple[str, str, float]] = OrderedDict()
        self.streams: dict[int, RelayedStream] = {}
        self.held: dict[int, dict[int, RelayedStream]] = {}  # destination id -> its waiting streams
        self.held_bytes = 0
        self.budget = Budget()  # of all that waits for somebody who is there
        self.dirty: set[Connection] = set()
        self.flow_changed: set[Connection] = set()
        self.stats = Stats()

    def take_output(self, connection: Connection, budget: int, now: float) -> list[f.Buffer]:
        """Frames to send now, of about `budget` bytes; empty when nothing waits."""
        left: list[tuple[int, Peer]] = []
        frames = connection.out.pop(budget, left)
        if left:
            self._release(left)
        if frames:
            connection.said = now
        return frames

    def _data(
        self,
        peer: Peer,
        frame: f.Buffer,
        flags: int,
        source: int,
        destination: int,
        number: int,
        end: int,
    ) -> None:
        stream = self.streams.get(number)
        if stream is None:
            self._send_reset(peer, flags, source, destination, number, f.Code.UNKNOWN_STREAM)
            return
        other = stream.other(peer, flags, source, destination)
        if end > (stream.opener_limit if flags & f.OPENER else stream.acceptor_limit):
            # its receiver has not said yet how far it may go: let it ask
            if stream.unsaid & _sender(flags):
                self._send_reset(peer, flags, source, destination, number, f.Code.UNKNOWN_STREAM)
            else:
                self._reset(number, stream, f.Code.OVERRUN, "data beyond the credit")
            return
        stats = self.stats
        stats.frames += 1
        stats.bytes += len(frame)
        if other is None:
            self._hold(number, stream, bytes(frame))
            return
        connection = other.connection
        if connection is None:
            return  # it is away for a moment; what it missed is sent again when it is back
        self._pass_on(connection, number, frame, peer)

    def _sealed(
        self, peer: Peer, frame: f.Buffer, flags: int, source: int, destination: int, number: int, end: int
    ) -> None:  # fmt: skip
        """A frame from a bulk connection leaves by one: DATA, or the END that must not overtake it.

        Nothing in it proves that `peer` has sent it: it may cost him his connections, but no stream of his. So its END
        does not count; ends of streams that were sealed say over TLS when they have finished.
        """
        stream = self.streams.get(number)
        if stream is None:
            return  # forgotten in the meantime; its sender will ask
        other = stream.other(peer, flags, source, destination)
        if end > (stream.opener_limit if flags & f.OPENER else stream.acceptor_limit):
            raise ProtocolError("sealed data beyond the credit")
        self.stats.frames += 1
        self.stats.bytes += len(frame)
        connection = other.connection.bulk if other is not None and other.connection else None
        if connection is None:
            return  # it is away for a moment; what it missed is sent again when it is back
        self._pass_on(connection, number, frame, peer)

    def _pass_on(self, connection: Connection, number: int, frame: f.Buffer, peer: Peer) -> None:
        """Queue a frame of `peer`; if too much of what it sent waits here, nothing more is read from it."""
        if connection.blocked_since is not None and (
            len(frame) < COPY_BELOW or self.budget.used > COPY_FROM
        ):
            frame = bytes(frame)  # a small view would keep a large buffer alive
        connection.out.push(number, frame, peer)
        self._account(connection, frame, peer)

    def _pass_on_urgent(self, connection: Connection, frame: f.Buffer, peer: Peer) -> None:
        frame = bytes(frame)
        connection.out.push_urgent(frame, peer)
        self._account(connection, frame, peer)

    def _account(self, connection: Connection, frame: f.Buffer, peer: Peer) -> None:
        self.dirty.add(connection)
        peer.queued += cost(frame)
        if peer.queued > self._most_queued():
            for own in peer.connections:
                if not own.muted:
                    own.muted = True
                    self.flow_changed.add(own)

    def _most_queued(self) -> int:
        """What one link may have queued here: its limit, or its share where too much is queued in all."""
        limits = self.limits
        if self.budget.used <= limits.queued_bytes:
            return limits.queued_bytes_per_link
        return min(limits.queued_bytes_per_link, limits.queued_bytes // max(1, len(self.peers)))

    def _ended(self, number: int, stream: RelayedStream, flags: int) -> None:
        stream.ends |= _sender(flags)
        if stream.ends == 3:
            self._forget(number, stream, keep_queued=True)

    def _stream_frame(
        self, peer: Peer, kind: int, flags: int, code: int, frame: f.Buffer, source: int, destination: int,
        number: int, offset: int, now: float,
    ) -> None:  # fmt: skip
        if code > peer.rank and kind in (f.OPEN, f.ACCEPT):
            raise ProtocolError("a frame that claims a role which its sender lacks")
        stream = self.streams.get(number)
        if kind == f.KEY:
            f.check_key(frame)
        elif kind == f.OPEN:
            self._check_open(peer, flags, frame, source, destination)
        if stream is None:
            if kind == f.OPEN:
                self._open(peer, frame, source, destination, number, offset, now)
                return
            if kind == f.WINDOW:
                self._last_words(peer, frame, destination)
            if kind in (f.ACCEPT, f.END, f.KEY):
                self._send_reset(peer, flags, source, destination, number, f.Code.UNKNOWN_STREAM)
            if kind != f.RESUME:
                return
            stream = self._adopt(peer, flags, source, destination, number)
            if stream is None:
                return
        other = stream.other(peer, flags, source, destination)
        if kind in (f.ACCEPT, f.WINDOW, f.RESUME):
            self._credit(stream, kind, flags, frame)
        connection = other.connection if other is not None else None
        if kind == f.RESET:
            if connection is not None:
                self._pass_on_urgent(connection, frame, peer)
            self._forget(number, stream)
        elif other is None:
            if kind in (f.END, f.OPEN):
                self._hold(number, stream, bytes(frame))
        elif connection is not None and kind == f.END:
            self._pass_on(connection, number, bytes(frame), peer)
            self._ended(number, stream, flags)
        elif connection is not None:
            self._pass_on_urgent(connection, frame, peer)

    def _last_words(self, peer: Peer, frame: f.Buffer, destination: int) -> None:
        """What was sent last is acknowledged when both ends have passed, and the stream is forgotten here."""
        other = self.peers.get(destination)
        if len(frame) != f.HEADER_SIZE + f.LIMIT.size:
            raise ProtocolError("a window frame of a wrong size")
        if other is not None and other.connection is not None:
            self._pass_on_urgent(other.connection, frame, peer)

    def _credit(self, stream: RelayedStream, kind: int, flags: int, frame: f.Buffer) -> None:
        """A frame says how far its receiver may send."""
        if len(frame) != f.HEADER_SIZE + f.LIMIT.size:
            raise ProtocolError("a window frame of a wrong size")
        (limit,) = f.LIMIT.unpack_from(frame, f.HEADER_SIZE)
        stream.unsaid &= _sender(flags)
        if flags & f.OPENER:
            stream.acceptor_limit = max(stream.acceptor_limit, limit)
            return
        stream.opener_limit = max(stream.opener_limit, limit)
        if kind != f.WINDOW and not stream.accepted:
            stream.accepted = True
            if stream.opener is not None:
                stream.opener.pending -= 1

    def _open(
        self, peer: Peer, frame: f.Buffer, source: int, destination: int, number: int, offset: int, now: float
    ) -> None:  # fmt: skip
        limits = self.limits
        request = f.parse_json(memoryview(frame)[f.HEADER_SIZE :])
        target, patience = request["to"], request.get("patience", limits.hold)
        other = self.peers.get(destination)
        refusal = self._refusal(peer, other, destination, target, now)
        if refusal is not None:
            self._send_reset(peer, f.OPENER, source, destination, number, *refusal)
            return
        stream = RelayedStream(peer, source, destination)
        stream.acceptor_limit = offset
        self.streams[number] = stream
        peer.streams.add(number)
        peer.pending += 1
        self.stats.opened += 1
        if other is not None and other.connection is not None:
            stream.acceptor = other
            other.streams.add(number)
            self._pass_on_urgent(other.connection, frame, peer)
            return
        stream.held = []
        stream.held_until = now + min(float(patience), limits.hold)
        self.held.setdefault(destination, {})[number] = stream
        self.stats.held += 1
        self._hold(number, stream, bytes(frame))

    def _check_open(
        self, peer: Peer, flags: int, frame: f.Buffer, source: int, destination: int
    ) -> None:
        """Raise ProtocolError for an OPEN that its receiver could not believe; also one that is repeated."""
        request = f.parse_json(memoryview(frame)[f.HEADER_SIZE :])
        target, patience = request.get("to"), request.get("patience", 0)
        if (
            not flags & f.OPENER
            or not isinstance(target, str)
            or peer_id(target) != destination
            or peer.ids[source] != request.get("from")
            or not isinstance(patience, (int, float))
            or not patience >= 0
        ):
            raise ProtocolError("an OPEN whose names are not those of its header")

    def _refusal(
        self, peer: Peer, other: Peer | None, destination: int, target: str, now: float
    ) -> tuple[f.Code, str] | None:
        """Why a stream from `peer` to `target` cannot be; None if it can."""
        limits = self.limits
        if (
            len(peer.streams) >= limits.streams_per_link
            or len(self.streams) >= limits.streams
            or peer.pending >= limits.pending_opens_per_link
            or not peer.opens.take(now)
        ):
            return f.Code.LIMIT, "too many streams"
        gone = self.gone.get(destination)
        if gone is not None and gone[0] == target:
            return f.Code.PEER_GONE, gone[1]
        if other is not None and (other.ids[destination] != target or not other.listens):
            return f.Code.UNKNOWN_PEER, ""
        if other is not None and len(other.streams) >= limits.streams_per_link:
            return f.Code.LIMIT, "too many streams to it"
        return None

    def _adopt(
        self, peer: Peer, flags: int, source: int, destination: int, number: int
    ) -> RelayedStream | None:
        """A stream that this relay does not know, resumed by one of its ends: the relay was restarted."""
        other = self.peers.get(destination)
        gone = self.gone.get(destination)
        if other is None and gone is not None:
            self._tell_gone(peer, destination, gone[0], gone[1])
            return None
        if (
            other is None
            or len(peer.streams) >= self.limits.streams_per_link
            or len(self.streams) >= self.limits.streams
        ):
            return None
        if flags & f.OPENER:
            stream = RelayedStream(peer, source, destination)
            stream.acceptor = other
        else:
            stream = RelayedStream(other, destination, source)
            stream.acceptor = peer
        stream.accepted = True
        stream.unsaid = 3
        self.streams[number] = stream
        peer.streams.add(number)
        other.streams.add(number)
        return stream

    def _hold(self, number: int, stream: RelayedStream, frame: bytes) -> None:
        """Store a frame for a destination that may register later."""
        limits, peer = self.limits, stream.opener
        if stream.held is None or peer is None:
            return
        if (
            peer.held_bytes + cost(frame) > limits.held_bytes_per_link
            or self.held_bytes + cost(frame) > limits.held_bytes
        ):
            text = "too much is stored for peers that are not there"
            self._reset(number, stream, f.Code.LIMIT, text)
            return
        stream.held.append(frame)
        peer.held_bytes += cost(frame)
        self.held_bytes += cost(frame)

    def _deliver(self, number: int, stream: RelayedStream, peer: Peer) -> None:
        """The destination has registered: hand over what was stored for it."""
        frames = self._unhold(number, stream)
        connection, opener = peer.connection, stream.opener
        if (
            connection is None
            or opener is None
            or not peer.listens
            or len(peer.streams) >= self.limits.streams_per_link
        ):
            self._reset(number, stream, f.Code.UNKNOWN_PEER, "nobody listens under this name")
            return
        stream.acceptor = peer
        peer.streams.add(number)
        for frame in frames:
            if frame[4] == f.OPEN:
                self._pass_on_urgent(connection, frame, opener)
            else:
                self._pass_on(connection, number, frame, opener)
                stream.ends |= frame[4] == f.END

    def _unhold(self, number: int, stream: RelayedStream) -> list[bytes]:
        frames, stream.held = stream.held or [], None
        size = sum(map(cost, frames))
        if stream.opener is not None:
            stream.opener.held_bytes -= size
        self.held_bytes -= size
        waiting = self.held.get(stream.acceptor_id)
        if waiting is not None and waiting.pop(number, None) is not None and not waiting:
            del self.held[stream.acceptor_id]
        return frames

    def _expire_held(self, now: float) -> None:
        for waiting in list(self.held.values()):
            for number, stream in list(waiting.items()):
                if stream.held_until <= now:
                    text = "nobody registered under this name"
                    self._reset(number, stream, f.Code.UNKNOWN_PEER, text)

    # What goes out

    def _send(self, connection: Connection, frame: f.Buffer) -> None:
        connection.out.push_urgent(frame)
        self.dirty.add(connection)

    def _release(self, left: list[tuple[int, Peer]]) -> None:
        """Bytes have left the queues: their senders may send more."""
        low = self._most_queued() // 2
        for size, owner in left:
            owner.queued -= size
            if owner.queued <= low:
                for connection in owner.connections:
                    if connection.muted:
                        connection.muted = False
                        self.flow_changed.add(connection)

    def _tell_gone(self, peer: Peer, number: int, name: str, reason: str) -> None:
        if peer.connection is not None:
            frame = f.serialize_json(f.GONE, {"name": name, "why": reason}, source=number)
            self._pass_on_urgent(peer.connection, frame, peer)

    def _send_reset(
        self, peer: Peer, flags: int, source: int, destination: int, number: int, code: f.Code, text: str = ""
    ) -> None:  # fmt: skip
        """Answer `peer`, who sent a frame with these flags from `source` to `destination`, with a reset."""
        self.stats.resets[code.name] += 1
        if peer.connection is not None:
            frame = f.serialize_frame(
                f.RESET, text.encode(), source=destination, destination=source, stream=number, code=code,
                flags=~flags & f.OPENER,
            )  # fmt: skip
            self._pass_on_urgent(peer.connection, frame, peer)

    def _reset(self, number: int, stream: RelayedStream, code: f.Code, text: str) -> None:
        """End a stream from the relay's side, towards both ends."""
        self._forget(number, stream)
        opener, acceptor = stream.opener, stream.acceptor
        ids = stream.opener_id, stream.acceptor_id
        if opener is not None:
            self._send_reset(opener, f.OPENER, *ids, number, code, text)
        if acceptor is not None:
            self._send_reset(acceptor, 0, *ids[::-1], number, code, text)

    def _forget(self, number: int, stream: RelayedStream, *, keep_queued: bool = False) -> None:
        if self.streams.pop(number, None) is None:
            return
        if stream.held is not None:
            self._unhold(number, stream)
        if not stream.accepted and stream.opener is not None:
            stream.accepted = True
            stream.opener.pending -= 1
        for peer in (stream.opener, stream.acceptor):
            if peer is not None:
                peer.streams.discard(number)
                for connection in () if keep_queued else peer.connections:
                    self._release(connection.out.drop_lane(number))
