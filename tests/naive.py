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


# Section 12: prediction within the picture -----------------------------------------------------------------------


def intra_block(
    above: list[int], left: list[int], corner: int, mode: str, has_above: bool, has_left: bool
) -> Grid:
    """Section 12.2: a whole block of `len(above)` pixels a side."""
    size = len(above)
    if mode == "DC":
        known = (above if has_above else []) + (left if has_left else [])
        mean = (sum(known) + len(known) // 2) // len(known) if known else 128
        return [[mean] * size for _ in range(size)]
    if mode == "V":
        return [list(above) for _ in range(size)]
    if mode == "H":
        return [[left[row]] * size for row in range(size)]
    return [
        [clamp255(left[row] + above[column] - corner) for column in range(size)]
        for row in range(size)
    ]


def subblock(above: list[int], left: list[int], corner: int, mode: str) -> Grid:
    """Section 12.3: a subblock from 8 pixels above, 4 to the left and the corner, by the RFC's table of B[r][c]."""
    a, lf, e = above, left, [*reversed(left), corner, *above]  # E[0] is the bottom of the left edge

    def avg2(x: int, y: int) -> int:
        return (x + y + 1) >> 1

    def avg3(x: int, y: int, z: int) -> int:
        return (x + y + y + z + 2) >> 2

    def around(i: int) -> int:
        return avg3(e[i - 1], e[i], e[i + 1])

    b = [[0] * 4 for _ in range(4)]

    def put(value: int, *places: tuple[int, int]) -> None:
        for row, column in places:
            b[row][column] = value

    if mode == "B_DC":
        return [[(sum(a[:4]) + sum(lf) + 4) >> 3] * 4 for _ in range(4)]
    if mode == "B_TM":
        return [[clamp255(lf[row] + a[column] - corner) for column in range(4)] for row in range(4)]
    if mode == "B_VE":
        return [[around(5 + column) for column in range(4)] for _ in range(4)]
    if mode == "B_HE":
        rows = [
            avg3(corner, lf[0], lf[1]),
            avg3(*lf[0:3]),
            avg3(*lf[1:4]),
            avg3(lf[2], lf[3], lf[3]),
        ]
        return [[value] * 4 for value in rows]
    if mode == "B_LD":
        line = [avg3(a[i], a[i + 1], a[min(i + 2, 7)]) for i in range(7)]
        return [[line[row + column] for column in range(4)] for row in range(4)]
    if mode == "B_RD":
        return [[around(4 - row + column) for column in range(4)] for row in range(4)]
    if mode == "B_VR":
        put(around(2), (3, 0))
        put(around(3), (2, 0))
        put(around(4), (3, 1), (1, 0))
        put(avg2(e[4], e[5]), (2, 1), (0, 0))
        put(around(5), (3, 2), (1, 1))
        put(avg2(e[5], e[6]), (2, 2), (0, 1))
        put(around(6), (3, 3), (1, 2))
        put(avg2(e[6], e[7]), (2, 3), (0, 2))
        put(around(7), (1, 3))
        put(avg2(e[7], e[8]), (0, 3))
    elif mode == "B_VL":
        put(avg2(a[0], a[1]), (0, 0))
        put(avg3(a[0], a[1], a[2]), (1, 0))
        put(avg2(a[1], a[2]), (2, 0), (0, 1))
        put(avg3(a[1], a[2], a[3]), (1, 1), (3, 0))
        put(avg2(a[2], a[3]), (2, 1), (0, 2))
        put(avg3(a[2], a[3], a[4]), (3, 1), (1, 2))
        put(avg2(a[3], a[4]), (2, 2), (0, 3))
        put(avg3(a[3], a[4], a[5]), (3, 2), (1, 3))
        put(avg3(a[4], a[5], a[6]), (2, 3))
        put(avg3(a[5], a[6], a[7]), (3, 3))
    elif mode == "B_HD":
        put(avg2(e[0], e[1]), (3, 0))
        put(around(1), (3, 1))
        put(avg2(e[1], e[2]), (2, 0), (3, 2))
        put(around(2), (2, 1), (3, 3))
        put(avg2(e[2], e[3]), (2, 2), (1, 0))
        put(around(3), (2, 3), (1, 1))
        put(avg2(e[3], e[4]), (1, 2), (0, 0))
        put(around(4), (1, 3), (0, 1))
        put(around(5), (0, 2))
        put(around(6), (0, 3))
    else:
        put(avg2(lf[0], lf[1]), (0, 0))
        put(avg3(lf[0], lf[1], lf[2]), (0, 1))
        put(avg2(lf[1], lf[2]), (0, 2), (1, 0))
        put(avg3(lf[1], lf[2], lf[3]), (0, 3), (1, 1))
        put(avg2(lf[2], lf[3]), (1, 2), (2, 0))
        put(avg3(lf[2], lf[3], lf[3]), (1, 3), (2, 1))
        put(lf[3], (2, 2), (2, 3), (3, 0), (3, 1), (3, 2), (3, 3))
    return b


# Section 18: prediction from another picture ---------------------------------------------------------------------

SIXTAP = (
    (0, 0, 128, 0, 0, 0),
    (0, -6, 123, 12, -1, 0),
    (2, -11, 108, 36, -8, 1),
    (0, -9, 93, 50, -6, 0),
    (3, -16, 77, 77, -16, 3),
    (0, -6, 50, 93, -9, 0),
    (1, -8, 36, 108, -11, 2),
    (0, -1, 12, 123, -6, 0),
)
BILINEAR = tuple((0, 0, 128 - 16 * i, 16 * i, 0, 0) for i in range(8))


def inter_block(inside: Any, y8: int, x8: int, height: int, width: int, bilinear: bool) -> Grid:
    """Section 18.3: a block at (y8, x8) eighths of a pixel of a plane without border, whose edges go on for ever."""
    rows, columns = inside.shape
    filters = BILINEAR if bilinear else SIXTAP

    def pixel(y: int, x: int) -> int:
        return int(inside[clamp(y, 0, rows - 1), clamp(x, 0, columns - 1)])

    def filtered(values: list[int], fraction: int) -> int:
        total = sum(a * b for a, b in zip(values, filters[fraction], strict=True))
        return clamp255((total + 64) >> 7)

    y, fy, x, fx = y8 >> 3, y8 & 7, x8 >> 3, x8 & 7
    between = [
        [
            filtered([pixel(y + row, x + column + tap) for tap in range(-2, 4)], fx)
            for column in range(width)
        ]
        for row in range(-2, height + 3)
    ]
    return [
        [filtered([between[row + tap][column] for tap in range(6)], fy) for column in range(width)]
        for row in range(height)
    ]


def chroma_vector(vectors: list[int], full_pixel: bool) -> int:
    """Section 18.1 for one component: the mean of four luma vectors, in eighths of a chroma pixel, as libvpx has it."""
    total = 2 * sum(vectors)
    mean = trunc_div(total + (4 if total >= 0 else -4), 8)
    return mean & ~7 if full_pixel else mean


# Section 15: the loop filter -------------------------------------------------------------------------------------


def _signed(value: int) -> int:
    return clamp(value, -128, 127)


def _common_adjust(use_outer_taps: bool, px: list[int]) -> int:
    """Section 15.2: adjust p0 and q0 of p1 p0 q0 q1, signed, in place; what the subblock filter goes on with."""
    p1, p0, q0, q1 = px
    a = _signed((_signed(p1 - q1) if use_outer_taps else 0) + 3 * (q0 - p0))
    b = _signed(a + 3) >> 3
    a = _signed(a + 4) >> 3
    px[1], px[2] = _signed(p0 + b), _signed(q0 - a)
    return a


def filter_edge(px: list[int], kind: str, edge: int, interior: int, threshold: int) -> list[int]:
    """Sections 15.2 and 15.3: p3 p2 p1 p0 q0 q1 q2 q3 after the filter "simple", "inner" or "outer"."""
    p3, p2, p1, p0, q0, q1, q2, q3 = (value - 128 for value in px)
    if abs(p0 - q0) * 2 + (abs(p1 - q1) >> 1) > edge:
        return px
    if kind == "simple":
        middle = [p1, p0, q0, q1]
        _common_adjust(True, middle)
        return px[:3] + [middle[1] + 128, middle[2] + 128] + px[5:]
    pairs = ((p3, p2), (p2, p1), (p1, p0), (q1, q0), (q2, q1), (q3, q2))
    if any(abs(a - b) > interior for a, b in pairs):
        return px
    hev = abs(p1 - p0) > threshold or abs(q1 - q0) > threshold
    middle = [p1, p0, q0, q1]
    if kind == "inner":
        a = (_common_adjust(hev, middle) + 1) >> 1
        if not hev:
            middle[0], middle[3] = _signed(p1 + a), _signed(q1 - a)
        new = [p3, p2, *middle, q2, q3]
    elif hev:
        _common_adjust(True, middle)
        new = [p3, p2, *middle, q2, q3]
    else:
        w = _signed(_signed(p1 - q1) + 3 * (q0 - p0))
        new = [p3, p2, p1, p0, q0, q1, q2, q3]
        for weight, p, q in ((27, 3, 4), (18, 2, 5), (9, 1, 6)):
            a = _signed((weight * w + 63) >> 7)
            new[p], new[q] = _signed(new[p] + a), _signed(new[q] - a)
    return [value + 128 for value in new]


def loop_filter(
    planes: Any, levels: Any, inner: Any, sharpness: int, simple: bool, key_frame: bool
) -> None:
    """Sections 15.1 to 15.4 on planes without border, in place."""
    for row in range(len(levels)):
        for column in range(len(levels[0])):
            level = int(levels[row][column])
            if not level:
                continue
            interior = level
            if sharpness:
                interior = min(interior >> (2 if sharpness > 4 else 1), 9 - sharpness)
            interior = max(interior, 1)
            if key_frame:
                threshold = 2 if level >= 40 else 1 if level >= 15 else 0
            else:
                threshold = 3 if level >= 40 else 2 if level >= 20 else 1 if level >= 15 else 0
            for plane, size in zip(planes[:1] if simple else planes, (16, 8, 8), strict=False):
                edges: list[tuple[bool, int]] = []
                inside = [(True, step) for step in range(4, size, 4)] if inner[row][column] else []
                edges += [(True, 0)] if column else []
                edges += inside
                edges += [(False, 0)] if row else []
                edges += [(False, step) for _, step in inside]
                for across_columns, step in edges:
                    limit = 2 * (level + (0 if step else 2)) + interior
                    kind = "simple" if simple else "inner" if step else "outer"
                    for place in range(size):
                        y, x = size * row, size * column
                        if across_columns:
                            line = plane[y + place, x + step - 4 : x + step + 4]
                        else:
                            line = plane[y + step - 4 : y + step + 4, x + place]
                        line[:] = filter_edge(line.tolist(), kind, limit, interior, threshold)
