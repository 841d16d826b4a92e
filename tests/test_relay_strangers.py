"""What strangers, and workers who mean harm, can cost a relay: bounded memory, and nobody is kept out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import tracemalloc
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rendezvous_relay import Served, run, serving
from rendezvous_simulation import RawPeer, identity
from test_rendezvous_security import AUTHORITY, expect_service

from executors.rendezvous import Authority, InvalidAddress, Limits, Link, RelayProcess
from executors.rendezvous.descriptors import RESERVE, check_limit, fitted
from executors.rendezvous.errors import ProtocolError, RendezvousError
from executors.rendezvous.metrics import COUNTERS, GAUGES, LABELLED, as_prometheus
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.names import peer_id
from executors.rendezvous.protocol.openings import opening_size
from executors.rendezvous.protocol.relay_core import RelayCore
from executors.rendezvous.protocol.strangers import Strangers, network_of
from executors.rendezvous.tls import link_context

# Who waits for whom


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same


def named(names: str, host: str) -> dict[str, str]:
    return dict.fromkeys(names, host)


def strangers_of(hosts: dict[str, str]) -> Strangers[str]:
    strangers: Strangers[str] = Strangers()
    for name, host in hosts.items():
        strangers.come(name, host)
    return strangers


@pytest.mark.parametrize(
    ("hosts", "goes"),
    [
        (named("xyz", "a"), "x"),
        ({"v": "b", **named("xyz", "a")}, "x"),
        ({**named("xyz", "a"), "v": "b"}, "x"),
        ({**named("xy", "a"), **named("uvw", "b")}, "u"),
        ({name: name for name in "xyz"}, "x"),
    ],
)
def test_the_oldest_of_the_address_with_the_most_makes_room(
    hosts: dict[str, str], goes: str
) -> None:
    strangers = strangers_of(hosts)
    assert strangers.crowding() == goes and strangers.oldest() == next(iter(hosts))


def test_addresses_take_turns() -> None:
    strangers = strangers_of({**named("wxyz", "a"), "v": "b", "u": "c"})
    turns = []
    while (turn := strangers.next_in_turn()) is not None:
        turns.append(turn)
        strangers.leave(turn)
    assert "".join(turns) == "wvuxyz"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.sampled_from("abc")), max_size=80))
def test_strangers_are_who_has_come_and_not_left(steps: list[tuple[bool, int, str]]) -> None:
    strangers: Strangers[int] = Strangers()
    here: dict[int, str] = {}
    for comes, token, host in steps:
        if comes and token not in here:
            here[token] = host
            strangers.come(token, host)
            assert len(here) == 1 or strangers.crowding() != token
        elif not comes:
            strangers.leave(token)
            here.pop(token, None)
        assert list(strangers) == list(here)
        sizes = Counter(here.values())
        goes = strangers.crowding()
        if goes is None:
            assert not here
            continue
        assert sizes[here[goes]] == max(sizes.values())
        assert goes == next(each for each in here if here[each] == here[goes])


# What they say


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        link_context(AUTHORITY.issue("w")).wrap_bio(
            incoming, outgoing, server_hostname="relay"
        ).do_handshake()
    return outgoing.read()


HELLO = client_hello()


@pytest.mark.parametrize(
    "said", [HELLO[:1], HELLO[:8], HELLO[:9], HELLO[:-1], b"R", b"RDVB", f.BULK_MAGIC + bytes(15)]
)
def test_an_opening_in_part_asks_for_more(said: bytes) -> None:
    assert opening_size(said) > len(said)


def test_an_opening_has_its_size() -> None:
    assert opening_size(HELLO) == opening_size(HELLO + b"x") == len(HELLO)
    assert opening_size(f.BULK_MAGIC + bytes(16)) == 20


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1",
        b"\x17" + HELLO[1:],
        HELLO[:5] + b"\x02" + HELLO[6:],
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x01",  # a ClientHello in two records
        b"\x16\x03\x01\xff\xff\x01\x00\xff\xfb",
        b"\x16\x03\x01\x00\x00\x01\x00\x00\x00",
    ],
)
def test_what_is_no_opening_is_refused(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        opening_size(said)

    async def story() -> None:
        async with serving(AUTHORITY) as served:
            reader, writer = await asyncio.open_connection(*served.address.split(":"))
            writer.write(said)
            assert await reader.read() == b""
            assert await served.count("HANDSHAKE") == 1
            writer.close()

    run(story)


def test_an_opening_in_small_parts_is_an_opening() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            reader, writer = await asyncio.open_connection(*served.address.split(":"))
            for at in range(0, len(HELLO), 40):
                writer.write(HELLO[at : at + 40])
                await asyncio.sleep(0.005)
            assert (await reader.readexactly(1))[0] == 22  # the relay goes on with the handshake
            writer.close()

    run(story)


# Nobody is kept out


async def press(address: str, host: str, opening: bytes) -> None:
    """A stranger at `host` who says `opening` and no more, and comes again whenever it is turned away."""
    relay = address.split(":")
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(*relay, local_addr=(host, 0))
            try:
                writer.write(opening)
                await reader.read()
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.02)


@asynccontextmanager
async def pressed(served: Served, hosts: list[str], opening: bytes) -> AsyncIterator[None]:
    """While strangers, 30 at each of `hosts`, press."""
    pressing = [asyncio.ensure_future(press(served.address, host, opening)) for host in hosts * 30]
    await served.count("CONNECTIONS", 20)
    yield
    for each in pressing:
        each.cancel()
    await asyncio.wait(pressing)


OTHERS = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
PARTS = {"a byte": HELLO[:1], "a head": HELLO[:9], "all but one": HELLO[:-1], "a bulk": b"RD"}


@pytest.mark.parametrize(
    ("hosts", "opening"),
    [
        *[pytest.param(["127.0.0.1"], part, id=f"{id} here") for id, part in PARTS.items()],
        *[pytest.param(OTHERS, part, id=f"{id} there") for id, part in PARTS.items()],
        pytest.param(["127.0.0.1", *OTHERS], HELLO[:1], id="a byte everywhere"),
        pytest.param(OTHERS, HELLO, id="a ClientHello there"),
    ],
)
def test_who_says_a_part_of_a_handshake_keeps_nobody_out(hosts: list[str], opening: bytes) -> None:
    async def story() -> None:
        limits = Limits(
            pending_connections=20, handshakes=6, handshake_turn=0.2, handshake_timeout=120.0
        )
        async with serving(AUTHORITY, limits) as served, pressed(served, hosts, opening):
            for name in "abcd":
                link = Link(served.address, AUTHORITY.issue(name))
                await link.connect(timeout=40)  # long before those would be cut off
                await link.close()
                door = served.server.door
                assert len(door.pending) <= 20 and len(door.shaking) <= 6

    run(story, timeout=240)


def test_more_than_may_shake_hands_at_once_all_do() -> None:
    async def story() -> None:
        limits = Limits(handshakes=2)
        async with serving(AUTHORITY, limits) as served:
            links = [Link(served.address, AUTHORITY.issue(f"w{n}")) for n in range(20)]
            await asyncio.gather(*[link.connect() for link in links])
            assert not served.server.core.stats.refused
            await asyncio.gather(*[link.close() for link in links])

    run(story)


def test_idle_connections_keep_nobody_out() -> None:
    async def story() -> None:
        limits = Limits(pending_connections=12)
        async with serving(AUTHORITY, limits) as served:
            host, port = served.address.split(":")
            idle = [socket.create_connection((host, int(port))) for _ in range(40)]
            for each in idle[-3:]:
                each.sendall(b"\x16\x03\x01")  # the first bytes of a handshake, and no more
            await expect_service(served, "good")
            assert await served.count("CONNECTIONS", 28) >= 28
            for each in idle:
                each.close()

    run(story)


def test_no_descriptor_left_keeps_nobody_out_for_long() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            host, port = served.address.split(":")
            idle = [socket.create_connection((host, int(port))) for _ in range(5)]
            while len(served.server.door) < 5:
                await asyncio.sleep(0.01)
            accept, refusals = served.server.door.socket, [OSError(24, "Too many open files")] * 2

            class Full:
                def __getattr__(self, name: str) -> Any:
                    return getattr(accept, name)

                def accept(self) -> Any:
                    if refusals:
                        raise refusals.pop()
                    return accept.accept()

            served.server.door.socket = Full()
            await expect_service(served, "good")
            assert served.server.core.stats.refused["CONNECTIONS"] >= 2
            served.server.door.socket = accept
            for each in idle:
                each.close()

    run(story)


# Memory


@pytest.fixture
def memory() -> Any:
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


@pytest.mark.parametrize("size", [101, 8_000])
def test_names_are_checked_before_they_are_kept(memory: Any, size: int) -> None:
    core = RelayCore(Limits(control_per_second=1e9, opens_per_second=1e9))
    before = memory()
    for number in range(300):
        peer = RawPeer(core, identity("w")).hello("w", session=f"{number:032}")
        name = f"{number:05}".ljust(size, "x")
        peer.send(
            f.serialize_json(f.OPEN, {"from": "w", "to": name}, source=peer_id("w"), flags=f.OPENER)
        )
        core.disconnect(peer.connection, "lost", 0.0)
        core.tick(100.0)
    assert core.stats.refused["MALFORMED"] == 300
    assert memory() - before < 200_000
    with pytest.raises(InvalidAddress):
        peer_id("x" * size)


def meeting(core: RelayCore, sender: str, receiver: RawPeer, number: int) -> tuple[RawPeer, Any]:
    """A sender with a stream to a receiver, which grants it everything."""
    peer = RawPeer(core, identity(sender)).hello(sender)
    path = {
        "source": peer_id(sender),
        "destination": peer_id("sink"),
        "flags": f.OPENER,
        "stream": number,
    }
    peer.send(f.serialize_json(f.OPEN, {"from": sender, "to": "sink", "patience": 1}, **path))
    back = {"source": peer_id("sink"), "destination": peer_id(sender), "stream": number}
    receiver.send(f.serialize_frame(f.ACCEPT, f.LIMIT.pack(1 << 60), **back))
    return peer, path


@pytest.mark.parametrize("size", [0, 100, 60_000])
def test_who_takes_nothing_costs_what_the_budget_says(memory: Any, size: int) -> None:
    """Many senders to one who grants and does not read; frames as small as one likes cost what they cost."""
    budget = 4 << 20
    core = RelayCore(Limits(queued_bytes=budget, queued_bytes_per_link=budget))
    sink = RawPeer(core, identity("sink")).hello("sink")
    senders = [meeting(core, f"sender-{n}", sink, n + 1) for n in range(8)]
    sink.connection.blocked_since = 0.0
    before, sent = memory(), [0] * 8
    for _ in range(30_000):
        speaking = [n for n, (peer, _) in enumerate(senders) if not peer.connection.muted]
        for n in speaking:
            peer, path = senders[n]
            peer.send(f.serialize_frame(f.DATA, bytes(size), offset=sent[n], **path))
            sent[n] += size
        if not speaking:
            break
    assert not speaking, "somebody may still send"
    assert core.budget.used < 1.5 * budget
    assert memory() - before < 2 * budget
    core.tick(0.5)
    assert sink.connection.close_reason is None
    core.tick(1.5)
    assert sink.connection.close_reason == "stuck"
    core.disconnect(sink.connection, "stuck", 1.5)
    for peer, _ in senders:
        peer.take()
    assert core.budget.used == 0 and not any(peer.connection.muted for peer, _ in senders)


def test_resets_that_nobody_takes_cost_what_they_cost(memory: Any) -> None:
    core = RelayCore(Limits(queued_bytes_per_link=2 << 20))
    peer = RawPeer(core, identity("peer")).hello("peer")
    before = memory()
    for number in range(100_000):
        if peer.connection.muted:
            break
        peer.send(f.serialize_frame(f.DATA, b"", source=peer_id("peer"), stream=number))
    assert peer.connection.muted
    assert memory() - before < 3 << 20


def test_others_go_on_while_one_takes_nothing() -> None:
    core = RelayCore(Limits(queued_bytes=1 << 20))
    sink = RawPeer(core, identity("sink")).hello("sink")
    hog, path = meeting(core, "hog", sink, 1)
    sink.connection.blocked_since = 0.0
    offset = 0
    while not hog.connection.muted:
        hog.send(f.serialize_frame(f.DATA, bytes(60_000), offset=offset, **path))
        offset += 60_000
    for name in ("left", "right"):
        setattr(core, name, RawPeer(core, identity(name)).hello(name))
    left, right = core.left, core.right
    way = {
        "source": peer_id("left"),
        "destination": peer_id("right"),
        "flags": f.OPENER,
        "stream": 9,
    }
    left.send(f.serialize_json(f.OPEN, {"from": "left", "to": "right", "patience": 1}, **way))
    left.send(f.serialize_frame(f.DATA, b"x" * 1000, **way))
    assert not left.connection.muted
    assert [frame[4] for frame in right.take()] == [f.WELCOME, f.OPEN, f.DATA]


def test_streams_are_counted_in_all() -> None:
    core = RelayCore(Limits(streams=3))
    peers = [RawPeer(core, identity(f"w{n}")).hello(f"w{n}") for n in range(5)]
    for n, peer in enumerate(peers):
        request = {"from": f"w{n}", "to": "nobody", "patience": 1}
        path = {"source": peer_id(f"w{n}"), "destination": peer_id("nobody"), "flags": f.OPENER}
        peer.send(f.serialize_json(f.OPEN, request, stream=n, **path))
    assert len(core.streams) == 3 and core.stats.resets["LIMIT"] == 2


# Descriptors


def test_a_relay_for_more_workers_than_it_may_serve_says_so() -> None:
    check_limit(480, 1024)
    with pytest.raises(
        RendezvousError, match=r"481 workers need 1026 file descriptors, .* have 1024 here"
    ) as caught:
        check_limit(481, 1024)
    assert "\n" not in str(caught.value)
    assert fitted(Limits(), 1024).connections == 1024 - RESERVE
    assert fitted(Limits(), 1 << 20) == Limits()


@contextmanager
def command(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended with the block, whatever happens in it."""
    started = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    with started:
        try:
            yield started
        finally:
            started.kill()


def limited(soft: int, hard: int, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    shell = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"'
    return command("sh", "-c", shell, "sh", *RELAY, *arguments)


RELAY = (sys.executable, "-m", "executors.rendezvous")
ALONE = ("--host", "127.0.0.1", "--port", "0", "--interval", "0.1")


def test_a_relay_refuses_to_start_with_too_few_descriptors(tmp_path: Path) -> None:
    place = ("--authority", str(tmp_path / "keys"))
    with limited(50, 500, *ALONE, *place, "--workers", "1000") as one:
        assert one.wait(30) == 1
        error = one.stderr.read()
        assert error.startswith("rendezvous: 1000 workers need 2064") and error.count("\n") == 1


@pytest.mark.parametrize("few", [False, True])
def test_a_relay_alone_raises_its_limit_and_lets_newcomers_in(tmp_path: Path, few: bool) -> None:
    place = ("--authority", str(tmp_path / "keys"))
    limits = ("--limit", "pending_connections=30")
    with limited(50, 500, *ALONE, *place, "--workers", "200", *(limits if few else ())) as two:
        address = json.loads(two.stdout.readline())["address"]
        host, port = address.split(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(100)]
        for each in idle[::2]:
            each.sendall(b"\x16\x03\x01")  # the first bytes of a handshake, and no more

        async def story() -> None:
            link = Link(address, Authority.load(tmp_path / "keys").issue("w"))
            await link.connect()
            await link.close()

        run(story)
        for each in idle:
            each.close()
        two.send_signal(signal.SIGTERM)
        lines, errors = two.communicate()
        assert two.returncode == 0 and "Traceback" not in errors
        refused = json.loads(lines.splitlines()[-1])["refused"]
        assert refused["CONNECTIONS"] >= 60 if few else "CONNECTIONS" not in refused


def test_a_stranger_costs_little_before_it_has_said_a_whole_hello(tmp_path: Path) -> None:
    place = ("--authority", str(tmp_path / "keys"))
    with limited(50, 2000, *ALONE, *place) as relay:
        host, port = json.loads(relay.stdout.readline())["address"].split(":")
        process = psutil.Process(relay.pid)
        before = process.memory_info().rss
        strangers = [socket.create_connection((host, int(port))) for _ in range(400)]
        for each in strangers:
            each.sendall(HELLO[:-1])
        while json.loads(relay.stdout.readline())["handshaking"] < 400:
            pass
        assert process.memory_info().rss - before < 400 * 25_000
        for each in strangers:
            each.close()


def test_a_cluster_of_more_workers_than_its_relay_may_serve_is_refused() -> None:
    async def story() -> None:
        with pytest.raises(RendezvousError, match="cannot start: 9999999 workers need"):
            await RelayProcess.start(AUTHORITY, workers=9_999_999)

    run(story)


# Who reads of it


@pytest.mark.parametrize("module", ["executors.rendezvous", "excamera_dask.cli"])
def test_a_relay_outlives_who_reads_its_output(tmp_path: Path, module: str) -> None:
    words = ("rendezvous", "--json") if module == "excamera_dask.cli" else ()
    place = ("--authority", str(tmp_path / "keys"))
    with command(sys.executable, "-m", module, *words, *ALONE, *place) as relay:
        address = json.loads(relay.stdout.readline())["address"]
        relay.stdout.close()
        while "nobody takes the statistics any more" not in relay.stderr.readline():
            assert relay.poll() is None

        async def story() -> None:
            link = Link(address, Authority.load(tmp_path / "keys").issue("w"))
            await link.connect()
            await link.close()

        run(story)
        relay.send_signal(signal.SIGTERM)
        rest = relay.stderr.read()
        assert (relay.wait(10), rest) == (0, "")


def fetch(url: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_metrics_on_a_port_of_their_own(tmp_path: Path) -> None:
    place = ("--authority", str(tmp_path / "keys"), "--metrics", "127.0.0.1:0")
    with command(*RELAY, *ALONE, *place) as relay:
        told = json.loads(relay.stdout.readline())
        base = told["metrics"].removesuffix("/metrics")
        host, port = told["address"].split(":")
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert stranger.recv(100) == b""  # not on the relay's own port
        assert fetch(f"{base}/health") == (200, "ok\n")
        status, text = fetch(f"{base}/metrics")
        assert status == 200
        assert 'excamera_relay_refused_total{reason="handshake"} 1' in text
        assert "\nprocess_resident_memory_bytes " in text
        assert fetch(f"{base}/")[0] == 404 and fetch(f"{base}/health", "POST")[0] == 405
        place, port = base.removeprefix("http://").split(":")
        with socket.create_connection((place, int(port))) as nonsense:
            nonsense.sendall(b"x" * 100_000)
        assert fetch(f"{base}/health") == (200, "ok\n")
        relay.send_signal(signal.SIGTERM)
        relay.communicate()


def test_metrics_are_all_there_is_to_count() -> None:
    stats = {**RelayCore(Limits()).counts(), "handshaking": 0}
    stats["resets"] = {"LIMIT": 2}
    assert set(stats) == {*COUNTERS, *LABELLED, *GAUGES}
    text = as_prometheus(stats)
    assert text.endswith("\n") and 'excamera_relay_resets_total{reason="limit"} 2\n' in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) == len(stats)


def test_a_place_for_metrics_that_is_none_is_named(tmp_path: Path) -> None:
    place = ("--authority", str(tmp_path / "keys"), "--metrics", "nowhere")
    done = subprocess.run(
        [sys.executable, "-m", "executors.rendezvous", *ALONE, *place],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "'nowhere' is no place for metrics" in done.stderr
