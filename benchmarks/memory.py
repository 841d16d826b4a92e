"""Peak memory of an encode of a long film, made by looping a clip, against the bound of docs/memory.md.

    python benchmarks/memory.py clip.mp4 --minutes 10 --json memory.json

Encodes twice, at a quarter of the length and at the whole, and samples the resident memory of the client, of each
worker and of the encoders that they start. The two peaks should be alike: memory follows the chunks in work, not the
film. Fast first-pass settings by default; they change the time, not the pictures in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import psutil

from excamera_dask import encode, open_source
from excamera_dask.graph import span_bytes, window_spans
from excamera_dask.progress import ChunkDone, Event, Started

SAMPLING = 0.1  # seconds
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("clip", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--chunk-frames", type=int, default=6)
    parser.add_argument("--batch-chunks", type=int, default=16)
    parser.add_argument("--cpu-used", type=int, default=16)
    parser.add_argument("--deadline", default="realtime")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="excamera-memory-") as folder:
        for minutes in (arguments.minutes / 4, arguments.minutes):
            film = loop(arguments.clip, minutes, Path(folder) / "film.mkv")
            found.append(measure(film, minutes, Path(folder) / "out.webm", arguments))
            print(json.dumps(found[-1]), flush=True)
    growth = found[1]["peak_mib"]["total"] / found[0]["peak_mib"]["total"]
    print(f"four times the film, {growth:.2f} times the memory")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


def loop(clip: Path, minutes: float, film: Path) -> Path:
    """The clip's video again and again, without encoding it again, to a film of the given length."""
    length = 0.0
    with av.open(str(film), "w") as out:
        stream = None
        offset = 0
        while length < 60 * minutes:
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = out.add_stream_from_template(video)
                packets = [packet for packet in source.demux(video) if packet.dts is not None]
                base = Fraction(video.time_base)
            start = min(packet.dts for packet in packets)
            step = max(packet.duration or 1 for packet in packets)
            end = max(packet.pts for packet in packets) + step - start
            for packet in packets:
                packet.pts = packet.pts - start + offset
                packet.dts = packet.dts - start + offset
                packet.stream = stream
                out.mux(packet)  # changes the packet's times
            offset += end
            length = float(offset * base)
    return film


def measure(film: Path, minutes: float, out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Encode, and tell the peaks."""
    started: list[Started] = []
    source = open_source(film)
    limit = int(minutes * 60 * source.average_rate)

    def listen(event: Event) -> None:
        if isinstance(event, Started):
            started.append(event)
        elif isinstance(event, ChunkDone) and event.chunks_done % 100 == 0:
            print(f"{event.frames_done} frames, {event.bytes_done / MIB:.0f} MiB", flush=True)

    with peaks() as peak:
        report = encode(
            film,
            out,
            workers=arguments.workers,
            limit=limit,
            chunk_frames=arguments.chunk_frames,
            batch_chunks=arguments.batch_chunks,
            cpu_used=arguments.cpu_used,
            deadline=arguments.deadline,
            on_event=listen,
        )
    plan = started[0].plan
    memory = int(psutil.virtual_memory().available * 0.8)
    window = window_spans(plan, started[0].workers, memory)
    return {
        "frames": report.frames,
        "seconds": round(report.seconds, 1),
        "fps": round(report.fps, 1),
        "output_mib": round(report.bytes / MIB, 1),
        "raw_film_mib": round(report.frames * plan.frame_bytes / MIB),
        "window_spans": window,
        "raw_bound_mib": round(window * span_bytes(plan) / MIB),
        "peak_mib": {name: round(value / MIB) for name, value in sorted(peak.items())},
    }


@contextlib.contextmanager
def peaks() -> Iterator[dict[str, int]]:
    """The largest resident sizes seen while the block runs: client, largest worker, all encoders, total."""
    seen: dict[str, int] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(SAMPLING):
            for name, value in _sizes().items():
                seen[name] = max(seen.get(name, 0), value)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


def _sizes() -> dict[str, int]:
    """Resident bytes now; pages that processes share are counted in each of them."""
    client = psutil.Process(os.getpid())
    sizes = {"client": client.memory_info().rss, "largest_worker": 0, "encoders": 0}
    total = sizes["client"]
    for child in client.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            parent = child.parent()
            if parent is not None and child.cmdline() == parent.cmdline():
                continue  # it is about to become an encoder, and shows its parent's memory until then
            size = child.memory_info().rss
            total += size
            if child.name().startswith("python"):
                sizes["largest_worker"] = max(sizes["largest_worker"], size)
            else:
                sizes["encoders"] += size
    return {**sizes, "total": total}


if __name__ == "__main__":
    begin = time.time()
    main()
    print(f"{time.time() - begin:.0f} s")
