"""Mutated frames of relays and links, and mutated messages of workers: `python tests/fuzz_frames.py [--count N] [--seed N]`.

Real frames and messages are recorded, changed at random and given to whoever reads them. Nothing but the typed errors may come
of it, those who behave are served all the while, and memory stays within bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from distributed.comm import CommClosedError
from distributed.protocol import dumps
from distributed.protocol.serialize import ToPickle, to_serialize
from peak_memory import peak_memory
from rendezvous_simulation import Network, RawPeer, identity, pair

from executors.aws_lambda.fleet import Fleet, FleetSettings, events
from executors.aws_lambda.messages import InvalidMessage, read_connected, read_message
from executors.rendezvous.comm import COUNT, RendezvousComm
from executors.rendezvous.errors import ProtocolError
from executors.rendezvous.operations import AT_SCHEDULER, ON_STREAM, Guard
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.protocol.link_core import LinkCore
from executors.rendezvous.protocol.names import peer_id
from executors.rendezvous.protocol.relay_core import RelayCore

COUNT_BY_DEFAULT = 1_000_000
MEGABYTES = 1024
SHARES = {"relay": 0.5, "link": 0.2, "control": 0.15, "messages": 0.15}
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 1 << 70, "", "x" * 300, "\ud800", "\x1b[2J", [], {},
    [1, [2]], {"a": {"b": 1}}, b"bytes",
]  # fmt: skip


class Failed(Exception):
    """Something came of a frame that must not."""


def recorded(seed: int) -> tuple[list[bytes], list[bytes]]:
    """Frames that links have said to a relay, and it to them, on streams of all fates."""
    network = Network(seed=seed, window=64 * 1024, bulk_from=100_000)
    said: list[bytes] = []
    told: list[bytes] = []
    receive, take = network.relay.receive, network.relay.take_output
    network.relay.receive = lambda c, frame, now: (  # type: ignore[method-assign]
        said.append(bytes(frame)),
        receive(c, frame, now),
    )[1]

    def taken(*arguments: Any) -> list[Any]:
        frames = take(*arguments)
        told.extend(map(bytes, frames))
        return frames

    network.relay.take_output = taken  # type: ignore[method-assign]
    left, near, right, far = pair(network)
    left.register("second")
    left.streams.write(near, [memoryview(bytes(300_000))])
    right.streams.write(far, [memoryview(b"answer")])
    left.streams.open("nobody", 0.5, network.now)
    network.settle()
    network.cut("left")
    network.reconnect_all()
    network.settle()
    left.streams.end(near), right.streams.end(far)
    left.goodbye()
    network.settle()
    return said, told


def mutated(data: bytes, rnd: random.Random) -> bytes:
    """One whole frame, changed: bits, fields of the header, what it holds; its length is right most of the time."""
    frame = bytearray(data)
    for _ in range(rnd.choice([1, 1, 1, 2, 4])):
        kind = rnd.randrange(8)
        at = rnd.randrange(len(frame))
        if kind == 0:
            frame[at] ^= 1 << rnd.randrange(8)
        elif kind == 1:
            frame[at] = rnd.randrange(256)
        elif kind == 2:
            frame[4] = rnd.choice([*f.KINDS, 0, 11, 99, 255])
        elif kind == 3:
            frame[5] = rnd.randrange(8)
        elif kind == 4:
            frame[6:8] = rnd.choice([0, 1, 2, 3, 16, 65535]).to_bytes(2, "big")
        elif kind == 5:
            place = rnd.choice([8, 16, 24, 32])
            number = rnd.choice(
                [
                    0,
                    1,
                    peer_id("left"),
                    peer_id("right"),
                    (1 << 64) - 1,
                    1 << 32,
                    2 << 32,
                    rnd.getrandbits(64),
                ]
            )
            frame[place : place + 8] = number.to_bytes(8, "big")
        elif kind == 6:
            del frame[f.HEADER_SIZE + rnd.randrange(max(1, len(frame) - f.HEADER_SIZE)) :]
        else:
            frame += rnd.choice(
                [b"", b"\x00", b"{}", b"[]", b"[" * 5000, rnd.randbytes(30), rnd.randbytes(3000)]
            )
        if len(frame) < f.HEADER_SIZE:
            frame += bytes(f.HEADER_SIZE - len(frame))
    if frame[f.HEADER_SIZE : f.HEADER_SIZE + 1] == b"{" and rnd.random() < 0.3:
        try:
            value = altered(json.loads(bytes(frame[f.HEADER_SIZE :])), rnd)
            frame[f.HEADER_SIZE :] = json.dumps(value).encode()
        except (ValueError, TypeError, RecursionError):
            pass
    if rnd.random() < 0.95:
        frame[:4] = (len(frame) - f.HEADER_SIZE).to_bytes(4, "big")
    return bytes(frame)


def altered(value: Any, rnd: random.Random) -> Any:
    """A message with something odd in it, or without something."""
    if not isinstance(value, dict) or not value or rnd.random() < 0.1:
        return rnd.choice(ODD)
    changed = dict(value)
    name = rnd.choice(list(changed))
    what = rnd.randrange(4)
    if what == 0:
        del changed[name]
    elif what == 1 and isinstance(changed[name], dict):
        changed[name] = altered(changed[name], rnd)
    elif what == 2:
        changed[rnd.choice(list(changed))] = changed[name]
    else:
        changed[name] = rnd.choice(ODD)
    return changed


class RelayUnderFire:
    """A relay with two peers that mean harm, and one that is served all the while."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd
        self.frames = recorded(rnd.getrandbits(30))[0]
        self.core = RelayCore(Limits(control_per_second=1e9, opens_per_second=1e9))
        self.good = RawPeer(self.core, identity("good")).hello("good")
        self.bad: dict[str, RawPeer] = {}
        self.epoch = 0
        self.now = 0.0

    def __call__(self) -> bytes:
        name = self.rnd.choice(["left", "right"])
        peer = self.bad.get(name)
        if peer is None or peer.connection.close_reason is not None:
            peer = self.bad[name] = self.join(name)
        frame = mutated(self.rnd.choice(self.frames), self.rnd)
        target = peer.connection
        if target.bulk is not None and self.rnd.random() < 0.3:
            target = target.bulk
        (length,) = f.LENGTH.unpack_from(frame)
        if length > f.MAX_CONTROL and not self.core.admits(target, frame[4], length, self.now):
            return frame
        if length == len(frame) - f.HEADER_SIZE:  # the adapter waits for whole ones
            self.core.receive(target, memoryview(frame), self.now)
        return frame

    def join(self, name: str) -> RawPeer:
        self.epoch += 1
        if name in self.bad:
            self.core.disconnect(self.bad[name].connection, "lost", self.now)
        token = self.epoch.to_bytes(f.TOKEN_SIZE, "big")
        peer = RawPeer.__new__(RawPeer)
        peer.core, peer.heard = self.core, []
        peer.connection = self.core.connect(identity(name, "second"), self.now, token)
        peer.hello(name, session=name * 8, epoch=self.epoch, now=self.now)
        if self.rnd.random() < 0.3:
            self.core.connect_bulk(token, self.now)
        return peer

    def look(self) -> None:
        """Let time pass; whoever behaves is served."""
        self.now += 1.0
        self.core.tick(self.now)
        self.good.send(f.serialize_frame(f.PING), self.now)
        if f.PONG not in [frame[4] for frame in self.good.take(self.now)]:
            raise Failed("the relay does not answer any more")
        for peer in self.bad.values():
            for connection in filter(None, (peer.connection, peer.connection.bulk)):
                self.core.take_output(connection, 1 << 30, self.now)
        self.core.closing.clear(), self.core.dirty.clear(), self.core.flow_changed.clear()


class LinkUnderFire:
    """A link whose relay says what it likes."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd
        self.frames = recorded(rnd.getrandbits(30))[1]
        self.now = 0.0
        self.link = self.made()

    def made(self) -> LinkCore:
        link = LinkCore(
            "left", "s" * 32, window=64 * 1024, first_stream=1 << 32, new_key=lambda: bytes(16), bulk_from=100_000
        )  # fmt: skip
        link.connected(self.now)
        welcome = {"version": f.VERSION, "ping_interval": 2.5, "bulk": "00" * 16}
        link.receive(f.serialize_json(f.WELCOME, welcome), self.now)
        for _ in range(3):
            link.streams.write(
                link.streams.open("right", 5.0, self.now), [memoryview(bytes(150_000))]
            )
        return link

    def replace(self) -> None:
        """As the adapter does with a link that has heard nonsense."""
        self.link.close(f.Code.CLOSED, "the relay says nonsense")
        self.link = self.made()

    def __call__(self) -> bytes:
        frame = mutated(self.rnd.choice(self.frames), self.rnd)
        link = self.link
        try:
            if self.rnd.random() < 0.1:
                link.bulk.receive(memoryview(frame))
            else:
                link.receive(frame, self.now)
        except ProtocolError:
            self.replace()
        while link.streams.opened:
            link.streams.accept(link.streams.opened.pop())
        link.streams.readable.clear(), link.streams.accepted.clear(), link.streams.broken.clear()
        link.notices.clear(), link.registered.clear()
        return frame

    def look(self) -> None:
        self.now += 1.0
        self.link.tick(self.now, 30.0)
        self.link.take_output(1 << 30, self.now)
        self.link.bulk.take_output(1 << 30)
        if self.rnd.random() < 0.2:
            self.replace()


CONTROL: list[dict[str, Any]] = [
    {"op": "connected", "invocation": "w", "request_id": "r", "log_stream": "l", "function_version": "1", "cold": True,
     "memory": 1 << 30, "versions": {"numpy": "2"}, "clock": 1.0, "remaining": 900.0, "pid": 7},
    {"op": "ready", "worker_address": "rdv://relay:1/w"},
    {"op": "running", "key": "('encode', 3)", "stage": "encode", "number": 3},
    {"op": "waiting", "key": "('rebase', 3)", "stage": "rebase", "number": None},
    {"op": "idle"},
    {"op": "heartbeat", "rss": 1 << 28},
    {"op": "draining", "reason": "so"},
    {"op": "finished", "reason": "so"},
    {"op": "failed", "error": "MemoryError", "log_tail": "..."},
]  # fmt: skip


class CoordinatorUnderFire:
    """The coordinator's core, and what it reads of a worker's control stream."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd
        self.now = 1e9
        self.renew()

    def renew(self) -> None:
        self.fleet = Fleet(FleetSettings(prefix="w"))
        self.fleet.handle(events.TargetChanged(at=self.now, workers=2))
        self.names = [one.name for one in self.fleet.books.roster]
        for name in self.names:
            self.fleet.handle(events.Invoked(at=self.now, name=name, request_id="r"))

    def __call__(self) -> Any:
        rnd = self.rnd
        name = rnd.choice(self.names)
        message: Any = {**rnd.choice(CONTROL)}
        if message["op"] == "connected":
            message["invocation"] = name
        for _ in range(rnd.choice([0, 1, 1, 2])):
            message = altered(message, rnd)
        self.now += 0.01
        try:
            first = isinstance(message, dict) and message.get("op") == "connected"
            event = (
                read_connected(message, name) if first else read_message(message, name, self.now)
            )
        except InvalidMessage:
            return message
        self.fleet.handle(event, self.now)
        return message

    def look(self) -> None:
        self.now += 10.0
        self.fleet.handle(events.Tick(at=self.now))
        self.fleet.snapshot().to_dict()
        self.renew()


class Said:
    """A stream on which certain bytes come, from a worker."""

    peer_role, closed, peer = "worker", False, "w"

    class link:
        class credential:
            role = "controller"

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)

    async def read_into(self, buffer: memoryview) -> None:
        size = buffer.nbytes
        if size > len(self.data):
            raise ProtocolError("the stream has ended")
        buffer.cast("B")[:] = self.data[:size]
        self.data = self.data[size:]

    async def write(self, buffers: Any) -> None:
        pass

    async def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class SchedulerUnderFire:
    """The comm by which a scheduler reads a worker, and its guard."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd
        self.loop = asyncio.new_event_loop()
        own = "rdv://relay:1/w"
        requests: list[Any] = [
            {
                "op": op,
                "address": own,
                "worker": own,
                "name": "w",
                "keys": ["x"],
                "workers": [own],
                "reply": True,
            }
            for op in (*AT_SCHEDULER, "run_function", "register-client")
        ]
        values = {
            "key": "x", "keys": ["x"], "run_id": 1, "nbytes": 1, "startstops": [], "type": b"t", "typename": "t", "metadata": {},
            "exception": to_serialize(b"e"), "traceback": None, "exception_text": "e", "traceback_text": "", "thread": 1,
            "compute_duration": 1.0, "state": "ready", "status": "OK", "topic": "warn",
            "msg": {"message": b"m", "category": b"c", "args": ("a",)},
        }  # fmt: skip
        said: list[Any] = [
            [{"op": op, "stimulus_id": "s", **{name: values[name] for name in fields}}]
            for op, fields in (*sorted(ON_STREAM.items()), ("update-graph", {}))
        ]
        self.said = requests + said + [{"op": "who_has", "keys": ToPickle([1])}, "OK", 7]

    def __call__(self) -> Any:
        rnd = self.rnd
        message = rnd.choice(self.said)
        if isinstance(message, dict) and rnd.random() < 0.5:
            message = altered(message, rnd)
        elif isinstance(message, list) and rnd.random() < 0.5:
            message = [altered(message[0], rnd)]
        try:
            frames = [bytearray(frame) for frame in dumps(message)]
        except (UnicodeEncodeError, OverflowError):  # nothing that msgpack could say
            return message
        for _ in range(rnd.choice([0, 0, 1, 3])):
            frame = rnd.choice(frames)
            if frame:
                frame[rnd.randrange(len(frame))] = rnd.randrange(256)
        data = bytearray(
            COUNT.pack(len(frames)) + b"".join(COUNT.pack(len(each)) for each in frames)
        )
        if rnd.random() < 0.1:
            data[rnd.randrange(len(data))] = rnd.randrange(256)
        data += b"".join(frames)
        comm = RendezvousComm(Said(bytes(data)), "rdv://relay:1/s", "rdv://relay:1/w", False)  # type: ignore[arg-type]
        comm.largest = 64 << 20
        comm.guard = Guard(AT_SCHEDULER, "rdv://relay:1/w", "w", lambda: True)
        if isinstance(message, list):
            comm.guard.refusal({"op": "register-worker", "address": "rdv://relay:1/w", "name": "w"})
            comm.guard.hear({"op": "compute-task", "key": "x", "run_id": 1, "who_has": {}})
            comm.guard.hear({"op": "steal-request", "key": "x", "stimulus_id": "s"})
        with contextlib.suppress(CommClosedError):
            self.loop.run_until_complete(comm.read())
        comm.abort()
        return bytes(data)

    def look(self) -> None:
        pass


UNDER_FIRE: dict[str, Callable[[random.Random], Any]] = {
    "relay": RelayUnderFire,
    "link": LinkUnderFire,
    "control": CoordinatorUnderFire,
    "messages": SchedulerUnderFire,
}


def fuzz(count: int, seed: int) -> dict[str, Any]:
    """Give away `count` mutated frames and messages; returns how many to whom. Raises Failed where something else comes of it."""
    rnd = random.Random(seed)
    given: Counter[str] = Counter()
    begin = time.monotonic()
    for name, make in UNDER_FIRE.items():
        target = make(rnd)
        for number in range(round(count * SHARES[name])):
            try:
                target()
                if number % 500 == 499:
                    target.look()
            except Exception as error:
                raise Failed(f"{name}, seed {seed}, number {number}: {error!r}") from error
            given[name] += 1
        if megabytes() > MEGABYTES:
            raise Failed(f"{name}: {megabytes()} MiB")
    return {
        **given, "seed": seed, "seconds": round(time.monotonic() - begin, 1), "megabytes": megabytes(),
    }  # fmt: skip


def megabytes() -> int:
    """The most memory that this process has had, in MiB."""
    return peak_memory() >> 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT_BY_DEFAULT)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print(json.dumps(fuzz(options.count, options.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
