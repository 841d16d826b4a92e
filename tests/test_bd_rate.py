"""Bjontegaard delta rate: values known by construction, and the interpolation against its defining properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from excamera_dask.measuring.bd_rate import bd_rate, pchip_integral, pchip_slopes

POINTS = [
    (838774.0, 23.979),
    (628251.0, 22.687),
    (443000.0, 21.1),
    (300000.0, 19.6),
    (190000.0, 17.8),
]


def test_a_curve_against_itself_is_zero() -> None:
    assert bd_rate(POINTS, POINTS) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.05, 1.33, 2.5])
def test_a_constant_factor_of_rate_is_that_many_percent(factor: float) -> None:
    scaled = [(rate * factor, quality) for rate, quality in POINTS]
    assert bd_rate(POINTS, scaled) == pytest.approx((factor - 1) * 100)


def test_swapping_the_curves_inverts_the_ratio() -> None:
    other = [(rate * 1.2 + 10000, quality - 0.3) for rate, quality in POINTS]
    there, back = bd_rate(POINTS, other), bd_rate(other, POINTS)
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1)


def test_a_shift_of_quality_on_a_straight_line_has_a_closed_form() -> None:
    # log2(rate) grows by 1 each 6 dB; 3 dB worse at equal rate costs 2**0.5 times the bytes at equal quality
    line = [(2.0 ** (q / 6), float(q)) for q in (12, 18, 24, 30)]
    worse = [(rate, quality - 3) for rate, quality in line]
    assert bd_rate(line, worse) == pytest.approx((2**0.5 - 1) * 100)


def test_known_values_of_scipy() -> None:
    # scipy 1.x: PchipInterpolator(x, y).derivative()(x) and .integrate(0.5, 3.5)
    x, y = np.array([0.0, 1, 3, 4]), np.array([0.0, 2, 3, 7])
    assert pchip_slopes(x, y) == pytest.approx([2.5, 0.8571428571, 0.9729729729, 5.1666666667])
    assert pchip_integral(x, y, 0.5, 3.5) == pytest.approx(7.586081617331618)
    tested = [(990000, 23.5), (780052, 22.22), (470000, 20.6), (350000, 19.4), (200000, 17.1)]
    assert bd_rate(POINTS, tested) == pytest.approx(27.219086646567003)


def _dense(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    """The integral by Hermite basis functions and Simpson's rule: slow and obvious."""
    slopes = pchip_slopes(x, y)
    grid = np.linspace(low, high, 20001)
    piece = np.clip(np.searchsorted(x, grid, side="right") - 1, 0, len(x) - 2)
    width = x[piece + 1] - x[piece]
    t = (grid - x[piece]) / width
    value = (
        (1 + 2 * t) * (1 - t) ** 2 * y[piece]
        + t * (1 - t) ** 2 * width * slopes[piece]
        + t * t * (3 - 2 * t) * y[piece + 1]
        + t * t * (t - 1) * width * slopes[piece + 1]
    )
    weight = np.ones_like(grid)
    weight[1:-1:2], weight[2:-1:2] = 4, 2
    return float((value * weight).sum() * (grid[1] - grid[0]) / 3)


@given(st.lists(st.floats(0.1, 5), min_size=3, max_size=8), st.data())
def test_the_integral_agrees_with_dense_sampling(steps: list[float], data: st.DataObject) -> None:
    x = np.cumsum(steps)
    y = np.cumsum(data.draw(st.lists(st.floats(0, 3), min_size=len(x), max_size=len(x))))
    low, high = float(x[0] + 0.05), float(x[-1] - 0.05)
    assert pchip_integral(x, y, low, high) == pytest.approx(
        _dense(x, y, low, high), rel=1e-4, abs=1e-6
    )


def test_curves_without_common_quality_are_refused() -> None:
    with pytest.raises(ValueError, match="no quality in common"):
        bd_rate([(1, 10), (2, 12)], [(1, 20), (2, 22)])


@pytest.mark.parametrize(
    "points", [[(1, 10)], [(1, 10), (2, 10)], [(0, 10), (1, 12)], [(1, 10), (2, np.inf)]]
)
def test_points_that_make_no_curve_are_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="point"):
        bd_rate(points, POINTS)
