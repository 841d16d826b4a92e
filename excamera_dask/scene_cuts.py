"""Scene cuts: frames so unlike the one before that an inter frame gains nothing over a key frame.

Each frame is compared with the one before on a thumbnail of its luma, in parallel over the film and
independently of how the film was divided; the rule then looks at the whole film.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from numpy.typing import NDArray

from excamera_dask.planning import Plan, make_plan
from excamera_dask.sources import SourceInfo, iter_frames
from executors import Executor

STEP = 8
BINS = 32
LEAST_DIFFERENCE = 10.0
"""Mean absolute difference of thumbnails that a cut has at least."""
LEAST_SHIFT = 0.25
"""Part of the pixels that must change their place in the histogram."""
PROMINENCE = 3.0
"""How many times the usual difference of the frames around a cut has."""
NEIGHBOURS = 6
"""Frames to each side that tell what is usual."""


def find_scene_cuts(source: SourceInfo, executor: Executor) -> list[int]:
    """Numbers of the frames that begin a scene, frame 0 left out."""
    if source.frame_count < 2:
        return []
    plan = make_plan(
        source.frame_count,
        NEIGHBOURS,
        1,
        frame_bytes=source.frame_bytes,
        anchors=[int(frame) for frame in source.keyframes],
    )
    found = np.zeros((source.frame_count, 2))

    def take(key: Any, result: NDArray[np.float64]) -> None:
        start = key[1]
        found[start : start + len(result)] = result

    tasks = dict(_tasks(source, plan))
    graph = HighLevelGraph({"cuts": MaterializedLayer(tasks)}, {"cuts": set()})
    executor.run(graph, list(tasks), take)
    return cuts_of(found)


def differences(source: SourceInfo, start: int, count: int) -> NDArray[np.float64]:
    """What sets each of `count` frames from `start` on off from the one before: (count, 2) float64.

    Column 0 is the mean absolute difference of thumbnails, 0 .. 255, column 1 the part of it that changed its place in
    the histogram, 0 .. 1. Both are 0 for frame 0.
    """
    result = np.zeros((count, 2))
    first = max(0, start - 1)
    before: NDArray[np.int32] | None = None
    for number, image in enumerate(iter_frames(source, first, start + count - first), start=first):
        after = _thumbnail(image.y)
        if before is not None:
            result[number - start] = _difference(before, after)
        before = after
    return result


def cuts_of(found: NDArray[np.float64]) -> list[int]:
    """The rule: a cut differs much in place and in histogram, and far more than the frames around it."""
    cuts = []
    candidates = np.flatnonzero((found[:, 0] >= LEAST_DIFFERENCE) & (found[:, 1] >= LEAST_SHIFT))
    for frame in candidates.tolist():
        around = found[max(1, frame - NEIGHBOURS) : frame + NEIGHBOURS + 1, 0]
        others = np.delete(around, min(NEIGHBOURS, frame - 1))
        usual = float(np.median(others)) if others.size else 0.0
        if found[frame, 0] >= PROMINENCE * usual and found[frame, 0] >= float(around.max()):
            cuts.append(frame)
    return cuts


def _tasks(source: SourceInfo, plan: Plan) -> dict[Any, Any]:
    name = f"scene_cuts-{secrets.token_hex(4)}"
    tasks = {}
    for span in plan.spans:
        chunks = plan.span_chunks(span)
        start = chunks[0].start
        count = chunks[-1].start + chunks[-1].frames - start
        tasks[name, start] = (differences, source, start, count)
    return tasks


def _thumbnail(luma: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Sums over STEP pixels of every STEP-th row; pictures too small for that as they are, scaled."""
    rows = luma[STEP // 2 :: STEP]
    columns = luma.shape[1] // STEP
    if len(rows) == 0 or columns == 0:
        return luma.astype(np.int32) * STEP
    return rows[:, : columns * STEP].reshape(len(rows), columns, STEP).sum(axis=2, dtype=np.int32)


def _difference(before: NDArray[np.int32], after: NDArray[np.int32]) -> tuple[float, float]:
    mean = float(np.abs(after - before).sum()) / (STEP * after.size)
    width = 256 * STEP // BINS
    counts = [np.bincount(sums.ravel() // width, minlength=BINS) for sums in (before, after)]
    shift = float(np.abs(counts[1] - counts[0]).sum()) / (2 * after.size)
    return mean, shift
