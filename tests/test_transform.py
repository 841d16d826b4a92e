"""Transforms against the RFC's formulas."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from numpy.typing import NDArray

from codec import transform
from codec.frame import BORDER, new_picture
from codec.quantize import dequantize


def _coefficients(seed: int, spread: int = 600) -> NDArray[np.int16]:
    generator = np.random.default_rng(seed)
    values = generator.integers(-spread, spread, (25, 16))
    values[generator.random((25, 16)) < 0.5] = 0
    return values.astype(np.int16)


def _plane(seed: int, rows: int = 24, columns: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)


def _expected(plane: NDArray[np.uint8], residue: naive.Grid, y: int, x: int) -> None:
    for row in range(4):
        for column in range(4):
            value = int(plane[y + row, x + column]) + residue[row][column]
            plane[y + row, x + column] = naive.clamp255(value)


@pytest.mark.parametrize("seed", range(4))
def test_inverse_dct_of_one_block(seed: int) -> None:
    coefficients, plane = _coefficients(seed), _plane(seed)
    expected = plane.copy()
    _expected(expected, naive.inverse_dct(coefficients[7]), 5, 9)
    transform.inverse_dct_add(coefficients, 7, plane, 5, 9)
    assert np.array_equal(plane, expected)


@pytest.mark.parametrize("dc", [-2000, -5, -4, 0, 3, 4, 700])
def test_inverse_dc(dc: int) -> None:
    plane = _plane(1)
    expected = plane.copy()
    _expected(expected, naive.inverse_dct([dc] + 15 * [0]), 2, 3)
    transform.inverse_dc_add(dc, plane, 2, 3)
    assert np.array_equal(plane, expected)


@pytest.mark.parametrize("only_dc", [False, True])
def test_four_blocks_at_once(only_dc: bool) -> None:
    coefficients = _coefficients(3)
    if only_dc:
        coefficients[:, 1:] = 0
    across, square = _plane(4), _plane(5)
    expected_across, expected_square = across.copy(), square.copy()
    for index in range(4):
        residue = naive.inverse_dct(coefficients[8 + index])
        _expected(expected_across, residue, 6, 3 + 4 * index)
        _expected(expected_square, residue, 6 + 4 * (index // 2), 3 + 4 * (index % 2))
    if only_dc:
        transform.inverse_dc_add_row(coefficients, 8, across, 6, 3)
        transform.inverse_dc_add_2x2(coefficients, 8, square, 6, 3)
    else:
        transform.inverse_dct_add_row(coefficients, 8, across, 6, 3)
        transform.inverse_dct_add_2x2(coefficients, 8, square, 6, 3)
    assert np.array_equal(across, expected_across)
    assert np.array_equal(square, expected_square)


@pytest.mark.parametrize("seed", range(3))
def test_inverse_wht(seed: int) -> None:
    coefficients = _coefficients(seed, 3000)
    expected = naive.inverse_wht(coefficients[24])
    others = coefficients[:, 1:].copy()
    transform.inverse_wht(coefficients)
    assert coefficients[:16, 0].tolist() == expected
    assert np.array_equal(coefficients[:, 1:], others)


@pytest.mark.parametrize("has_y2", [False, True])
def test_residue_of_a_macroblock(has_y2: bool) -> None:
    """Dequantize, Y2, and all 24 blocks in their places; groups of blocks with all, some and no coefficients."""
    generator = np.random.default_rng(17)
    levels = generator.integers(-20, 20, (25, 16)).astype(np.int16)
    levels[4:8, 1:] = 0
    levels[8:12, 1:] = 0
    levels[16:20, :] = 0
    levels[21:24, 1:] = 0
    eobs = np.where(np.any(levels[:, 1:] != 0, axis=1), 16, (levels[:, 0] != 0)).astype(np.uint8)
    factors = np.array([5, 7, 11, 13, 17, 19], np.int16)
    expected_coefficients = levels.astype(np.int64)
    for first, end, dc, ac in ((0, 16, 5, 7), (16, 24, 17, 19), (24, 25, 11, 13)):
        expected_coefficients[first:end, 0] *= dc
        expected_coefficients[first:end, 1:] *= ac
    if has_y2:
        expected_coefficients[:16, 0] = naive.inverse_wht(expected_coefficients[24])

    picture = new_picture(2, 2)
    for plane in picture:
        plane[:] = generator.integers(0, 256, plane.shape)
    expected = [plane.copy() for plane in picture]
    for block in range(24):
        residue = naive.inverse_dct(expected_coefficients[block])
        if block < 16:
            y, x = BORDER + 16 + block // 4 * 4, BORDER + block % 4 * 4
            _expected(expected[0], residue, y, x)
        else:
            y, x = BORDER + 8 + block % 4 // 2 * 4, BORDER + block % 2 * 4
            _expected(expected[1 + (block - 16) // 4], residue, y, x)

    coefficients = np.zeros((25, 16), np.int16)
    dequantize(levels, factors, has_y2, coefficients)
    if has_y2:
        transform.inverse_wht(coefficients)
    transform.add_residue(coefficients, eobs, picture, 1, 0)
    for plane, wanted in zip(picture, expected, strict=True):
        assert np.array_equal(plane, wanted)
