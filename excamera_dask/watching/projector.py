"""From a decoded frame to the picture that a player shows, by libavfilter: upright, of one size, 8-bit 4:2:0, limited range."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.filter import Graph

from codec.frame import Image, Plane

FLAGS = "bicubic+accurate_rnd+bitexact"
LIMITED_RANGE, FULL_RANGE = 1, 2
RANGES = {0: "unknown", 1: "tv", 2: "pc"}
FULL_BY_NAME = ("yuvj", "gray", "ya")
"""Formats that libswscale takes for full range, whatever their tags say."""
RGB_MATRICES = {1: "bt709", 4: "fcc", 7: "smpte240m", 9: "bt2020"}
"""Matrices of ITU-T H.273 by which RGB can be converted; else it is BT.601."""
SLIGHT_TURN = 1
"""Degrees off a right angle that count as none."""
UNMIRRORED = {
    1: (("transpose", "clock"),),
    2: (("hflip", ""), ("vflip", "")),
    3: (("transpose", "cclock"),),
}
"""Filters by quarter turns clockwise."""


class Hints(NamedTuple):
    """What is true where a file is silent or lies.

    range: of luma and chroma, 1 limited, 2 full, 0 as the file says; matrix: by which RGB is converted, a code of
    ITU-T H.273, 0 BT.601; rate: frames a second, at even times from 0, None by the file's times.
    """

    range: int = 0
    matrix: int = 0
    rate: Fraction | None = None


NO_HINTS = Hints()


class Look(NamedTuple):
    """What decides how frames are converted; turns are the filters, by name and arguments, that set them upright."""

    width: int
    height: int
    format: str
    is_rgb: bool
    range: int
    colorspace: int
    turns: tuple[tuple[str, str], ...]


class Projector:
    """Makes pictures of one size, that of the first frame when it is turned upright: `width`, `height` in pixels."""

    def __init__(self, first: av.VideoFrame, hints: Hints = NO_HINTS) -> None:
        self._hints = hints
        look = self._look_of(first)
        self.width, self.height = first.width, first.height
        if any(name == "transpose" for name, _ in look.turns):
            self.width, self.height = first.height, first.width
        self._seen: Look | None = None
        self._graph: Graph | None = None

    def picture(self, frame: av.VideoFrame) -> Image:
        """The frame as it is shown."""
        look = self._look_of(frame)
        if look != self._seen:
            self._graph, self._seen = self._graph_for(look), look
        if self._graph is not None:
            self._graph.vpush(frame)
            frame = self._graph.vpull()
        half = (self.height + 1) // 2, (self.width + 1) // 2
        y, u, v = frame.planes
        return Image(_pixels(y, self.height, self.width), _pixels(u, *half), _pixels(v, *half))

    def _graph_for(self, look: Look) -> Graph | None:
        """The chain of filters that such frames need, None where they are shown as they are."""
        as_it_is = look.format == "yuv420p" and look.range != FULL_RANGE and not look.turns
        if as_it_is and (look.width, look.height) == (self.width, self.height):
            return None
        graph = Graph()
        source = graph.add(
            "buffer",
            video_size=f"{look.width}x{look.height}",
            pix_fmt=look.format,
            time_base="1/1",
            pixel_aspect="1/1",
            range=RANGES.get(look.range, "unknown"),
            colorspace=str(look.colorspace),
        )
        chain = [graph.add(name, arguments) for name, arguments in look.turns]
        chain.append(graph.add("scale", f"{self._conversion(look)}:flags={FLAGS}"))
        chain.append(graph.add("format", "yuv420p"))
        chain.append(graph.add("scale", f"{self.width}:{self.height}:flags={FLAGS}"))
        graph.link_nodes(source, *chain, graph.add("buffersink")).configure()
        return graph

    def _conversion(self, look: Look) -> str:
        """Options of the filter `scale` that bring such frames into limited range."""
        kept = look.range == LIMITED_RANGE and look.format.startswith(FULL_BY_NAME)
        range_ = "pc" if kept else "tv"  # from full to full: as they are
        matrix = RGB_MATRICES.get(self._hints.matrix, "bt601")
        return f"out_range={range_}" + (f":out_color_matrix={matrix}" if look.is_rgb else "")

    def _look_of(self, frame: av.VideoFrame) -> Look:
        format_, range_ = frame.format.name, int(frame.color_range)
        is_rgb = bool(frame.format.is_rgb or frame.format.has_palette)
        if format_.startswith("yuvj"):
            range_ = FULL_RANGE
        if self._hints.range and not is_rgb:
            range_ = self._hints.range
        space, turns = int(frame.colorspace), _turns(frame)
        return Look(frame.width, frame.height, format_, is_rgb, range_, space, turns)


def upright(matrix: bytes) -> tuple[tuple[str, str], ...]:
    """The filters that turn frames of this display matrix upright; none where it is not one of quarter turns and mirrorings.

    matrix: 9 int32, (a b u c d v x y w), that map (column, row) to (a x + c y, b x + d y), 16.16 fixed point.
    """
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    columns, rows = math.hypot(a, c), math.hypot(b, d)
    if not columns or not rows:
        return ()
    turn = math.degrees(math.atan2(b / rows, a / columns)) % 360
    if abs(turn - 90) < SLIGHT_TURN:
        return (("transpose", "cclock_flip" if c > 0 else "clock"),)
    if abs(turn - 180) < SLIGHT_TURN:
        return (("hflip", ""),) * (a < 0) + (("vflip", ""),) * (d < 0)
    if abs(turn - 270) < SLIGHT_TURN:
        return (("transpose", "clock_flip" if c < 0 else "cclock"),)
    slight = min(turn, 360 - turn) < SLIGHT_TURN
    return (("vflip", ""),) if slight and d < 0 else ()


def _turns(frame: av.VideoFrame) -> tuple[tuple[str, str], ...]:
    try:
        side_data: list[Any] = list(frame.side_data)
    except ValueError:  # there is some that PyAV has no name for; the angle it tells all the same
        return UNMIRRORED.get(round(-frame.rotation / 90) % 4, ())
    matrices = [bytes(data) for data in side_data if data.type.name == "DISPLAYMATRIX"]
    return upright(matrices[0]) if matrices else ()


def _pixels(plane: Any, height: int, width: int) -> Plane:
    rows = np.frombuffer(plane, np.uint8)[: height * plane.line_size]
    return np.ascontiguousarray(rows.reshape(height, plane.line_size)[:, :width])
