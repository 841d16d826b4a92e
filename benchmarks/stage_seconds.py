"""Seconds that each stage takes for a megapixel of a frame: what `excamera plan` estimates from.

Usage: python benchmarks/stage_seconds.py CLIP... [--limit 48] [--rounds 3] [--write]

One task at a time in this process (the sync executor), by presets paper ([6, 16]) and balanced; of each clip the fastest
round of each stage, over all clips the mean. `replace` and `skeleton` are by
chunk, the others by frame. --write stores the result as
excamera_dask/cost_model.json.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
from datetime import date
from pathlib import Path

import click

import excamera_dask
from excamera_dask.estimate import MODEL, STAGES, seconds_a_megapixel
from excamera_dask.presets import PAPER


def measure(clip: str, limit: int, folder: str) -> dict[str, float]:
    """Seconds a megapixel of all stages, those that both presets have as of paper."""
    out = Path(folder) / "out.webm"
    found = {}
    for preset in ("balanced", PAPER):
        report = excamera_dask.encode(
            clip, out, executor="sync", preset=preset, limit=limit, resume=False
        )
        known = seconds_a_megapixel(report)
        found |= {stage: seconds for stage, seconds in known.items() if seconds}
    return found


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.argument("clips", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--limit", default=48, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--write", is_flag=True)
def main(clips: tuple[str, ...], limit: int, rounds: int, write: bool) -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for clip in clips:
            runs = [measure(clip, limit, folder) for _ in range(rounds)]
            best = {stage: min(run[stage] for run in runs) for stage in STAGES}
            found[Path(clip).name] = {stage: round(value, 4) for stage, value in best.items()}
    mean = {stage: statistics.mean(clip[stage] for clip in found.values()) for stage in STAGES}
    result = {
        "command": f"python benchmarks/stage_seconds.py {' '.join(found)} --limit {limit}",
        "measured": str(date.today()),
        "machine": processor(),
        "clips": found,
        "seconds_a_megapixel": {stage: round(value, 4) for stage, value in mean.items()},
    }
    print(json.dumps(result, indent=1))
    if write:
        MODEL.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
