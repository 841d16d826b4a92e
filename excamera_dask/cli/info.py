"""`excamera info`: what each frame of a VP8 file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from excamera_dask.cli.options.reading import stream_option
from excamera_dask.cli.options.values import Place
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import notice, print_json

if TYPE_CHECKING:
    from excamera_dask.storage import S3Url


@click.command(short_help="Type, size, quantizer, flags and references of each frame, as JSON.")
@click.argument("source", metavar="IN", type=Place())
@click.option(
    "--macroblocks", is_flag=True, help="Mode, reference, vector and tokens of each macroblock."
)
@click.option("--skip", type=click.IntRange(min=0), default=0, help="Frames to leave out first.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many frames.")
@stream_option
def info(
    source: Path | S3Url,
    macroblocks: bool,
    skip: int,
    limit: int | None,
    stream: int | str | None,
) -> None:
    """Describe the frames of an IVF or WebM file as JSON, hidden frames included.

    \b
    excamera info out.webm | jq '.frames[] | select(.type == "key") | .frame'
    excamera info out.webm | jq '[.frames[].bytes] | add'
    excamera info out.ivf --macroblocks --skip 7 --limit 1
    """
    from itertools import islice

    from excamera_dask.formats.containers import stream_info
    from excamera_dask.measuring.inspection import inspect

    about = stream_info(source, stream, on_choice=notice)
    stop = None if limit is None else skip + limit
    frames = list(islice(inspect(source, macroblocks, stream), skip, stop))
    if not frames:
        raise Failure(f"{source}: has {about.frame_count} frames, none from frame {skip} on")
    print_json(
        {
            "file": str(source),
            "container": about.container,
            "width": about.width,
            "height": about.height,
            "time_base": str(about.time_base),
            "frame_count": about.frame_count,
            "frames": frames,
        }
    )
