"""The relay as a value: frames of many connections in, frames for others out; no socket, no clock.

The adapter calls `connect`, `receive`, `disconnect` and `tick`; after each call it takes what the connections in
`dirty` have to send (`take_output`), closes those in `closing` once they are flushed, and stops or starts reading
from those in `flow_changed`. Times are seconds of a clock that never goes back, given by the adapter.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field, fields
from typing import Any

from executors.rendezvous import frames as f
from executors.rendezvous.credentials import CONTROLLER, Identity
from executors.rendezvous.errors import InvalidAddress, ProtocolError
from executors.rendezvous.fair_queue import FairQueue
from executors.rendezvous.limits import Limits
from executors.rendezvous.names import check_name, peer_id


COPY_BELOW = 64 * 1024


class Bucket:
    """A rate limit: `rate` events a second, and a second's worth at once."""

    __slots__ = ("level", "rate", "since")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.level = rate
        self.since = now

    def take(self, now: float) -> bool:
        """True if one more event is within the rate."""
        self.level = min(self.rate, self.level + (now - self.since) * self.rate)
        self.since = now
        if self.level < 1.0:
            return False
        self.level -= 1.0
        return True


class Connection:
    """One TLS connection, before and after its hello."""

    __slots__ = ("blocked", "close_reason", "greeted", "heard", "identity", "muted", "out", "peer", "said", "since")

    def __init__(self, identity: Identity, now: float) -> None:
        self.identity = identity
        self.peer: Peer | None = None
        self.out: FairQueue[Peer] = FairQueue()
        self.since = self.heard = self.said = now
        self.close_reason: str | None = None
        self.muted = False  # the relay has stopped reading from it
        self.greeted = False  # its hello was accepted
        self.blocked = False  # it takes no more at the moment: the adapter says so


class Peer:
    """A registered link; it outlives its connection for `Limits.linger`, in which it may return."""

    __slots__ = (
        "connection", "controls", "epoch", "held_bytes", "identity", "ids", "listens", "name", "opens", "pending",
        "queued", "session", "streams", "suspended",
    )  # fmt: skip

    def __init__(self, name: str, session: str, identity: Identity, limits: Limits, now: float):
        self.name = name
        self.session = session
        self.identity = identity
        self.epoch = 0
        self.listens = True
        self.ids: dict[int, str] = {}
        self.connection: Connection | None = None
        self.suspended: float | None = None  # since when it has had no connection
        self.streams: set[int] = set()
        self.queued = 0  # bytes of its data that wait in the relay
        self.pending = 0  # its streams that nobody has accepted
        self.held_bytes = 0
        self.opens = Bucket(limits.opens_per_second, now)
        self.controls = Bucket(limits.control_per_second, now)

    @property
    def is_controller(self) -> bool:
        return self.identity.role == CONTROLLER


class Stream:
    """A stream between two peers, as the relay knows it."""

    __slots__ = (
        "accepted",
        "ends",
        "held",
        "held_until",
        "left",
        "left_id",
        "limits",
        "right",
        "right_id",
    )

    def __init__(self, left: Peer, left_id: int, right_id: int) -> None:
        self.left = left
        self.left_id = left_id
        self.right: Peer | None = None
        self.right_id = right_id
        self.accepted = False
        self.ends = 0
        self.held: list[bytes] | None = None
        self.held_until = 0.0
        self.limits = {
            left_id: f.EARLY_CREDIT,
            right_id: f.EARLY_CREDIT,
        }  # what each may send up to


@dataclass(slots=True)
class Stats:
    """Counts since the relay started."""

    frames: int = 0
    bytes: int = 0
    opened: int = 0
    registered: int = 0
    resumed: int = 0
    gone: int = 0
    held: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    resets: Counter[str] = field(default_factory=Counter)


class RelayCore:
    """All state of one relay."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.peers: dict[int, Peer] = {}  # by every id they have registered
        self.streams: dict[int, Stream] = {}
        self.gone: OrderedDict[int, tuple[str, str, float]] = OrderedDict()
        self.held: dict[int, dict[int, Stream]] = {}  # destination id -> its waiting streams
        self.held_bytes = 0
        self.controllers: set[Peer] = set()
        self.connections: set[Connection] = set()
        self.strangers = 0  # connections without a hello
        self.suspended: set[Peer] = set()
        self.dirty: set[Connection] = set()
        self.closing: set[Connection] = set()
        self.flow_changed: set[Connection] = set()
        self.stats = Stats()

    # Events

    def connect(self, identity: Identity, now: float) -> Connection:
        """A connection whose certificate TLS has verified."""
        connection = Connection(identity, now)
        self.connections.add(connection)
        self.strangers += 1
        return connection

    def admits(self, connection: Connection, kind: int, length: int, now: float) -> bool:
        """True if a frame of such a kind and size may come; refuses the connection otherwise."""
        if connection.close_reason is not None:
            return False
        try:
            f.check_header(kind, length)
            if connection.peer is None:
                raise ProtocolError("more than a hello from a stranger")
        except ProtocolError as error:
            self._refuse(connection, f.Code.MALFORMED, str(error), now)
            return False
        return True

    def disconnect(self, connection: Connection, reason: str, now: float) -> None:
        """A connection that has ended; its peer may come back for a while."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.strangers -= not connection.greeted
        self.dirty.discard(connection)
        self.closing.discard(connection)
        self.flow_changed.discard(connection)
        self._release(connection.out.clear())
        peer = connection.peer
        connection.peer = None
        if peer is None or peer.connection is not connection:
            return
        peer.connection = None
        if self.limits.linger <= 0 or peer.identity.expires <= 0:
            self._remove(peer, reason, now)
        else:
            peer.suspended = now
            self.suspended.add(peer)

    def receive(self, connection: Connection, frame: f.Buffer, now: float) -> None:
        """One whole frame."""
        if connection.close_reason is not None:
            return
        connection.heard = now
        length, kind, flags, _code, source, destination, stream, offset = f.HEADER.unpack_from(
            frame
        )
        peer = connection.peer
        try:
            if kind not in f.KINDS:
                raise ProtocolError(f"a frame of unknown kind {kind}")
            if peer is None:
                self._hello(connection, kind, frame, now)
                return
            if kind == f.DATA:
                self._data(peer, frame, source, destination, stream, offset + length)
            elif kind >= f.OPEN:
                if source not in peer.ids:
                    raise ProtocolError("a frame in the name of another")
                self._stream_frame(
                    peer, kind, flags, frame, source, destination, stream, offset, now
                )
            else:
                self._control(connection, peer, kind, frame, now)
        except ProtocolError as error:
            self._refuse(connection, f.Code.MALFORMED, str(error), now)

    def take_output(self, connection: Connection, budget: int, now: float) -> list[f.Buffer]:
        """Frames to send now, of about `budget` bytes; empty when nothing waits."""
        left: list[tuple[int, Peer]] = []
        frames = connection.out.pop(budget, left)
        if left:
            self._release(left)
        if frames:
            connection.said = now
        return frames

    def tick(self, now: float) -> None:
        """Let time pass: pings, silent and expired links, late hellos, links that did not return, held streams."""
        limits = self.limits
        for connection in list(self.connections):
            self._check_connection(connection, now)
        for peer in [p for p in self.suspended if now - (p.suspended or 0.0) >= limits.linger]:
            self._remove(peer, "lost", now)
        for waiting in list(self.held.values()):
            for number, stream in list(waiting.items()):
                if stream.held_until <= now:
                    self._reset(
                        number, stream, f.Code.UNKNOWN_PEER, "nobody registered under this name"
                    )
        while self.gone:
            _, _, until = next(iter(self.gone.values()))
            if until > now and len(self.gone) <= limits.remembered_gone:
                break
            self.gone.popitem(last=False)

    def expire(self, wall_clock: float, now: float) -> None:
        """Close the links whose credentials have expired at `wall_clock` (seconds since 1970)."""
        for connection in list(self.connections):
            if connection.identity.expires <= wall_clock and connection.close_reason is None:
                self._refuse(connection, f.Code.EXPIRED, "the credential has expired", now)

    def counts(self) -> dict[str, Any]:
        """What was counted, and what there is now, as JSON can carry it."""
        stats = self.stats
        counted = {each.name: getattr(stats, each.name) for each in fields(stats)}
        return {
            **counted,
            "refused": dict(stats.refused),
            "resets": dict(stats.resets),
            "connections": len(self.connections),
            "names": len(self.peers),
            "streams": len(self.streams),
            "held_bytes": self.held_bytes,
        }

    # Connections and peers

    def _check_connection(self, connection: Connection, now: float) -> None:
        limits = self.limits
        if connection.close_reason is not None:
            return
        if connection.peer is None:
            if now - connection.since >= limits.hello_timeout:
                self._refuse(connection, f.Code.TIMEOUT, "no hello in time", now)
            return
        if now - connection.heard >= limits.silence and not connection.muted:
            peer = connection.peer
            self._close(connection, "silent")
            self._remove(peer, "silent", now)
        elif now - connection.said >= limits.ping_interval:
            self._send(connection, f.serialize_frame(f.PING))
            connection.said = now

    def _hello(self, connection: Connection, kind: int, frame: f.Buffer, now: float) -> None:
        if kind != f.HELLO:
            raise ProtocolError("the first frame is not a HELLO")
        hello = f.parse_json(memoryview(frame)[f.HEADER_SIZE :])
        versions, name, session, epoch = (
            hello.get("versions"), hello.get("name"), hello.get("session"), hello.get("epoch"),
        )  # fmt: skip
        if not isinstance(versions, list) or f.VERSION not in versions:
            text = f"this relay speaks version {f.VERSION} of the protocol"
            return self._refuse(connection, f.Code.VERSION, text, now)
        if not (
            isinstance(name, str) and isinstance(session, str) and 16 <= len(session) <= 64
            and type(epoch) is int and 0 < epoch < 1 << 63
        ):  # fmt: skip
            raise ProtocolError("a HELLO without name, session or epoch")
        if name not in connection.identity.names:
            text = f"the credential does not allow the name {name!r}"
            return self._refuse(connection, f.Code.CREDENTIAL, text, now)
        peer = self.peers.get(peer_id(name))
        resumed = False
        if peer is not None:
            if peer.session != session or peer.name != name:
                text = f"{name} is registered already: it was started twice, or its credential was copied"
                return self._refuse(connection, f.Code.NAME_TAKEN, text, now, name)
            if epoch <= peer.epoch:
                text = f"a hello of {name} that was seen before (epoch {epoch})"
                return self._refuse(connection, f.Code.REPLAYED, text, now, name)
            resumed = True
            if peer.connection is not None:
                old = peer.connection
                old.peer = None
                self._close(old, "replaced")
        else:
            peer = Peer(name, session, connection.identity, self.limits, now)
            peer.listens = bool(hello.get("listens", True))
        peer.identity = connection.identity
        peer.epoch = epoch
        peer.suspended = None
        self.suspended.discard(peer)
        peer.connection = connection
        connection.peer = peer
        connection.greeted = True
        self.strangers -= 1
        limits = self.limits
        welcome = {
            "version": f.VERSION,
            "resumed": resumed,
            "ping_interval": limits.ping_interval,
            "silence": limits.silence,
            "hold": limits.hold,
        }
        self._send(connection, f.serialize_json(f.WELCOME, welcome))
        if resumed:
            self.stats.resumed += 1
        if peer.is_controller:
            self.controllers.add(peer)
        for number in peer.ids:
            for key, stream in list(self.held.get(number, {}).items()):
                self._deliver(key, stream, peer)
        if not resumed:
            self._add_name(peer, name, now)
        return None

    def _add_name(self, peer: Peer, name: str, now: float) -> None:
        number = peer_id(name)
        peer.ids[number] = name
        self.peers[number] = peer
        self.gone.pop(number, None)
        self.stats.registered += 1
        if peer.listens:
            self._notice({"event": "registered", "name": name, "session": peer.session}, but=peer)
        for key, stream in list(self.held.get(number, {}).items()):
            self._deliver(key, stream, peer)

    def _control(
        self, connection: Connection, peer: Peer, kind: int, frame: f.Buffer, now: float
    ) -> None:
        if not peer.controls.take(now):
            return self._refuse(connection, f.Code.LIMIT, "too many control frames a second", now)
        if kind == f.PING:
            self._send(connection, f.serialize_frame(f.PONG))
        elif kind == f.REGISTER:
            self._register(connection, peer, f.parse_json(memoryview(frame)[f.HEADER_SIZE :]), now)
        elif kind == f.GOODBYE:
            self._close(connection, "goodbye")
            self._remove(peer, "goodbye", now)
        elif kind != f.PONG:
            raise ProtocolError(f"a {f.Kind(kind).name} frame, which only a relay may send")
        return None

    def _register(
        self, connection: Connection, peer: Peer, request: dict[str, Any], now: float
    ) -> None:
        try:
            name = check_name(request.get("name", ""))
        except InvalidAddress as error:
            raise ProtocolError(str(error)) from error
        code, text = f.Code.NONE, ""
        holder = self.peers.get(peer_id(name))
        if name not in peer.identity.names:
            code, text = f.Code.CREDENTIAL, f"the credential does not allow the name {name!r}"
        elif holder is not None and (holder is not peer or peer.ids[peer_id(name)] != name):
            code, text = f.Code.NAME_TAKEN, f"{name} is registered already"
        elif len(peer.ids) >= self.limits.names_per_link:
            code, text = f.Code.LIMIT, "too many names"
        if code:
            self.stats.refused[code.name] += 1
            self._notice({"event": "refused", "name": name, "why": code.name}, but=peer)
        answer = {"name": name, "code": int(code), "why": text}
        self._send(connection, f.serialize_json(f.REGISTERED, answer))
        if not code and holder is None:
            self._add_name(peer, name, now)

    def _remove(self, peer: Peer, reason: str, now: float) -> None:
        """Forget a peer, and tell everybody who had to do with it."""
        self.suspended.discard(peer)
        self.controllers.discard(peer)
        if peer.connection is not None:
            peer.connection.peer = None
            self._close(peer.connection, reason)
            peer.connection = None
        for number, name in peer.ids.items():
            self.peers.pop(number, None)
            if peer.listens:
                self.gone[number] = (name, reason, now + self.limits.gone_memory)
                self.gone.move_to_end(number)
                self._notice(
                    {"event": "gone", "name": name, "why": reason, "session": peer.session}
                )
        self.stats.gone += 1
        told: set[tuple[Peer, int]] = set()
        for number in list(peer.streams):
            stream = self.streams[number]
            other, own = (
                (stream.right, stream.left_id)
                if stream.left is peer
                else (stream.left, stream.right_id)
            )
            self._forget(number, stream)
            if other is not None and other is not peer and (other, own) not in told:
                told.add((other, own))
                self._tell_gone(other, own, peer.ids.get(own, peer.name), reason)

    def _tell_gone(self, peer: Peer, number: int, name: str, reason: str) -> None:
        if peer.connection is not None:
            frame = f.serialize_json(f.GONE, {"name": name, "why": reason}, source=number)
            self._send(peer.connection, frame)

    def _notice(self, value: dict[str, Any], but: Peer | None = None) -> None:
        if not self.controllers:
            return
        frame = f.serialize_json(f.NOTICE, value)
        for peer in self.controllers:
            if peer is not but and peer.connection is not None:
                self._send(peer.connection, frame)

    def _refuse(
        self, connection: Connection, code: f.Code, text: str, now: float, name: str | None = None
    ) -> None:
        self.stats.refused[code.name] += 1
        self._send(
            connection, f.serialize_json(f.REFUSED, {"code": int(code), "why": text}, code=code)
        )
        peer = connection.peer
        self._close(connection, text)
        if name is not None:
            self._notice({"event": "refused", "name": name, "why": code.name})
        if peer is not None:
            connection.peer = None
            peer.connection = None
            self._remove(peer, code.name.lower(), now)

    def _close(self, connection: Connection, reason: str) -> None:
        if connection.close_reason is None:
            connection.close_reason = reason
        self.closing.add(connection)

    def _send(self, connection: Connection, frame: f.Buffer) -> None:
        connection.out.push_urgent(frame)
        self.dirty.add(connection)

    def _release(self, left: list[tuple[int, Peer]]) -> None:
        """Bytes have left the queues: their senders may send more."""
        low = self.limits.queued_bytes_per_link // 2
        for size, owner in left:
            owner.queued -= size
            connection = owner.connection
            if connection is not None and connection.muted and owner.queued <= low:
                connection.muted = False
                self.flow_changed.add(connection)

    # Streams

    def _data(
        self, peer: Peer, frame: f.Buffer, source: int, destination: int, number: int, end: int
    ) -> None:
        stream = self.streams.get(number)
        if stream is None:
            self._send_reset(peer, source, destination, number, f.Code.UNKNOWN_STREAM)
            return
        if stream.left is peer and stream.left_id == source and stream.right_id == destination:
            other = stream.right
        elif stream.right is peer and stream.right_id == source and stream.left_id == destination:
            other = stream.left
        else:
            raise ProtocolError("data on a stream of others")
        if end > stream.limits[source]:
            self._reset(number, stream, f.Code.OVERRUN, "data beyond the credit")
            return
        stats = self.stats
        stats.frames += 1
        stats.bytes += len(frame)
        if other is not None:
            connection = other.connection
            if connection is None:
                return  # it is away for a moment; what it missed is sent again when it is back
            if connection.blocked and len(frame) < COPY_BELOW:
                frame = bytes(frame)  # a small view would keep a large buffer alive
            connection.out.push(number, frame, peer)
            self.dirty.add(connection)
            peer.queued += len(frame)
            if peer.queued > self.limits.queued_bytes_per_link:
                own = peer.connection
                if own is not None and not own.muted:
                    own.muted = True
                    self.flow_changed.add(own)
        else:
            self._hold(number, stream, bytes(frame))

    def _stream_frame(
        self, peer: Peer, kind: int, flags: int, frame: f.Buffer, source: int, destination: int, number: int,
        offset: int, now: float,
    ) -> None:  # fmt: skip
        stream = self.streams.get(number)
        if kind == f.OPEN and stream is None:
            self._open(peer, frame, source, destination, number, offset, now)
            return
        if kind == f.RESUME and stream is None:
            stream = self._adopt(peer, source, destination, number)
        if stream is None:
            if kind in (f.ACCEPT, f.END):
                self._send_reset(peer, source, destination, number, f.Code.UNKNOWN_STREAM)
            return
        if stream.left is peer and stream.left_id == source and stream.right_id == destination:
            other = stream.right
        elif stream.right is peer and stream.right_id == source and stream.left_id == destination:
            other = stream.left
        else:
            raise ProtocolError("a frame on a stream of others")
        if kind in (f.ACCEPT, f.WINDOW, f.RESUME):
            if len(frame) != f.HEADER_SIZE + f.LIMIT.size:
                raise ProtocolError("a window frame of a wrong size")
            (limit,) = f.LIMIT.unpack_from(frame, f.HEADER_SIZE)
            stream.limits[destination] = max(stream.limits[destination], limit)
            if kind != f.WINDOW and not stream.accepted and stream.right is peer:
                stream.accepted = True
                stream.left.pending -= 1
        connection = other.connection if other is not None else None
        if kind == f.RESET:
            if connection is not None:
                self._send(connection, bytes(frame))
            self._forget(number, stream)
            return
        if other is None:
            if kind in (f.END, f.OPEN):
                self._hold(number, stream, bytes(frame))
            return
        if connection is None:
            return
        if kind == f.END:
            connection.out.push(number, bytes(frame), peer)
            peer.queued += len(frame)
            self.dirty.add(connection)
            stream.ends |= 1 if stream.left is peer else 2
            if stream.ends == 3:
                self._forget(number, stream, keep_queued=True)
        else:
            self._send(connection, bytes(frame))

    def _open(
        self,
        peer: Peer,
        frame: f.Buffer,
        source: int,
        destination: int,
        number: int,
        offset: int,
        now: float,
    ) -> None:
        limits = self.limits
        request = f.parse_json(memoryview(frame)[f.HEADER_SIZE :])
        target, origin = request.get("to"), request.get("from")
        if (
            not isinstance(target, str)
            or peer_id(target) != destination
            or peer.ids[source] != origin
        ):
            raise ProtocolError("an OPEN whose names are not those of its header")
        if (
            len(peer.streams) >= limits.streams_per_link
            or peer.pending >= limits.pending_opens_per_link
            or not peer.opens.take(now)
        ):
            self._send_reset(peer, source, destination, number, f.Code.LIMIT)
            return
        gone = self.gone.get(destination)
        if gone is not None and gone[0] == target:
            self._send_reset(peer, source, destination, number, f.Code.PEER_GONE, gone[1])
            return
        other = self.peers.get(destination)
        if other is not None and (other.ids[destination] != target or not other.listens):
            self._send_reset(peer, source, destination, number, f.Code.UNKNOWN_PEER)
            return
        if other is not None and len(other.streams) >= limits.streams_per_link:
            self._send_reset(peer, source, destination, number, f.Code.LIMIT)
            return
        stream = Stream(peer, source, destination)
        stream.limits[destination] = offset
        self.streams[number] = stream
        peer.streams.add(number)
        peer.pending += 1
        self.stats.opened += 1
        if other is not None and other.connection is not None:
            stream.right = other
            other.streams.add(number)
            self._send(other.connection, bytes(frame))
            return
        patience = request.get("patience", limits.hold)
        if not isinstance(patience, (int, float)) or not patience >= 0:
            raise ProtocolError("an OPEN with a false patience")
        stream.held = []
        stream.held_until = now + min(float(patience), limits.hold)
        self.held.setdefault(destination, {})[number] = stream
        self.stats.held += 1
        self._hold(number, stream, bytes(frame))

    def _adopt(self, peer: Peer, source: int, destination: int, number: int) -> Stream | None:
        """A stream that this relay does not know, resumed by one of its ends: the relay was restarted."""
        other = self.peers.get(destination)
        gone = self.gone.get(destination)
        if other is None and gone is not None:
            self._tell_gone(peer, destination, gone[0], gone[1])
            return None
        if other is None or len(peer.streams) >= self.limits.streams_per_link:
            return None
        stream = Stream(peer, source, destination)
        stream.accepted = True
        stream.right = other
        self.streams[number] = stream
        peer.streams.add(number)
        other.streams.add(number)
        return stream

    def _hold(self, number: int, stream: Stream, frame: bytes) -> None:
        limits = self.limits
        peer = stream.left
        if stream.held is None:
            return
        if (
            peer.held_bytes + len(frame) > limits.held_bytes_per_link
            or self.held_bytes + len(frame) > limits.held_bytes
        ):
            self._reset(
                number, stream, f.Code.LIMIT, "too much is stored for peers that are not there"
            )
            return
        stream.held.append(frame)
        peer.held_bytes += len(frame)
        self.held_bytes += len(frame)

    def _deliver(self, number: int, stream: Stream, peer: Peer) -> None:
        """The destination has registered: hand over what was stored for it."""
        frames = self._unhold(number, stream)
        connection = peer.connection
        if (
            connection is None
            or not peer.listens
            or len(peer.streams) >= self.limits.streams_per_link
        ):
            self._reset(number, stream, f.Code.UNKNOWN_PEER, "nobody listens under this name")
            return
        stream.right = peer
        peer.streams.add(number)
        for frame in frames:
            if frame[4] == f.OPEN:
                self._send(connection, frame)
            else:
                connection.out.push(number, frame, stream.left)
                stream.left.queued += len(frame)
                if frame[4] == f.END:
                    stream.ends |= 1

    def _unhold(self, number: int, stream: Stream) -> list[bytes]:
        frames, stream.held = stream.held or [], None
        size = sum(map(len, frames))
        stream.left.held_bytes -= size
        self.held_bytes -= size
        waiting = self.held.get(stream.right_id)
        if waiting is not None and waiting.pop(number, None) is not None and not waiting:
            del self.held[stream.right_id]
        return frames

    def _send_reset(
        self, peer: Peer, source: int, destination: int, number: int, code: f.Code, text: str = ""
    ) -> None:
        """Answer `peer`, who sent from `source` to `destination`, with a reset."""
        self.stats.resets[code.name] += 1
        if peer.connection is not None:
            frame = f.serialize_frame(
                f.RESET,
                text.encode(),
                source=destination,
                destination=source,
                stream=number,
                code=code,
            )
            self._send(peer.connection, frame)

    def _reset(self, number: int, stream: Stream, code: f.Code, text: str) -> None:
        """End a stream from the relay's side, towards both ends."""
        self._forget(number, stream)
        self._send_reset(stream.left, stream.left_id, stream.right_id, number, code, text)
        if stream.right is not None:
            self._send_reset(stream.right, stream.right_id, stream.left_id, number, code, text)

    def _forget(self, number: int, stream: Stream, *, keep_queued: bool = False) -> None:
        if self.streams.pop(number, None) is None:
            return
        if stream.held is not None:
            self._unhold(number, stream)
        if not stream.accepted:
            stream.accepted = True
            stream.left.pending -= 1
        for peer in (stream.left, stream.right):
            if peer is not None:
                peer.streams.discard(number)
                if not keep_queued and peer.connection is not None:
                    self._release(peer.connection.out.drop_lane(number))
