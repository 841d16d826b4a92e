"""A relay and its links without sockets: bytes move when a test says so, connections break where it says so."""

from __future__ import annotations

import random
from collections.abc import Callable

from executors.rendezvous import frames as f
from executors.rendezvous.credentials import WORKER, Identity
from executors.rendezvous.limits import Limits
from executors.rendezvous.link_core import LinkCore, LinkState
from executors.rendezvous.link_stream import LinkStream
from executors.rendezvous.relay_core import Connection, RelayCore

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
        hello = {"versions": [1], "name": name, "session": session, "epoch": epoch, **more}
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
        self, seed: int = 0, limits: Limits | None = None, window: int = 64 * 1024
    ) -> None:
        self.random = random.Random(seed)
        self.limits = limits or Limits(linger=1e9)
        self.window = window
        self.relay = RelayCore(self.limits)
        self.now = 0.0
        self.links: dict[str, LinkCore] = {}
        self.connections: dict[str, Connection] = {}
        self.up: dict[str, bytearray] = {}  # on the way to the relay
        self.down: dict[str, bytearray] = {}
        self.on_opened: Callable[[LinkCore, LinkStream], None] = lambda link, stream: link.accept(
            stream
        )

    def add(self, name: str, *names: str, role: str = WORKER) -> LinkCore:
        link = LinkCore(
            name,
            f"session of {name}".ljust(32),
            window=self.window,
            first_stream=(len(self.links) + 1) << 32,
        )
        self.links[name] = link
        self.identities = getattr(self, "identities", {})
        self.identities[name] = identity(name, *names, role=role)
        self.connect(name)
        return link

    def connect(self, name: str) -> None:
        self.connections[name] = self.relay.connect(self.identities[name], self.now)
        self.up[name], self.down[name] = bytearray(), bytearray()
        self.links[name].connected(self.now)

    def cut(self, name: str) -> None:
        """Break a connection: what was on the way is lost, and both sides notice."""
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
        moves: list[tuple[str, bool]] = []
        for name, connection in self.connections.items():
            link = self.links[name]
            for buffer in link.take_output(1 << 16, self.now):
                self.up[name] += buffer
            for buffer in self.relay.take_output(connection, 1 << 16, self.now):
                self.down[name] += buffer
            if self.up[name] and not connection.muted:
                moves.append((name, True))
            if self.down[name]:
                moves.append((name, False))
        if not moves:
            return False
        name, upwards = self.random.choice(moves)
        if upwards:
            self._move_up(name)
        else:
            self._move_down(name)
        return True

    def _move_up(self, name: str) -> None:
        buffer = self.up[name]
        for _ in range(self.random.randint(1, 4)):
            if len(buffer) < f.HEADER_SIZE:
                break
            size = f.HEADER_SIZE + f.parse_header(buffer).length
            if len(buffer) < size:
                break
            frame = bytes(buffer[:size])
            del buffer[:size]
            self.relay.receive(self.connections[name], frame, self.now)
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
        while link.opened:
            self.on_opened(link, link.opened.pop(0))

    def settle(self, most: int = 200_000) -> None:
        """Move until nothing moves."""
        for _ in range(most):
            if not self.step():
                return
        raise AssertionError("the network does not come to rest")

    def reconnect_all(self) -> None:
        for name, link in self.links.items():
            if name not in self.connections and link.state is LinkState.LOST:
                self.connect(name)


def read_all(link: LinkCore, stream: LinkStream) -> bytes:
    """Everything that can be read now."""
    buffer = bytearray(stream.received - stream.consumed)
    assert stream.want(memoryview(buffer))
    link.consumed(stream)
    return bytes(buffer)
