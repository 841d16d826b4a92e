"""`excamera compare`: PSNR, SSIM and times of a video against its original."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from excamera_dask.cli.options.reading import reading_options, take_reading
from excamera_dask.cli.options.values import Place
from excamera_dask.cli.terminal.output import notice, print_json

if TYPE_CHECKING:
    from excamera_dask.storage import S3Url


@click.command(short_help="PSNR, SSIM and times of a video against its original, as JSON.")
@click.argument("reference", type=Place())
@click.argument("distorted", type=Place())
@click.option(
    "--skip", type=click.IntRange(min=0), default=0, help="Frames of REFERENCE to leave out first."
)
@click.option("--limit", type=click.IntRange(min=1), help="Compare at most this many frames.")
@click.option(
    "--per-frame/--overall", default=True, show_default=True, help="Figures of each frame as well."
)
@reading_options
def compare(
    reference: Path | S3Url,
    distorted: Path | S3Url,
    skip: int,
    limit: int | None,
    per_frame: bool,
    **reading: Any,
) -> None:
    """Compare DISTORTED with REFERENCE, frame by frame, and print JSON.

    Both may be anything that can be encoded, and IVF or WebM. Both are decoded from their start by libavcodec, as a player
    does, not by the reader that encodes. The figures are those of ffmpeg's psnr and ssim filters; null stands for an
    infinite PSNR (identical pictures). Under "times", in seconds: the largest error of a frame's time since the first,
    start and duration of each, numbers of frames, and from which frame on pictures slip by one. What differs is
    warned of. The options from --stream on say how REFERENCE is to be read.

    \b
    excamera compare in.mp4 out.webm | jq .overall.ssim.y
    excamera compare --skip 240 --limit 96 film.mkv part.ivf
    """
    from excamera_dask.watching.comparison import Selection, compare_films, hints_of

    asked = take_reading(reading)
    original = Selection(reference, skip, limit, asked.stream, hints_of(asked))
    comparison = compare_films(original, Selection(distorted, 0, limit))
    for warning in comparison.warnings:
        notice(f"warning: {warning}")
    result: dict[str, Any] = {
        "reference": str(reference),
        "distorted": str(distorted),
        "overall": comparison.overall(),
        "times": comparison.times(),
    }
    if per_frame:
        result["frames"] = comparison.per_frame()
    print_json(result)
