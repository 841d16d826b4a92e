"""What hidden alt-ref frames and their groups are made of: segments, copies, filter deltas, hints, filtered pictures, and
frames that are said to another decoder. Pictures are compared with libvpx's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from streams import decode_with_libvpx, moving_images

from codec import decode, parse
from codec.encoding.encoder import (
    Effort,
    Refresh,
    Segments,
    encode_given_state,
    encode_key_frame,
)
from codec.encoding.frame_coding import Encoded
from codec.encoding.motion_field import follow_motion
from codec.encoding.temporal_filter import FAR, NEAR, OWN_WEIGHT, filter_along_motion
from codec.encoding.translation import translate
from codec.errors import UnsupportedFeature
from codec.frame import ALTREF_FRAME, BORDER, GOLDEN_FRAME, LAST_FRAME, Image, picture_from_image
from codec.kernel_cache import INTERPRETED
from codec.state import DecoderState

pytestmark = pytest.mark.skipif(INTERPRETED, reason="too slow without compiled kernels")

HIDDEN = Refresh(last=False, altref=True)
STILL = Effort(zero_deltas=(-2, -12, -63))


def _segments(images: Sequence[Image], seed: int = 1) -> Segments:
    rows, columns = (images[0].height + 15) // 16, (images[0].width + 15) // 16
    random = np.random.default_rng(seed)
    return Segments((4, 20, 50, 110), random.integers(0, 4, (rows, columns)).astype(np.uint8))


def _noisy(images: Sequence[Image], deviation: float, seed: int = 7) -> list[Image]:
    random = np.random.default_rng(seed)

    def noisy(plane: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.clip(plane + random.normal(0, deviation, plane.shape), 0, 255).astype(np.uint8)

    return [Image(*map(noisy, image)) for image in images]


def _check_against_libvpx(encoded: Sequence[Encoded]) -> None:
    """Our states are what our decoder has, and what it shows is what libvpx shows."""
    state: DecoderState | None = None
    shown = []
    for frame in encoded:
        state, image = decode(state, frame.data)
        assert state == frame.state
        if image is not None:
            shown.append(image.to_bytes())
    assert shown == list(decode_with_libvpx([frame.data for frame in encoded]))


def test_segments_copies_and_deltas_play_in_libvpx() -> None:
    images = moving_images(98, 66, 9)
    segments = _segments(images)
    frames = [encode_key_frame(images[0], q_index=20, segments=segments)]

    def add(at: int, **options: Any) -> None:
        frames.append(
            encode_given_state(frames[-1].state, images[at], q_index=50, effort=STILL, **options)
        )

    add(4, refresh=HIDDEN, show=False, segments=_segments(images, 2))
    for at in (1, 2, 3):
        add(at)
    add(4, refresh=Refresh(copy_to_golden=2), references=(GOLDEN_FRAME, ALTREF_FRAME))
    add(8, refresh=HIDDEN, show=False, segments=segments)
    add(5, refresh=Refresh(copy_to_altref=1))
    add(6, refresh=Refresh(copy_to_golden=1, copy_to_altref=2, entropy=False))
    add(7, refresh=Refresh(golden=True), segments=segments)
    add(8)
    _check_against_libvpx(frames)


def test_each_segment_has_its_quantizer() -> None:
    """The finer a macroblock's segment, the smaller its error; and the map is told once."""
    image = _noisy(moving_images(160, 160, 1), 12)[0]
    segments = Segments(
        (4, 30, 60, 120), np.repeat(np.arange(4), 25).reshape(10, 10).astype(np.uint8)
    )
    key = encode_key_frame(image, q_index=60, segments=segments)
    _, shown = decode(None, key.data)
    assert shown is not None
    errors = (shown.y.astype(int) - image.y) ** 2
    by_macroblock = errors.reshape(10, 16, 10, 16).mean(axis=(1, 3))
    means = [by_macroblock[segments.map == segment].mean() for segment in range(4)]
    assert means[0] < means[1] < means[2] < means[3]
    header = parse(None, key.data).header
    assert [header.quantizer.y_ac + delta for delta in header.segmentation.quantizer or ()] == [
        4, 30, 60, 120,
    ]  # fmt: skip
    after = encode_given_state(key.state, image, q_index=60)
    assert np.array_equal(after.state.segmentation.map, segments.map)
    assert not parse(key.state, after.data).header.segmentation.enabled


def test_only_allowed_references_are_used() -> None:
    images = moving_images(96, 64, 3)
    key = encode_key_frame(images[0], q_index=10)
    hidden = encode_given_state(key.state, images[2], q_index=10, refresh=HIDDEN, show=False)
    for allowed in ((LAST_FRAME,), (GOLDEN_FRAME, ALTREF_FRAME), (ALTREF_FRAME,), ()):
        frame = encode_given_state(hidden.state, images[2], q_index=40, references=allowed)
        used = set(np.unique(parse(hidden.state, frame.data).macroblocks.reference).tolist())
        assert used - {0} <= set(allowed)
        assert decode(hidden.state, frame.data)[0] == frame.state


def _far_apart(distance: int) -> list[Image]:
    """Two pictures of one texture, so far moved that no search from zero finds it."""
    random = np.random.default_rng(3)
    texture = random.integers(0, 256, (160, 400), np.uint8)
    grey = np.full((64, 96), 128, np.uint8)
    return [Image(texture[16:144, left : left + 192].copy(), grey, grey) for left in (0, distance)]


def test_hints_lead_to_motion_that_no_search_finds() -> None:
    here, there = _far_apart(200)[0], _far_apart(140)[1]
    key = encode_key_frame(here, q_index=10)
    plain = encode_given_state(key.state, there, q_index=40)
    field = np.zeros((8, 12, 2), np.int16)
    field[..., 1] = 4 * 140
    hinted = encode_given_state(key.state, there, q_index=40, hints={LAST_FRAME: field})
    assert decode(key.state, hinted.data)[0] == hinted.state
    assert len(hinted.data) < 0.9 * len(plain.data)


def test_a_still_picture_is_not_filtered_again() -> None:
    """Of several loop-filter deltas of ZEROMV the best is taken: an area that is a copy is not worn down."""
    random = np.random.default_rng(5)
    images = moving_images(128, 128, 2)
    texture = random.integers(0, 256, (128, 128), np.uint8)
    images = [image._replace(y=np.where(np.arange(128) < 96, texture, image.y)) for image in images]
    key = encode_key_frame(images[0], q_index=4)
    frame = encode_given_state(key.state, images[1], q_index=80, effort=STILL)
    usual = encode_given_state(key.state, images[1], q_index=80)

    def error(state: DecoderState) -> int:
        assert state.references is not None
        shown = state.references.last.crop(128, 128)
        return int(((shown.y.astype(int) - images[1].y) ** 2).sum())

    assert error(frame.state) <= error(usual.state)
    assert frame.state.filter_deltas.mode[1] in STILL.zero_deltas


@pytest.mark.parametrize(
    "options",
    [
        {"refresh": Refresh(copy_to_golden=3)},
        {"refresh": Refresh(copy_to_altref=-1)},
        {"references": (4,)},
        {"segments": Segments((1, 2, 3, 128), np.zeros((2, 2), np.uint8))},
        {"segments": Segments((1, 2, 3, 4), np.full((2, 2), 4, np.uint8))},
        {"segments": Segments((1, 2, 3, 4), np.zeros((3, 2), np.uint8))},
        {"segments": Segments((1, 2, 3, 4), np.zeros((2, 2), np.int64))},
        {"hints": {1: np.zeros((2, 2), np.int16)}},
        {"hints": {0: np.zeros((2, 2, 2), np.int16)}},
        {"effort": Effort(zero_deltas=())},
        {"effort": Effort(zero_deltas=(64,))},
        {"effort": Effort(masking_range=(0, 256))},
        {"effort": Effort(masking_range=(300, 256))},
        {"effort": Effort(masking_range=(256, 2000))},
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    images = moving_images(32, 32, 2)
    state = encode_key_frame(images[0], q_index=40).state
    with pytest.raises(ValueError):
        encode_given_state(state, images[1], q_index=40, **options)


# Frames said to another decoder ------------------------------------------------------------------------------------


def _group(images: Sequence[Image]) -> tuple[Encoded, Encoded, list[Encoded]]:
    """A hidden frame, the frame that shows it, made before those between, and those."""
    key = encode_key_frame(images[0], q_index=20)
    hidden = encode_given_state(
        key.state, images[-1], q_index=10, refresh=HIDDEN, show=False,
        segments=_segments(images), settled=True, effort=STILL,
    )  # fmt: skip
    end = encode_given_state(
        hidden.state, images[-1], q_index=50, refresh=Refresh(golden=True),
        references=(GOLDEN_FRAME, ALTREF_FRAME), settled=True, effort=STILL,
    )  # fmt: skip
    between = []
    state = hidden.state
    for image in images[1:-1]:
        between.append(encode_given_state(state, image, q_index=50, effort=STILL))
        state = between[-1].state
    return hidden, end, [key, *between]


@pytest.mark.parametrize("seed", range(3))
def test_a_frame_made_beforehand_leads_to_the_state_it_was_made_for(seed: int) -> None:
    images = _noisy(moving_images(112, 80, 7, seed), 3)
    hidden, end, (key, *between) = _group(images)
    told = translate(between[-1].state, end.data, hidden.state)
    after, shown = decode(between[-1].state, told)
    expected, as_made = decode(hidden.state, end.data)
    assert after == expected == end.state
    assert shown is not None and as_made is not None
    assert shown.to_bytes() == as_made.to_bytes()
    frames = [key, hidden, *between, Encoded(told, end.state)]
    _check_against_libvpx(frames)


def test_a_frame_that_is_not_settled_may_not_be_told() -> None:
    """The default vector probabilities are odd: once left, no update leads back to them."""
    images = moving_images(112, 80, 4)
    key = encode_key_frame(images[0], q_index=20)
    plain = encode_given_state(key.state, images[0], q_index=60, references=())
    assert np.array_equal(plain.state.probabilities.vectors, key.state.probabilities.vectors)
    left = encode_given_state(key.state, images[2], q_index=60, settled=True).state
    with pytest.raises(UnsupportedFeature, match="vector probability"):
        translate(left, plain.data, key.state)
    told = encode_given_state(key.state, images[0], q_index=60, references=(), settled=True)
    assert decode(left, translate(left, told.data, key.state))[
        0
    ].probabilities.vectors.tolist() == (told.state.probabilities.vectors.tolist())


def test_what_cannot_be_told_is_refused() -> None:
    large, small = (encode_key_frame(moving_images(w, 32, 1)[0], q_index=20) for w in (48, 32))
    frame = encode_given_state(large.state, moving_images(48, 32, 2)[1], q_index=20)
    with pytest.raises(UnsupportedFeature, match="48x32"):
        translate(small.state, frame.data, large.state)
    assert translate(small.state, large.data, large.state) == large.data


def test_pictures_of_two_sizes_do_not_predict_each_other() -> None:
    large, small = moving_images(48, 32, 1)[0], moving_images(32, 32, 1)[0]
    with pytest.raises(ValueError, match="sizes"):
        filter_along_motion([large, small], 0)


# Filtered pictures --------------------------------------------------------------------------------------------------


def _mean_error(image: Image, of: Image) -> float:
    return float(((image.y.astype(int) - of.y) ** 2).mean())


def test_filtering_takes_noise_away_and_nothing_else() -> None:
    clean = moving_images(128, 96, 7)
    noisy = _noisy(clean, 4)
    filtered = filter_along_motion(noisy, 3)
    assert _mean_error(filtered, clean[3]) < 0.7 * _mean_error(noisy[3], clean[3])
    assert filter_along_motion(noisy[3:4], 0).to_bytes() == noisy[3].to_bytes()


def test_a_neighbour_of_another_scene_leaves_no_trace() -> None:
    here, other = moving_images(64, 64, 1, 1)[0], moving_images(64, 64, 1, 2)[0]
    other = other._replace(y=255 - here.y)
    filtered = filter_along_motion([other, here, other], 1)
    assert all(np.array_equal(a, b) for a, b in zip(filtered, here, strict=True))


def test_the_filter_is_that_of_its_formula() -> None:
    """Pixel by pixel in plain Python, on a picture whose motion is none."""
    random = np.random.default_rng(2)
    flat = random.integers(60, 200, (16, 16)).repeat(2, 0).repeat(2, 1).astype(np.uint8)
    grey = np.full((16, 16), 128, np.uint8)
    still = Image(flat, grey, grey)
    images = _noisy([still] * 3, 2)
    filtered = filter_along_motion(images, 1, strength=4)
    for y, x in random.integers(0, 32, (40, 2)):
        block = np.s_[y // 16 * 16 : y // 16 * 16 + 16, x // 16 * 16 : x // 16 * 16 + 16]
        own = int(images[1].y[y, x])
        total, weight = own * OWN_WEIGHT, OWN_WEIGHT
        for image in (images[0], images[2]):
            error = ((images[1].y[block].astype(int) - image.y[block]) ** 2).sum()
            factor = 2 if error < NEAR else 1 if error < FAR else 0
            pixel = int(image.y[y, x])
            factor *= 16 - min((3 * (own - pixel) ** 2 + 8) >> 4, 16)
            total += factor * pixel
            weight += factor
        assert filtered.y[y, x] == (total + weight // 2) // weight


@pytest.mark.parametrize(("at", "strength"), [(3, 5), (-1, 5), (1, 7), (1, -1)])
def test_filters_that_are_none_are_refused(at: int, strength: int) -> None:
    with pytest.raises(ValueError):
        filter_along_motion(moving_images(32, 32, 3), at, strength)


def test_motion_is_followed_from_picture_to_picture() -> None:
    """Each step is within reach of a search, the whole way is not."""
    texture = moving_images(640, 128, 1)[0].y
    grey = np.full((64, 96), 128, np.uint8)
    pictures = [
        picture_from_image(Image(texture[:, 12 * k : 12 * k + 192].copy(), grey, grey))
        for k in range(8)
    ]
    *_, far = follow_motion(pictures[0], pictures[1:])
    inside = np.s_[1:-1, 6:-1]
    assert np.all(far.vectors[inside] == (0, -4 * 84))
    assert not far.errors[inside].any()
    shown = far.predicted[BORDER + 16 : BORDER + 112, BORDER + 112 : BORDER + 176]
    assert np.array_equal(
        shown, pictures[0].y[BORDER + 16 : BORDER + 112, BORDER + 112 : BORDER + 176]
    )


@pytest.mark.parametrize(("down", "right"), [(-100, 3), (77, -45), (0, 150), (-160, 0)])
def test_what_was_scrolled_far_is_found_at_once(down: int, right: int) -> None:
    """Text-like content gives a search no slope to go by."""
    random = np.random.default_rng(9)
    page = np.where(random.random((180, 300)) < 0.3, 20, 235).repeat(4, 0).repeat(3, 1)
    page = page.astype(np.uint8)
    grey = np.full((128, 192), 128, np.uint8)
    here, there = (
        picture_from_image(Image(page[y : y + 256, x : x + 384].copy(), grey, grey))
        for y, x in ((200, 200), (200 + down, 200 + right))
    )
    (field,) = follow_motion(here, [there])
    inside = np.zeros(field.errors.shape, bool)
    rows, columns = np.indices(inside.shape) * 16
    inside[:] = (rows - down >= 0) & (rows - down <= 240) & (columns - right >= 0)
    inside &= columns - right <= 368
    found = np.all(field.vectors[inside] == (-4 * down, -4 * right), axis=-1)
    assert inside.sum() > 100 and found.mean() > 0.6  # blocks that lie across an edge are not
