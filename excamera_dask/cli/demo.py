"""`excamera demo`: the whole path on one clip, beside plain libvpx: encode, play with libvpx, compare."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from excamera_dask.cli.encode import method_options, run
from excamera_dask.cli.options.named import named
from excamera_dask.cli.options.reading import reading_options, take_reading
from excamera_dask.cli.options.values import OutputFile
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import check_input, claim_all, notice, print_json, whole_file
from excamera_dask.cli.terminal.printing import console
from excamera_dask.storage.stream_output import is_stream

if TYPE_CHECKING:
    from excamera_dask.first_pass import FirstPassSettings
    from excamera_dask.measuring.rd_curves import Point
    from excamera_dask.settings import Settings
    from excamera_dask.sources import SourceInfo


@click.command(short_help="Encode a clip, play it with libvpx, compare with plain libvpx.")
@click.argument("source", metavar="CLIP", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=OutputFile(".webm", ".ivf"),
    help="Keep the encoded clip here (.webm or .ivf).",
)
@click.option("--limit", type=click.IntRange(min=1), help="Frames to encode at most.")
@click.option(
    "--progress", type=click.Choice(["auto", "rich", "json", "none"]), default="auto", show_default=True,
    help="As for encode.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON on stdout.")
@method_options
@reading_options
def demo(
    source: Path,
    output: Path | None,
    limit: int | None,
    progress: str,
    as_json: bool,
    cq_level: int,
    **method: Any,
) -> None:
    """Show on CLIP what the method does, beside libvpx encoding it in one piece at full effort.

    \b
    excamera demo clip.mp4
    excamera demo clip.mp4 --crf 40 -o clip.webm
    """
    check_input(source)
    claim_all(output, inputs=(source,))
    from excamera_dask.first_pass import LIBVPX, FirstPassSettings, encoder_version
    from excamera_dask.settings import Settings
    from excamera_dask.sources import open_source

    reading = take_reading(method)
    where = {name: method.pop(name) for name in ("executor", "workers")}
    how = Settings.of(cq_level=cq_level, limit=limit, reading=reading, **named(method))
    chosen = open_source(source, reading).select(0, limit)
    settings = FirstPassSettings(cq_level=cq_level).choose()
    notice(f"{source.name}: {chosen.frame_count} frames, {chosen.width}x{chosen.height}")
    notice(
        f"First pass by {encoder_version(settings.encoder)} at cq-level {cq_level}; "
        "libvpx in one piece at full effort"
        if how.structure is None
        else f"Our encoder at cq-level {cq_level}; libvpx in one piece at its best"
    )
    with tempfile.TemporaryDirectory(prefix="excamera-demo-") as folder:
        target = output or Path(folder) / "demo.webm"
        if is_stream(str(target)):  # what goes into a pipe cannot be played afterwards
            target = Path(folder) / target.name
        _warm_up()
        begin = time.perf_counter()
        run(source, target, progress, settings=how, **where)
        seconds = time.perf_counter() - begin
        if output is not None and output != target:
            with whole_file(output) as file:
                file.write(target.read_bytes())
        ours = _play(chosen, target, how, seconds)
    notice("Encoding the same frames in one piece with libvpx alone ...")
    plain = [_plain(chosen, settings, how, 1)]
    threads = len(os.sched_getaffinity(0))
    if threads > 1:
        plain.append(_plain(chosen, settings, how, threads))
    rows = list(
        zip(
            ["excamera", "libvpx, 1 thread", f"libvpx, {threads} threads"],
            [ours, *plain],
            strict=False,
        )
    )
    if as_json:
        print_json(dict(rows))
    else:
        _print_table(rows)
        if settings.encoder == LIBVPX:
            notice(
                "libvpx inside PyAV takes one pass, in which it spends several times the bytes that two passes take, for more "
                "quality: with vpxenc (Debian: vpx-tools) it takes two; excamera bench rd compares at equal quality"
            )


def _plain(source: SourceInfo, settings: FirstPassSettings, how: Settings, threads: int) -> Point:
    """libvpx alone: with the flags of the paper's tools beside the paper's method, else at its best, key frames as far apart."""
    from excamera_dask.measuring.methods import PAPERS, SERIAL
    from excamera_dask.measuring.rd_curves import serial_point

    if how.structure is None:
        return serial_point(source, settings, threads, reference=PAPERS)
    return serial_point(source, settings, threads, reference=SERIAL, key_distance=how.key_distance)


def _warm_up() -> None:
    """Compile the kernels before the clock runs; the demo's time is that of encoding."""
    from excamera_dask.cli.terminal.output import notice
    from excamera_dask.kernels.warm_up import compile_kernels

    compile_kernels(notice)


def _play(source: SourceInfo, target: Path, how: Settings, seconds: float) -> Point:
    """Decode the result with libvpx, check the number of pictures, and measure it."""
    from excamera_dask.measuring.methods import Method
    from excamera_dask.measuring.rd_curves import measure

    pictures = _decode_with_libvpx(target)
    if pictures != source.frame_count:
        raise Failure(f"libvpx shows {pictures} pictures of {source.frame_count}")
    notice(f"libvpx decodes it: {pictures} pictures")
    name = Method(how.preset, how.chunk_frames, how.batch_chunks).name
    return measure(name, how.first_pass.cq_level, source, target, seconds)


def _decode_with_libvpx(path: Path) -> int:
    import av

    from excamera_dask.formats.containers import read_packets, stream_info

    info = stream_info(path)
    decoder = av.CodecContext.create("libvpx", "r")
    decoder.width, decoder.height = info.width, info.height
    packets = [av.Packet(packet.data) for packet in read_packets(path)]
    return sum(len(decoder.decode(packet)) for packet in [*packets, None])


def _print_table(rows: list[tuple[str, Point]]) -> None:
    from rich.table import Table

    serial = rows[1][1]
    table = Table(box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    for name in ("frames", "keys", "bytes", "", "SSIM", "dB", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, point in rows:
        table.add_row(
            name if name != "excamera" else f"excamera {point.method}",
            str(point.frames),
            str(point.key_frames),
            f"{point.bytes:,}",
            f"{100 * (point.bytes / serial.bytes - 1):+.1f} %" if point is not serial else "",
            f"{point.ssim:.4f}",
            f"{point.ssim_db:.2f}",
            f"{point.seconds:.1f}",
        )
    console(markup=False).print(table)
