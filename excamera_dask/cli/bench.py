"""`excamera bench`: how the method compares with libvpx run in one piece."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from excamera_dask.cli.options.benching import bench_options
from excamera_dask.cli.options.libvpx import libvpx_options, settings_from
from excamera_dask.cli.options.plotting import plot_option, require_matplotlib
from excamera_dask.cli.options.reading import reading_options, take_reading, tell_choice
from excamera_dask.cli.options.values import CqLevels, Methods
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import as_json, claim_all, notice, print_json, whole_file
from excamera_dask.cli.terminal.printing import console, percent
from excamera_dask.cli.where import where
from excamera_dask.presets import DEFAULT, KEY_DISTANCE

if TYPE_CHECKING:
    from excamera_dask.measuring.methods import Method
    from excamera_dask.measuring.rd_curves import Point

    Rates = dict[str, dict[str, float | None]]


@click.group(short_help="Measure against libvpx run in one piece.")
def bench() -> None:
    """Measure against libvpx run in one piece."""


bench.add_command(where)


@bench.command("rd", short_help="Rate-distortion points and BD-rate against libvpx at its best.")
@click.argument(
    "sources", metavar="SRC...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--cq-levels", type=CqLevels(), default="16,26,36,46,56", show_default=True,
    help="Quality points, at least two.",
)  # fmt: skip
@click.option(
    "--methods", type=Methods(), default=f"{DEFAULT} 6,40", show_default=True,
    help="What to measure: presets, fast or balanced:12 for chunks of 12 frames, and [N, x] as 6,16.",
)  # fmt: skip
@click.option(
    "--against", type=click.Choice(["best", "2017"]), default="best", show_default=True,
    help="best: vpxenc with a lag and alt-ref frames, in two rows; 2017: with the flags of the original tools.",
)  # fmt: skip
@click.option(
    "--key-distance", type=click.IntRange(min=1), default=KEY_DISTANCE, show_default=True,
    help="Frames between key frames: at most for libvpx, about for presets; [N, x] has N times x.",
)  # fmt: skip
@bench_options
@plot_option("Draw the curves into this PNG file.")
@reading_options
@libvpx_options
def rd(
    sources: tuple[Path, ...],
    cq_levels: tuple[int, ...],
    methods: tuple[Method, ...],
    against: str,
    key_distance: int,
    skip: int,
    limit: int,
    output: Path | None,
    plot_path: Path | None,
    executor: str,
    workers: int | None,
    **options: Any,
) -> None:
    """Encode films at several qualities by some methods and by libvpx in one piece; print points and BD-rate as JSON.

    libvpx gets one thread, two passes where it knows them and --cpu-used=0, and is run as somebody does who knows it: with a
    lag and hidden alt-ref frames, once more with a key frame no finer than those. The better of the two counts for each
    film. BD-rate is the percentage of bytes needed more at equal quality (SSIM of luma in dB, and PSNR), interpolated by
    monotone cubics. Bytes are those of the frames, without container. Compare at the same distance of key frames.

    \b
    excamera bench rd clip.mp4 --plot rd.png > rd.json
    excamera bench rd *.mp4 --methods "balanced balanced:12" --cq-levels 20,30,40
    excamera bench rd clip.mp4 --methods 6,16 --against 2017 --limit 96
    """
    claim_all(output, plot_path, inputs=sources)
    if plot_path is not None:
        require_matplotlib()
    from excamera_dask.first_pass import LIBVPX
    from excamera_dask.measuring import rd_curves
    from excamera_dask.sources import open_source

    reading = take_reading(options)
    settings = settings_from(options, cq_levels[0])
    if settings.encoder == LIBVPX and against == "best":
        notice(
            "libvpx inside PyAV takes one pass and makes no hidden frames: with vpxenc (Debian: vpx-tools) it is at its best"
        )
    references = rd_curves.REFERENCES if against == "best" else (rd_curves.PAPERS,)
    chosen = {path: open_source(path, reading).select(skip, limit) for path in sources}
    for path, source in chosen.items():
        tell_choice(source)
        if source.frame_count == 0:
            raise Failure(f"{path}: no frames left after --skip {skip}")
    found: dict[str, list[Point]] = {}
    rates: dict[str, Rates] = {}
    for path, source in chosen.items():
        if len(sources) > 1:
            notice(f"{path}: {source.frame_count} frames, {source.width}x{source.height}")
        found[str(path)] = rd_curves.curves(
            source, settings, cq_levels, methods, _report,
            references=references, key_distance=key_distance, executor=executor, workers=workers,
        )  # fmt: skip
        rates[str(path)] = rd_curves.bd_rates(found[str(path)], references)
    means = rd_curves.mean_rates(list(rates.values()))
    _print_table(found, rates, means)
    result = {
        "references": f"{settings.encoder}, 1 thread, {settings.full_effort().passes} passes: {', '.join(references)}",
        "key_distance": key_distance,
        "clips": [
            {
                "source": str(path),
                "skip": skip,
                "frames": source.frame_count,
                "points": found[str(path)],
                "bd_rate_percent": rates[str(path)],
            }
            for path, source in chosen.items()
        ],
        "mean_bd_rate_percent": means,
    }
    print_json(result)
    if plot_path is not None:
        titles = [
            (f"{path.name}, {source.frame_count} frames", found[str(path)])
            for path, source in chosen.items()
        ]
        with whole_file(plot_path) as file:
            rd_curves.plot(titles, file)
    if output is not None:
        with whole_file(output) as file:
            file.write(as_json(result).encode() + b"\n")


def _report(point: Point) -> None:
    notice(
        f"cq {point.cq_level:2}  {point.method:<14} {point.bytes:>10} bytes  "
        f"SSIM {point.ssim_db:6.3f} dB  PSNR {point.psnr:6.3f} dB  {point.seconds:6.1f} s"
    )


def _print_table(found: dict[str, list[Point]], rates: dict[str, Rates], means: Rates) -> None:
    from rich.table import Table

    table = Table("film", "method", title="BD-rate against libvpx", title_justify="left")
    for name in ("SSIM dB", "PSNR", "seconds, all points"):
        table.add_column(name, justify="right")
    for path, points in found.items():
        for method in dict.fromkeys(point.method for point in points):
            seconds = sum(point.seconds for point in points if point.method == method)
            rate = rates[path].get(method, {})
            told = percent(rate.get("ssim_db")), percent(rate.get("psnr"))
            table.add_row(Path(path).name, method, *told, f"{seconds:.1f}")
    if len(found) > 1:
        for method, rate in means.items():
            table.add_row("mean", method, percent(rate["ssim_db"]), percent(rate["psnr"]), "")
    console(stderr=True, markup=False).print(table)
