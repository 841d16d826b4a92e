"""How far a prediction is from the source: squared errors, sums of absolute differences, before and after a Hadamard transform.

For a SATD, each 4x4 block of differences goes through a Hadamard transform; the sum of magnitudes is halved, so that it is on the
scale of an orthonormal transform times two (and of x264's and libvpx's screening costs).
"""

from __future__ import annotations

from codec import simd
from codec.kernel import inline_kernel, kernel

_even_lanes16 = simd.shuffle((0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30))
_odd_lanes16 = simd.shuffle((1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
_even_pairs16 = simd.shuffle((0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29))
_odd_pairs16 = simd.shuffle((2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
_join8 = simd.shuffle((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
_even_lanes4 = simd.shuffle((0, 4, 2, 6))
_odd_lanes4 = simd.shuffle((1, 5, 3, 7))
_even_pairs4 = simd.shuffle((0, 1, 4, 5))
_odd_pairs4 = simd.shuffle((2, 3, 6, 7))


@inline_kernel
def _across_rows(d0, d1, d2, d3):
    """The Hadamard transform of each column of four rows."""
    a = d0 + d1
    b = d0 - d1
    c = d2 + d3
    d = d2 - d3
    return a + c, b + d, a - c, b - d


@inline_kernel
def _magnitudes(d0, d1, d2, d3):
    """Half the Hadamard magnitudes, added up in lanes, of four rows of four blocks side by side."""
    r0, r1, r2, r3 = _across_rows(d0, d1, d2, d3)
    p = _even_lanes16(r0, r1)
    q = _odd_lanes16(r0, r1)
    s = _even_lanes16(r2, r3)
    t = _odd_lanes16(r2, r3)
    u0 = p + q
    u1 = p - q
    u2 = s + t
    u3 = s - t
    # the last butterfly: |x + y| + |x - y| = 2 max(|x|, |y|)
    return simd.maximum(
        simd.absolute(_even_pairs16(u0, u2)), simd.absolute(_odd_pairs16(u0, u2))
    ) + simd.maximum(simd.absolute(_even_pairs16(u1, u3)), simd.absolute(_odd_pairs16(u1, u3)))


@inline_kernel
def _difference16(a, ay, ax, b, by, bx):
    return simd.load16(a, ay, ax) - simd.load16(b, by, bx)


@kernel
def satd16x16(a, ay, ax, b, by, bx):
    """SATD between the 16x16 pixels of plane `a` at (ay, ax) and those of plane `b` at (by, bx)."""
    total = simd.i16x16(0)
    for row in range(0, 16, 4):
        total = total + _magnitudes(
            _difference16(a, ay + row, ax, b, by + row, bx),
            _difference16(a, ay + row + 1, ax, b, by + row + 1, bx),
            _difference16(a, ay + row + 2, ax, b, by + row + 2, bx),
            _difference16(a, ay + row + 3, ax, b, by + row + 3, bx),
        )
    return simd.lane_sum(total)


@inline_kernel
def _difference8x2(a, ay, ax, b, by, bx):
    """Rows ay and ay + 4 of 8 differences, in one vector."""
    upper = simd.load8(a, ay, ax) - simd.load8(b, by, bx)
    lower = simd.load8(a, ay + 4, ax) - simd.load8(b, by + 4, bx)
    return _join8(upper, lower)


@kernel
def satd8x8(a, ay, ax, b, by, bx):
    """SATD of 8x8 pixels."""
    return simd.lane_sum(
        _magnitudes(
            _difference8x2(a, ay, ax, b, by, bx),
            _difference8x2(a, ay + 1, ax, b, by + 1, bx),
            _difference8x2(a, ay + 2, ax, b, by + 2, bx),
            _difference8x2(a, ay + 3, ax, b, by + 3, bx),
        )
    )


@inline_kernel
def _hadamard4(d0, d1, d2, d3):
    r0, r1, r2, r3 = _across_rows(d0, d1, d2, d3)
    p = _even_lanes4(r0, r1)
    q = _odd_lanes4(r0, r1)
    s = _even_lanes4(r2, r3)
    t = _odd_lanes4(r2, r3)
    u0 = p + q
    u1 = p - q
    u2 = s + t
    u3 = s - t
    return simd.lane_sum(
        simd.maximum(simd.absolute(_even_pairs4(u0, u2)), simd.absolute(_odd_pairs4(u0, u2)))
        + simd.maximum(simd.absolute(_even_pairs4(u1, u3)), simd.absolute(_odd_pairs4(u1, u3)))
    )


@kernel
def satd4x4(a, ay, ax, b, by, bx):
    """SATD of 4x4 pixels."""
    return _hadamard4(
        simd.load4(a, ay, ax) - simd.load4(b, by, bx),
        simd.load4(a, ay + 1, ax) - simd.load4(b, by + 1, bx),
        simd.load4(a, ay + 2, ax) - simd.load4(b, by + 2, bx),
        simd.load4(a, ay + 3, ax) - simd.load4(b, by + 3, bx),
    )


# Against the average of two predictions, for quarter-pixel positions ----------------------------------------------


@inline_kernel
def _average16(planes, i, iy, ix, j, jy, jx):
    return (simd.load16(planes, i, iy, ix) + simd.load16(planes, j, jy, jx) + 1) >> 1


@kernel
def satd16x16_of_average(a, ay, ax, planes, i, iy, ix, j, jy, jx):
    """SATD of 16x16 pixels against the rounded average of two blocks of a stack of planes (N, H, W)."""
    total = simd.i16x16(0)
    for row in range(0, 16, 4):
        total = total + _magnitudes(
            simd.load16(a, ay + row, ax) - _average16(planes, i, iy + row, ix, j, jy + row, jx),
            simd.load16(a, ay + row + 1, ax)
            - _average16(planes, i, iy + row + 1, ix, j, jy + row + 1, jx),
            simd.load16(a, ay + row + 2, ax)
            - _average16(planes, i, iy + row + 2, ix, j, jy + row + 2, jx),
            simd.load16(a, ay + row + 3, ax)
            - _average16(planes, i, iy + row + 3, ix, j, jy + row + 3, jx),
        )
    return simd.lane_sum(total)


@inline_kernel
def _average8x2(planes, i, iy, ix, j, jy, jx):
    first = _join8(simd.load8(planes, i, iy, ix), simd.load8(planes, i, iy + 4, ix))
    second = _join8(simd.load8(planes, j, jy, jx), simd.load8(planes, j, jy + 4, jx))
    return (first + second + 1) >> 1


@inline_kernel
def _rows8x2(a, ay, ax):
    return _join8(simd.load8(a, ay, ax), simd.load8(a, ay + 4, ax))


@kernel
def satd8x8_of_average(a, ay, ax, planes, i, iy, ix, j, jy, jx):
    """SATD of 8x8 pixels against the rounded average of two blocks of a stack of planes."""
    return simd.lane_sum(
        _magnitudes(
            _rows8x2(a, ay, ax) - _average8x2(planes, i, iy, ix, j, jy, jx),
            _rows8x2(a, ay + 1, ax) - _average8x2(planes, i, iy + 1, ix, j, jy + 1, jx),
            _rows8x2(a, ay + 2, ax) - _average8x2(planes, i, iy + 2, ix, j, jy + 2, jx),
            _rows8x2(a, ay + 3, ax) - _average8x2(planes, i, iy + 3, ix, j, jy + 3, jx),
        )
    )


@inline_kernel
def _average4(planes, i, iy, ix, j, jy, jx):
    return (simd.load4(planes, i, iy, ix) + simd.load4(planes, j, jy, jx) + 1) >> 1


@kernel
def satd4x4_of_average(a, ay, ax, planes, i, iy, ix, j, jy, jx):
    """SATD of 4x4 pixels against the rounded average of two blocks of a stack of planes."""
    return _hadamard4(
        simd.load4(a, ay, ax) - _average4(planes, i, iy, ix, j, jy, jx),
        simd.load4(a, ay + 1, ax) - _average4(planes, i, iy + 1, ix, j, jy + 1, jx),
        simd.load4(a, ay + 2, ax) - _average4(planes, i, iy + 2, ix, j, jy + 2, jx),
        simd.load4(a, ay + 3, ax) - _average4(planes, i, iy + 3, ix, j, jy + 3, jx),
    )


# Absolute differences: in lanes of 32 bits, which is what LLVM makes x86's psadbw of --------------------------------


@kernel
def sad16x16(a, ay, ax, b, by, bx):
    """Sum of absolute differences between the 16x16 pixels of plane `a` at (ay, ax) and those of plane `b` at (by, bx)."""
    total = simd.i32x16(0)
    for row in range(16):
        wide = simd.to_i32(simd.load16(a, ay + row, ax))
        total = total + simd.absolute(wide - simd.to_i32(simd.load16(b, by + row, bx)))
    return simd.lane_sum(total)


@kernel
def sad8x8(a, ay, ax, b, by, bx):
    """Sum of absolute differences of 8x8 pixels."""
    total = simd.i32x8(0)
    for row in range(8):
        wide = simd.to_i32(simd.load8(a, ay + row, ax))
        total = total + simd.absolute(wide - simd.to_i32(simd.load8(b, by + row, bx)))
    return simd.lane_sum(total)


@kernel
def sad4x4(a, ay, ax, b, by, bx):
    """Sum of absolute differences of 4x4 pixels."""
    total = simd.i16x4(0)
    for row in range(4):
        total = total + simd.absolute(simd.load4(a, ay + row, ax) - simd.load4(b, by + row, bx))
    return simd.lane_sum(total)


# Squared errors --------------------------------------------------------------------------------------------------


@kernel
def sse16x16(a, ay, ax, b, by, bx):
    """Sum of squared differences between the 16x16 pixels of plane `a` at (ay, ax) and those of plane `b` at (by, bx)."""
    total = simd.i32x8(0)
    for row in range(16):
        d = _difference16(a, ay + row, ax, b, by + row, bx)
        total = total + simd.dot_pairs(d, d)
    return simd.lane_sum(total)


@kernel
def sse8x8(a, ay, ax, b, by, bx):
    """Sum of squared differences of 8x8 pixels."""
    total = simd.i32x8(0)
    for row in range(4):
        d = _difference8x2(a, ay + row, ax, b, by + row, bx)
        total = total + simd.dot_pairs(d, d)
    return simd.lane_sum(total)


@kernel
def sse4x4(a, ay, ax, b, by, bx):
    """Sum of squared differences of 4x4 pixels."""
    total = simd.i32x4(0)
    for row in range(4):
        d = simd.to_i32(simd.load4(a, ay + row, ax) - simd.load4(b, by + row, bx))
        total = total + d * d
    return simd.lane_sum(total)
