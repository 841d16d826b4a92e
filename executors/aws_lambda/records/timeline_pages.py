"""A timeline drawn: as an HTML page by itself, as a picture with matplotlib."""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import IO

from executors.aws_lambda.records.errors import PlotUnavailable
from executors.aws_lambda.records.timeline import (
    IDLE,
    LEAVING,
    LOADING,
    STARTING,
    WAITING,
    Timeline,
)

OWN_COLOURS = {
    STARTING: "#d9d9d9",
    LOADING: "#a6a6a6",
    IDLE: "#f2efe6",
    WAITING: "#f4c7c3",
    LEAVING: "#7f7f7f",
}
STAGE_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#e07b39",
    "#44aa99",
)
PAGE_WIDTH = 1200
PAGE_HEIGHT = 1000
SMALLEST_ROW = 1.0
LARGEST_ROW = 14.0


def colours(timeline: Timeline) -> dict[str, str]:
    """A colour for each kind of bar."""
    stages = [kind for kind in timeline.kinds() if kind not in OWN_COLOURS]
    palette = {stage: STAGE_COLOURS[at % len(STAGE_COLOURS)] for at, stage in enumerate(stages)}
    return OWN_COLOURS | palette


def to_html(timeline: Timeline) -> str:
    """A page that needs nothing else: the bars as SVG, the figures as text."""
    palette = colours(timeline)
    drawn = [row for row in timeline.rows if row.bars]
    count = max(1, len(drawn))
    row = min(LARGEST_ROW, max(SMALLEST_ROW, PAGE_HEIGHT / count))
    height = row * count
    scale = PAGE_WIDTH / max(timeline.seconds, 1e-9)
    shapes: dict[str, list[str]] = defaultdict(list)
    for place, one in enumerate(drawn):
        for bar in one.bars:
            number = "" if bar.number is None else f" {bar.number}"
            told = (
                f"{one.name} ({one.state}): {bar.kind}{number}, {bar.start:.2f} to {bar.end:.2f} s"
            )
            shapes[bar.kind].append(
                f'<rect x="{bar.start * scale:.2f}" y="{place * row:.2f}" '
                f'width="{max(0.2, (bar.end - bar.start) * scale):.2f}" height="{row * 0.9:.2f}">'
                f"<title>{escape(told)}</title></rect>"
            )
    groups = "".join(
        f'<g fill="{palette[kind]}">{"".join(rects)}</g>' for kind, rects in shapes.items()
    )
    legend = " ".join(
        f'<span><i style="background:{palette[kind]}"></i>{escape(kind)}</span>' for kind in shapes
    )
    title = escape(f"Timeline of {timeline.name or 'a cluster'}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>'
        "body{font:14px sans-serif;margin:2em}i{display:inline-block;width:1em;height:1em;margin:0 .4em 0 1em;"
        "vertical-align:-.15em}svg{border:1px solid #ccc}</style>"
        f"<h1>{title}</h1><p>{legend}</p>"
        f'<svg width="{PAGE_WIDTH}" height="{height + 20:.0f}" viewBox="0 0 {PAGE_WIDTH} {height + 20:.0f}">'
        f"{groups}{_axis(timeline, scale, height)}</svg><pre>{escape(timeline.to_text())}</pre></html>\n"
    )


def _axis(timeline: Timeline, scale: float, height: float) -> str:
    step = _step(timeline.seconds)
    marks = []
    at = 0.0
    while at <= timeline.seconds:
        x = at * scale
        marks.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height:.1f}" stroke="#0002"/>'
            f'<text x="{x + 2:.1f}" y="{height + 14:.1f}" font-size="11">{at:g} s</text>'
        )
        at += step
    return "".join(marks)


def _step(seconds: float) -> float:
    """A round number of seconds that divides a timeline into at most twelve parts."""
    step = 0.001
    while True:
        for factor in (1, 2, 5):
            if seconds / (step * factor) <= 12:
                return step * factor
        step *= 10


def save_picture(timeline: Timeline, file: IO[bytes], form: str) -> None:
    """Draw the bars, and below them how many invocations had connected and were ready, as "png", "svg" or "pdf".

    Raises: PlotUnavailable without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.collections import PolyCollection
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        raise PlotUnavailable(
            "drawing a timeline needs matplotlib: pip install 'excamera-dask[plot]', or write .html or .json"
        ) from None
    palette = colours(timeline)
    figure = Figure(figsize=(12, 9), layout="constrained")
    FigureCanvasAgg(figure)
    bars, curves = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    boxes: dict[str, list[list[tuple[float, float]]]] = defaultdict(list)
    drawn = [row for row in timeline.rows if row.bars]
    for place, row in enumerate(drawn):
        for bar in row.bars:
            low, high = place + 0.05, place + 0.95
            boxes[bar.kind].append(
                [(bar.start, low), (bar.start, high), (bar.end, high), (bar.end, low)]
            )
    for kind, shapes in boxes.items():
        bars.add_collection(PolyCollection(shapes, facecolors=palette[kind], edgecolors="none"))
    bars.set_ylim(max(1, len(drawn)), 0)
    bars.set_xlim(0, max(timeline.seconds, 1e-3))
    bars.set_ylabel("invocation")
    bars.set_title(timeline.to_text().splitlines()[0], fontsize=10)
    patches = [Patch(color=palette[kind], label=kind) for kind in boxes]
    if patches:
        bars.legend(handles=patches, loc="upper right", fontsize=8)
    for event in ("invoked", "connected", "ready"):
        times = timeline.reached(event)
        curves.step([0.0, *times], range(len(times) + 1), where="post", label=event)
    curves.set_xlabel("seconds")
    curves.set_ylabel("invocations")
    curves.legend(loc="lower right", fontsize=8)
    figure.savefig(file, dpi=120, format=form)
