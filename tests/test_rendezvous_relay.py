"""The relay's core without sockets: who is told what and when, fairness, storage, back-pressure; and its command."""

from __future__ import annotations

import contextlib
import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendezvous_relay import run
from rendezvous_simulation import Network, RawPeer, cut_frames, identity, read_all

from executors.rendezvous import (
    Authority,
    InvalidAddress,
    InvalidCredential,
    Limits,
    Link,
    PeerAddress,
    ProtocolError,
    RelayAddress,
    RendezvousError,
)
from executors.rendezvous.arena import ROOM, Arena
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.fair_queue import OVERHEAD, Budget, FairQueue, cost
from executors.rendezvous.protocol.link_core import Notice
from executors.rendezvous.protocol.names import check_name, peer_id
from executors.rendezvous.protocol.relay_core import RelayCore
from executors.rendezvous.protocol.stream_end import StreamEnd
from executors.rendezvous.standalone import load_relay, parse_limits

# Frames and names


@given(
    st.lists(
        st.tuples(
            st.sampled_from([f.DATA, f.END, f.PING, f.RESET]),
            st.binary(max_size=300),
            st.integers(0, 2**64 - 1),
        ),
        max_size=12,
    ),
    st.lists(st.integers(1, 200), min_size=1),
)
def test_reader_puts_frames_together_however_they_are_cut(
    wanted: list[tuple[int, bytes, int]], steps: list[int]
) -> None:
    data = b"".join(f.serialize_frame(kind, body, stream=number) for kind, body, number in wanted)
    reader, got, start = f.FrameReader(), [], 0
    while start < len(data):
        step = steps[start % len(steps)]
        for header, payload in reader.feed(data[start : start + step]):
            assert header.length == len(payload)
            if header.kind == f.DATA and got and header.offset:
                kind, body, number = got.pop()
                assert (kind, number, len(body)) == (f.DATA, header.stream, header.offset)
                got.append((kind, body + bytes(payload), number))
            else:
                got.append((header.kind, bytes(payload), header.stream))
        start += step
    assert got == wanted


@given(st.binary(max_size=200))
def test_reader_refuses_nonsense_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        f.FrameReader().feed(data)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "ä", "x" * 101, None, "rdv://x"])
def test_false_names(name: str) -> None:
    with pytest.raises(InvalidAddress):
        check_name(name)


def test_addresses() -> None:
    assert RelayAddress.parse("[::1]:80") == RelayAddress("::1", 80)
    assert str(PeerAddress.parse("rdv://[::1]:80/w")) == "[::1]:80/w"
    assert PeerAddress.parse("host:1/w-1") == PeerAddress(RelayAddress("host", 1), "w-1")
    for text in ("host", "host:x", ":80", "::1:80", "host:99999"):
        with pytest.raises(InvalidAddress):
            RelayAddress.parse(text)


# Queues


def test_lanes_are_served_in_turn_and_control_goes_first() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(3):
        queue.push(1, b"a%d" % number, "left")
    queue.push(2, b"b0", "right")
    queue.push(3, b"c0", "right")
    queue.push_urgent(b"!")
    left: list[tuple[int, str]] = []
    assert queue.pop(1000, left) == [b"!", b"a0", b"b0", b"c0", b"a1", b"a2"]
    owners = ["left", "right", "right", "left", "left"]
    assert left == [(2 + OVERHEAD, owner) for owner in owners]
    assert not queue and queue.size == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), max_size=60), st.integers(1, 100))
def test_queue_loses_nothing_and_keeps_the_order_of_each_lane(
    frames: list[tuple[int, int]], budget: int
) -> None:
    shared = Budget()
    queue: FairQueue[int] = FairQueue(shared)
    for index, (lane, size) in enumerate(frames):
        queue.push(lane, bytes([index]) * size, lane)
    assert queue.size == shared.used == sum(size + OVERHEAD for _, size in frames)
    got: list[bytes] = []
    left: list[tuple[int, int]] = []
    while part := queue.pop(budget, left):
        got += part
    assert sorted(frame[0] for frame in got) == list(range(len(frames)))
    for lane in range(6):
        order = [frame[0] for frame in got if frames[frame[0]][0] == lane]
        assert order == sorted(order)
    assert left == [(cost(frame), frames[frame[0]][0]) for frame in got]
    assert queue.size == shared.used == 0


def test_arena_never_overwrites_what_is_in_use() -> None:
    arena = Arena()
    kept: list[tuple[memoryview, bytes]] = []
    for number in range(200):
        tail = bytes([number]) * (number * 7)
        view = arena.place(tail)
        assert len(view) >= len(tail) + ROOM and view[: len(tail)] == tail
        size = len(tail) + 20_000
        view[len(tail) : size] = bytes([number]) * 20_000
        arena.keep(size)
        if number % 3:
            kept.append((view[:size], bytes([number]) * size))
        del view
        if number % 10 == 9:
            assert all(view == wanted for view, wanted in kept)
            kept = kept[len(kept) // 2 :]


def test_arena_uses_its_buffer_again_when_nobody_refers_to_it() -> None:
    arena = Arena()
    first = arena.place(b"")
    first_address = id(first.obj)
    arena.keep(900_000)
    del first
    again = arena.place(b"")
    assert id(again.obj) == first_address and len(again) > 1_000_000


@given(st.lists(st.tuples(st.sampled_from("wtar"), st.integers(0, 400)), max_size=40))
def test_sender_forgets_exactly_what_is_acknowledged(steps: list[tuple[str, int]]) -> None:
    stream = StreamEnd(1, 1, 2, "peer", 1 << 20, opened_here=True)
    stream.send_limit = 1 << 30
    written = bytearray()
    for step, number in steps:
        if step == "w":
            part = bytes((len(written) + i) % 251 for i in range(number))
            written += part
            stream.write([memoryview(part)])
        elif step == "t":
            offset, parts, size = stream.take(number)
            assert b"".join(parts) == written[offset : offset + size]
        elif step == "a":
            stream.acknowledge(min(number, stream.written))
        else:
            stream.rewind(min(number, stream.next))
            assert stream.next == stream.acked
    offset, parts, size = stream.take(1 << 20)
    assert b"".join(parts) == written[offset:] and offset + size == len(written)
    assert sum(part.nbytes for part in stream.unacked) == len(written) - stream.acked


# Who is told what


def test_controllers_hear_who_comes_and_goes() -> None:
    network = Network(limits=Limits(linger=1.0))
    boss = network.add("boss", role="controller")
    network.settle()
    network.add("w")
    network.settle()
    assert boss.notices.pop() == Notice("registered", "w", "", network.links["w"].session)
    network.cut("w")
    network.settle()
    assert not boss.notices
    network.now = 2.0
    network.relay.tick(network.now)
    network.settle()
    assert boss.notices.pop() == Notice("gone", "w", "lost", network.links["w"].session)


def test_only_those_who_had_to_do_with_it_hear_that_a_peer_has_gone() -> None:
    core = RelayCore(Limits(linger=0))
    friend, stranger, leaver = (
        RawPeer(core, identity(name)).hello(name) for name in ("friend", "stranger", "leaver")
    )
    opening = {"from": "friend", "to": "leaver", "patience": 1}
    path = {"source": peer_id("friend"), "destination": peer_id("leaver"), "flags": f.OPENER}
    for number in (1, 2, 3):
        friend.send(f.serialize_json(f.OPEN, opening, stream=number, **path))
    assert leaver.kinds() == ["WELCOME", "OPEN", "OPEN", "OPEN"]
    friend.take(), stranger.take()
    core.disconnect(leaver.connection, "lost", 1.0)
    assert friend.kinds() == ["GONE"]
    assert stranger.kinds() == []
    assert not core.streams
    friend.send(f.serialize_json(f.OPEN, opening, stream=4, **path))
    [answer] = friend.take()
    assert f.parse_header(answer).code == f.Code.PEER_GONE


def test_gone_names_are_forgotten_in_time_and_number() -> None:
    core = RelayCore(Limits(linger=0, gone_memory=100.0, remembered_gone=5))
    for number in range(9):
        peer = RawPeer(core, identity(f"w{number}"), float(number)).hello(
            f"w{number}", now=float(number)
        )
        core.disconnect(peer.connection, "lost", float(number))
    core.tick(50.0)
    assert [name for name, _, _ in core.gone.values()] == ["w4", "w5", "w6", "w7", "w8"]
    core.tick(106.0)
    assert [name for name, _, _ in core.gone.values()] == ["w7", "w8"]


def test_name_that_returns_is_no_longer_gone() -> None:
    core = RelayCore(Limits(linger=0))
    first = RawPeer(core, identity("w")).hello("w")
    core.disconnect(first.connection, "lost", 1.0)
    assert peer_id("w") in core.gone
    RawPeer(core, identity("w")).hello("w", session="t" * 32)
    assert peer_id("w") not in core.gone


def test_silent_links_are_given_up_and_others_are_pinged() -> None:
    core = RelayCore(Limits(ping_interval=2.0, silence=10.0))
    quiet, lively = (RawPeer(core, identity(name)).hello(name) for name in ("quiet", "lively"))
    quiet.take(), lively.take()
    for now in range(1, 10):
        lively.send(f.serialize_frame(f.PONG), float(now))
        core.tick(float(now))
    assert quiet.connection not in core.closing
    assert quiet.kinds().count("PING") == 4
    core.tick(10.0)
    assert quiet.connection in core.closing and quiet.connection.close_reason == "silent"
    assert lively.connection not in core.closing
    assert peer_id("quiet") not in core.peers


def test_link_that_the_relay_does_not_read_from_is_not_silent() -> None:
    core = RelayCore(Limits(silence=10.0))
    peer = RawPeer(core, identity("w")).hello("w")
    peer.connection.muted = True
    core.tick(20.0)
    assert peer.connection not in core.closing


def test_stored_frames_expire() -> None:
    core = RelayCore(Limits(hold=30.0))
    peer = RawPeer(core, identity("w")).hello("w")
    path = {"source": peer_id("w"), "destination": peer_id("late"), "flags": f.OPENER}
    for number, patience in ((1, 5), (2, 1000)):
        opening = {"from": "w", "to": "late", "patience": patience}
        peer.send(f.serialize_json(f.OPEN, opening, stream=number, **path))
        peer.send(f.serialize_frame(f.DATA, b"early", stream=number, **path))
    peer.take()
    core.tick(5.0)
    [answer] = [frame for frame in peer.take(5.0) if frame[4] == f.RESET]
    assert f.parse_header(answer).stream == 1
    core.receive(peer.connection, f.serialize_frame(f.PONG), 29.0)
    core.tick(30.0)
    [answer] = [frame for frame in peer.take(30.0) if frame[4] == f.RESET]
    header = f.parse_header(answer)
    assert (header.stream, header.code) == (2, f.Code.UNKNOWN_PEER)
    assert core.held_bytes == 0 and not core.held and not core.streams


def test_callers_are_not_called() -> None:
    """A link that only calls (another relay's peer) is nobody's destination, and its leaving is no news."""
    core = RelayCore(Limits(linger=0))
    boss = RawPeer(core, identity("boss", role="controller")).hello("boss")
    guest = RawPeer(core, identity("guest")).hello("guest", listens=False)
    boss.take()
    path = {"source": peer_id("boss"), "destination": peer_id("guest"), "flags": f.OPENER}
    boss.send(
        f.serialize_json(f.OPEN, {"from": "boss", "to": "guest", "patience": 1}, stream=1, **path)
    )
    [answer] = boss.take()
    assert f.parse_header(answer).code == f.Code.UNKNOWN_PEER
    core.disconnect(guest.connection, "lost", 1.0)
    assert boss.take() == []


# Back-pressure and fairness


def test_sender_of_too_much_is_not_read_from_until_half_has_left() -> None:
    core = RelayCore(Limits(queued_bytes_per_link=300_000))
    left, right = (RawPeer(core, identity(name)).hello(name) for name in ("left", "right"))
    path = {
        "source": peer_id("left"),
        "destination": peer_id("right"),
        "flags": f.OPENER,
        "stream": 1,
    }
    left.send(f.serialize_json(f.OPEN, {"from": "left", "to": "right", "patience": 1}, **path))
    limit = f.LIMIT.pack(1 << 30)
    back = {"source": peer_id("right"), "destination": peer_id("left"), "stream": 1}
    right.send(f.serialize_frame(f.ACCEPT, limit, **back))
    left.take(), right.take()
    for number in range(4):
        assert not left.connection.muted
        left.send(f.serialize_frame(f.DATA, bytes(100_000), offset=number * 100_000, **path))
        if number == 2:
            assert left.connection.muted and left.connection in core.flow_changed
            break
    assert core.take_output(right.connection, 100_000, 0.0) and left.connection.muted
    assert core.take_output(right.connection, 100_000, 0.0) and not left.connection.muted


def test_control_frames_that_nobody_takes_count_too() -> None:
    core = RelayCore(Limits(queued_bytes_per_link=300_000))
    sender = RawPeer(core, identity("sender")).hello("sender")
    reader = RawPeer(core, identity("reader")).hello("reader")
    for number in range(10_000):
        sender.send(
            f.serialize_frame(
                f.WINDOW, bytes(8), source=peer_id("sender"), destination=peer_id("reader"), stream=number
            )
        )  # fmt: skip
    assert sender.connection.muted
    reader.take()
    assert not sender.connection.muted


def test_answers_that_nobody_takes_count_too() -> None:
    core = RelayCore(Limits(queued_bytes_per_link=300_000))
    peer = RawPeer(core, identity("peer")).hello("peer")
    for number in range(20_000):
        peer.send(f.serialize_frame(f.DATA, b"x", source=peer_id("peer"), stream=number))
    assert peer.connection.muted


def test_link_that_was_muted_for_long_is_not_silent() -> None:
    core = RelayCore(Limits(silence=10.0, queued_bytes_per_link=10))
    peer = RawPeer(core, identity("peer")).hello("peer")
    peer.send(f.serialize_frame(f.DATA, b"x", source=peer_id("peer"), stream=1))
    assert peer.connection.muted
    for second in range(1, 15):
        core.tick(float(second))
    peer.take()
    assert not peer.connection.muted
    core.tick(14.5)
    assert peer.connection.close_reason is None


def test_connection_that_takes_nothing_is_closed_and_what_waits_for_it_mutes_nobody() -> None:
    core = RelayCore(Limits(stuck=30.0, silence=1e9))
    peer = RawPeer(core, identity("peer")).hello("peer")
    peer.connection.blocked_since = 1.0  # as the adapter says when the socket is full
    core.tick(30.0)
    assert peer.connection.close_reason is None
    core.tick(31.0)
    assert peer.connection.close_reason == "stuck" and not core.gone


@pytest.mark.parametrize("to", ["\ud800", "x" * 1000])
def test_names_that_json_allows_and_we_do_not(to: str) -> None:
    core = RelayCore(Limits())
    peer = RawPeer(core, identity("peer")).hello("peer")
    request = {"from": "peer", "to": to, "patience": 1}
    peer.send(f.serialize_json(f.OPEN, request, source=peer_id("peer"), flags=f.OPENER))
    assert core.stats.refused["MALFORMED"] == 1


def test_streams_of_two_senders_share_a_receiver() -> None:
    core = RelayCore(Limits())
    peers = {name: RawPeer(core, identity(name)).hello(name) for name in ("hog", "mouse", "sink")}
    for number, name in enumerate(("hog", "mouse")):
        path = {
            "source": peer_id(name),
            "destination": peer_id("sink"),
            "flags": f.OPENER,
            "stream": number,
        }
        peers[name].send(
            f.serialize_json(f.OPEN, {"from": name, "to": "sink", "patience": 1}, **path)
        )
        for part in range(30 if name == "hog" else 1):
            peers[name].send(f.serialize_frame(f.DATA, b"x" * 1000, offset=part * 1000, **path))
    order = [f.parse_header(frame).stream for frame in peers["sink"].take() if frame[4] == f.DATA]
    assert len(order) == 31 and order.index(1) <= 1


def test_slow_reader_stops_its_writer_and_nobody_else() -> None:
    network = Network(window=64 * 1024)
    left, right = network.add("left"), network.add("right")
    taken: list[StreamEnd] = []
    network.on_opened = lambda link, stream: (taken.append(stream), link.streams.accept(stream))[0]
    network.settle()
    stuck, flowing = left.streams.open("right", 9.0, 0.0), left.streams.open("right", 9.0, 0.0)
    network.settle()
    left.streams.write(stuck, [memoryview(bytes(1_000_000))])
    left.streams.write(flowing, [memoryview(bytes(300_000))])
    far = next(stream for stream in taken if stream.number == flowing.number)
    got = 0
    while got < 300_000:
        network.settle()
        got += len(read_all(right, far))
    assert stuck.next <= 64 * 1024
    assert network.relay.counts()["held_bytes"] == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=120), max_size=8), st.integers(0, 2**32))
def test_core_survives_any_bytes(parts: list[bytes], seed: int) -> None:
    """Random payloads and headers in otherwise whole frames: refused or ignored, never an exception."""
    import random

    draw = random.Random(seed)
    core = RelayCore(Limits())
    good, bad = (RawPeer(core, identity(name)).hello(name) for name in ("good", "bad"))
    for part in parts:
        frame = f.HEADER.pack(
            len(part), draw.choice(sorted(f.KINDS)), draw.randrange(4), draw.randrange(20),
            draw.choice([peer_id("bad"), peer_id("good"), 0]), draw.choice([peer_id("bad"), peer_id("good"), 5]),
            draw.randrange(3), draw.choice([0, 1, 1 << 40]),
        ) + part  # fmt: skip
        bad.send(frame, 1.0)
    core.tick(2.0)
    good.send(f.serialize_frame(f.PING), 2.0)
    assert "PONG" in good.kinds()
    assert cut_frames(b"".join(bad.take())) is not None


# The command


def start_command(*arguments: str, module: str = "executors.rendezvous") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_relay_alone_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with start_command(
        "rendezvous", "--json", "--host", "127.0.0.1", "--port", "0", "--authority", str(folder),
        "--interval", "0.2", module="excamera_dask.cli",
    ) as command:  # fmt: skip
        assert command.stdout is not None
        ready = json.loads(command.stdout.readline())
        assert ready["event"] == "listening"

        async def story() -> None:
            link = Link(ready["address"], Authority.load(folder).issue("w"))
            await link.connect()
            await link.close()

        run(story)
        while True:
            line = json.loads(command.stdout.readline())
            if line["registered"]:
                break
        command.send_signal(signal.SIGTERM)
        assert json.loads(command.stdout.read().splitlines()[-1])["event"] == "stopped"
        assert command.wait() == 0
    for name in ("authority.key", "relay.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_relay_alone_needs_no_authority_key_once_it_has_a_certificate(tmp_path: Path) -> None:
    first = load_relay(tmp_path)
    (tmp_path / "authority.key").unlink()
    assert load_relay(tmp_path) == first
    (tmp_path / "relay.pem").unlink()
    with pytest.raises(InvalidCredential, match="could sign one, is not here"):
        load_relay(tmp_path)


def test_command_names_what_is_wrong(tmp_path: Path) -> None:
    with start_command("--authority", str(tmp_path), "--limit", "streems=3") as command:
        assert command.wait() == 1
        assert command.stderr is not None
        error = command.stderr.read()
    assert error.startswith("rendezvous: no limit 'streems'") and error.count("\n") == 1


def test_limits_are_read() -> None:
    assert parse_limits(["streams-per-link=7", "linger=0.5"]) == Limits(
        streams_per_link=7, linger=0.5
    )
    for text in ("linger=x", "linger=-1", "linger=inf", "streams_per_link=1.5"):
        with pytest.raises(RendezvousError, match=r"is not a number|out of range"):
            parse_limits([text])


def test_idle_relay_stays_small() -> None:
    """The core keeps little for each registered peer (the adapters' and TLS's share is measured by a benchmark)."""
    import tracemalloc

    core = RelayCore(Limits())
    tracemalloc.start()
    peers = [RawPeer(core, identity(f"w{i}")).hello(f"w{i}") for i in range(500)]
    for peer in peers:
        peer.take()
    size = tracemalloc.get_traced_memory()[0] / len(peers)
    tracemalloc.stop()
    assert size < 8_000
