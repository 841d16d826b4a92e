"""Intra prediction against the RFC's formulas, and the pixels that stand in beyond the picture's edges."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from numpy.typing import NDArray

from codec import predict_intra
from codec.frame import BORDER, Picture, new_picture

MODES = ("DC", "V", "H", "TM")
SUBBLOCK_MODES = ("B_DC", "B_TM", "B_VE", "B_HE", "B_LD", "B_RD", "B_VR", "B_VL", "B_HD", "B_HU")


def _picture(seed: int = 0) -> Picture:
    picture = new_picture(2, 2)
    for plane in picture:
        plane[:] = np.random.default_rng(seed).integers(0, 256, plane.shape)
    return picture


def _edges(plane: NDArray[np.uint8], y: int, x: int, size: int) -> tuple[list[int], list[int], int]:
    """Neighbours of a block as section 12 tells them, without looking at the border."""
    first_row, first_column = y == BORDER, x == BORDER
    above = [127] * size if first_row else plane[y - 1, x : x + size].tolist()
    left = [129] * size if first_column else plane[y : y + size, x - 1].tolist()
    corner = 127 if first_row else 129 if first_column else int(plane[y - 1, x - 1])
    return above, left, corner


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize(("mb_row", "mb_col"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("size", [16, 8])
def test_whole_blocks(mode: int, mb_row: int, mb_col: int, size: int) -> None:
    picture = _picture(mode)
    plane = picture.y if size == 16 else picture.u
    y, x = BORDER + size * mb_row, BORDER + size * mb_col
    above, left, corner = _edges(plane, y, x, size)
    wanted = naive.intra_block(above, left, corner, MODES[mode], mb_row > 0, mb_col > 0)
    elsewhere = np.zeros((40, 40), np.uint8)
    predict_intra.set_intra_border(picture)
    predict = predict_intra.predict_16x16 if size == 16 else predict_intra.predict_8x8
    predict(plane, y, x, mode, elsewhere, 3, 5)
    assert elsewhere[3 : 3 + size, 5 : 5 + size].tolist() == wanted
    assert elsewhere.sum() == np.sum(wanted)
    predict(plane, y, x, mode, plane, y, x)
    assert plane[y : y + size, x : x + size].tolist() == wanted


def test_chroma_planes_together() -> None:
    picture, expected = _picture(), _picture()
    predict_intra.predict_chroma(picture, 1, 1, 3)
    y = x = BORDER + 8
    for plane in (expected.u, expected.v):
        predict_intra.predict_8x8(plane, y, x, 3, plane, y, x)
    for plane, wanted in zip(picture, expected, strict=True):
        assert np.array_equal(plane, wanted)


@pytest.mark.parametrize("mode", range(10))
@pytest.mark.parametrize("seed", range(3))
def test_subblocks(mode: int, seed: int) -> None:
    plane = np.random.default_rng(seed).integers(0, 256, (24, 24), dtype=np.uint8)
    y, x, right_y = 9, 7, 4
    above = plane[y - 1, x : x + 4].tolist() + plane[right_y, x + 4 : x + 8].tolist()
    left = plane[y : y + 4, x - 1].tolist()
    wanted = naive.subblock(above, left, int(plane[y - 1, x - 1]), SUBBLOCK_MODES[mode])
    elsewhere = np.zeros((8, 8), np.uint8)
    predict_intra.predict_subblock(plane, y, x, mode, right_y, elsewhere, 2, 1)
    assert elsewhere[2:6, 1:5].tolist() == wanted
    predict_intra.predict_subblock(plane, y, x, mode, right_y, plane, y, x)
    assert plane[y : y + 4, x : x + 4].tolist() == wanted


def test_pixels_above_and_to_the_right() -> None:
    """127 in the first row, real pixels where there are any, the last pixel repeated in the last column."""
    picture = _picture()
    predict_intra.set_intra_border(picture)
    before = picture.y.copy()
    right = BORDER + 32
    for mb_row, mb_col in ((0, 0), (0, 1), (1, 0)):
        predict_intra.extend_above_right(picture.y, mb_row, mb_col)
    assert np.array_equal(picture.y, before)
    assert picture.y[BORDER - 1, BORDER - 1 : right + 4].tolist() == [127] * 37
    predict_intra.extend_above_right(picture.y, 1, 1)
    assert (
        picture.y[BORDER + 15, right : right + 4].tolist()
        == [int(picture.y[BORDER + 15, right - 1])] * 4
    )
