"""The loop filter against the RFC's formulas, and levels against its rules."""

from __future__ import annotations

import naive
import numpy as np
import pytest

from codec import loop_filter
from codec.frame import (
    ALTREF_FRAME,
    B_PRED,
    BORDER,
    DC_PRED,
    GOLDEN_FRAME,
    INTRA_FRAME,
    LAST_FRAME,
    NEARESTMV,
    NEWMV,
    SPLITMV,
    TM_PRED,
    ZEROMV,
    Picture,
    new_macroblocks,
    new_picture,
)
from codec.state import FilterDeltas, Segmentation


def _picture(seed: int, rows: int, columns: int) -> Picture:
    """Blocks of smooth ramps and of noise, with steps between them, so that each branch of the filter is taken."""
    generator = np.random.default_rng(seed)
    picture = new_picture(rows, columns)
    for plane in picture:
        height, width = plane.shape
        coarse = generator.integers(0, 256, (height // 4, width // 4))
        coarse = 128 + (coarse - 128) // generator.choice([1, 4, 16, 32], coarse.shape)
        noise = generator.integers(-1, 2, plane.shape) * generator.choice([0, 1, 3], plane.shape)
        plane[:] = np.clip(coarse.repeat(4, 0).repeat(4, 1) + noise, 0, 255)
    return picture


@pytest.mark.parametrize("key_frame", [True, False])
@pytest.mark.parametrize("sharpness", [0, 3, 6])
@pytest.mark.parametrize("simple", [False, True])
def test_picture(simple: bool, sharpness: int, key_frame: bool) -> None:
    generator = np.random.default_rng(sharpness)
    picture = _picture(sharpness, 2, 3)
    before = [plane.copy() for plane in picture]
    levels = generator.choice([0, 1, 12, 15, 22, 45, 63], (2, 3)).astype(np.uint8)
    inner = generator.integers(0, 2, (2, 3)).astype(np.uint8)
    expected = [plane.copy() for plane in picture]
    inside = [plane[BORDER:-BORDER, BORDER:-BORDER] for plane in expected]
    naive.loop_filter(inside, levels, inner, sharpness, simple, key_frame)
    loop_filter.loop_filter_picture(picture, levels, inner, sharpness, simple, key_frame)
    for plane, wanted in zip(picture, expected, strict=True):
        assert np.array_equal(plane, wanted)
    assert not np.array_equal(picture.y, before[0])


def test_one_macroblock_has_no_outer_edges() -> None:
    picture = _picture(1, 1, 1)
    before = [plane.copy() for plane in picture]
    off, level = np.zeros((1, 1), np.uint8), np.full((1, 1), 40, np.uint8)
    loop_filter.loop_filter_picture(picture, level, off, 0, False, True)
    loop_filter.loop_filter_picture(picture, off, level, 0, False, True)
    for plane, wanted in zip(picture, before, strict=True):
        assert np.array_equal(plane, wanted)


def _segmentation(values: tuple[int, ...] | None, absolute: bool = False) -> Segmentation:
    """Segmentation by filter level."""
    zeros = np.zeros(4, np.int8)
    levels = zeros if values is None else np.array(values, np.int8)
    return Segmentation(values is not None, absolute, zeros, levels, np.zeros((1, 1), np.uint8))


def _deltas(
    reference: tuple[int, ...], mode: tuple[int, ...], enabled: bool = True
) -> FilterDeltas:
    return FilterDeltas(enabled, np.array(reference, np.int8), np.array(mode, np.int8))


def test_levels_without_deltas() -> None:
    none = _deltas((63, 63, 63, 63), (63, 63, 63, 63), enabled=False)
    filter_levels = loop_filter.filter_levels
    assert np.all(filter_levels(17, _segmentation(None), none) == 17)
    relative, absolute = _segmentation((0, -20, 60, 5)), _segmentation((0, 20, 63, 5), True)
    assert filter_levels(17, relative, none)[:, 0, 0].tolist() == [17, 0, 63, 22]
    assert filter_levels(17, absolute, none)[:, 3, 9].tolist() == [0, 20, 63, 5]
    assert not filter_levels(0, absolute, none).any()


def test_levels_with_deltas() -> None:
    deltas = _deltas((2, 0, -2, -30), (4, -3, 2, 50))
    table = loop_filter.filter_levels(20, _segmentation(None), deltas)[3]
    assert table[INTRA_FRAME, DC_PRED] == table[INTRA_FRAME, TM_PRED] == 22
    assert table[INTRA_FRAME, B_PRED] == 26
    assert table[LAST_FRAME, ZEROMV] == 17
    assert table[LAST_FRAME, NEARESTMV] == table[LAST_FRAME, NEWMV] == 22
    assert table[GOLDEN_FRAME, SPLITMV] == 63
    assert table[ALTREF_FRAME, ZEROMV] == 0


def test_levels_all_at_once() -> None:
    deltas = _deltas((2, 0, -2, -30), (4, -3, 2, 50))
    for segmentation in (_segmentation(None), _segmentation((0, -20, 60, 5))):
        tables = loop_filter.all_filter_levels(segmentation, deltas)
        for level, table in enumerate(tables):
            assert np.array_equal(table, loop_filter.filter_levels(level, segmentation, deltas))


def test_luma_alone_is_the_pictures() -> None:
    picture = _picture(3, 2, 3)
    luma = picture.y.copy()
    levels = np.array([[0, 12, 45], [63, 20, 1]], np.uint8)
    inner = np.array([[1, 0, 1], [0, 1, 1]], np.uint8)
    loop_filter.loop_filter_picture(picture, levels, inner, 0, False, False)
    loop_filter.loop_filter_luma(luma, levels, inner, False)
    assert np.array_equal(luma, picture.y)


def test_levels_of_macroblocks() -> None:
    macroblocks = new_macroblocks(1, 5)
    macroblocks.y_mode[0] = [DC_PRED, B_PRED, ZEROMV, SPLITMV, NEWMV]
    macroblocks.reference[0] = [0, 0, 1, 2, 3]
    macroblocks.segment[0] = [0, 1, 2, 3, 0]
    macroblocks.coded[0] = [1, 0, 0, 0, 1]
    table = np.arange(160).reshape(4, 4, 10).astype(np.uint8)
    levels, inner = np.zeros((1, 5), np.uint8), np.zeros((1, 5), np.uint8)
    loop_filter.macroblock_levels(macroblocks, table, levels, inner)
    assert levels[0].tolist() == [0, 40 + 4, 80 + 10 + 7, 120 + 20 + 9, 30 + 8]
    assert inner[0].tolist() == [1, 1, 0, 1, 1]


def test_frame_is_the_picture_at_its_levels() -> None:
    macroblocks = new_macroblocks(2, 2)
    macroblocks.y_mode[0] = [B_PRED, DC_PRED]
    table = loop_filter.filter_levels(30, _segmentation(None), _deltas((2, 0, 0, 0), (9, 0, 0, 0)))
    frame, picture = _picture(2, 2, 2), _picture(2, 2, 2)
    loop_filter.loop_filter_frame(frame, macroblocks, table, 2, False, False)
    levels = np.array([[41, 32], [32, 32]], np.uint8)
    inner = np.array([[1, 0], [0, 0]], np.uint8)
    loop_filter.loop_filter_picture(picture, levels, inner, 2, False, False)
    for plane, wanted in zip(frame, picture, strict=True):
        assert np.array_equal(plane, wanted)
