"""How far `excamera plan` is off: its estimate for the local executor against the same encode, really done.

Usage: python benchmarks/estimate.py CLIP... [--limit 192] [--workers 2] [--rounds 3]

Once with the stored model (excamera_dask/cost_model.json) and once with one measured on the clip beforehand (--probe); the
real time is the fastest of the rounds. An error of 0.2 is an estimate 20 % too long. On a busy machine it tells of the
other processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

EXCAMERA = [sys.executable, "-m", "excamera_dask.cli"]


def result(*arguments: str) -> dict:
    done = subprocess.run([*EXCAMERA, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.argument("clips", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--skip", default=0, show_default=True)
@click.option("--limit", default=192, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(clips: tuple[str, ...], skip: int, limit: int, workers: int, rounds: int) -> None:
    from excamera_dask.estimate import relative_error

    for clip in clips:
        what = [clip, f"--skip={skip}", f"--limit={limit}", f"--workers={workers}"]
        stored = result("plan", *what)["estimate"]["seconds"]
        probed = result("plan", *what, "--probe")["estimate"]["seconds"]
        with tempfile.TemporaryDirectory() as folder:
            job = ["encode", *what, "-o", str(Path(folder) / "out.webm"), "-y", "--json"]
            real = min(result(*job)["seconds"] for _ in range(rounds))
        told = {
            "clip": Path(clip).name,
            "real_s": round(real, 1),
            "stored_s": round(stored, 1),
            "stored_error": round(relative_error(stored, real), 2),
            "probed_s": round(probed, 1),
            "probed_error": round(relative_error(probed, real), 2),
            "load": round(os.getloadavg()[0], 1),
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
