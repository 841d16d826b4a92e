"""Inter prediction against the RFC's formulas on planes without end."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from numpy.typing import NDArray

from codec import borders, predict_inter
from codec.frame import BORDER, SPLIT_4X4, Picture, new_picture


def _reference(seed: int, rows: int = 2, columns: int = 3) -> Picture:
    picture = new_picture(rows, columns)
    for plane in picture:
        plane[:] = np.random.default_rng(seed).choice([0, 1, 128, 254, 255, 77], plane.shape)
    borders.extend_borders(picture)
    return picture


def _inside(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return plane[BORDER:-BORDER, BORDER:-BORDER]


def test_borders() -> None:
    for plane in _reference(0):
        assert np.array_equal(plane, np.pad(_inside(plane), BORDER, mode="edge"))


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("size", [16, 8, 4])
def test_blocks_at_all_fractions(size: int, bilinear: bool) -> None:
    source = _reference(size).y
    predict = {
        16: predict_inter.predict_inter_16x16,
        8: predict_inter.predict_inter_8x8,
        4: predict_inter.predict_inter_4x4,
    }[size]
    fractions = range(8) if size == 4 else (0, 3, 4)
    for fy in fractions:
        for fx in fractions:
            out = np.zeros((20, 24), np.uint8)
            y, x = 5 + fy, 30 - fx
            predict(source, BORDER + y, BORDER + x, fy, fx, bilinear, out, 2, 3)
            wanted = naive.inter_block(
                _inside(source), 8 * y + fy, 8 * x + fx, size, size, bilinear
            )
            assert out[2 : 2 + size, 3 : 3 + size].tolist() == wanted
            assert out.sum() == np.sum(wanted)


def _expected_macroblock(
    reference: Picture, vectors: NDArray[np.int16], version: int, mb_row: int, mb_col: int
) -> list[NDArray[np.uint8]]:
    """All three planes' macroblocks, each subblock by itself."""
    y, u, v = np.zeros((16, 16), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    for row in range(4):
        for column in range(4):
            dy, dx = (int(value) for value in vectors[4 * row + column])
            y8, x8 = 8 * (16 * mb_row + 4 * row) + 2 * dy, 8 * (16 * mb_col + 4 * column) + 2 * dx
            y[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = naive.inter_block(
                _inside(reference.y), y8, x8, 4, 4, version != 0
            )
    for row in range(2):
        for column in range(2):
            four = [8 * row + 2 * column + i for i in (0, 1, 4, 5)]
            dy, dx = (
                naive.chroma_vector([int(vectors[i, axis]) for i in four], version == 3)
                for axis in (0, 1)
            )
            for plane, out in ((reference.u, u), (reference.v, v)):
                y8, x8 = 8 * (8 * mb_row + 4 * row) + dy, 8 * (8 * mb_col + 4 * column) + dx
                out[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = naive.inter_block(
                    _inside(plane), y8, x8, 4, 4, version != 0
                )
    return [y, u, v]


def _check_macroblock(
    vectors: NDArray[np.int16], split: bool, partitioning: int, version: int, place: tuple[int, int]
) -> None:
    reference, picture = _reference(3), new_picture(2, 3)
    for plane in picture:
        plane[:] = 9
    mb_row, mb_col = place
    predict_inter.predict_inter_macroblock(
        reference, vectors, split, partitioning, version, picture, mb_row, mb_col
    )
    expected = _expected_macroblock(reference, vectors, version, mb_row, mb_col)
    for plane, wanted in zip(picture, expected, strict=True):
        size = len(wanted)
        y, x = BORDER + size * mb_row, BORDER + size * mb_col
        assert np.array_equal(plane[y : y + size, x : x + size], wanted)
        plane[y : y + size, x : x + size] = 9
        assert np.all(plane == 9)


@pytest.mark.parametrize("version", [0, 1, 3])
@pytest.mark.parametrize("vector", [(0, 0), (-3, 7), (4, -8), (5, 0), (0, 9), (-7, -7)])
def test_macroblock_with_one_vector(vector: tuple[int, int], version: int) -> None:
    _check_macroblock(np.array([vector] * 16, np.int16), False, 0, version, (1, 1))


@pytest.mark.parametrize("version", [0, 2, 3])
@pytest.mark.parametrize("partitioning", range(4))
def test_split_macroblock(partitioning: int, version: int) -> None:
    generator = np.random.default_rng(partitioning)
    if partitioning == SPLIT_4X4:
        vectors = generator.integers(-40, 40, (16, 2)).astype(np.int16)
    else:
        quarters = generator.integers(-40, 40, (2, 2, 2)).astype(np.int16)
        vectors = quarters.repeat(2, 0).repeat(2, 1).reshape(16, 2)
    _check_macroblock(vectors, True, partitioning, version, (0, 2))


@pytest.mark.parametrize("place", [(0, 0), (1, 2)])
def test_vectors_far_outside(place: tuple[int, int]) -> None:
    """Blocks that begin between just outside the picture and the end of the range of vectors."""
    for dy, dx in (
        (-4096, 4095),
        (-77, -78),
        (-143, 150),
        (76, 77),
        (-150, 2),
        (3, 4095),
        (-76, 20),
    ):
        _check_macroblock(np.array([(dy, dx)] * 16, np.int16), False, 0, 0, place)
        vectors = np.array([(dy + i, dx - 2 * i) for i in range(16)], np.int16)
        _check_macroblock(vectors, True, SPLIT_4X4, 0, place)
