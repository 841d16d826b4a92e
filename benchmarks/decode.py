"""Time to decode a stream against ``vpxdec --threads=1 --noblit`` on the same stream.

Usage: python benchmarks/decode.py CLIP... [--limit 96] [--cq-level 32] [--rounds 5]

A clip is encoded by single-threaded vpxenc first, with the flags of the first pass; an .ivf file is taken as it is.
Both decoders run in turn, round by round, and the ratio is that of the least processor times, with vpxdec's start of a
process (about 2 ms) in its own. Kernels are compiled before, and our time is split by step.
"""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from whole_job import vpxenc_command, write_y4m

import codec
from codec import decoder
from excamera_dask.allocation import keep_freed_memory
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.formats.containers import read_packets

STEPS = ("open_frame", "read_frame_modes", "_decode_rows", "filter_picture", "extend_borders")


def encode(clip: str, limit: int, cq_level: int, folder: Path) -> Path:
    """Encode a clip by vpxenc in one run; the stream's path."""
    if clip.endswith(".ivf"):
        return Path(clip)
    y4m, out = folder / "source.y4m", folder / "stream.ivf"
    write_y4m(clip, 0, limit, y4m)
    subprocess.run(
        vpxenc_command(y4m, FirstPassSettings(cq_level=cq_level).full_effort(), 1, out),
        check=True,
        capture_output=True,
    )
    y4m.unlink()
    return out


def our_seconds(frames: list[bytes]) -> float:
    """Processor time of decoding all frames."""
    begin, state = time.process_time(), None
    for data in frames:
        state, _ = codec.decode(state, data)
    return time.process_time() - begin


def vpxdec_seconds(stream: Path) -> float:
    """Processor time of vpxdec."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["vpxdec", "--threads=1", "--noblit", str(stream)]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def split_by_step(frames: list[bytes]) -> dict[str, float]:
    """Milliseconds a frame of each step of decoding, and of all else."""
    spent = dict.fromkeys(STEPS, 0.0)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            begin = time.process_time()
            result = function(*args)
            spent[name] += time.process_time() - begin
            return result

        return run

    originals = {name: getattr(decoder, name) for name in STEPS}
    for name, function in originals.items():
        setattr(decoder, name, timed(name, function))
    total = our_seconds(frames)
    for name, function in originals.items():
        setattr(decoder, name, function)
    spent["rest"] = total - sum(spent.values())
    return {name.lstrip("_"): round(1e3 * s / len(frames), 3) for name, s in spent.items()}


def measure(stream: Path, rounds: int) -> dict[str, object]:
    frames = [packet.data for packet in read_packets(stream)]
    our_seconds(frames)
    times = [(our_seconds(frames), vpxdec_seconds(stream)) for _ in range(rounds)]
    ours, theirs = (min(column) for column in zip(*times, strict=True))
    return {
        "frames": len(frames),
        "bytes": sum(map(len, frames)),
        "ours_ms": round(1e3 * ours / len(frames), 3),
        "vpxdec_ms": round(1e3 * theirs / len(frames), 3),
        "ratio": round(ours / theirs, 2),
        "steps_ms": split_by_step(frames),
    }


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.argument("clips", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--limit", default=96, show_default=True)
@click.option("--cq-level", default=32, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(clips: tuple[str, ...], limit: int, cq_level: int, rounds: int) -> None:
    keep_freed_memory()  # as the command and its workers do
    for clip in clips:
        with tempfile.TemporaryDirectory(prefix="excamera-decode-") as folder:
            result = measure(encode(clip, limit, cq_level, Path(folder)), rounds)
        click.echo(json.dumps({"clip": Path(clip).name, **result}))


if __name__ == "__main__":
    main()
