"""`rdv://` as a comm backend: what `distributed` asks of its own comms, over a real relay and real TLS."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import dask.config
import numpy
import pytest
from distributed.comm import CommClosedError, connect, get_address_host, listen, resolve_address
from distributed.comm.core import FatalCommClosedError
from distributed.comm.registry import get_backend
from distributed.protocol import Serialized, deserialize, serialize, to_serialize
from rendezvous_relay import Served, run, serving

from executors.rendezvous import Authority, InvalidAddress, NameTaken, RendezvousSecurity
from executors.rendezvous.comm import RendezvousBackend

AUTHORITY = Authority.create()


def security(relay: Served, name: str, **options: Any) -> RendezvousSecurity:
    return RendezvousSecurity(relay.address, AUTHORITY.issue(name), **options)


class Pair:
    """A relay, somebody who listens on it as `server`, somebody who calls as `caller`."""

    def __init__(
        self, relay: Served, server: RendezvousSecurity, caller: RendezvousSecurity
    ) -> None:
        self.relay, self.server, self.caller = relay, server, caller
        self.address = f"rdv://{relay.address}/server"

    def listen(self, handler: Callable[[Any], Any], **options: Any) -> Any:
        return listen(self.address, handler, **options, **self.server.get_listen_args("worker"))

    async def connect(self, address: str | None = None, **options: Any) -> Any:
        return await connect(
            address or self.address, **options, **self.caller.get_connection_args("client")
        )


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[Pair]:
    async with serving(AUTHORITY) as relay:
        both = [security(relay, name, **options) for name in ("server", "caller")]
        try:
            yield Pair(relay, *both)
        finally:
            for each in both:
                await each.close()


async def echo(comm: Any) -> None:
    try:
        while True:
            await comm.write(await comm.read())
    except CommClosedError:
        await comm.close()


def test_backend_is_found_by_its_entry_point() -> None:
    assert isinstance(get_backend("rdv"), RendezvousBackend)


def test_addresses() -> None:
    assert get_address_host("rdv://10.0.0.1:80/worker-1") == "worker-1"
    assert resolve_address("rdv://relay:80/worker-1") == "rdv://relay:80/worker-1"


def test_messages_go_both_ways() -> None:
    async def story() -> None:
        async with pair() as both, both.listen(echo) as listener:
            assert listener.contact_address == listener.listen_address == both.address
            comm = await both.connect()
            assert comm.peer_address == both.address
            assert comm.local_address == f"rdv://{both.relay.address}/caller"
            assert not comm.same_host
            for message in ({"op": "ping"}, [1, 2, (3, "four")], {"b": b"bytes"}, None):
                await comm.write(message)
                assert pickle.dumps(await comm.read()) is not None
            await comm.write({"op": "ping", "data": [1, 2]})
            assert await comm.read() == {"op": "ping", "data": (1, 2)}
            await comm.close()
            assert comm.closed()

    run(story)


@pytest.mark.parametrize("size", [0, 1, 32 * 1024 - 1, 32 * 1024, 1_000_003, 40_000_000])
def test_bytes_of_any_size_come_back(size: int) -> None:
    async def story() -> None:
        async with pair() as both, both.listen(echo):
            comm = await both.connect()
            data = os.urandom(size)
            written = await comm.write({"x": to_serialize(data), "y": 1})
            assert written >= size
            got = await comm.read()
            assert got["y"] == 1
            assert bytes(got["x"]) == data
            await comm.close()

    run(story)


@pytest.mark.slow
def test_hundreds_of_megabytes_in_one_message() -> None:
    async def story() -> None:
        async with pair() as both:
            sizes = []

            async def measure(comm: Any) -> None:
                sizes.append(len((await comm.read())["x"]))
                await comm.write("done")
                await comm.close()

            async with both.listen(measure):
                comm = await both.connect()
                await comm.write({"x": to_serialize(bytes(400_000_000))})
                assert await comm.read() == "done"
                assert sizes == [400_000_000]
                await comm.close()

    run(story)


def test_what_is_received_is_held_once() -> None:
    """Also where it is larger than Dask's shards."""

    async def story() -> None:
        with dask.config.set({"distributed.comm.shard": "1 MiB"}):
            size = 24 << 20
            peaks: list[int] = []

            async def measure(comm: Any) -> None:
                tracemalloc.start()
                try:
                    got = await comm.read()
                    peaks.append(tracemalloc.get_traced_memory()[1])
                finally:
                    tracemalloc.stop()
                got["x"][0] = 1  # it can be written to
                await comm.write(int(got["x"].sum()))
                await comm.close()

            async with pair() as both, both.listen(measure):
                comm = await both.connect()
                await comm.write({"x": to_serialize(numpy.zeros(size, numpy.uint8))})
                assert await comm.read() == 1
                assert size <= peaks[0] < 1.5 * size
                await comm.close()

    run(story)


@pytest.mark.parametrize("each", [2_000, 32 * 1024 - 1])
def test_small_things_do_not_keep_each_other(each: int) -> None:
    async def story() -> None:
        count = 2_000_000 // each
        message = [to_serialize(numpy.zeros(each, numpy.uint8)) for _ in range(count)]

        written = asyncio.Event()

        async def send(comm: Any) -> None:
            await comm.write(message)
            written.set()
            with pytest.raises(CommClosedError):
                await comm.read()

        async with pair() as both, both.listen(send):
            comm = await both.connect()
            await written.wait()  # what the sender holds is not counted
            tracemalloc.start()
            try:
                got = await comm.read()
                kept = [got[count // 2], got[-1]]
                del got
                gc.collect()
                assert tracemalloc.get_traced_memory()[0] < 400_000
            finally:
                tracemalloc.stop()
            assert [array.nbytes for array in kept] == [each, each]
            await comm.close()

    run(story)


@pytest.mark.parametrize("count", [0, 1, 3_000, 20_000])
def test_thousands_of_frames_in_one_message(count: int) -> None:
    async def story() -> None:
        async with pair() as both, both.listen(echo):
            comm = await both.connect()
            frames = [bytes([i % 256]) * (i % 97) for i in range(count)]
            frames[1:2] = [b"big" * 50_000]
            await comm.write([to_serialize(frame) for frame in frames])
            got = await comm.read()
            assert [bytes(each) for each in got] == frames
            await comm.close()

    run(story)


def test_many_messages_keep_their_order() -> None:
    async def story() -> None:
        async with pair() as both:
            got: list[int] = []
            done = asyncio.Event()

            async def collect(comm: Any) -> None:
                while len(got) < 5000:
                    got.append((await comm.read())["i"])
                done.set()
                await comm.close()

            async with both.listen(collect):
                comm = await both.connect()
                for i in range(5000):
                    await comm.write({"i": i})
                await done.wait()
                assert got == list(range(5000))
                await comm.close()

    run(story)


def test_comms_live_side_by_side() -> None:
    async def story() -> None:
        async with pair() as both, both.listen(echo):

            async def one(number: int) -> None:
                comm = await both.connect()
                for i in range(5):
                    message = {"n": number, "i": i, "x": to_serialize(bytes([number]) * 100_000)}
                    await comm.write(message)
                    got = await comm.read()
                    assert (got["n"], got["i"], got["x"]) == (number, i, bytes([number]) * 100_000)
                await comm.close()

            await asyncio.gather(*map(one, range(50)))

    run(story)


def test_buffers_arrive_writable_and_apart() -> None:
    async def story() -> None:
        async with pair() as both, both.listen(echo, deserialize=False):
            comm = await both.connect(deserialize=False)
            header, frames = serialize(bytearray(100_000))
            await comm.write([Serialized(header, frames), Serialized(header, frames)])
            got = await comm.read()
            for each in got:
                assert isinstance(each, Serialized)
                assert all(
                    not memoryview(frame).readonly for frame in each.frames if len(frame) > 1000
                )
            assert deserialize(got[0].header, got[0].frames) == bytearray(100_000)
            await comm.close()

    run(story)


def test_deserialize_flag_holds_on_both_sides() -> None:
    async def story() -> None:
        seen: list[Any] = []

        async def look(comm: Any) -> None:
            message = await comm.read()
            seen.append(message["x"])
            await comm.write(message)
            await comm.close()

        async with pair() as both, both.listen(look, deserialize=False):
            comm = await both.connect(deserialize=True)
            await comm.write({"x": to_serialize({"a": 1})})
            assert (await comm.read())["x"] == {"a": 1}
            assert isinstance(seen[0], Serialized)
            assert deserialize(seen[0].header, seen[0].frames) == {"a": 1}
            await comm.close()

    run(story)


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_compression_is_agreed_on(compression: str) -> None:
    async def story() -> None:
        with dask.config.set({"distributed.comm.compression": compression}):
            data = b"all the same " * 500_000

            async def compare(comm: Any) -> None:
                await comm.write((await comm.read())["x"] == data)
                await comm.close()

            async with pair() as both, both.listen(compare):
                comm = await both.connect()
                assert comm.handshake_options["compression"] == compression
                before = both.relay.server.stats()["bytes"]
                await comm.write({"x": to_serialize(data)})
                assert await comm.read() is True
                moved = both.relay.server.stats()["bytes"] - before
                assert moved < len(data) // 10
                await comm.close()

    run(story)


def test_read_fails_when_the_other_side_closes() -> None:
    async def story() -> None:
        async def close(comm: Any) -> None:
            await comm.close()

        async with pair() as both, both.listen(close):
            comm = await both.connect()
            with pytest.raises(CommClosedError):
                await comm.read()
            assert comm.closed()
            with pytest.raises(CommClosedError):
                await comm.write("more")

    run(story)


def test_what_was_written_before_a_close_still_arrives() -> None:
    async def story() -> None:
        async def say_and_close(comm: Any) -> None:
            await comm.write({"x": to_serialize(bytes(5_000_000))})
            await comm.close()

        async with pair() as both, both.listen(say_and_close):
            comm = await both.connect()
            await asyncio.sleep(0.2)
            assert len((await comm.read())["x"]) == 5_000_000
            with pytest.raises(CommClosedError):
                await comm.read()

    run(story)


def test_close_ends_a_read_of_our_own() -> None:
    async def story() -> None:
        async with pair() as both, both.listen(echo):
            comm = await both.connect()
            reading = asyncio.ensure_future(comm.read())
            await asyncio.sleep(0.05)
            await comm.close()
            with pytest.raises(CommClosedError):
                await reading

    run(story)


def test_abort_ends_both_sides_at_once() -> None:
    async def story() -> None:
        failed = asyncio.get_running_loop().create_future()

        async def wait(comm: Any) -> None:
            await comm.write("begin")
            try:
                await comm.read()
            except CommClosedError:
                failed.set_result(comm.closed())

        async with pair() as both, both.listen(wait):
            comm = await both.connect()
            assert await comm.read() == "begin"
            comm.abort()
            comm.abort()
            assert comm.closed()
            with pytest.raises(CommClosedError):
                await comm.read()
            assert await failed

    run(story)


def test_idle_comm_notices_that_the_other_side_closed() -> None:
    async def story() -> None:
        async def close_soon(comm: Any) -> None:
            await comm.read()
            await comm.close()

        async with pair() as both, both.listen(close_soon):
            comm = await both.connect()
            await comm.write("bye")
            while not comm.closed():
                await asyncio.sleep(0.01)

    run(story)


def test_cancelled_read_closes_the_comm() -> None:
    async def story() -> None:
        async with pair() as both, both.listen(echo):
            comm = await both.connect()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(comm.read(), 0.05)
            assert comm.closed()

    run(story)


def test_forgotten_comm_is_closed_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        ended = asyncio.Event()

        async def wait(comm: Any) -> None:
            await comm.write("begin")
            with pytest.raises(CommClosedError):
                await comm.read()
            ended.set()

        async with pair() as both, both.listen(wait):
            comm = await both.connect()
            assert await comm.read() == "begin"
            del comm
            await ended.wait()

    run(story)
    assert "dangling stream" in caplog.text


def test_unknown_name_is_refused_within_the_timeout() -> None:
    async def story() -> None:
        async with pair() as both:
            loop = asyncio.get_running_loop()
            begin = loop.time()
            with pytest.raises(OSError, match=r"[Tt]imed out"):
                await both.connect(f"rdv://{both.relay.address}/nobody", timeout=0.5)
            assert loop.time() - begin < 5
            while both.relay.server.stats()["streams"]:
                await asyncio.sleep(0.01)

    run(story)


def test_name_that_registers_in_time_is_reached() -> None:
    async def story() -> None:
        async with pair() as both:
            calling = asyncio.ensure_future(both.connect(timeout=20))
            await asyncio.sleep(0.2)
            async with both.listen(echo):
                comm = await calling
                await comm.write(1)
                assert await comm.read() == 1
                await comm.close()

    run(story)


def test_peer_that_has_gone_is_refused_at_once() -> None:
    async def story() -> None:
        async with pair() as both:
            async with both.listen(echo):
                pass
            await both.server.close()
            link = await both.caller.link()
            with pytest.raises(OSError, match="server has gone"):
                await link.open("server", 60)

    run(story)


def test_stopped_listener_refuses_and_keeps_what_is_open() -> None:
    async def story() -> None:
        async with pair() as both:
            listener = await both.listen(echo)
            comm = await both.connect()
            await comm.write("over the handshake")
            assert await comm.read() == "over the handshake"
            listener.stop()
            with pytest.raises(OSError):
                await both.connect(timeout=0.3)
            await comm.write("still here")
            assert await comm.read() == "still here"
            await comm.close()
            async with both.listen(echo):
                comm = await both.connect()
                await comm.close()

    run(story)


def test_no_two_listeners_of_one_name() -> None:
    async def story() -> None:
        async with pair() as both, both.listen(echo):
            with pytest.raises(NameTaken):
                await both.listen(echo)

    run(story)


def test_listener_of_a_name_that_the_credential_lacks() -> None:
    async def story() -> None:
        async with pair() as both:
            address = f"rdv://{both.relay.address}/somebody-else"
            with pytest.raises(OSError, match="does not allow the name"):
                await listen(address, echo, **both.server.get_listen_args("worker"))

    run(story)


def test_comm_to_ourselves() -> None:
    async def story() -> None:
        async with pair() as both, both.listen(echo):
            comm = await connect(both.address, **both.server.get_connection_args("worker"))
            await comm.write({"x": to_serialize(bytes(3_000_000))})
            assert len((await comm.read())["x"]) == 3_000_000
            await comm.close()

    run(story)


def test_peers_at_two_relays_reach_each_other() -> None:
    async def story() -> None:
        async with pair() as both, both.listen(echo), serving(AUTHORITY) as other:
            far = security(other, "far")
            comm = await connect(both.address, **far.get_connection_args("worker"))
            await comm.write("hello")
            assert await comm.read() == "hello"
            await comm.close()
            async with listen(f"rdv://{other.address}/far", echo, **far.get_listen_args("worker")):
                comm = await both.connect(f"rdv://{other.address}/far")
                await comm.write("and back")
                assert await comm.read() == "and back"
                await comm.close()
            await far.close()

    run(story)


def test_wrong_authority_fails_at_once() -> None:
    async def story() -> None:
        async with pair() as both:
            stranger = RendezvousSecurity(both.relay.address, Authority.create().issue("caller"))
            with pytest.raises(FatalCommClosedError, match="no relay of our authority"):
                await connect(both.address, timeout=30, **stranger.get_connection_args("client"))

    run(story)


@pytest.mark.parametrize("address", ["rdv://nonsense", "rdv://host/name", "rdv://host:1/two words"])
def test_malformed_addresses(address: str) -> None:
    async def story() -> None:
        async with pair() as both:
            with pytest.raises(ValueError):
                await both.connect(address, timeout=1)

    run(story)


def test_plain_security_is_told_what_is_missing() -> None:
    async def story() -> None:
        with pytest.raises(InvalidAddress, match="RendezvousSecurity"):
            await connect("rdv://127.0.0.1:1/x", timeout=1)

    run(story)


def test_writer_waits_for_a_slow_reader() -> None:
    async def story() -> None:
        go = asyncio.Event()

        async def read_late(comm: Any) -> None:
            await go.wait()
            for _ in range(20):
                await comm.read()
            await comm.write("done")
            await comm.close()

        async with pair(window="256KiB", high_water="1MiB") as both, both.listen(read_late):
            comm = await both.connect()
            written = 0

            async def write() -> None:
                nonlocal written
                for _ in range(20):
                    await comm.write({"x": to_serialize(bytes(1_000_000))})
                    written += 1

            writing = asyncio.ensure_future(write())
            await asyncio.sleep(0.3)
            assert written <= 2
            go.set()
            await writing
            assert await comm.read() == "done"
            await comm.close()

    run(story)


def test_security_says_what_it_is_without_its_key() -> None:
    credential = AUTHORITY.issue("quiet", lifetime=timedelta(minutes=1))
    given = RendezvousSecurity("127.0.0.1:1", credential)
    assert "quiet" in repr(given) and "PRIVATE" not in repr(given) + repr(credential)
    copied = pickle.loads(pickle.dumps(given))
    assert copied.credential == credential and copied.relay == given.relay
