"""Quantizer indices of a batch: plain frames have that of the cq level, what many frames lean on has finer ones."""

from __future__ import annotations

from itertools import pairwise
from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.encoding.encoder import Segments
from codec.tables import AC_QLOOKUP

ONE = 1 << 12
"""1 in the fixed-point numbers of this package."""
SHARE = 6, 1000
"""An error of (step x 256 pixels x SHARE) is inherited by half."""
ROUNDS = 8
LEAST_SPREAD = 2
"""Indices that segments must be apart to be worth their map."""


class Quantizers(NamedTuple):
    """Of one frame: an index for all of it, and segments where macroblocks differ."""

    q_index: int
    segments: Segments | None


def half_error(q_index: int) -> int:
    """The squared error of a macroblock by which a prediction is half worthless: what plain frames leave anyway."""
    step = int(AC_QLOOKUP[q_index])
    return max(1, 256 * step * step * SHARE[0] // SHARE[1])


def inherited(errors: NDArray[np.int64], half: int) -> NDArray[np.int64]:
    """How much of a macroblock lives on in a prediction with these errors, ONE for all of it."""
    return (half * ONE) // (half + errors)


def finest_for(importance: NDArray[np.int64], q_index: int) -> NDArray[np.int64]:
    """Quantizer indices of macroblocks by how many frames' worth they live on for (x ONE).

    The step falls with (1 + importance) to the power 0.4; for content that never changes, theory has the square root.
    """
    bounds = _bounds(q_index)
    return len(bounds) - np.searchsorted(bounds, ONE + importance, side="left")


def _bounds(q_index: int) -> NDArray[np.int64]:
    """1 + importance (x ONE), ascending, up to which each index from q_index - 1 downwards is fine enough: exact, since a
    power of floats differs between machines."""
    steps = [int(step) for step in AC_QLOOKUP[: q_index + 1]]
    middles = [a + b for a, b in pairwise(steps)]  # x 2
    base = 2 * steps[-1]
    return np.array([isqrt(ONE * ONE * base**5 // middle**5) for middle in middles[::-1]], np.int64)


def one_quantizer_for(importance: NDArray[np.int64], q_index: int) -> Quantizers:
    """The mean of what the macroblocks would have, for all of them."""
    wanted = finest_for(importance, q_index)
    return Quantizers((2 * int(wanted.sum()) + wanted.size) // (2 * wanted.size), None)


def quantizers_for(importance: NDArray[np.int64], q_index: int) -> Quantizers:
    """Four indices and the map that says which macroblock has which."""
    wanted = finest_for(importance, q_index)
    ordered = np.sort(wanted.ravel())
    levels = ordered[[(2 * k + 1) * len(ordered) // 8 for k in range(4)]]
    nearest = np.zeros(wanted.shape, np.int64)
    for _ in range(ROUNDS):
        nearest = np.abs(wanted[..., np.newaxis] - levels).argmin(axis=-1)
        counts = np.bincount(nearest.ravel(), minlength=4)
        sums = [int(wanted[nearest == level].sum()) for level in range(4)]
        means = [
            (2 * total + int(count)) // (2 * int(count)) if count else int(level)
            for total, count, level in zip(sums, counts, levels, strict=True)
        ]
        levels = np.array(means, np.int64)
    counts = np.bincount(nearest.ravel(), minlength=4)
    usual = int(levels[int(counts.argmax())])
    first, second, third, fourth = (int(level) for level in levels)
    if max(levels) - min(levels) < LEAST_SPREAD:
        return Quantizers(usual, None)
    return Quantizers(usual, Segments((first, second, third, fourth), nearest.astype(np.uint8)))
