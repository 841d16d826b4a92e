"""Wall time of a whole encode on this machine's cores against ``vpxenc --threads=2``.

Usage: python benchmarks/whole_job.py CLIP [--preset balanced] [--skip N] [--limit 96] [--cq-level 32] [--rounds 3] [--workers 2]

Both start from the same y4m file of the frames, so that neither decodes a source, and run in turn, round by round; the
ratio is that of the medians. vpxenc is at its best (two passes, --cpu-used=0, a lag and alt-ref frames), and once more in
haste, with --cpu-used=4; beside the preset paper it has the original's flags, in haste the one pass and the --cpu-used of our
first pass. Ours is timed as the command runs, with starting Python and the worker processes; kernels are compiled before.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from excamera_dask.first_pass import FirstPassSettings, vpxenc_arguments
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.measuring.methods import PAPERS, SERIAL, reference_settings
from excamera_dask.presets import DEFAULT, KEY_DISTANCE, PAPER, PRESETS
from excamera_dask.sources import iter_frames, open_source


def write_y4m(clip: str, skip: int, limit: int, path: Path) -> None:
    source = open_source(clip).select(skip, limit)
    with Y4mWriter(str(path), source.width, source.height, source.average_rate) as writer:
        for image in iter_frames(source):
            writer.write(image)


def vpxenc_command(y4m: Path, settings: FirstPassSettings, threads: int, out: Path) -> list[str]:
    """Key frames at most as far apart as our presets have them, or libvpx's default without a lag."""
    flags = [a for a in vpxenc_arguments(settings) if "threads" not in a]
    flags = [a for a in flags if a != "--disable-kf" and not a.startswith("--kf-max-dist")]
    if settings.lag_in_frames:
        flags.append(f"--kf-max-dist={KEY_DISTANCE}")
    return ["vpxenc", *flags, f"--threads={threads}", "-o", str(out), str(y4m)]


def our_command(
    y4m: Path, cq_level: int, workers: int, out: Path, preset: str = DEFAULT
) -> list[str]:
    command = [sys.executable, "-m", "excamera_dask.cli", "encode", str(y4m), "-o", str(out), "-y"]
    options = [f"--preset={preset}", f"--cq-level={cq_level}", f"--workers={workers}"]
    return [*command, *options, "--progress=none"]


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.argument("clip", type=click.Path(exists=True, dir_okay=False))
@click.option("--preset", type=click.Choice(list(PRESETS)), default=DEFAULT, show_default=True)
@click.option("--skip", default=0, show_default=True)
@click.option("--limit", default=96, show_default=True)
@click.option("--cq-level", default=32, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--workers", default=2, show_default=True)
def main(
    clip: str, preset: str, skip: int, limit: int, cq_level: int, rounds: int, workers: int
) -> None:
    fast = FirstPassSettings(cq_level=cq_level)
    full = reference_settings(PAPERS if preset == PAPER else SERIAL, fast)
    if preset != PAPER:
        fast = dataclasses.replace(full, cpu_used=4)
    with tempfile.TemporaryDirectory(prefix="excamera-job-") as folder:
        y4m, out = Path(folder) / "source.y4m", Path(folder) / "out.ivf"
        write_y4m(clip, skip, limit, y4m)
        commands = {
            "vpxenc_1": vpxenc_command(y4m, full, 1, out),
            "vpxenc_2": vpxenc_command(y4m, full, 2, out),
            "vpxenc_2_haste": vpxenc_command(y4m, fast, 2, out),
            "excamera": our_command(y4m, cq_level, workers, out, preset),
        }
        subprocess.run(
            [sys.executable, "-m", "excamera_dask.cli", "doctor", "--warm-up"],
            check=True,
            capture_output=True,
        )
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(seconds(command))
    median = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "clip": Path(clip).name,
        "seconds": {name: round(value, 2) for name, value in median.items()},
        "times_vpxenc_threads_2": round(median["excamera"] / median["vpxenc_2"], 2),
        "times_vpxenc_threads_2_haste": round(median["excamera"] / median["vpxenc_2_haste"], 2),
        "times_vpxenc_threads_1": round(median["excamera"] / median["vpxenc_1"], 2),
    }
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
