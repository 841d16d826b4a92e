"""How long a batch's groups shall be: what bits and errors they would cost, by how far pictures predict each other.

A hidden frame far ahead is rare, hence cheap, but hard to predict; and what moves on soon gains little by it. For a few
pictures of a batch the errors of predicting them from pictures ever farther before them are measured, on originals, and
each length of groups is costed in a model: innovations cost bits by the logarithm of their ratio to the error that is
left anyway, finer ones for what lives long. The numbers are exact in floating point: no result differs between machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.encoding.motion_field import follow_motion
from codec.frame import picture_from_image
from codec.tables import AC_QLOOKUP
from excamera_dask.groups import SHORTEST
from excamera_dask.skeleton.schedule import ONE, finest_for, half_error
from excamera_dask.sources import SourceInfo, iter_frames

LENGTHS = (SHORTEST, 6, 8, 12, 16, 24)
"""Frames a group may have, besides as many as it may have at most."""
DISTANCES = (1, 2, 4, 8, 12, 16, 24)
LOOKS = 4
"""Pictures of a batch that are looked at."""
USUAL = 7
DOUBT = 25
"""Thousandths of a cost that a group twice or half as long as USUAL must save: the model knows neither of searches that
fail nor of what every hidden frame costs."""
ERROR_WEIGHT = 0.72
"""Bits a unit of relative error is worth: 1 / (2 ln 2)."""
HIDDEN_COST = 1 / 64
"""Bits that a macroblock of a hidden frame costs at the least, in units of the model: where nothing changes that is all."""
LONGEST_LIFE = 240
MOST_CARRIED = 0.97

Errors = NDArray[np.float64]


class Look(NamedTuple):
    """Errors (n, R, C) of one picture's macroblocks, as predicted from n pictures so many frames before."""

    distances: tuple[int, ...]
    errors: Errors


def group_length(source: SourceInfo, start: int, stop: int, q_index: int, longest: int) -> int:
    """The length of groups, at most `longest`, for a batch of frames start .. stop - 1."""
    looks = [look(source, start, end) for end in looked_at(start, stop)]
    return best_length(looks, q_index, longest)


def looked_at(start: int, stop: int) -> list[int]:
    """Pictures spread over a batch, as far behind its start as there is to look back."""
    first = min(start + max(DISTANCES), stop - 1)
    if first <= start:
        return []
    return sorted({first + (stop - 1 - first) * place // (LOOKS - 1) for place in range(LOOKS)})


def look(source: SourceInfo, start: int, end: int) -> Look:
    """The errors of frame `end`, from frames of the batch that begins at `start`."""
    distances = tuple(distance for distance in DISTANCES if end - distance >= start)
    first = end - distances[-1]
    wanted = {end, *(end - distance for distance in distances)}
    pictures = {
        number: picture_from_image(image)
        for number, image in enumerate(iter_frames(source, first, end - first + 1), first)
        if number in wanted
    }
    others = [pictures[end - distance] for distance in distances]
    fields = follow_motion(pictures[end], others)
    return Look(distances, np.array([field.errors for field in fields], np.float64))


def best_length(looks: Sequence[Look], q_index: int, longest: int) -> int:
    """The length that costs least, with DOUBT; `longest` where there is nothing to go by."""
    lengths = [length for length in LENGTHS if length < longest] + [longest]
    costs = {}
    for length in lengths:
        known = [look for look in looks if look.distances[-1] >= min(length, max(DISTANCES))]
        if known:
            mean = sum(cost(look, length, q_index) for look in known) // len(known)
            costs[length] = mean * (1000 + _doubt(length))
    return min(costs, key=lambda length: costs[length], default=longest)


def _doubt(length: int) -> int:
    """Thousandths by which a length is doubted: DOUBT for each doubling or halving of USUAL, straight between them."""
    longer, shorter = max(length, USUAL), min(length, USUAL)
    doublings = 0
    while 2 * shorter <= longer:
        shorter, doublings = 2 * shorter, doublings + 1
    return DOUBT * doublings + DOUBT * (longer - shorter) // shorter


def cost(look: Look, length: int, q_index: int) -> int:
    """What a frame costs in groups of this length (x ONE), summed over macroblocks."""
    half = float(half_error(q_index))
    errors = {distance: _between(look, distance) for distance in range(1, length + 1)}
    finer = _finer(errors, length, q_index, half)
    fine = half * finer
    far = errors[length]
    total = HIDDEN_COST + _bits(far / fine) / 2 + ERROR_WEIGHT * finer * far / (far + fine)
    left = fine
    for place in range(1, length):
        nearest = np.minimum(errors[place], errors[length - place]) + fine
        ratio = np.minimum(errors[1] + left, nearest) / half
        part = ratio / (1 + ratio)
        left = half * part
        total = total + _bits(ratio) / 2 + ERROR_WEIGHT * part
    total = total + ERROR_WEIGHT * fine / (half + fine)  # the frame that shows the hidden one
    return int((total * ONE / length).astype(np.int64).sum())


def _finer(errors: dict[int, Errors], length: int, q_index: int, half: float) -> Errors:
    """How much less error hidden frames are worth than plain ones, by how long their content lives on."""
    lives = np.zeros_like(errors[1])
    for distance in range(1, length):
        lives = lives + 2 * half / (half + errors[distance])
    carried = np.minimum(half / (half + errors[length]), MOST_CARRIED)
    lives = np.minimum((lives + carried) / (1 - carried), LONGEST_LIFE)
    indices = finest_for((lives * ONE).astype(np.int64), q_index)
    steps = AC_QLOOKUP[indices].astype(np.float64) / float(AC_QLOOKUP[q_index])
    return np.asarray(steps * steps)


def _between(look: Look, distance: int) -> Errors:
    """Errors at a distance, between the two nearest that were measured."""
    places = look.distances
    after = next((i for i, known in enumerate(places) if known >= distance), len(places) - 1)
    if places[after] <= distance or after == 0:
        return look.errors[after]
    near, far = places[after - 1], places[after]
    before, behind = look.errors[after - 1], look.errors[after]
    return np.asarray((before * (far - distance) + behind * (distance - near)) / (far - near))


def _bits(ratio: Errors) -> Errors:
    """About the logarithm to base 2 of 1 + ratio: exact at powers of two, straight between them."""
    mantissa, exponent = np.frexp(1 + ratio)
    return np.asarray(exponent - 1 + (2 * mantissa - 1))
