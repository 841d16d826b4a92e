"""States are values: equality, a stable hash, and bytes that survive a journey or are refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from fuzz_codec import with_checksum
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import InvalidState
from codec.frame import BORDER, Image, Picture, picture_from_image
from codec.state import DecoderState, FilterDeltas, ProbabilityTables, References, Segmentation


def picture(seed: int, width: int, height: int) -> Picture:
    rng = np.random.default_rng(seed)
    half = (height + 1) // 2, (width + 1) // 2
    planes = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((height, width), half, half)]
    return picture_from_image(Image(*planes))


def make_state(
    seed: int = 1, width: int = 37, height: int = 21, distinct: bool = True
) -> DecoderState:
    rng = np.random.default_rng(seed)

    def probabilities(*shape: int) -> np.ndarray:
        return rng.integers(1, 256, shape, dtype=np.uint8)

    rows, columns = (height + 15) // 16, (width + 15) // 16
    first = picture(seed, width, height)
    return DecoderState(
        width=width,
        height=height,
        horizontal_scale=1,
        vertical_scale=2,
        color_space=0,
        clamping_type=1,
        probabilities=ProbabilityTables(
            probabilities(4, 8, 3, 11), probabilities(4), probabilities(3), probabilities(2, 19)
        ),
        segmentation=Segmentation(
            True,
            False,
            np.array([-5, 0, 7, 127], np.int8),
            np.array([-63, 0, 1, 63], np.int8),
            rng.integers(0, 4, (rows, columns), dtype=np.uint8),
        ),
        filter_deltas=FilterDeltas(
            True, np.array([2, 0, -2, -2], np.int8), np.array([4, -2, 2, 4], np.int8)
        ),
        references=References(
            first, picture(seed + 1, width, height) if distinct else first, first
        ),
    )


def test_equal_states_are_equal_and_hash_alike() -> None:
    a, b = make_state(), make_state()
    assert a == b and a is not b
    assert hash(a) == hash(b) and a.digest == b.digest
    assert a != make_state(seed=2)
    assert a != a.without_references()


def test_the_hash_is_the_same_in_every_process() -> None:
    assert make_state().digest.hex() == make_state().digest.hex()
    assert pickle.loads(pickle.dumps(make_state())) == make_state()


def test_the_border_does_not_count() -> None:
    state = make_state()
    assert state.references is not None
    shifted = state.references.last.y.copy()
    shifted[:BORDER] += 1
    last = state.references.last._replace(y=shifted)
    assert replace(state, references=state.references._replace(last=last)) == state


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.booleans(), st.integers(0, 9))
def test_bytes_bring_the_state_back(width: int, height: int, distinct: bool, seed: int) -> None:
    state = make_state(seed, width, height, distinct)
    read = DecoderState.from_bytes(state.to_bytes())
    assert read == state
    assert read.references is not None and state.references is not None
    for mine, theirs in zip(read.references, state.references, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(
                a[BORDER:-BORDER, BORDER:-BORDER], b[BORDER:-BORDER, BORDER:-BORDER]
            )
    assert read.references.last is read.references.altref


def test_equal_references_are_stored_once() -> None:
    one, two = (make_state(width=320, height=240, distinct=distinct) for distinct in (False, True))
    assert len(one.to_bytes()) < 0.6 * len(two.to_bytes())


def test_a_delta_is_small_and_needs_its_base() -> None:
    base = make_state(width=320, height=240)
    assert base.references is not None
    changed = base.references.last.y.copy()
    changed[BORDER + 9, BORDER + 7] ^= 3
    state = replace(
        base, references=base.references._replace(last=base.references.last._replace(y=changed))
    )
    delta = state.to_bytes(base=base)
    assert len(delta) < len(state.to_bytes()) / 20
    assert DecoderState.from_bytes(delta, base=make_state(width=320, height=240)) == state
    with pytest.raises(InvalidState, match="delta"):
        DecoderState.from_bytes(delta)
    with pytest.raises(InvalidState, match="another base"):
        DecoderState.from_bytes(delta, base=state)


def test_a_delta_against_a_base_of_another_size_still_works() -> None:
    base, state = make_state(width=64, height=48), make_state(width=32, height=16)
    assert DecoderState.from_bytes(state.to_bytes(base=base), base=base) == state


def test_a_state_without_pictures_travels_too() -> None:
    state = make_state().without_references()
    assert DecoderState.from_bytes(state.to_bytes()) == state


def test_other_versions_are_refused() -> None:
    data = bytearray(make_state().to_bytes())
    data[4] += 1
    with pytest.raises(InvalidState, match="version 3"):
        DecoderState.from_bytes(bytes(data))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.booleans())
def test_altered_bytes_are_refused(data: st.DataObject, delta: bool) -> None:
    state, base = make_state(width=17, height=16), make_state(2, width=17, height=16)
    good = state.to_bytes(base=base if delta else None)
    kind = data.draw(st.sampled_from(["cut", "altered", "longer"]))
    at = data.draw(st.integers(0, len(good) - 1))
    if kind == "cut":
        bad = good[:at]
    elif kind == "altered":
        bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    else:
        bad = good + data.draw(st.binary(min_size=1, max_size=9))
    with pytest.raises(InvalidState) as refusal:
        DecoderState.from_bytes(bad, base=base)
    assert "\n" not in str(refusal.value)


# States that nobody can have, told by bytes with a checksum that fits


def told(payload: bytes, kind: int = 0, base: bytes = bytes(16)) -> bytes:
    return with_checksum(kind, base, zstandard.ZstdCompressor().compress(payload))


def payload_of(state: DecoderState) -> bytearray:
    return bytearray(zstandard.ZstdDecompressor().decompress(state.to_bytes()[39:]))


SMALL_PARTS = 12 + 4 * 8 * 3 * 11 + 4 + 3 + 38 + 16
"""Bytes of sizes and flags, probabilities, segments and deltas; then come the map, the slots and the pictures."""


@pytest.mark.parametrize(
    ("at", "value"),
    [
        *((at, 0) for at in (0, 2)),  # no width, no height
        *((at + 1, 64) for at in (0, 2)),  # 16,384 pixels and more
        *((at, 4) for at in (4, 5)),  # scales
        *((at, 2) for at in (6, 7, 8, 9, 10, 11)),  # colour space, clamping, flags
        (12 + 1056 + 7 + 3, 0),  # a probability of vectors
        (SMALL_PARTS - 16, 128),  # -128 of a segment's quantizer
        (SMALL_PARTS - 12, 64),
        (SMALL_PARTS - 8, 192),
        (SMALL_PARTS - 1, 64),
        *((SMALL_PARTS + at, value) for at in range(6) for value in (4, 255)),  # segments
        *((SMALL_PARTS + 6 + at, 255) for at in range(3)),  # slots
        (SMALL_PARTS + 6, 1),
        (SMALL_PARTS + 7, 2),
        # a picture from a base that there is not
        *((SMALL_PARTS + 9, kind) for kind in (1, 2, 255)),
    ],
)
def test_bytes_of_a_state_that_no_decoder_has_are_refused(at: int, value: int) -> None:
    payload = payload_of(make_state())
    assert DecoderState.from_bytes(told(bytes(payload))) == make_state()
    payload[at] = value
    with pytest.raises(InvalidState) as refusal:
        DecoderState.from_bytes(told(bytes(payload)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("compressed", [b"", b"nonsense", b"\x28\xb5\x2f\xfd", bytes(1000)])
def test_bytes_that_are_not_compressed_are_refused(compressed: bytes) -> None:
    with pytest.raises(InvalidState):
        DecoderState.from_bytes(with_checksum(0, bytes(16), compressed))


MEMORY = """
import resource, sys
from codec.errors import InvalidState
from codec.state import DecoderState
data = sys.stdin.buffer.read()
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    DecoderState.from_bytes(data)
except InvalidState as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("width", "height", "slots"),
    [(0, 0, 0), (1, 1, 0), (16383, 16383, 0), (16383, 16383, 2), (16383, 1, 2)],
)
def test_few_bytes_do_not_take_a_gigabyte(width: int, height: int, slots: int) -> None:
    """A gigabyte of zeros, in 33 kB, behind the beginning of a state; in a process that has no more than that."""
    compressor = zstandard.ZstdCompressor().compressobj()
    begin = bytearray(SMALL_PARTS)
    begin[:4] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    begin[11] = 1
    begin[12 + 1056 + 7 : 12 + 1056 + 7 + 38] = b"\x01" * 38
    size = (width + 15) // 16 * ((height + 15) // 16)
    compressed = compressor.compress(bytes(begin) + bytes(size) + bytes([0, slots // 2, slots]))
    for _ in range(1024):
        compressed += compressor.compress(bytes(1 << 20))
    data = with_checksum(0, bytes(16), compressed + compressor.flush())
    assert len(data) < 60_000
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], input=data, capture_output=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-500:]
    assert done.stdout.startswith(b"decoder state")


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"height": 16384},
        {"width": 64},
        {"color_space": 2},
        {"horizontal_scale": -1},
    ],
)
def test_a_state_that_no_frames_lead_to_is_not_made(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"of a (decoder state|reference picture)"):
        replace(make_state(), **change)


def test_arrays_of_a_state_are_looked_at() -> None:
    state = make_state()
    assert state.references is not None
    last = state.references.last
    wrong = {
        "a segment of 4": replace_in(state.segmentation, "map", np.full((2, 3), 4, np.uint8)),
        "a map of another size": replace_in(state.segmentation, "map", np.zeros((3, 2), np.uint8)),
        "another type": replace_in(state.segmentation, "quantizer", np.zeros(4, np.int64)),
        "no vector probability": replace_in(
            state.probabilities, "vectors", np.zeros((2, 19), np.uint8)
        ),
        "a delta of 64": replace_in(state.filter_deltas, "mode", np.full(4, 64, np.int8)),
        "a picture of another size": replace_in(
            state.references, "golden", picture(1, 16, 16)
        ),
        "a view": replace_in(
            state.references, "last", last._replace(y=np.asfortranarray(last.y))
        ),
    }  # fmt: skip
    fields = {
        Segmentation: "segmentation",
        ProbabilityTables: "probabilities",
        FilterDeltas: "filter_deltas",
        References: "references",
    }
    for what, value in wrong.items():
        with pytest.raises(ValueError, match=r"of a (decoder state|reference picture)"):
            replace(state, **{fields[type(value)]: value})
            pytest.fail(what)


def replace_in(values: Any, name: str, value: Any) -> Any:
    return values._replace(**{name: value})
