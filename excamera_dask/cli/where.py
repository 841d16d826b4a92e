"""`excamera bench where`: where the bits of an encode go, and what each of its mechanisms is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from excamera_dask.cli.options.benching import bench_options
from excamera_dask.cli.options.libvpx import cq_level_option
from excamera_dask.cli.options.plotting import plot_option, require_matplotlib
from excamera_dask.cli.options.reading import reading_options, take_reading, tell_choice
from excamera_dask.cli.options.values import CqLevels
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import as_json, claim_all, notice, print_json, whole_file
from excamera_dask.cli.terminal.printing import console, percent
from excamera_dask.mechanisms import NAMES
from excamera_dask.presets import DEFAULT, KEY_DISTANCE, LONGEST_CHUNK, PRESETS

if TYPE_CHECKING:
    from rich.table import Table

    from excamera_dask.first_pass import FirstPassSettings
    from excamera_dask.measuring.methods import Method
    from excamera_dask.sources import SourceInfo

HIDING = [name for name, structure in PRESETS.items() if structure is not None]


@click.command(short_help="Where the bits go: by position, type, stage and syntax element.")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.option(
    "--preset", type=click.Choice(HIDING), default=DEFAULT, show_default=True,
    help="A preset with hidden frames.",
)  # fmt: skip
@cq_level_option
@click.option(
    "--mechanisms", "cq_levels", type=CqLevels(),
    help=f"Measure at these cq levels what each mechanism is worth alone: {len(NAMES) + 1} encodes for each level.",
)  # fmt: skip
@click.option(
    "--vpxenc/--no-vpxenc", "beside", default=True, show_default=True,
    help="Tell the same of one vpxenc at its best, where it is installed.",
)  # fmt: skip
@click.option(
    "-N", "--chunk-frames", type=click.IntRange(1, LONGEST_CHUNK),
    help="Frames a chunk; by default the preset's.",
)  # fmt: skip
@click.option(
    "--key-distance", type=click.IntRange(min=1), default=KEY_DISTANCE, show_default=True,
    help="Frames from one key frame to the next, about.",
)  # fmt: skip
@bench_options
@plot_option("Draw positions, elements and the quality of each frame into this PNG file.")
@reading_options
def where(
    source: Path,
    preset: str,
    cq_level: int,
    cq_levels: tuple[int, ...] | None,
    beside: bool,
    chunk_frames: int | None,
    key_distance: int,
    skip: int,
    limit: int,
    output: Path | None,
    plot_path: Path | None,
    executor: str,
    workers: int | None,
    **options: Any,
) -> None:
    """Encode a film with hidden frames and print where its bits went, and what they left of each frame, as JSON.

    Bytes, mean squared error and SSIM of luma, PSNR of chroma: of key, hidden and plain frames, of joints and ends of groups,
    by place in the group, by the task that made them; bytes by syntax element, exact in the boolean coder's arithmetic. Steps
    of SSIM from frame to frame, at ends of groups and elsewhere. All of it beside vpxenc at the same cq level, where that is
    installed.

    --mechanisms: the percentage of bytes needed more at equal quality (BD-rate by SSIM dB, and by PSNR) with one mechanism
    left out, for each.

    \b
    excamera bench where clip.mp4 --plot where.png > where.json
    excamera bench where clip.mp4 --mechanisms 20,30,40,50
    """
    claim_all(output, plot_path, inputs=(source,))
    if plot_path is not None:
        require_matplotlib()
    from excamera_dask.first_pass import FirstPassSettings
    from excamera_dask.measuring.methods import Method
    from excamera_dask.sources import open_source

    chosen = open_source(source, take_reading(options)).select(skip, limit)
    tell_choice(chosen)
    if chosen.frame_count == 0:
        raise Failure(f"{source}: no frames left after --skip {skip}")
    settings = FirstPassSettings(cq_level=cq_level).choose()
    method = Method(preset, chunk_frames)
    job = {"executor": executor, "workers": workers}
    result = {
        "source": str(source),
        "skip": skip,
        "frames": chosen.frame_count,
        "method": method.name,
        "cq_level": cq_level,
        "key_distance": key_distance,
        **_encoded(chosen, settings, method, key_distance, job),
        "vpxenc": _vpxenc(chosen, settings, key_distance) if beside else None,
        "mechanisms": None,
    }
    if cq_levels is not None:
        result["mechanisms"] = _mechanisms(chosen, settings, cq_levels, method, key_distance, job)
    _print_tables(result)
    print_json(result)
    if plot_path is not None:
        from excamera_dask.measuring.where_plot import plot

        with whole_file(plot_path) as file:
            plot(f"{source.name}, {method.name}, cq level {cq_level}", result, file)
    if output is not None:
        with whole_file(output) as file:
            file.write(as_json(result).encode() + b"\n")


def _encoded(
    source: SourceInfo,
    settings: FirstPassSettings,
    method: Method,
    key_distance: int,
    job: dict[str, Any],
) -> dict[str, Any]:
    from excamera_dask.measuring.coded_frames import frames_of_job
    from excamera_dask.measuring.where import each_frame, summary

    frames = frames_of_job(source, settings, method, key_distance, **job)
    return summary(frames) | {"each_frame": each_frame(frames)}


def _vpxenc(
    source: SourceInfo, settings: FirstPassSettings, key_distance: int
) -> dict[str, Any] | None:
    from excamera_dask.first_pass import VPXENC
    from excamera_dask.measuring.coded_frames import frames_of_vpxenc
    from excamera_dask.measuring.where import each_frame, summary

    if settings.encoder != VPXENC:
        notice("no vpxenc here (Debian: vpx-tools) to compare with")
        return None
    frames = frames_of_vpxenc(source, settings, key_distance)
    return summary(frames, groups=False) | {"each_frame": each_frame(frames)}


def _mechanisms(
    source: SourceInfo,
    settings: FirstPassSettings,
    cq_levels: tuple[int, ...],
    method: Method,
    key_distance: int,
    job: dict[str, Any],
) -> dict[str, Any]:
    from excamera_dask.measuring import rd_curves

    methods = [method, *method.each_left_out()]
    points = rd_curves.curves(
        source, settings, cq_levels, methods, _report,
        references=(), key_distance=key_distance, **job,
    )  # fmt: skip
    rates = rd_curves.bd_rates(points, (method.name,))
    names = {each.name: each.left_out for each in methods}
    return {
        "cq_levels": cq_levels,
        "points": points,
        "bd_rate_percent_without": {names[name]: rate for name, rate in rates.items()},
    }


def _report(point: Any) -> None:
    notice(
        f"cq {point.cq_level:2}  {point.method:<32} {point.bytes:>10} bytes  "
        f"SSIM {point.ssim_db:6.3f} dB  PSNR {point.psnr:6.3f} dB"
    )


# Tables ----------------------------------------------------------------------------------------------------------


def _print_tables(result: dict[str, Any]) -> None:
    out = console(stderr=True, markup=False)
    for name, title in (
        ("by_type", "type"),
        ("by_stage", "stage"),
        ("by_position", "position"),
    ):
        out.print(_sums_table(title, result[name], result["total"]))
    out.print(_elements_table(result["by_element"], result["vpxenc"]))
    out.print(_steps_table(result["steps"], result["vpxenc"]))
    if result["vpxenc"] is not None:
        out.print(_sums_table("vpxenc", result["vpxenc"]["by_type"], result["vpxenc"]["total"]))
    if result["mechanisms"] is not None:
        out.print(_mechanisms_table(result["mechanisms"]["bd_rate_percent_without"]))


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _sums_table(title: str, parts: dict[str, Any], total: dict[str, Any]) -> Table:
    table = _table(title, "frames", "bytes", "share", "a frame", "MSE", "SSIM dB", "UV dB")
    for name, sums in [*parts.items(), ("all", total)]:
        table.add_row(
            name,
            str(sums["frames"]),
            str(sums["bytes"]),
            _share(sums["bytes"], total["bytes"]),
            f"{sums['bytes_a_frame']:.0f}",
            *(_number(sums[quality]) for quality in ("mse", "ssim_db", "chroma_psnr")),
        )
    return table


def _elements_table(elements: dict[str, Any], vpxenc: dict[str, Any] | None) -> Table:
    kinds = list(next(iter(elements.values())))
    columns = ["share", *(["vpxenc's"] if vpxenc else [])]
    table = _table("bytes of", *kinds, *columns)
    total = sum(parts["all"] for parts in elements.values())
    for name, parts in elements.items():
        row = [f"{parts[kind]:.0f}" for kind in kinds] + [_share(parts["all"], total)]
        if vpxenc:
            theirs = vpxenc["by_element"]
            row.append(_share(theirs[name]["all"], vpxenc["total"]["bytes"]))
        table.add_row(_words(name), *row)
    return table


def _steps_table(steps: dict[str, Any], vpxenc: dict[str, Any] | None) -> Table:
    table = _table("steps of SSIM, dB", "count", "mean", "largest", "at frame")
    theirs = vpxenc["steps"] if vpxenc else {}
    rows = steps | {f"vpxenc, {name}": step for name, step in theirs.items()}
    for name, step in rows.items():
        if step["count"]:
            sizes = _number(step["mean_db"]), _number(step["largest_db"])
            table.add_row(_words(name), str(step["count"]), *sizes, str(step["largest_at"]))
    return table


def _mechanisms_table(rates: dict[str, Any]) -> Table:
    table = _table("without", "SSIM dB", "PSNR")
    for name, rate in rates.items():
        table.add_row(_words(name), percent(rate["ssim_db"]), percent(rate["psnr"]))
    return table


def _words(name: str) -> str:
    return name.replace("_", " ")


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
