"""Compiled vectors do what the same lines do on numpy arrays."""

from __future__ import annotations

import numpy as np
import pytest

from codec import simd
from codec.kernel import kernel
from codec.kernel_cache import BOUNDS_CHECKED, INTERPRETED

_reverse = simd.shuffle((7, 6, 5, 4, 3, 2, 1, 0))


@kernel
def _arithmetic(plane, out):  # type: ignore[no-untyped-def]
    a = simd.load8(plane, 0, 3)
    b = simd.load8(plane, 1, 2)
    simd.store(a * 300 - (b << 7) + 5, out, 0, 0)
    simd.store(simd.minimum(a, b) | simd.maximum(a, 17), out, 1, 0)
    simd.store(simd.absolute(a - b) ^ (a & 15), out, 2, 0)
    simd.store(simd.select((a > b) & ~(a == 200), a, -b) >> 1, out, 3, 0)
    simd.store(_reverse(a, b), out, 4, 0)
    simd.store(simd.to_i16(a >= b), out, 5, 0)
    return (
        simd.lane_sum(a * b),
        simd.lane_sum(simd.dot_pairs(a, b)),
        simd.any_lane(a > b),
        simd.all_lanes(a > b),
    )


@kernel
def _columns(plane, out):  # type: ignore[no-untyped-def]
    c = simd.load_columns16(plane, 1, 2)
    simd.store_columns((c[7] + 100, c[6], c[5], c[4], c[3], c[2], c[1], c[0] - 100), out, 0, 0)
    d = simd.load_columns8(plane, 3, 5)
    simd.store_columns(d, out, 0, 8)
    e = simd.load_columns_of_two(plane, plane[:, 9:], 2, 1)
    simd.store_columns_of_two(
        (e[0] + 50, e[1], e[2], e[4], e[3], e[5], e[6] - 50, e[7]), out, out[:, 8:], 8, 0
    )
    return simd.lane(d[2], 4)


@kernel
def _wide(plane, out8, out32):  # type: ignore[no-untyped-def]
    a = simd.load16(plane, 0, 0)
    w = simd.to_i32(a) * 70000 + simd.i32x16(3)
    simd.store(w, out32, 0)
    simd.store(a * 2 - 100, out8, 0)


def _plane() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (20, 32), dtype=np.uint8)


@pytest.mark.skipif(INTERPRETED, reason="compares compiled kernels with interpreted ones")
@pytest.mark.parametrize(
    ("function", "outputs"),
    [
        (_arithmetic, [((6, 8), np.int16)]),
        (_columns, [((16, 16), np.uint8)]),
        (_wide, [((16,), np.uint8), ((16,), np.int32)]),
    ],
)
def test_compiled_equals_interpreted(function, outputs) -> None:  # type: ignore[no-untyped-def]
    compiled = [np.zeros(shape, dtype) for shape, dtype in outputs]
    interpreted = [np.zeros(shape, dtype) for shape, dtype in outputs]
    with np.errstate(over="ignore"):
        expected = function.py_func(_plane(), *interpreted)
    assert function(_plane(), *compiled) == expected
    for a, b in zip(compiled, interpreted, strict=True):
        np.testing.assert_array_equal(a, b)


@kernel
def _load_at(plane, y, x):  # type: ignore[no-untyped-def]
    return simd.lane_sum(simd.load16(plane, y, x))


@pytest.mark.skipif(
    not (BOUNDS_CHECKED or INTERPRETED), reason="needs NUMBA_BOUNDSCHECK=1 or NUMBA_DISABLE_JIT=1"
)
@pytest.mark.parametrize(("y", "x"), [(20, 0), (0, 17), (0, -1)])
def test_access_out_of_bounds_is_found(y: int, x: int) -> None:
    with pytest.raises(IndexError):
        _load_at(_plane(), y, x)
