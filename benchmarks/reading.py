"""What reading a film costs: opening it, once through, and in spans by readers that have seen nothing.

python benchmarks/reading.py CLIP [CLIP ...]        prints a line a clip; seconds are ratios to one pass of libavcodec
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import av

from excamera_dask.planning import make_plan
from excamera_dask.sources import SourceInfo, iter_frames, open_source, reading

CHUNK_FRAMES = 6


def one_pass(source: SourceInfo) -> float:
    """Seconds that libavcodec takes to decode the film in one thread, pictures left as they come."""
    begin = time.perf_counter()
    with av.open(source.path) as container:
        stream = container.streams[source.stream_index]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            try:
                packet.decode()
            except av.FFmpegError:
                continue
    return time.perf_counter() - begin


def through(source: SourceInfo, start: int, stop: int) -> float:
    """Seconds that reading frames start .. stop - 1 takes."""
    begin = time.perf_counter()
    for _ in iter_frames(source, start, stop - start):
        pass
    return time.perf_counter() - begin


def in_spans(source: SourceInfo, workers: int) -> float:
    """Seconds of all loads of a plan; those that do not follow another are read by a new reader."""
    plan = make_plan(
        source.frame_count, CHUNK_FRAMES, 16, frame_bytes=source.frame_bytes, workers=workers,
        anchors=source.keyframes.tolist(),
    )  # fmt: skip
    seconds = 0.0
    for span in plan.spans:
        if not span.follows:
            reading._idle.clear()
        chunks = plan.span_chunks(span)
        seconds += through(source, chunks[0].start, chunks[-1].start + chunks[-1].frames)
    return seconds


def main(paths: list[str]) -> None:
    for path in paths:
        begin = time.perf_counter()
        source = open_source(path)
        opening = time.perf_counter() - begin
        plain = one_pass(source)
        reading._idle.clear()
        whole = through(source, 0, source.frame_count)
        few, many = in_spans(source, 2), in_spans(source, 1000)
        print(
            f"{Path(path).name}: {source.frame_count} frames, {len(source.keyframes)} entries, {plain:.2f} s in one pass; "
            f"opening {opening / plain:.2f} x, read through {whole / plain:.2f} x, in spans for 2 workers {few / plain:.2f} x, "
            f"for 1,000 {many / plain:.2f} x"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
