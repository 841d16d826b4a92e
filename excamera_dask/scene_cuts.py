"""Scene cuts: frames so unlike those before that an inter frame gains nothing over a key frame.

Previews of the frames are compared, in parallel over the film and independently of how it was divided; the rule
then looks at the whole film. Each part of the film is read once, from one point of entry of the source to another.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from numpy.typing import NDArray

from excamera_dask.sources import SourceInfo
from excamera_dask.sources.previews import iter_previews
from executors import Executor

BINS = 32
LEAST_DIFFERENCE = 10.0
"""Mean absolute difference of previews that a cut has at least."""
LEAST_SHIFT = 0.25
"""Part of the pixels that must change their place in the histogram."""
PROMINENCE = 3.0
"""How many times the usual difference of the frames around a cut has."""
NEIGHBOURS = 6
"""Frames to each side that tell what is usual."""
AFTER = 3
"""Frames around a cut over which the scenes must be others: a flash is over by then."""
LASTING = 0.5
"""Part of the difference that must be left over them."""
LEAST_PART, LARGEST_PART = 48, 2000
"""Frames that one task looks through, if the source can be entered as often."""
PARTS_A_WORKER = 4

Previews = NDArray[np.uint8]


DIFFERENCE, SHIFT, LASTING_DIFFERENCE = range(3)
"""What sets a frame off from the one before it: mean absolute difference of previews (0 .. 255), part of the pixels
that changed their place in the histogram (0 .. 1), difference of the frame AFTER frames later from the one before.
"""


def find_scene_cuts(source: SourceInfo, executor: Executor) -> list[int]:
    """Numbers of the frames that begin a scene, frame 0 left out."""
    found = np.zeros((source.frame_count, 3))

    def take(key: Any, result: Sequence[Sequence[float]]) -> None:
        if result:
            found[key[1] + 1 : key[1] + 1 + len(result)] = result

    name = f"scene_cuts-{secrets.token_hex(4)}"
    tasks: dict[Any, Any] = {
        (name, start): (_told_changes, source, start, count)
        for start, count in _parts(source, executor.foreseen or executor.workers)
    }
    graph = HighLevelGraph({"cuts": MaterializedLayer(tasks)}, {"cuts": set()})
    executor.run(graph, list(tasks), take)
    return cuts_of(found)


def _told_changes(source: SourceInfo, start: int, count: int) -> list[list[float]]:
    """`changes` as it travels between processes."""
    return changes(source, start, count).tolist()


def changes(source: SourceInfo, start: int, count: int) -> NDArray[np.float64]:
    """What sets each of the `count` frames after frame `start` on off from the one before: (count, 3) float64.

    As many rows less as the film has fewer frames. It is read from `start` on, and a little further than the last row.
    """
    rows = max(0, min(count, source.frame_count - 1 - start))
    if rows == 0:
        return np.zeros((0, 3))
    reach = min(start + rows + 1 + AFTER, source.frame_count) - start
    return compare(iter_previews(source, start, reach), rows)


def compare(previews: Iterable[Previews], rows: int) -> NDArray[np.float64]:
    """The same, (rows, 3), from previews: one more than rows, and AFTER more to tell what lasts."""
    result = np.zeros((rows, 3))
    recent: list[Previews] = []
    for number, after in enumerate(previews):
        if 1 <= number <= rows:
            row = result[number - 1]
            row[DIFFERENCE], row[SHIFT] = _difference(recent[-1], after)
            row[LASTING_DIFFERENCE] = row[DIFFERENCE]
        if 0 <= number - 1 - AFTER < rows:
            row = result[number - 1 - AFTER]
            row[LASTING_DIFFERENCE] = _mean_difference(recent[-1 - AFTER], after)
        recent = [*recent[-AFTER:], after]
    return result


def cuts_of(found: NDArray[np.float64]) -> list[int]:
    """The rule: a cut differs much in place and in histogram, far more than the frames around it, from them all."""
    difference, shift, lasting = found.T
    cuts = []
    for frame in np.flatnonzero((difference >= LEAST_DIFFERENCE) & (shift >= LEAST_SHIFT)).tolist():
        around = difference[max(1, frame - NEIGHBOURS) : frame + NEIGHBOURS + 1]
        others = np.delete(around, min(NEIGHBOURS, frame - 1))
        usual = float(np.median(others)) if others.size else 0.0
        here = float(difference[frame])
        stands_out = here >= PROMINENCE * usual and here >= float(around.max())
        since = max(frame - AFTER, 1)
        if stands_out and min(lasting[frame], lasting[since]) >= LASTING * here:
            cuts.append(frame)
    return cuts


def _parts(source: SourceInfo, workers: int) -> Iterator[tuple[int, int]]:
    """Start and length of parts that begin where the source can be entered, enough of them for all workers."""
    wanted = source.frame_count // (PARTS_A_WORKER * max(1, workers))
    least = min(max(wanted, LEAST_PART), LARGEST_PART)
    start = 0
    for entry in [*sorted(int(frame) for frame in source.keyframes), source.frame_count]:
        if entry - start >= least or (entry == source.frame_count and entry > start):
            yield start, entry - start
            start = entry


def _mean_difference(before: Previews, after: Previews) -> float:
    return float(np.abs(after.astype(np.int16) - before).sum(dtype=np.int64)) / after.size


def _difference(before: Previews, after: Previews) -> tuple[float, float]:
    counts = [np.bincount(p.ravel() // (256 // BINS), minlength=BINS) for p in (before, after)]
    shift = float(np.abs(counts[1] - counts[0]).sum()) / (2 * after.size)
    return _mean_difference(before, after), shift
