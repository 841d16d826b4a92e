"""Streams between links, without sockets: order, credit, and that no byte is lost or doubled by any cut."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rendezvous_simulation import Network, cut_frames, pair, read_all

from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.protocol.link_core import LinkCore
from executors.rendezvous.protocol.stream_end import StreamEnd


def test_bytes_arrive_in_order_both_ways() -> None:
    network = Network()
    left, near, right, far = pair(network)
    left.streams.write(near, [memoryview(b"question"), memoryview(b" two")])
    right.streams.write(far, [memoryview(b"answer")])
    network.settle()
    assert read_all(right, far) == b"question two"
    assert read_all(left, near) == b"answer"


def test_sender_stops_at_the_credit_and_goes_on_when_bytes_are_read() -> None:
    network = Network(window=64 * 1024)
    left, near, right, far = pair(network)
    data = random.Random(1).randbytes(1_000_000)
    left.streams.write(near, [memoryview(data)])
    network.settle()
    assert far.received == 64 * 1024
    assert network.relay.counts()["streams"] == 1
    got = bytearray()
    while len(got) < len(data):
        part = read_all(right, far)
        assert part, "the stream stands still"
        got += part
        network.settle()
    assert bytes(got) == data


def test_end_follows_the_data_and_forgets_the_stream() -> None:
    network = Network()
    left, near, right, far = pair(network)
    left.streams.write(near, [memoryview(b"x" * 100_000)])
    left.streams.end(near)
    network.settle()
    got = read_all(right, far)
    network.settle()
    got += read_all(right, far)
    assert got == b"x" * 100_000
    assert far.end_received
    right.streams.end(far)
    network.settle()
    assert near.end_received
    assert not left.streams.ends and not right.streams.ends and not network.relay.streams


def test_reset_breaks_the_other_end() -> None:
    network = Network()
    left, near, right, far = pair(network)
    left.streams.reset(near, f.Code.ABORTED, "enough")
    network.settle()
    assert far.error == (f.Code.ABORTED, "enough")
    assert not right.streams.ends and not network.relay.streams


def test_data_for_a_forgotten_stream_is_answered_by_a_reset() -> None:
    network = Network()
    left, near, right, far = pair(network)
    right.streams.end(far)
    right.streams.ends.pop(far.key)
    network.relay.streams.pop(near.number)
    left.streams.write(near, [memoryview(b"?")])
    network.settle()
    assert near.error is not None and near.error[0] == f.Code.UNKNOWN_STREAM


def test_peer_that_does_not_return_breaks_its_streams() -> None:
    network = Network(limits=Limits(linger=1.0))
    _, near, _, _ = pair(network)
    network.cut("right")
    network.now += 0.5
    network.relay.tick(network.now)
    network.settle()
    assert near.error is None
    network.now += 0.6
    network.relay.tick(network.now)
    network.settle()
    assert near.error is not None and near.error[0] == f.Code.PEER_GONE


def test_stream_whose_other_end_never_returns_after_a_restart_times_out() -> None:
    network = Network()
    left, near, _, _ = pair(network)
    network.restart()
    network.connect("left")
    network.settle()
    left.tick(network.now + 5, 10.0)
    assert near.error is None
    left.tick(network.now + 10, 10.0)
    assert near.error is not None and near.error[0] == f.Code.TIMEOUT


def test_stream_of_a_process_that_was_replaced_is_refused_by_its_successor() -> None:
    network = Network()
    left, near, _, _ = pair(network)
    network.restart()
    network.connect("left")
    del network.links["right"]
    network.add("right")
    network.settle()
    network.cut("left")
    network.connect("left")
    network.settle()
    assert near.error is not None and near.error[0] == f.Code.UNKNOWN_STREAM
    assert not left.streams.ends


def test_open_waits_for_a_destination_that_registers_later() -> None:
    network = Network()
    left = network.add("left")
    network.settle()
    stream = left.streams.open("late", 10.0, network.now)
    left.streams.write(stream, [memoryview(b"early words")])
    network.settle()
    assert not stream.accepted
    taken: list[StreamEnd] = []

    def take(link: LinkCore, stream: StreamEnd) -> None:
        taken.append(stream)
        link.streams.accept(stream)

    network.on_opened = take
    late = network.add("late")
    network.settle()
    assert stream.accepted
    assert read_all(late, taken[0]) == b"early words"


@pytest.mark.parametrize("moment", range(12))
def test_open_survives_a_restart_at_any_moment(moment: int) -> None:
    network = Network(seed=moment)
    left, right = network.add("left"), network.add("right")
    taken: list[StreamEnd] = []

    def take(link: LinkCore, stream: StreamEnd) -> None:
        taken.append(stream)
        link.streams.accept(stream)

    network.on_opened = take
    network.settle()
    stream = left.streams.open("right", 10.0, network.now)
    left.streams.write(stream, [memoryview(b"hello")])
    for _ in range(moment):
        network.step()
    network.restart()
    network.reconnect_all()
    network.settle()
    assert stream.accepted and stream.error is None
    assert len(taken) == 1
    assert read_all(right, taken[0]) == b"hello"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    bulk_from=st.sampled_from([0, 1, 50_000]),
    events=st.lists(
        st.sampled_from(
            [
                "cut left",
                "cut right",
                "restart",
                "read",
                "tick",
                "late left",
                "end left",
                "end right",
            ]
        ),
        max_size=25,
    ),
)
def test_no_byte_is_lost_or_doubled_whatever_is_cut(
    seed: int, bulk_from: int, events: list[str]
) -> None:
    network = Network(seed=seed, bulk_from=bulk_from)
    left, near, right, far = pair(network)
    there = random.Random(seed).randbytes(400_000)
    back = random.Random(seed + 1).randbytes(150_000)
    left.streams.write(
        near, [memoryview(there[:1]), memoryview(there[1:200_000]), memoryview(there[200_000:])]
    )
    right.streams.write(far, [memoryview(back)])
    got_there, got_back = bytearray(), bytearray()
    for event in events:
        for _ in range(network.random.randint(0, 40)):
            network.step()
        if event in ("cut left", "cut right"):
            network.cut(event.split()[1])
            network.reconnect_all()
        elif event == "late left":
            network.cut("left")
            for _ in range(20):
                network.step()
            network.reconnect_all()
        elif event == "restart":
            network.restart()
            for name in network.random.sample(["left", "right"], 2):
                network.connect(name)
                for _ in range(network.random.randint(0, 10)):
                    network.step()
        elif event == "end left":
            left.streams.end(near)
        elif event == "end right":
            right.streams.end(far)
        elif event == "tick":
            left.tick(network.now, 1e9)
            right.tick(network.now, 1e9)
        got_there += read_all(right, far)
        got_back += read_all(left, near)
    left.streams.end(near)
    right.streams.end(far)
    for _ in range(100):
        network.settle()
        got_there += read_all(right, far)
        got_back += read_all(left, near)
        network.now += 1.0
        left.tick(network.now, 1e9)
        right.tick(network.now, 1e9)
    assert near.error is None and far.error is None
    assert bytes(got_there) == there
    assert bytes(got_back) == back
    assert near.end_received and far.end_received
    assert not left.streams.ends and not right.streams.ends and not network.relay.streams


def test_waiting_reader_is_filled_across_frames_and_cuts() -> None:
    network = Network(seed=3)
    left, near, right, far = pair(network)
    data = random.Random(7).randbytes(300_000)
    buffers = [bytearray(100_000), bytearray(200_000)]
    assert not far.want(memoryview(buffers[0]))
    left.streams.write(near, [memoryview(data)])
    for _ in range(4):
        for _ in range(30):
            network.step()
        network.cut("left")
        network.reconnect_all()
    network.settle()
    assert far.wanted is None and buffers[0] == data[:100_000]
    if not far.want(memoryview(buffers[1])):
        right.streams.consumed(far)
        network.settle()
    assert far.wanted is None and buffers[1] == data[100_000:]


def test_two_streams_share_a_slow_connection() -> None:
    network = Network(window=1 << 20)
    left, _, _, _ = pair(network)
    fast = left.streams.open("right", 10.0, network.now)
    slow = left.streams.open("right", 10.0, network.now)
    network.settle()
    left.streams.write(fast, [memoryview(bytes(1 << 20))])
    left.streams.write(slow, [memoryview(b"short")])
    sent = cut_frames(b"".join(left.take_output(1 << 30, 0.0)))
    order = [f.parse_header(frame).stream for frame in sent]
    assert order.index(slow.number) <= 2


def test_end_that_nobody_acknowledges_is_not_waited_for_without_end() -> None:
    network = Network()
    left, near, right, far = pair(network)
    right.streams.end(far)
    network.settle()
    assert near.end_received
    network.cut("right")
    left.streams.end(near)
    network.settle()
    assert near.end_sent and left.streams.ends
    for second in range(100):
        left.tick(network.now + second, 30.0)
        network.settle()
    assert not left.streams.ends and near.error is None


def test_frame_on_a_stream_of_others_is_ignored_by_a_link() -> None:
    network = Network()
    left, near, right, far = pair(network)
    for kind, payload in (
        (f.WINDOW, bytes(8)),
        (f.RESUME, bytes(8)),
        (f.RESET, b""),
        (f.DATA, b"x"),
    ):
        forged = f.serialize_frame(
            kind, payload, source=12345, destination=near.local_id, stream=near.number
        )
        left.receive(forged, network.now)
    left.streams.write(near, [memoryview(b"still here")])
    network.settle()
    assert read_all(right, far) == b"still here"
