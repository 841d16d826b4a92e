"""Slow, obvious versions of the pixel kernels, from RFC 6386's formulas with plain loops: their oracle."""

from __future__ import annotations

from typing import Any

Grid = list[list[int]]


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def clamp255(value: int) -> int:
    return clamp(value, 0, 255)


def wrap16(value: int) -> int:
    return (value + 32768) % 65536 - 32768


def trunc_div(a: int, b: int) -> int:
    """C's division: towards zero."""
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


# Section 14: transforms ------------------------------------------------------------------------------------------


def inverse_dct(coefficients: Any) -> Grid:
    """Section 14.3: residue (4, 4) of 16 dequantized coefficients."""

    def one(i: list[int]) -> list[int]:
        a, b = i[0] + i[2], i[0] - i[2]
        c = (i[1] * 35468 >> 16) - (i[3] + (i[3] * 20091 >> 16))
        d = i[1] + (i[1] * 20091 >> 16) + (i[3] * 35468 >> 16)
        return [a + d, b + c, b - c, a - d]

    values = [int(value) for value in coefficients]
    columns = [one(values[column::4]) for column in range(4)]
    rows = [one([columns[column][row] for column in range(4)]) for row in range(4)]
    return [[(value + 4) >> 3 for value in row] for row in rows]


def inverse_wht(coefficients: Any) -> list[int]:
    """Section 14.3: the 16 first coefficients, in raster order of the blocks."""

    def one(i: list[int]) -> list[int]:
        a, b, c, d = i[0] + i[3], i[1] + i[2], i[1] - i[2], i[0] - i[3]
        return [a + b, c + d, a - b, d - c]

    values = [int(value) for value in coefficients]
    columns = [one(values[column::4]) for column in range(4)]
    rows = [one([columns[column][row] for column in range(4)]) for row in range(4)]
    return [(value + 3) >> 3 for row in rows for value in row]


def forward_dct(residue: Grid) -> list[int]:
    """libvpx's encoder: rows first, then columns, with its rounding constants."""
    rows = []
    for i in residue:
        a, b, c, d = 8 * (i[0] + i[3]), 8 * (i[1] + i[2]), 8 * (i[1] - i[2]), 8 * (i[0] - i[3])
        rows.append(
            [a + b, (c * 2217 + d * 5352 + 14500) >> 12, a - b, (d * 2217 - c * 5352 + 7500) >> 12]
        )
    out = [0] * 16
    for column in range(4):
        i = [row[column] for row in rows]
        a, b, c, d = i[0] + i[3], i[1] + i[2], i[1] - i[2], i[0] - i[3]
        out[column] = (a + b + 7) >> 4
        out[4 + column] = ((c * 2217 + d * 5352 + 12000) >> 16) + (d != 0)
        out[8 + column] = (a - b + 7) >> 4
        out[12 + column] = (d * 2217 - c * 5352 + 51000) >> 16
    return out


def forward_wht(values: Any) -> list[int]:
    """libvpx's encoder: the Y2 block of 16 first coefficients."""
    rows = []
    for row in range(4):
        i = [int(value) for value in values[4 * row : 4 * row + 4]]
        a, d, c, b = 4 * (i[0] + i[2]), 4 * (i[1] + i[3]), 4 * (i[1] - i[3]), 4 * (i[0] - i[2])
        rows.append([a + d + (a != 0), b + c, b - c, a - d])
    out = [0] * 16
    for column in range(4):
        i = [row[column] for row in rows]
        a, d, c, b = i[0] + i[2], i[1] + i[3], i[1] - i[3], i[0] - i[2]
        for row, value in enumerate((a + d, b + c, b - c, a - d)):
            out[4 * row + column] = (value + (value < 0) + 3) >> 3
    return out
