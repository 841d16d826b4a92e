"""Plots of where bits go: by position, by syntax element, quality over the film; needs matplotlib (the extra `plot`)."""

from __future__ import annotations

import math
from typing import IO, Any

COLOURS = {
    "key": "#d1495b",
    "hidden": "#edae49",
    "plain": "#3d7ea6",
    "joint": "#7b5ea7",
    "end": "#66a182",
}
GREY = "#8a8a8a"


def plot(title: str, result: dict[str, Any], file: IO[bytes]) -> None:
    """Draw what `bench where` found (its JSON) as a PNG: three panels, a fourth where mechanisms were measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = result["mechanisms"] is not None
    above = ["positions", "elements", *(["mechanisms"] if measured else [])]
    layout: Any = [above, ["film"] * len(above)]
    size = 6 * len(above), 9
    figure, panels = pyplot.subplot_mosaic(layout, figsize=size, layout="constrained")
    figure.suptitle(title)
    _positions(panels["positions"], result)
    _elements(panels["elements"], result)
    _film(panels["film"], result)
    if measured:
        _mechanisms(panels["mechanisms"], result["mechanisms"]["bd_rate_percent_without"])
    figure.savefig(file, dpi=80, format="png")
    pyplot.close(figure)


def _positions(axes: Any, result: dict[str, Any]) -> None:
    positions = result["by_position"]
    places = range(len(positions))
    sizes = [sums["bytes_a_frame"] / 1000 for sums in positions.values()]
    axes.bar(places, sizes, color=[COLOURS.get(name, COLOURS["plain"]) for name in positions])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("kB a frame (bars)")
    axes.set_xlabel("position in the group")
    named = [
        (place, name)
        for place, name in enumerate(positions)
        if not name.isdigit() or int(name) % 4 == 0
    ]
    axes.set_xticks([place for place, _ in named], [name for _, name in named])
    axes.tick_params(axis="x", rotation=45)
    axes.set_title("Bits and quality by position")
    quality = axes.twinx()
    values = [sums["ssim_db"] for sums in positions.values()]
    quality.plot(
        places, [math.nan if value is None else value for value in values], "k.-", linewidth=1
    )
    quality.set_ylabel("SSIM of luma, dB (line)")


def _elements(axes: Any, result: dict[str, Any]) -> None:
    elements = result["by_element"]
    total = result["total"]["bytes"]
    names = [name.replace("_", " ") for name in elements]
    kinds = [kind for kind in next(iter(elements.values())) if kind != "all"]
    left = [0.0] * len(names)
    places = [float(place) for place in range(len(names))]
    for kind in kinds:
        shares = [100 * parts[kind] / total for parts in elements.values()]
        axes.barh(places, shares, 0.55, left=left, color=COLOURS[kind], label=kind)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    if result["vpxenc"] is not None:
        theirs, whole = result["vpxenc"]["by_element"], result["vpxenc"]["total"]["bytes"]
        axes.barh(
            [place + 0.38 for place in places],
            [100 * parts["all"] / whole for parts in theirs.values()],
            0.2,
            color=GREY,
            label="vpxenc, of its own bytes",
        )
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel("percent of all bytes")
    axes.set_title("Bits by syntax element and type of frame")
    axes.legend()


def _film(axes: Any, result: dict[str, Any]) -> None:
    shown = [frame for frame in result["each_frame"] if frame["frame"] is not None]
    if result["vpxenc"] is not None:
        theirs = [each for each in result["vpxenc"]["each_frame"] if each["frame"] is not None]
        axes.plot(
            [each["frame"] for each in theirs],
            [each["ssim_db"] for each in theirs],
            color=GREY,
            linewidth=1,
            label="vpxenc, same cq level",
        )
    axes.plot(
        [frame["frame"] for frame in shown],
        [frame["ssim_db"] for frame in shown],
        color=COLOURS["plain"],
        label=result["method"],
    )
    for kind, marker, label in (
        ("key", "D", "key frame"),
        ("end", "o", "end of a group"),
        ("joint", "|", "end of a chunk"),
    ):
        marked = [(frame["frame"], frame["ssim_db"]) for frame in shown if frame["type"] == kind]
        if marked:
            axes.plot(
                *zip(*marked, strict=True), marker, color=COLOURS[kind], markersize=5, label=label
            )
    axes.set_xlabel("frame")
    axes.set_ylabel("SSIM of luma, dB")
    axes.set_title("Quality over the film")
    axes.grid(True, alpha=0.3)
    axes.legend()


def _mechanisms(axes: Any, rates: dict[str, Any]) -> None:
    names = [name.replace("_", " ") for name in rates]
    for offset, quality, label, colour in (
        (-0.2, "ssim_db", "by SSIM", COLOURS["plain"]),
        (0.2, "psnr", "by PSNR", COLOURS["hidden"]),
    ):
        places = [place + offset for place in range(len(names))]
        values = [rate[quality] or 0.0 for rate in rates.values()]
        bars = axes.barh(places, values, 0.4, color=colour, label=label)
        axes.bar_label(bars, fmt="%+.1f", padding=2, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.15)
    axes.set_xlabel("percent more bytes without it, at equal quality")
    axes.set_title("What each mechanism is worth alone")
    axes.legend()
