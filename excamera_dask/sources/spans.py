"""How a film is cut into load tasks, so that reading all of it costs linear time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from excamera_dask.sources.description import SourceInfo

DEFAULT_MAX_BYTES = 256 * 1024 * 1024


class Span(NamedTuple):
    """Frames start .. stop - 1 of the selected frames, to be read by one task; decoding begins at decode_from."""

    start: int
    stop: int
    decode_from: int


def spans(source: SourceInfo, chunk_frames: int, max_bytes: int = DEFAULT_MAX_BYTES) -> list[Span]:
    """Consecutive ranges that cover the selected frames; each start is a multiple of chunk_frames.

    Cuts fall on the first chunk boundary at or after a key frame where that fits, so that a fresh process decodes
    fewer than chunk_frames frames in vain. A span holds at most max_bytes of raw pictures (one chunk at least). Where
    a group of pictures of G frames is longer than the M frames that max_bytes allows, its later spans decode its
    beginning again: about G / 2M of the work; `iter_frames` holds no more than a frame, so M can be large.
    """
    if chunk_frames < 1:
        raise ValueError("a chunk has at least one frame")
    longest = max(1, max_bytes // max(1, source.frame_bytes) // chunk_frames) * chunk_frames
    keyframes = source.keyframes
    boundaries = np.unique(-(-keyframes // chunk_frames) * chunk_frames)
    result: list[Span] = []
    start = 0
    while start < source.frame_count:
        stop = _cut(start, longest, boundaries, source.frame_count)
        result.append(Span(start, stop, _decode_from(source, start)))
        start = stop
    return result


def _cut(start: int, longest: int, boundaries: np.ndarray, frame_count: int) -> int:
    limit = start + longest
    if limit >= frame_count:
        return frame_count
    within = boundaries[(boundaries > start) & (boundaries <= limit)]
    return int(within[-1]) if within.size else limit


def _decode_from(source: SourceInfo, frame: int) -> int:
    anchors = source.anchors.frames
    place = int(np.searchsorted(anchors, frame + source.skip, side="right")) - 1
    return int(anchors[place]) - source.skip
