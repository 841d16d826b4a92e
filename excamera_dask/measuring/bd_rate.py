"""Bjontegaard delta rate: how many more bytes one encoder needs than another at equal quality.

G. Bjontegaard, VCEG-M33 (2001), with the log rate interpolated over quality by a monotone piecewise cubic
(Fritsch and Carlson's PCHIP) instead of one cubic polynomial, as JVET and AOM do since: it neither overshoots
between points nor needs exactly four of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pchip_slopes(x: Floats, y: Floats) -> Floats:
    """Slopes (n,) at the knots of the monotone piecewise cubic through (x, y); x ascending, n >= 2."""
    step = np.diff(x)
    secant = np.diff(y) / step
    if len(x) == 2:
        return np.repeat(secant, 2)
    slopes = np.zeros_like(y)
    left, right = secant[:-1], secant[1:]
    same_sign = left * right > 0
    weight_left = 2 * step[1:] + step[:-1]
    weight_right = step[1:] + 2 * step[:-1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        harmonic = (weight_left + weight_right) / (weight_left / left + weight_right / right)
    slopes[1:-1] = np.where(same_sign, harmonic, 0.0)
    slopes[0] = _end_slope(step[0], step[1], secant[0], secant[1])
    slopes[-1] = _end_slope(step[-1], step[-2], secant[-1], secant[-2])
    return slopes


def _end_slope(step: float, next_step: float, secant: float, next_secant: float) -> float:
    """Three-point slope at an end, limited so that the curve stays monotone."""
    slope = ((2 * step + next_step) * secant - step * next_secant) / (step + next_step)
    if slope * secant <= 0:
        return 0.0
    if secant * next_secant <= 0 and abs(slope) > 3 * abs(secant):
        return 3 * secant
    return float(slope)


def pchip_integral(x: Floats, y: Floats, low: float, high: float) -> float:
    """Integral over [low, high] of the monotone piecewise cubic through (x, y); low >= x[0], high <= x[-1]."""
    slopes = pchip_slopes(x, y)
    step = np.diff(x)
    secant = np.diff(y) / step
    cubic = (slopes[:-1] + slopes[1:] - 2 * secant) / step**2
    square = (3 * secant - 2 * slopes[:-1] - slopes[1:]) / step

    def antiderivative(t: Floats) -> Floats:
        return t * (y[:-1] + t * (slopes[:-1] / 2 + t * (square / 3 + t * cubic / 4)))

    begin = np.clip(low - x[:-1], 0, step)
    end = np.clip(high - x[:-1], 0, step)
    return float(np.sum(antiderivative(end) - antiderivative(begin)))


def _curve(points: Sequence[tuple[float, float]]) -> tuple[Floats, Floats]:
    """(quality, log rate) with quality strictly ascending; at equal quality the cheaper point stays."""
    cheapest: dict[float, float] = {}
    for rate, quality in points:
        if rate <= 0 or not np.isfinite(rate) or not np.isfinite(quality):
            raise ValueError(
                f"a point needs a positive rate and a finite quality, not {rate}, {quality}"
            )
        cheapest[quality] = min(rate, cheapest.get(quality, rate))
    if len(cheapest) < 2:
        raise ValueError("a rate-distortion curve needs at least two points of different quality")
    qualities = np.array(sorted(cheapest))
    return qualities, np.log([cheapest[q] for q in qualities])


def bd_rate(
    reference: Sequence[tuple[float, float]], tested: Sequence[tuple[float, float]]
) -> float:
    """Percent more bytes that `tested` needs than `reference` at equal quality (negative: fewer).

    Both are (rate, quality) points, at least two of different quality each, in any order; rate in any unit,
    quality in dB (PSNR, or SSIM as ``-10 log10(1 - SSIM)``). The mean of the log rate difference is taken over
    the qualities that both curves span. Raises ValueError when they span none in common.
    """
    quality, log_rate = _curve(reference)
    tested_quality, tested_log_rate = _curve(tested)
    low = max(quality[0], tested_quality[0])
    high = min(quality[-1], tested_quality[-1])
    if low >= high:
        raise ValueError("the two rate-distortion curves have no quality in common")
    difference = pchip_integral(tested_quality, tested_log_rate, low, high) - pchip_integral(
        quality, log_rate, low, high
    )
    return float(np.expm1(difference / (high - low)) * 100)
