"""`excamera decode`: a VP8 file to raw pictures, or to the MD5 of them, by our own decoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from excamera_dask.cli.options.reading import stream_option
from excamera_dask.cli.options.values import OutputFile, Place
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import (
    claim_output,
    may_overwrite,
    notice,
    overwrite_options,
    refuse_inputs,
)
from excamera_dask.cli.terminal.printing import printable

if TYPE_CHECKING:
    from excamera_dask.storage import S3Url


@click.command(short_help="Decode IVF or WebM to Y4M, or to an MD5.")
@click.argument("source", metavar="IN", type=Place())
@click.option(
    "-o", "--output", type=OutputFile(".y4m", remote=True), help="Y4M file to write; - for stdout."
)
@click.option(
    "--md5", is_flag=True, help="Print the MD5 of all pictures, as vpxdec --i420 --md5 does."
)
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many pictures.")
@overwrite_options
@stream_option
def decode(
    source: Path | S3Url,
    output: Path | S3Url | None,
    md5: bool,
    limit: int | None,
    yes: bool,
    no: bool,
    stream: int | str | None,
) -> None:
    """Decode the VP8 stream of IN with excamera's own decoder.

    \b
    excamera decode out.webm -o out.y4m
    excamera decode out.webm -o - | mpv -
    excamera decode out.ivf --md5            the MD5 that vpxdec --i420 --md5 prints
    """
    if md5 == (output is not None):
        raise click.UsageError("give either -o OUT.y4m or --md5")
    if output is None:
        _print_md5(source, limit, stream)
        return
    if isinstance(source, Path) and isinstance(output, Path):
        refuse_inputs(output, source)
    claim_output(output, may_overwrite(yes, no))
    pictures = _write_y4m(source, output, limit, stream)
    notice(f"{pictures} pictures decoded")


def _print_md5(source: Path | S3Url, limit: int | None, stream: int | str | None) -> None:
    import hashlib
    from itertools import islice

    from excamera_dask.playback import play

    digest = hashlib.md5(usedforsecurity=False)
    for image in islice(play(source, stream, on_choice=notice), limit):
        digest.update(image.to_bytes())
    click.echo(f"{digest.hexdigest()}  {printable(str(source))}")


def _write_y4m(
    source: Path | S3Url, output: Path | S3Url, limit: int | None, stream: int | str | None
) -> int:
    from itertools import islice

    from excamera_dask.formats.y4m import Y4mWriter
    from excamera_dask.playback import frame_rate, play

    images = islice(play(source, stream, on_choice=notice), limit)
    first = next(images, None)
    if first is None:
        raise Failure(f"{source}: no picture in it")
    pictures = 1
    rate = frame_rate(source, stream)
    with Y4mWriter(output, first.width, first.height, rate, tell=notice) as writer:
        writer.write(first)
        for image in images:
            if (image.width, image.height) != (first.width, first.height):
                raise Failure(
                    f"{source}: the size changes to {image.width}x{image.height} at picture {pictures}, "
                    "which Y4M cannot hold; --limit stops before it"
                )
            writer.write(image)
            pictures += 1
    return pictures
