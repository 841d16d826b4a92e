"""Bits against time: BD-rate over processor seconds of our presets, and of vpxenc at its best flags and each of its speeds.

Usage: python benchmarks/frontier.py CLIP... [--limit 240] [--cq-levels 24,36,48] [-o frontier.json] [--plot frontier.png]

BD-rate is by SSIM (dB) of luma against vpxenc's `--cpu-used=0`, key frames as far apart; of several clips the mean. Processor
seconds are those of a whole command, with starting it: vpxenc with `--threads=2`, ours in one process (`--executor sync`).
Wall seconds are of two threads and two workers. All from a y4m file, kernels compiled before; for each frame, the mean over
clips and levels.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import click
from whole_job import our_command, seconds, vpxenc_command, write_y4m

from excamera_dask.cli.options.values import CqLevels, OutputFile
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.measuring.bd_rate import bd_rate
from excamera_dask.measuring.methods import SERIAL, reference_settings
from excamera_dask.measuring.rd_curves import measure
from excamera_dask.presets import PAPER, PRESETS
from excamera_dask.sources import SourceInfo, open_source

SPEEDS = range(6)
BEST = "vpxenc 0"


class Run(NamedTuple):
    """One encode; seconds a frame."""

    bytes: int
    ssim_db: float
    processor: float
    wall: float


def processor_seconds(command: list[str]) -> tuple[float, float]:
    """Of a command and what it waits for, and its wall seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = seconds(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(after[:2]) - sum(before[:2]), wall


def run(name: str, source: SourceInfo, y4m: Path, cq_level: int, out: Path) -> Run:
    """Encode by one of the methods."""
    if name in PRESETS:
        alone = [*our_command(y4m, cq_level, 1, out, name), "--executor=sync"]
        processor, _ = processor_seconds(alone)
        wall = seconds(our_command(y4m, cq_level, 2, out, name))
    else:
        best = reference_settings(SERIAL, FirstPassSettings(cq_level=cq_level))
        chosen = dataclasses.replace(best, cpu_used=int(name.split()[1]))
        processor, wall = processor_seconds(vpxenc_command(y4m, chosen, 2, out))
    point = measure(name, cq_level, source, out, wall)
    return Run(point.bytes, point.ssim_db, processor / point.frames, wall / point.frames)


def frontier(clips: tuple[str, ...], limit: int, cq_levels: tuple[int, ...]) -> dict[str, Any]:
    """BD-rate and seconds a frame of each method, means over clips."""
    names = [f"vpxenc {speed}" for speed in SPEEDS] + [n for n in PRESETS if n != PAPER]
    runs: dict[str, dict[str, list[Run]]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory(prefix="excamera-frontier-") as folder:
        y4m, out = Path(folder) / "source.y4m", Path(folder) / "out.ivf"
        for clip in clips:
            write_y4m(clip, 0, limit, y4m)
            source = open_source(str(y4m))
            for name in names:
                runs[name][clip] = [run(name, source, y4m, level, out) for level in cq_levels]
                print(f"{Path(clip).name}: {name}", file=sys.stderr)
    return {name: _told(found, runs[BEST]) for name, found in runs.items()}


def _told(runs: dict[str, list[Run]], best: dict[str, list[Run]]) -> dict[str, Any]:
    rates = {Path(clip).name: bd_rate(_curve(best[clip]), _curve(runs[clip])) for clip in runs}
    every = [one for found in runs.values() for one in found]
    return {
        "bd_rate_percent": round(statistics.mean(rates.values()), 2),
        "bd_rate_percent_of": {clip: round(rate, 2) for clip, rate in rates.items()},
        "processor_ms_a_frame": round(1000 * statistics.mean(r.processor for r in every), 2),
        "wall_ms_a_frame": round(1000 * statistics.mean(r.wall for r in every), 2),
    }


def _curve(runs: list[Run]) -> list[tuple[float, float]]:
    return [(one.bytes, one.ssim_db) for one in runs]


def draw(found: dict[str, Any], path: Path) -> None:
    """BD-rate over processor time, a line a kind of encoder."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    above, below = {"xytext": (5, 5)}, {"xytext": (0, -15), "ha": "center"}
    for label, names, aside in (
        ("vpxenc, two threads, --cpu-used", [n for n in found if n not in PRESETS], above),
        ("excamera, presets", [n for n in found if n in PRESETS], below),
    ):
        places = [
            (found[n]["processor_ms_a_frame"], found[n]["bd_rate_percent"], n.split()[-1])
            for n in names
        ]
        places.sort()
        axes.plot([p[0] for p in places], [p[1] for p in places], marker="o", label=label)
        for x, y, text in places:
            axes.annotate(text, (x, y), textcoords="offset points", size=8, **aside)
    axes.margins(0.1)
    axes.set_xlabel("processor time, ms a frame")
    axes.set_ylabel("BD-rate (SSIM dB) against --cpu-used=0, %")
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.argument("clips", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--limit", default=240, show_default=True)
@click.option("--cq-levels", type=CqLevels(), default="24,36,48", show_default=True)
@click.option("-o", "--output", type=OutputFile(".json"))
@click.option("--plot", type=OutputFile(".png"))
def main(
    clips: tuple[str, ...],
    limit: int,
    cq_levels: tuple[int, ...],
    output: Path | None,
    plot: Path | None,
) -> None:
    warm_up = [sys.executable, "-m", "excamera_dask.cli", "doctor", "--warm-up"]
    subprocess.run(warm_up, check=True, capture_output=True)
    found = frontier(clips, limit, cq_levels)
    print(json.dumps(found, indent=1))
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n")
    if plot is not None:
        draw(found, plot)


if __name__ == "__main__":
    main()
