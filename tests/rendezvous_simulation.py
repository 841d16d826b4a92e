"""A relay and its links without sockets: bytes move when a test says so, connections break where it says so."""

from __future__ import annotations

import random
from collections.abc import Callable

from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.bulk_way import BulkState
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.protocol.line import LinkState
from executors.rendezvous.protocol.link_core import LinkCore
from executors.rendezvous.protocol.names import WORKER, Identity
from executors.rendezvous.protocol.relay_core import Connection, RelayCore
from executors.rendezvous.protocol.stream_end import StreamEnd

FOREVER = 1e12


def identity(*names: str, role: str = WORKER, expires: float = FOREVER) -> Identity:
    return Identity(frozenset(names), role, expires)


def cut_frames(data: bytes) -> list[bytes]:
    """The whole frames in some bytes."""
    frames, start = [], 0
    while start < len(data):
        header = f.parse_header(data, start)
        stop = start + f.HEADER_SIZE + header.length
        frames.append(data[start:stop])
        start = stop
    return frames


class RawPeer:
    """A peer that says what it likes, frame by frame, and keeps what the relay answers."""

    def __init__(self, core: RelayCore, who: Identity, now: float = 0.0) -> None:
        self.core = core
        self.connection = core.connect(who, now)
        self.heard: list[bytes] = []

    def hello(
        self,
        name: str,
        *,
        session: str = "s" * 32,
        epoch: int = 1,
        now: float = 0.0,
        **more: object,
    ):
        hello = {"versions": [f.VERSION], "name": name, "session": session, "epoch": epoch, **more}
        self.send(f.serialize_json(f.HELLO, hello), now)
        return self

    def send(self, frame: bytes, now: float = 0.0) -> None:
        self.core.receive(self.connection, frame, now)

    def take(self, now: float = 0.0) -> list[bytes]:
        """The frames that wait for this peer."""
        out = b""
        while frames := self.core.take_output(self.connection, 1 << 20, now):
            out += b"".join(frames)
        return cut_frames(out)

    def kinds(self) -> list[str]:
        return [f.Kind(frame[4]).name for frame in self.take()]


class Network:
    """Links to one relay; `step` moves a little of what is under way, in an order drawn by `seed`."""

    def __init__(
        self,
        seed: int = 0,
        limits: Limits | None = None,
        window: int = 64 * 1024,
        bulk_from: int = 0,
    ) -> None:
        self.random = random.Random(seed)
        self.limits = limits or Limits(linger=1e9)
        self.window = window
        self.bulk_from = bulk_from
        self.relay = RelayCore(self.limits)
        self.now = 0.0
        self.links: dict[str, LinkCore] = {}
        self.connections: dict[str, Connection] = {}
        self.up: dict[str, bytearray] = {}  # on the way to the relay
        self.down: dict[str, bytearray] = {}
        self.bulks: dict[str, Connection] = {}
        self.bulk_up: dict[str, bytearray] = {}  # on the way to the relay by bulk connections
        self.bulk_down: dict[str, bytearray] = {}
        self.connect_bulk = True  # False: they are never answered
        self.bulk_full: set[str] = set()  # whose sockets of bulk connections take nothing
        self.without_bulk: set[str] = set()  # whose bulk connections cannot be had
        self.tamper: Callable[[bytes], bytes] = lambda frame: frame
        self.on_opened: Callable[[LinkCore, StreamEnd], None] = lambda link, stream: (
            link.streams.accept(stream)
        )

    def add(self, name: str, *names: str, role: str = WORKER) -> LinkCore:
        link = LinkCore(
            name,
            f"session of {name}".ljust(32),
            window=self.window,
            first_stream=(len(self.links) + 1) << 32,
            new_key=lambda: self.random.randbytes(16),
            bulk_from=self.bulk_from,
        )
        self.links[name] = link
        self.identities = getattr(self, "identities", {})
        self.identities[name] = identity(name, *names, role=role)
        self.connect(name)
        return link

    def connect(self, name: str) -> None:
        token = self.random.randbytes(f.TOKEN_SIZE)
        self.connections[name] = self.relay.connect(self.identities[name], self.now, token)
        self.up[name], self.down[name] = bytearray(), bytearray()
        self.links[name].connected(self.now)

    def cut(self, name: str) -> None:
        """Break a link's connections: what was on the way is lost, and both sides notice."""
        bulk = self.bulks.pop(name, None)
        self.bulk_up[name], self.bulk_down[name] = bytearray(), bytearray()
        if bulk is not None:
            self.relay.disconnect(bulk, "lost", self.now)
        connection = self.connections.pop(name, None)
        if connection is None:
            return
        self.relay.disconnect(connection, "lost", self.now)
        self.up[name], self.down[name] = bytearray(), bytearray()
        self.links[name].lost(self.now)

    def restart(self) -> None:
        """Another relay takes the place of this one, and knows nothing."""
        for name in list(self.connections):
            self.cut(name)
        self.relay = RelayCore(self.limits)

    def step(self) -> bool:
        """Move some bytes of one direction of one connection; False if nothing could move."""
        moves: list[tuple[str, Callable[[str], None]]] = []
        for name in set(self.bulks) - self.bulk_full:
            for buffer in self.links[name].bulk.take_output(1 << 16):
                self.bulk_up[name] += self.tamper(bytes(buffer))
        for name, connection in self.connections.items():
            link = self.links[name]
            for buffer in link.take_output(1 << 16, self.now):
                self.up[name] += buffer
            for buffer in self.relay.take_output(connection, 1 << 16, self.now):
                self.down[name] += buffer
            if self.up[name] and not connection.muted:
                moves.append((name, self._move_up))
            if self.down[name]:
                moves.append((name, self._move_down))
            if link.bulk.state is BulkState.WANTED and name not in self.bulks and self.connect_bulk:
                moves.append((name, self._connect_bulk))
        for name, bulk in self.bulks.items():
            for buffer in self.relay.take_output(bulk, 1 << 16, self.now):
                self.bulk_down[name] += buffer
            if self._begins_with_a_frame(self.bulk_up[name]) and not bulk.muted:
                moves.append((name, self._move_bulk_up))
            if self.bulk_down[name]:
                moves.append((name, self._move_bulk_down))
        if not moves:
            return False
        name, move = self.random.choice(moves)
        move(name)
        return True

    @staticmethod
    def _begins_with_a_frame(buffer: bytearray) -> bool:
        """False where the relay would wait for more."""
        if len(buffer) < f.HEADER_SIZE:
            return False
        (length,) = f.LENGTH.unpack_from(buffer)
        return length > f.MAX_PAYLOAD or len(buffer) >= f.HEADER_SIZE + length

    def _connect_bulk(self, name: str) -> None:
        if name in self.without_bulk:
            self.links[name].bulk.failed()
            return
        bulk = self.relay.connect_bulk(self.links[name].bulk.token, self.now)
        assert bulk is not None
        self.bulks[name] = bulk
        self.bulk_up[name], self.bulk_down[name] = bytearray(), bytearray()

    def _move_bulk_up(self, name: str) -> None:
        self._give_frames(self.bulk_up[name], self.bulks[name])

    def _move_bulk_down(self, name: str) -> None:
        buffer, link = self.bulk_down[name], self.links[name]
        size = self.random.choice([self.random.randint(1, len(buffer)), len(buffer)])
        part = bytearray(buffer[:size])
        was = link.bulk.state
        taken = link.bulk.receive(memoryview(part))
        del buffer[:taken]
        if link.bulk.state is not was:
            self.bulk_up[name] += f.serialize_frame(f.PING)
        if not taken and len(part) == len(buffer):
            raise AssertionError("half a frame, and no more comes")

    def _move_up(self, name: str) -> None:
        self._give_frames(self.up[name], self.connections[name])

    def _give_frames(self, buffer: bytearray, source: Connection) -> None:
        """Some whole frames reach the relay, which may close connections over them."""
        for _ in range(self.random.randint(1, 4)):
            if len(buffer) < f.HEADER_SIZE:
                break
            (length,) = f.LENGTH.unpack_from(buffer)
            kind, size = buffer[f.LENGTH.size], f.HEADER_SIZE + length
            if length > f.MAX_CONTROL and not self.relay.admits(source, kind, length, self.now):
                buffer.clear()
                break
            if len(buffer) < size:
                break
            frame = bytes(buffer[:size])
            del buffer[:size]
            self.relay.receive(source, frame, self.now)
        for connection in list(self.relay.closing):
            for each in [n for n, c in self.connections.items() if c is connection]:
                for out in self.relay.take_output(connection, 1 << 20, self.now):
                    self.links[each].receive(bytes(out), self.now)
                self.cut(each)
        self.relay.closing.clear()

    def _move_down(self, name: str) -> None:
        buffer, link = self.down[name], self.links[name]
        size = self.random.randint(1, len(buffer))
        part = bytes(buffer[:size])
        del buffer[:size]
        link.receive(part, self.now)
        while link.streams.opened:
            self.on_opened(link, link.streams.opened.pop(0))

    def settle(self, most: int = 200_000) -> None:
        """Move until nothing moves."""
        for _ in range(most):
            if not self.step():
                return
        raise AssertionError("the network does not come to rest")

    def reconnect_all(self) -> None:
        for name, link in self.links.items():
            if name not in self.connections and link.line.state is LinkState.LOST:
                self.connect(name)


def pair(network: Network) -> tuple[LinkCore, StreamEnd, LinkCore, StreamEnd]:
    """Two links, and a stream from one to the other."""
    left, right = network.add("left"), network.add("right")
    taken: list[StreamEnd] = []

    def take(link: LinkCore, stream: StreamEnd) -> None:
        taken.append(stream)
        link.streams.accept(stream)

    network.on_opened = take
    network.settle()
    near = left.streams.open("right", 10.0, network.now)
    network.settle()
    assert near.accepted
    return left, near, right, taken[0]


def read_all(link: LinkCore, stream: StreamEnd) -> bytes:
    """Everything that can be read now."""
    buffer = bytearray(stream.received - stream.consumed)
    assert stream.want(memoryview(buffer))
    link.streams.consumed(stream)
    return bytes(buffer)
