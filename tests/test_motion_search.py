"""Prediction errors against the obvious sums; the motion search against vectors that are known."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from codec.encoding.half_pixels import MARGIN, half_pixels_of, interpolate_half_pixels
from codec.encoding.motion_search import Target, measure_16x16, search_16x16, search_window
from codec.encoding.rate_distortion import vector_rates
from codec.encoding.satd import (
    sad4x4,
    sad8x8,
    sad16x16,
    satd4x4,
    satd4x4_of_average,
    satd8x8,
    satd8x8_of_average,
    satd16x16,
    satd16x16_of_average,
    sse4x4,
    sse8x8,
    sse16x16,
)
from codec.frame import BORDER, Image, Picture, new_picture, picture_from_image
from codec.motion import LARGEST_MAGNITUDE
from codec.predict_inter import predict_inter_macroblock
from codec.tables import DEFAULT_MV_PROBS, SUBPIXEL_SIXTAP_FILTERS

HADAMARD = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
RATES = vector_rates(DEFAULT_MV_PROBS)


def _satd(a: np.ndarray, b: np.ndarray) -> int:
    difference = a.astype(np.int64) - b
    size = len(difference)
    total = 0
    for y in range(0, size, 4):
        for x in range(0, size, 4):
            block = difference[y : y + 4, x : x + 4]
            total += int(np.abs(HADAMARD @ block @ HADAMARD).sum())
    return total // 2


@pytest.mark.parametrize(
    ("size", "sad", "satd", "of_average", "sse"),
    [
        (16, sad16x16, satd16x16, satd16x16_of_average, sse16x16),
        (8, sad8x8, satd8x8, satd8x8_of_average, sse8x8),
        (4, sad4x4, satd4x4, satd4x4_of_average, sse4x4),
    ],
)
@pytest.mark.parametrize("extreme", [False, True])
def test_errors_are_the_obvious_sums(size, sad, satd, of_average, sse, extreme) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(size)
    a, b, c = (random.integers(0, 256, (40, 40), np.uint8) for _ in range(3))
    if extreme:
        a, b, c = (a & 128) // 128 * 255, np.zeros_like(b), np.zeros_like(c)
    x, y = a[3 : 3 + size, 5 : 5 + size], b[7 : 7 + size, 11 : 11 + size]
    z = c[2 : 2 + size, 1 : 1 + size]
    assert sad(a, 3, 5, b, 7, 11) == np.abs(x.astype(np.int64) - y).sum()
    assert satd(a, 3, 5, b, 7, 11) == _satd(x, y)
    assert sse(a, 3, 5, b, 7, 11) == ((x.astype(np.int64) - y) ** 2).sum()
    average = (y.astype(np.int64) + z + 1) // 2
    assert of_average(a, 3, 5, np.stack([b, c]), 0, 7, 11, 1, 2, 1) == _satd(x, average)


def _textured(width: int, height: int, seed: int = 0) -> Picture:
    """A smooth random picture."""
    random = np.random.default_rng(seed)
    spectrum = np.fft.fft2(random.normal(size=(height, width)))
    across, down = np.fft.fftfreq(width), np.fft.fftfreq(height)[:, np.newaxis]
    smooth = np.real(np.fft.ifft2(spectrum * np.exp(-60 * (across**2 + down**2))))
    luma = np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    half = np.zeros((height // 2, width // 2), np.uint8)
    return picture_from_image(Image(luma, half, half))


def test_half_pixels_are_the_decoders() -> None:
    plane = np.random.default_rng(1).integers(0, 256, (96, 80), np.uint8)
    planes = interpolate_half_pixels(plane)
    taps = SUBPIXEL_SIXTAP_FILTERS[4].astype(np.int64)

    def filtered(pixels: np.ndarray, axis: int) -> np.ndarray:
        shifted = [np.roll(pixels.astype(np.int64), 2 - tap, axis) for tap in range(6)]
        total = sum(tap * pixel for tap, pixel in zip(taps, shifted, strict=True))
        return np.clip((total + 64) >> 7, 0, 255)

    right = filtered(plane, 1)
    inside = slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN)
    for found, expected in zip(
        planes, (plane, right, filtered(plane, 0), filtered(right, 0)), strict=True
    ):
        np.testing.assert_array_equal(found[inside], expected[inside])


def _target(reference: Picture, vector: tuple[int, int], mb_row: int, mb_col: int) -> Target:
    """A search for a macroblock that a vector predicts exactly."""
    source = new_picture(reference.rows, reference.columns)
    vectors = np.full((16, 2), vector, np.int16)
    predict_inter_macroblock(reference, vectors, False, 0, 0, source, mb_row, mb_col)
    planes = interpolate_half_pixels(reference.y)
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    return Target(source.y, planes, y, x, 0, 0, RATES, 20)


INSIDE = np.s_[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def test_half_pixels_are_kept_as_long_as_what_they_are_of() -> None:
    random = np.random.default_rng(2)
    first, second, third = (random.integers(0, 256, (96, 80), np.uint8) for _ in range(3))
    made = half_pixels_of([first, second])
    for plane, planes in zip((first, second), made, strict=True):
        fresh = interpolate_half_pixels(plane)
        assert np.array_equal(planes[INSIDE], fresh[INSIDE])
    assert half_pixels_of([third, second])[1] is made[1]
    assert half_pixels_of([first])[0] is not made[0]  # not asked for in between
    gone = weakref.ref(made[0])
    del made, planes
    assert gone() is None  # though what it was made from lives, and nobody collected cycles
    gone = weakref.ref(half_pixels_of([third, second])[0])
    assert gone() is not None
    del third
    assert gone() is None


@pytest.mark.parametrize(
    "vector", [(0, 0), (4, -8), (2, 6), (5, -7), (3, 1), (-13, 22), (-31, -22)]
)
def test_vectors_are_found(vector: tuple[int, int]) -> None:
    target = _target(_textured(160, 128), vector, 3, 4)
    found = np.zeros(2, np.int64)
    search_16x16(target, np.zeros((1, 2), np.int64), 1, 0, found)
    assert tuple(found) == vector


def test_far_vectors_are_found_by_leaps_or_candidates() -> None:
    vector = (96, -130)
    target = _target(_textured(320, 256), vector, 6, 10)
    found = np.zeros(2, np.int64)
    candidates = np.array([(0, 0), (90, -120)], np.int64)
    search_16x16(target, candidates, 2, 1 << 60, found)
    assert tuple(found) == vector


def test_even_vectors_are_measured_exactly() -> None:
    reference = _textured(96, 96)
    for vector in ((0, 0), (2, 0), (0, -2), (2, 2), (-6, 10)):
        target = _target(reference, vector, 2, 2)
        assert measure_16x16(target.source, target.planes, target.y, target.x, *vector) == 0


@pytest.mark.parametrize("mb_row", [0, 5])
@pytest.mark.parametrize("mb_col", [0, 5])
def test_the_window_stays_in_the_planes_and_in_what_can_be_written(
    mb_row: int, mb_col: int
) -> None:
    size = 96 + 2 * BORDER
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    for best in (-900, 0, 900):
        window = search_window(size, size, y, x, best, best)
        assert window.top >= max(4 * (MARGIN - y), best - LARGEST_MAGNITUDE)
        assert window.left >= max(4 * (MARGIN - x), best - LARGEST_MAGNITUDE)
        assert window.bottom <= min(4 * (size - MARGIN - 17 - y), best + LARGEST_MAGNITUDE)
        assert window.right <= min(4 * (size - MARGIN - 17 - x), best + LARGEST_MAGNITUDE)
