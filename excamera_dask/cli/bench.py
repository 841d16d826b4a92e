"""`excamera bench`: how the method compares with libvpx run in one piece."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from excamera_dask.cli.options.libvpx import libvpx_options, settings_from
from excamera_dask.cli.options.reading import reading_options, take_reading, tell_choice
from excamera_dask.cli.options.values import CqLevels, Executor, Methods, OutputFile
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import as_json, claim_all, notice, print_json, whole_file
from excamera_dask.cli.terminal.printing import console

if TYPE_CHECKING:
    from excamera_dask.measuring.rd_curves import Point


@click.group(short_help="Measure against libvpx run in one piece.")
def bench() -> None:
    """Measure against libvpx run in one piece."""


@bench.command(
    "rd", short_help="Rate-distortion points and BD-rate against single-threaded libvpx."
)
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.option(
    "--cq-levels", type=CqLevels(), default="12,22,32,42,52", show_default=True,
    help="Quality points, at least two.",
)  # fmt: skip
@click.option(
    "--methods",
    type=Methods(),
    default="6,1 6,16",
    show_default=True,
    help="[N, x] pairs to measure.",
)
@click.option(
    "--skip", type=click.IntRange(min=0), default=0, help="Frames of SRC to leave out first."
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=96, show_default=True, help="Frames to encode."
)
@click.option("-o", "--output", type=OutputFile(), help="Write the JSON here as well.")
@click.option(
    "--plot",
    "plot_path",
    type=OutputFile(".png"),
    help="Draw the curves into this PNG file.",
)
@click.option(
    "--executor", type=Executor(), default="local", show_default=True, help="As for encode."
)
@click.option("-w", "--workers", type=click.IntRange(min=1), help="As for encode.")
@reading_options
@libvpx_options
def rd(
    source: Path,
    cq_levels: tuple[int, ...],
    methods: tuple[tuple[int, int | None], ...],
    skip: int,
    limit: int,
    output: Path | None,
    plot_path: Path | None,
    executor: str,
    workers: int | None,
    **options: Any,
) -> None:
    """Encode SRC at several qualities by [N, x] and by single-threaded libvpx, and print points and BD-rate as JSON.

    libvpx gets the settings of the first pass but at full effort (two passes where it knows them, --cpu-used=0, no floor
    for the quantizer), key frames where it likes, and the whole of SRC in one run. BD-rate is
    the percentage of bytes needed more at equal quality (SSIM of luma in dB, and PSNR), interpolated by monotone
    cubics. Bytes are those of the frames, without container.

    \b
    excamera bench rd clip.mp4 --plot rd.png > rd.json
    excamera bench rd clip.mp4 --methods "6,16 12,8" --cq-levels 20,30,40
    """
    claim_all(output, plot_path, inputs=(source,))
    if plot_path is not None:
        _require_matplotlib()
    from excamera_dask.measuring import rd_curves
    from excamera_dask.sources import open_source

    reading = take_reading(options)
    settings = settings_from(options, cq_levels[0])
    chosen = open_source(source, reading).select(skip, limit)
    tell_choice(chosen)
    if chosen.frame_count == 0:
        raise Failure(f"{source}: no frames left after --skip {skip}")
    points = rd_curves.curves(
        chosen, settings, cq_levels, methods, _report, executor=executor, workers=workers
    )
    rates = rd_curves.bd_rates(points)
    _print_table(points, rates)
    result = {
        "source": str(source),
        "skip": skip,
        "frames": chosen.frame_count,
        "reference": f"{settings.encoder}, 1 thread, {settings.full_effort().passes} passes",
        "points": points,
        "bd_rate_percent": rates,
    }
    print_json(result)
    if plot_path is not None:
        with whole_file(plot_path) as file:
            rd_curves.plot(points, f"{source.name}, {chosen.frame_count} frames", file)
    if output is not None:
        with whole_file(output) as file:
            file.write(as_json(result).encode() + b"\n")


def _require_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise Failure("--plot needs matplotlib: pip install 'excamera-dask[plot]'")


def _report(point: Point) -> None:
    notice(
        f"cq {point.cq_level:2}  {point.method:<12} {point.bytes:>10} bytes  "
        f"SSIM {point.ssim_db:6.3f} dB  PSNR {point.psnr:6.3f} dB  {point.seconds:6.1f} s"
    )


def _print_table(points: list[Point], rates: dict[str, dict[str, float | None]]) -> None:
    from rich.table import Table

    table = Table("method", title="BD-rate against serial libvpx", title_justify="left")
    for name in ("SSIM dB", "PSNR", "seconds, all points"):
        table.add_column(name, justify="right")
    for method in dict.fromkeys(point.method for point in points):
        seconds = sum(point.seconds for point in points if point.method == method)
        rate = rates.get(method, {})
        table.add_row(
            method, _percent(rate.get("ssim_db")), _percent(rate.get("psnr")), f"{seconds:.1f}"
        )
    console(stderr=True, markup=False).print(table)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f} %"
