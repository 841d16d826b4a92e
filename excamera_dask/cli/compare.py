"""`excamera compare`: PSNR and SSIM of a video against its original."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from excamera_dask.cli.output import notice, print_json
from excamera_dask.cli.reading_options import reading_options, take_reading, tell_choice
from excamera_dask.cli.values import Place

if TYPE_CHECKING:
    from excamera_dask.storage import S3Url


@click.command(short_help="PSNR and SSIM of a video against its original, as JSON.")
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

    Both may be anything that can be encoded, and IVF or WebM. The figures are those of ffmpeg's psnr and ssim
    filters; null stands for an infinite PSNR (identical pictures). The options from --stream on say how REFERENCE is
    to be read.

    \b
    excamera compare in.mp4 out.webm | jq .overall.ssim.y
    excamera compare --skip 240 --limit 96 film.mkv part.ivf
    """
    from excamera_dask.comparison import compare_sources
    from excamera_dask.sources import open_source

    first = open_source(reference, take_reading(reading)).select(skip, limit)
    second = open_source(distorted).select(0, limit)
    comparison = compare_sources(first, second)
    for source in (first, second):
        tell_choice(source)
        for warning in source.warnings:
            notice(f"warning: {source.path}: {warning}")
    if first.frame_count != second.frame_count:
        shorter = min(first.frame_count, second.frame_count)
        notice(
            f"warning: {first.frame_count} frames against {second.frame_count}; "
            f"the first {shorter} are compared"
        )
    result: dict[str, Any] = {
        "reference": str(reference),
        "distorted": str(distorted),
        "overall": comparison.overall(),
    }
    if per_frame:
        result["frames"] = comparison.per_frame()
    print_json(result)
