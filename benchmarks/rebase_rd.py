"""What rebasing alone costs: vpxenc's own streams, rebased onto the states that this makes, against themselves.

Usage: python benchmarks/rebase_rd.py CLIP [--skip N] [--limit 96] [--cq-level 12 --cq-level 22 ...] [-o out.json]

The chain starts from vpxenc's own key frame; every further frame is rebased onto the running state, so nothing is
given but modes, vectors and quantizers. Prints bytes, SSIM and PSNR of luma, milliseconds a frame, and the BD-rate.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from codec.decoder import decode
from codec.encoding import quality
from codec.encoding.rebase import rebase
from codec.frame import Image
from codec.state import DecoderState
from excamera_dask.allocation import keep_freed_memory
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.formats.containers import Writer
from excamera_dask.measuring.bd_rate import bd_rate
from excamera_dask.measuring.serial import encode_serially
from excamera_dask.sources import SourceInfo, iter_frames, open_source


def _summary(images: list[Image], pictures: list[Image], frames: list[bytes]) -> dict[str, float]:
    pairs = list(zip(images, pictures, strict=True))
    similarity = quality.mean([quality.ssim(*pair) for pair in pairs])
    errors = [quality.mean_squared_error(*pair) for pair in pairs]
    return {
        "bytes": sum(map(len, frames)),
        "ssim_db": quality.ssim_db(similarity.y),
        "ssim_db_all": quality.ssim_db(similarity.all),
        "psnr": quality.overall_psnr(errors).y,
    }


def _hidden_picture(before: DecoderState, after: DecoderState) -> Image:
    """What a hidden frame put into a reference: the nearest thing to its original."""
    assert before.references is not None and after.references is not None
    new = [p for p in after.references if all(p is not old for old in before.references)]
    return (new or [after.references.last])[0].crop(after.width, after.height)


def _vpxdec_seconds(source: SourceInfo, frames: list[bytes]) -> float:
    """Best of three runs over the stream, single-threaded, without output."""
    with tempfile.TemporaryDirectory(prefix="excamera-rebase-") as folder:
        path = Path(folder) / "stream.ivf"
        with Writer(path, source.width, source.height, 1 / source.average_rate) as writer:
            for number, frame in enumerate(frames):
                writer.write(frame, number)
        best = float("inf")
        for _ in range(3):
            begin = time.perf_counter()
            command = ["vpxdec", "--threads=1", "--noblit", str(path)]
            subprocess.run(command, check=True, capture_output=True)
            best = min(best, time.perf_counter() - begin)
    return best


def measure(source: SourceInfo, images: list[Image], cq_level: int) -> dict[str, Any]:
    """One point: vpxenc's stream and its rebased chain."""
    frames = encode_serially(source, FirstPassSettings(cq_level=cq_level).full_effort()).frames
    before, first = decode(None, frames[0])
    state = before
    assert first is not None
    own, ours, rebased, seconds = [first], [first], [frames[0]], []
    for frame in frames[1:]:
        after, shown = decode(before, frame)
        image = _hidden_picture(before, after) if shown is None else images[len(own)]
        begin = time.perf_counter()
        encoded = rebase(state, image, frame, before)
        seconds.append(time.perf_counter() - begin)
        state, picture = decode(state, encoded.data)
        if state != encoded.state:
            raise AssertionError(
                f"cq {cq_level}: the state after frame {len(rebased)} is not decode's"
            )
        if shown is not None and picture is not None:
            own.append(shown)
            ours.append(picture)
        rebased.append(encoded.data)
        before = after
    milliseconds = 1000 * sorted(seconds)[len(seconds) // 2]
    vpxdec = 1000 * _vpxdec_seconds(source, frames) / len(frames)
    return {
        "cq_level": cq_level,
        "vpxenc": _summary(images, own, frames),
        "rebased": _summary(images, ours, rebased),
        "rebase_ms": milliseconds,
        "vpxdec_ms": vpxdec,
        "times_vpxdec": milliseconds / vpxdec,
    }


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.argument("clip", type=click.Path(exists=True, dir_okay=False))
@click.option("--skip", default=0, show_default=True, help="Frames to leave out first.")
@click.option("--limit", default=96, show_default=True, help="Frames to encode.")
@click.option(
    "--cq-level", multiple=True, type=int, default=(12, 22, 32, 42, 52), show_default=True
)
@click.option("-o", "--output", type=click.Path(), help="Write all figures to this JSON file.")
def main(clip: str, skip: int, limit: int, cq_level: tuple[int, ...], output: str | None) -> None:
    keep_freed_memory()  # as the command and its workers do
    source = open_source(clip).select(skip, limit)
    images = list(iter_frames(source))
    points = []
    for level in cq_level:
        point = measure(source, images, level)
        points.append(point)
        for name in ("vpxenc", "rebased"):
            p = point[name]
            click.echo(
                f"cq {level} {name:8} {p['bytes']:>9} bytes  SSIM {p['ssim_db']:.3f} dB"
                f"  PSNR {p['psnr']:.3f} dB"
            )
        click.echo(
            f"      {point['rebase_ms']:.1f} ms a frame, {point['times_vpxdec']:.1f} x vpxdec"
        )
    rates = {}
    for key in ("ssim_db", "ssim_db_all", "psnr"):
        curves = [
            [(p[name]["bytes"], p[name][key]) for p in points] for name in ("vpxenc", "rebased")
        ]
        rates[key] = bd_rate(*curves) if len(points) > 1 else None
    click.echo(json.dumps({"clip": Path(clip).name, "bd_rate_percent": rates}))
    if output is not None:
        Path(output).write_text(json.dumps({"points": points, "bd_rate_percent": rates}, indent=1))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
