"""How long the content of a group lives on, and where it moves: from the original pictures alone, before anything is coded."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from codec.encoding.encoder import Hints
from codec.encoding.motion_field import follow_motion
from codec.frame import ALTREF_FRAME, GOLDEN_FRAME, LAST_FRAME, Picture, picture_from_image
from excamera_dask.skeleton.manner import Manner
from excamera_dask.skeleton.schedule import ONE, half_error, inherited
from excamera_dask.sources import SourceInfo, iter_frames

MACROBLOCK = 64
"""Quarter pixels."""

Field = NDArray[np.int16]


class Survey(NamedTuple):
    """Of one group; arrays are by macroblock (R, C), of fields (R, C, 2) in quarter pixels."""

    back: NDArray[np.int64]  # how many of its frames live on in its end (x ONE)
    ahead: NDArray[np.int64]  # how many of them the frame before it lives on in
    carried: NDArray[np.int64]  # how much of the frame before it lives on in its end
    carried_to: Field  # where
    path: tuple[
        tuple[int, Field], ...
    ]  # frames ever farther before the end, and its motion to there
    seconds: float

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels compressed: to a quarter."""
        data = pickle.dumps(tuple(self), protocol=5)
        return _arrived, (zstandard.ZstdCompressor(level=1).compress(data),)


def _arrived(compressed: bytes) -> Survey:
    return Survey(*pickle.loads(zstandard.ZstdDecompressor().decompress(compressed)))


def sampled(before: int, end: int, every: int) -> list[int]:
    """Frames between that are looked at, from the end backwards."""
    frames = list(range(end - every, before, -every))
    return frames or list(range((before + end) // 2, before, -every))


def survey_group(source: SourceInfo, before: int, end: int, manner: Manner) -> Survey:
    """The survey of frames before + 1 .. end."""
    began = time.perf_counter()
    half = half_error(manner.q_index)
    between = sampled(before, end, manner.structure.survey_every)
    frames = enumerate(iter_frames(source, before, end - before + 1), before)
    wanted = {before, end, *between}
    pictures = {number: picture_from_image(image) for number, image in frames if number in wanted}
    count = end - before - 1
    backwards = list(_followed(pictures, end, [*between, before]))
    onwards = list(_followed(pictures, before, [*between[::-1], end]))
    share_back = [inherited(errors, half) for _, errors in backwards[:-1]]
    share_ahead = [inherited(errors, half) for _, errors in onwards[:-1]]
    field, errors = onwards[-1]
    path = zip([*between, before], (field for field, _ in backwards), strict=True)
    return Survey(
        _weighted(share_back, count, errors.shape),
        _weighted(share_ahead, count, errors.shape),
        inherited(errors, half),
        field,
        tuple(path),
        time.perf_counter() - began,
    )


def _followed(
    pictures: dict[int, Picture], start: int, targets: Sequence[int]
) -> Iterator[tuple[Field, NDArray[np.int64]]]:
    for found in follow_motion(pictures[start], [pictures[frame] for frame in targets]):
        yield found.vectors, found.errors


def _weighted(
    shares: list[NDArray[np.int64]], frames: int, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Shares of a few frames for all of them."""
    total = np.zeros(shape, np.int64)
    for share in shares:
        total += share
    return total * frames // max(1, len(shares))


def importances(surveys: Sequence[Survey]) -> list[NDArray[np.int64]]:
    """How many frames' worth (x ONE) each macroblock lives on for: of the key frame, then of each group's end."""
    found: list[NDArray[np.int64]] = []
    later = surveys[-1].back
    found.append(later)
    for number in range(len(surveys) - 1, -1, -1):
        survey = surveys[number]
        there = later[_moved(survey.carried_to)]
        total = survey.ahead + (survey.carried * (ONE + there)) // ONE
        later = total if number == 0 else total + surveys[number - 1].back
        found.append(later)
    return found[::-1]


def _moved(field: Field) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the macroblocks where a field leads, kept within the picture."""
    row, column = _unbounded(field)
    rows, columns, _ = field.shape
    return np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)


def _unbounded(field: NDArray[np.signedinteger]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    moved = (field.astype(np.int64) + MACROBLOCK // 2) // MACROBLOCK
    rows, columns, _ = field.shape
    return np.arange(rows)[:, np.newaxis] + moved[..., 0], np.arange(columns) + moved[..., 1]


def hidden_hints(survey: Survey) -> Hints:
    """Where a group's end may lie in what is coded before it."""
    field = survey.path[-1][1]
    return {LAST_FRAME: field, GOLDEN_FRAME: field, ALTREF_FRAME: field}


def plain_hints(survey: Survey, end: int, frame: int) -> Hints:
    """Where a frame between may lie in ALTREF, its group's end, and in GOLDEN, the frame before the group."""
    field = _field_to(survey, end, frame)
    to_altref = -field
    to_golden = survey.path[-1][1] - field
    rows, columns, _ = field.shape
    row, column = _unbounded(field)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    altref, golden = to_altref.copy(), to_golden.copy()
    altref[row[inside], column[inside]] = to_altref[inside]
    golden[row[inside], column[inside]] = to_golden[inside]
    return {ALTREF_FRAME: altref.astype(np.int16), GOLDEN_FRAME: golden.astype(np.int16)}


def _field_to(survey: Survey, end: int, frame: int) -> NDArray[np.int32]:
    """The end's motion to a frame, between the two nearest that were looked at."""
    near, near_field = end, np.zeros_like(survey.path[0][1], np.int32)
    for far, far_field in survey.path:
        if far <= frame:
            step = far_field.astype(np.int32) - near_field
            return near_field + step * (near - frame) // (near - far)
        near, near_field = far, far_field.astype(np.int32)
    return near_field
