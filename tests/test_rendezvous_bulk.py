"""Bulk connections: what goes by them, that nobody reads or changes it, and what happens where there are none."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from rendezvous_relay import Served, Wire, run, serving
from rendezvous_simulation import Network, pair, read_all

from executors.rendezvous import Authority, Limits, Link, LinkOptions, Stream
from executors.rendezvous.link import BULK_LOSSES
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.bulk_way import BulkState
from executors.rendezvous.protocol.line import LinkState
from executors.rendezvous.protocol.link_core import LinkCore
from executors.rendezvous.protocol.seal import BadSeal, Seal
from executors.rendezvous.protocol.stream_end import StreamEnd

AUTHORITY = Authority.create()
MUCH = 2_000_000

# The seal


def test_seal_opens_what_it_has_sealed_and_nothing_else() -> None:
    seal = Seal(b"k" * 16, 7)
    frame = seal.frame(f.DATA, f.OPENER, (1, 2, 3), 1000, b"some bytes")
    header = f.parse_header(frame)
    assert header == (10 + f.TAG_SIZE, f.DATA, f.OPENER, 7, 1, 2, 3, 1000)
    buffer = bytearray(10)
    seal.open_into(memoryview(frame), header, memoryview(buffer))
    assert buffer == b"some bytes"
    for place in range(len(frame)):
        forged = bytearray(frame)
        forged[place] ^= 1
        changed = f.Header._make(f.HEADER.unpack_from(forged))
        with pytest.raises(BadSeal):
            seal.open_into(memoryview(forged), changed, memoryview(bytearray(10)))
    with pytest.raises(BadSeal):
        Seal(b"x" * 16, 7).open_into(memoryview(frame), header, memoryview(buffer))


# Streams, without sockets


def pass_on(
    network: Network, left: LinkCore, near: StreamEnd, right: LinkCore, far: StreamEnd
) -> None:
    """Much goes from left to right, and arrives as it was."""
    data = random.Random(1).randbytes(MUCH)
    left.streams.write(near, [memoryview(data[:10]), memoryview(data[10:])])
    got = bytearray()
    while len(got) < len(data):
        network.settle()
        part = read_all(right, far)
        assert part, "the stream stands still"
        got += part
    assert bytes(got) == data


def test_little_goes_over_tls_and_much_by_bulk_connections() -> None:
    network = Network(bulk_from=100_000)
    left, near, right, far = pair(network)
    left.streams.write(near, [memoryview(b"x" * 99_999)])
    network.settle()
    assert not network.bulks and near.seal is None
    read_all(right, far)
    network.settle()
    read_all(right, far)
    sealed: list[bytes] = []
    network.tamper = lambda frame: sealed.append(frame) or frame  # type: ignore[func-returns-value]
    pass_on(network, left, near, right, far)
    assert near.seal is not None and far.unseal is not None
    assert sum(map(len, sealed)) > 0.8 * MUCH
    assert network.relay.counts()["bulk_connections"] == 2


def test_what_goes_by_bulk_connections_cannot_be_read() -> None:
    network = Network(bulk_from=1)
    left, near, right, far = pair(network)
    sealed: list[bytes] = []
    network.tamper = lambda frame: sealed.append(frame) or frame  # type: ignore[func-returns-value]
    for _ in range(4):
        left.streams.write(near, [memoryview(b"a secret that nobody may read" * 500)])
        network.settle()
        read_all(right, far)
    assert sealed and not any(b"secret" in frame for frame in sealed)


class Third:
    """Changes one byte of the third sealed frame, or takes it out."""

    def __init__(self, place: int | None) -> None:
        self.place = place
        self.count = 0

    def __call__(self, frame: bytes) -> bytes:
        self.count += 1
        if self.count != 3:
            return frame
        if self.place is None:
            return b""
        forged = bytearray(frame)
        forged[self.place] ^= 0x40
        return bytes(forged)


@pytest.mark.parametrize("place", [f.HEADER_SIZE, -1])
def test_changed_frame_is_noticed_and_its_bytes_come_again_over_tls(place: int) -> None:
    network = Network(bulk_from=1)
    left, near, right, far = pair(network)
    network.tamper = third = Third(place)
    pass_on(network, left, near, right, far)
    assert right.bulk.bad_seals == 1 and third.count >= 3
    assert near.seal is None and near.bulk_refused and far.distrusts
    other = left.streams.open("right", 10.0, network.now)
    network.settle()
    left.streams.write(other, [memoryview(bytes(1000))])
    network.settle()
    assert other.seal is not None  # one stream distrusts, others go on


@pytest.mark.parametrize("place", [*range(f.HEADER_SIZE + 1), -1, None])
def test_whatever_is_changed_or_taken_out_every_byte_arrives(place: int | None) -> None:
    network = Network(bulk_from=1)
    left, near, right, far = pair(network)
    network.tamper = third = Third(place)
    data = random.Random(2).randbytes(400_000)
    left.streams.write(near, [memoryview(data[:1000])])
    left.streams.write(near, [memoryview(data[1000:])])
    got = bytearray()
    for _ in range(40):
        network.settle()
        network.reconnect_all()
        network.settle()
        got += read_all(right, far)
        network.now += 1.0
        left.tick(network.now, 30.0)
        right.tick(network.now, 30.0)
    assert third.count >= 3 and near.error is None and far.error is None
    assert bytes(got) == data


def test_forged_frames_of_a_thief_of_tokens_break_no_stream() -> None:
    network = Network(bulk_from=1)
    left, near, right, far = pair(network)
    pass_on(network, left, near, right, far)
    other = left.streams.open("right", 10.0, network.now)
    network.settle()
    ids = {"source": near.local_id, "destination": near.peer_id, "flags": f.OPENER}
    for stream, kind, offset in (
        (near.number, f.DATA, 1 << 40), (near.number, f.DATA, near.next), (other.number, f.END, 0),
        (near.number, f.END, near.written), (near.number + 99, f.DATA, 0),
    ):  # fmt: skip
        network.bulk_up["left"] += f.serialize_frame(
            kind, bytes(100), stream=stream, offset=offset, **ids
        )
        for _ in range(3):
            network.settle()
            network.reconnect_all()
        pass_on(network, left, near, right, far)
        network.bulk_up.setdefault("left", bytearray())
    assert other.error is None and near.error is None
    left.streams.write(other, [memoryview(b"as before")])
    network.settle()
    assert len(network.links["right"].streams.ends) == 2


def test_frames_that_are_repeated_or_moved_do_no_harm() -> None:
    network = Network(bulk_from=1)
    left, near, right, far = pair(network)
    network.tamper = lambda frame: frame + frame
    pass_on(network, left, near, right, far)
    assert right.bulk.bad_seals == 0


def test_key_is_changed_in_time() -> None:
    network = Network(bulk_from=1)
    left, near, right, far = pair(network)
    left.bulk.rekey_after = 300_000
    pass_on(network, left, near, right, far)
    assert near.keys >= MUCH // 400_000
    assert right.bulk.bad_seals == 0


def test_relay_without_bulk_connections_gets_everything_over_tls() -> None:
    network = Network(limits=Limits(bulk_connections=0), bulk_from=1)
    left, near, right, far = pair(network)
    pass_on(network, left, near, right, far)
    assert left.bulk.state is BulkState.NEVER and near.keys == 0


def test_receiver_without_bulk_connection_declines() -> None:
    network = Network(bulk_from=1)
    left, near, right, far = pair(network)
    network.without_bulk.add("right")
    pass_on(network, left, near, right, far)
    assert left.bulk.state is BulkState.UP and right.bulk.state is BulkState.NEVER
    assert near.bulk_refused and near.seal is None


def test_link_that_closes_waits_for_no_keys() -> None:
    network = Network(bulk_from=1)
    left, near, right, far = pair(network)
    network.connect_bulk = False  # the receiver's takes for ever
    left.bulk.state, left.bulk.token = BulkState.UP, b""
    data = bytes(50_000)
    left.streams.write(near, [memoryview(data)])
    network.settle()
    assert near.asking is not None and far.received == 0
    left.bulk.give_up()
    network.settle()
    assert read_all(right, far) == data


def test_stream_whose_bulk_connection_takes_nothing_goes_over_tls_in_time() -> None:
    network = Network(bulk_from=1)
    left, near, right, far = pair(network)
    pass_on(network, left, near, right, far)
    assert near.seal is not None
    network.bulk_full.add("left")
    data = random.Random(4).randbytes(300_000)
    left.streams.write(near, [memoryview(data)])
    got = bytearray()
    for _ in range(60):
        network.settle()
        got += read_all(right, far)
        network.now += 1.0
        left.tick(network.now, 1e9)
        right.tick(network.now, 1e9)
    assert bytes(got) == data and near.error is None


def test_open_that_is_nonsense_costs_its_sender_the_link_also_where_it_is_repeated() -> None:
    network = Network()
    left, near, right, _ = pair(network)
    left.line.urgent.append(
        f.serialize_frame(
            f.OPEN, b"nonsense", source=near.local_id, destination=near.peer_id, stream=near.number,
            flags=f.OPENER,
        )
    )  # fmt: skip
    network.settle()
    assert left.refusal is not None and right.line.state is LinkState.READY


def test_key_that_is_none_costs_its_sender_the_link_and_nobody_else() -> None:
    for payload, code in ((b"", 1), (bytes(8000), 1), (bytes(16), 0)):
        network = Network()
        left, near, right, _ = pair(network)
        left.line.urgent.append(
            f.serialize_frame(
                f.KEY, payload, source=near.local_id, destination=near.peer_id, stream=near.number,
                flags=f.OPENER, code=code,
            )
        )  # fmt: skip
        network.settle()
        assert left.refusal is not None
        assert network.relay.stats.refused["MALFORMED"] == 1
        assert right.line.state is LinkState.READY


def test_link_is_not_flushed_before_its_sealed_end_has_arrived() -> None:
    network = Network(bulk_from=1)
    left, near, right, far = pair(network)
    for _ in range(2):
        left.streams.write(near, [memoryview(bytes(1000))])
        network.settle()
        read_all(right, far)
    assert near.seal is not None
    right.tick(network.now, 1e9)
    network.settle()
    assert left.is_flushed
    left.streams.end(near)
    left.take_output(1 << 20, network.now)
    assert not left.is_flushed
    network.settle()
    assert far.end_received and left.is_flushed
    right.streams.end(far)
    network.settle()
    assert not left.streams.ends and not right.streams.ends and not network.relay.streams


# Who may bring a bulk connection


async def bare(address: str, said: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection without TLS, and what it says first."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(said)
    return reader, writer


async def greeted(served: Served, name: str) -> tuple[Wire, bytes]:
    """A registered peer, and the token of its bulk connection."""
    wire = await Wire.open(served.address, AUTHORITY.issue(name))
    wire.hello(name)
    _, welcome = await wire.receive()
    return wire, bytes.fromhex(f.parse_json(welcome)["bulk"])


async def answered(reader: asyncio.StreamReader) -> bool:
    """True if the relay takes the connection, False if it ends it."""
    try:
        header = f.parse_header(await reader.readexactly(f.HEADER_SIZE))
    except (asyncio.IncompleteReadError, OSError):
        return False
    return header.kind == f.PONG


def test_token_is_good_for_one_bulk_connection_of_a_live_link() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            _wire, token = await greeted(served, "w")
            for false in (b"?" * f.TOKEN_SIZE, token[::-1]):
                reader, _ = await bare(served.address, f.BULK_MAGIC + false)
                assert not await answered(reader)
            reader, _ = await bare(served.address, f.BULK_MAGIC + token)
            assert await answered(reader)
            again, _ = await bare(served.address, f.BULK_MAGIC + token)
            assert not await answered(again)
            assert await served.count("BULK") == 3
            late, token = await greeted(served, "late")
            late.close()
            while served.server.core.tokens:
                await asyncio.sleep(0.01)
            reader, _ = await bare(served.address, f.BULK_MAGIC + token)
            assert not await answered(reader)

    run(story)


def test_bare_connections_without_a_token_are_cut_off() -> None:
    async def story() -> None:
        limits = Limits(handshake_timeout=0.3)
        async with serving(AUTHORITY, limits) as served:
            slow, _ = await bare(served.address, b"RD")
            silent, _ = await bare(served.address, b"")
            wrong, _ = await bare(served.address, b"R" * 20)
            for reader in (slow, silent, wrong):
                assert await reader.read() == b""
            assert await served.count("HANDSHAKE", 2) == 2
            assert await served.count("BULK") == 1

    run(story)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n".ljust(100), id="http"),
        pytest.param(f.HEADER.pack(1 << 31, f.DATA, 0, 0, 0, 0, 0, 0), id="two gigabytes"),
        pytest.param(f.serialize_frame(f.GOODBYE), id="goodbye"),
        pytest.param(f.serialize_frame(f.OPEN, b"{}"), id="open"),
        pytest.param(f.serialize_frame(f.DATA, b"short"), id="without a seal"),
    ],
)
def test_nonsense_on_a_bulk_connection_ends_both_of_its_link_and_no_more(frame: bytes) -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            wire, token = await greeted(served, "bad")
            reader, writer = await bare(served.address, f.BULK_MAGIC + token)
            assert await answered(reader)
            writer.write(frame)
            assert await reader.read() == b""
            assert await wire.ended()
            assert await served.count("MALFORMED") == 1
            # who read a token must not end the peer it belongs to
            assert not served.server.core.gone
            again = await Wire.open(served.address, AUTHORITY.issue("bad"))
            again.hello("bad", epoch=2)
            header, welcome = await again.receive()
            assert header.kind == f.WELCOME and f.parse_json(welcome)["resumed"]

    run(story)


def test_nobody_writes_on_a_stream_of_others_by_a_bulk_connection() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served, two_links(served.address) as (near, far):
            stream, other = await connect(near, far)
            await until_sealed(stream, other)
            _, token = await greeted(served, "mallory")
            reader, writer = await bare(served.address, f.BULK_MAGIC + token)
            assert await answered(reader)
            core = stream.core
            writer.write(
                f.serialize_frame(
                    f.DATA, bytes(100), source=core.local_id, destination=core.peer_id,
                    stream=core.number, offset=core.next, flags=f.OPENER, code=core.keys,
                )
            )  # fmt: skip
            assert await reader.read() == b""
            assert await served.count("MALFORMED") == 1
            await much(stream, other)
            assert far.core.bulk.bad_seals == 0

    run(story)


# Links on real sockets


Change = Callable[[bytes, int], bytes | None]


class Middlebox:
    """Stands between links and a relay, and does with bare connections what a test wants.

    `up` and `down` are given what goes to the relay and what comes from it, and how many bytes came before; they return
    what is passed on, or None to cut the connection.
    """

    def __init__(self, address: str, up: Change, down: Change = lambda data, came: data) -> None:
        self.host, self.port = address.split(":")
        self.up, self.down = up, down
        self.bare = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self.host, int(self.port))
        first = await reader.readexactly(1)
        back.write(first)
        is_bare = first == f.BULK_MAGIC[:1]
        self.bare += is_bare

        async def pump(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, change: Change
        ) -> None:
            came = 0
            while data := await source.read(65536):
                passed = change(data, came) if is_bare else data
                came += len(data)
                if passed is None:
                    break
                sink.write(passed)
                await sink.drain()
            writer.transport.abort()
            back.transport.abort()

        for source, sink, change in ((reader, back, self.up), (there, writer, self.down)):
            self.tasks.add(asyncio.ensure_future(pump(source, sink, change)))

    async def stop(self) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@asynccontextmanager
async def two_links(
    near_at: str, far_at: str | None = None, **options: object
) -> AsyncIterator[tuple[Link, Link]]:
    made = LinkOptions.make(**options)
    links = [
        Link(near_at, AUTHORITY.issue("near"), made),
        Link(far_at or near_at, AUTHORITY.issue("far"), made),
    ]
    for link in links:
        await link.connect()
    yield links[0], links[1]
    for link in links:
        await link.close()


async def connect(near: Link, far: Link) -> tuple[Stream, Stream]:
    streams: list[Stream] = []
    await far.listen("far", streams.append)
    return await near.open("far"), streams[0]


async def much(stream: Stream, other: Stream, size: int = 5_000_000) -> None:
    """Much goes from one end of a stream to the other, and arrives as it was."""
    data = random.randbytes(size)
    buffer = bytearray(size)
    reading = asyncio.ensure_future(other.read_into(memoryview(buffer)))
    await stream.write([memoryview(data)])
    await reading
    assert buffer == data


async def until_sealed(stream: Stream, other: Stream) -> None:
    """Much goes until it goes by bulk connections."""
    while stream.core.seal is None:
        await much(stream, other)
        await asyncio.sleep(0.02)


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def test_much_goes_by_bulk_connections_both_ways() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served, two_links(served.address) as (near, far):
            stream, other = await connect(near, far)
            await much(stream, other, 1000)
            assert served.server.stats()["bulk"] == 0
            await until_sealed(stream, other)
            await until_sealed(other, stream)
            before = served.server.stats()["bytes"]
            await asyncio.gather(much(stream, other), much(other, stream))
            assert served.server.stats()["bytes"] - before > 2 * 5_000_000
            assert served.server.stats()["bulk"] == 2
            assert stream.core.seal is not None and other.core.seal is not None
            await stream.close()
            with pytest.raises(Exception, match="closed the stream"):
                await other.read_into(memoryview(bytearray(1)))

    run(story)


def test_bulk_connections_can_be_switched_off() -> None:
    async def story() -> None:
        async with (
            serving(AUTHORITY) as served,
            two_links(served.address, bulk_from=0) as (near, far),
        ):
            await much(*await connect(near, far))
            assert served.server.stats()["bulk"] == 0

    run(story)


@pytest.mark.parametrize("swallow", [False, True])
def test_where_bare_connections_do_not_pass_everything_goes_over_tls(swallow: bool) -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            box = Middlebox(served.address, lambda data, came: b"" if swallow else None)
            address = await box.start()
            options = {"bulk_timeout": 0.5}
            async with two_links(address, served.address, **options) as (near, far):
                stream, other = await connect(near, far)
                await much(stream, other)
                await until(lambda: near.core.bulk.state is BulkState.NEVER)
                await much(stream, other)
                await much(other, stream)
                assert box.bare == 1
                assert near.reconnections == 0
            await box.stop()

    run(story)


def test_bulk_connection_whose_answer_is_swallowed_costs_nothing_else() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            box = Middlebox(served.address, lambda data, came: data, lambda data, came: b"")
            options = {"bulk_timeout": 0.3}
            async with two_links(await box.start(), served.address, **options) as (near, far):
                stream, other = await connect(near, far)
                await much(stream, other)
                await until(lambda: near.core.bulk.state is BulkState.NEVER)
                await asyncio.sleep(0.3)
                await much(stream, other)
                assert near.reconnections == 0 and box.bare == 1
                assert served.server.stats()["bulk_connections"] == 0
            await box.stop()

    run(story)


def test_bulk_connections_that_break_again_and_again_are_given_up() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            box = Middlebox(served.address, lambda data, came: None if came > 1_000_000 else data)
            async with two_links(await box.start(), served.address) as (near, far):
                stream, other = await connect(near, far)
                while near.core.bulk.least:
                    await much(stream, other)
                    await asyncio.sleep(0.02)
                await much(stream, other)
                assert box.bare == near.reconnections == BULK_LOSSES
            await box.stop()

    run(story)


def test_bytes_that_a_middlebox_changes_are_noticed() -> None:
    def change(data: bytes, came: int) -> bytes:
        if came <= 2_000_000 < came + len(data):
            forged = bytearray(data)
            forged[2_000_000 - came] ^= 1
            return bytes(forged)
        return data

    async def story() -> None:
        async with serving(AUTHORITY) as served:
            box = Middlebox(served.address, change)
            async with two_links(await box.start(), served.address) as (near, far):
                stream, other = await connect(near, far)
                while not far.core.bulk.bad_seals + near.reconnections:  # payload or header
                    await much(stream, other)
                    await asyncio.sleep(0.02)
                await much(stream, other)
            await box.stop()

    run(story)


def test_bulk_connection_that_falls_silent_is_noticed() -> None:
    quiet = asyncio.Event()
    box: Middlebox

    def swallow(data: bytes, came: int) -> bytes:
        return b"" if quiet.is_set() and box.bare == 1 else data

    async def story() -> None:
        nonlocal box
        async with serving(AUTHORITY, Limits(ping_interval=0.2)) as served:
            box = Middlebox(served.address, swallow, swallow)
            options = {"ping_interval": 0.2, "silence": 1.0}
            async with two_links(await box.start(), served.address, **options) as (near, far):
                stream, other = await connect(near, far)
                await until_sealed(stream, other)
                quiet.set()
                await much(stream, other)
                assert near.reconnections == 1
            await box.stop()

    run(story)
