"""States are values: equality, a stable hash, and bytes that survive a journey or are refused."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
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
