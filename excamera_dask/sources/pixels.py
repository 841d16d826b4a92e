"""From a decoded frame to an 8-bit 4:2:0 picture: format, size and orientation."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from codec.frame import Image
from excamera_dask.sources.description import FULL_RANGE, Colour, Orientation

SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
TAKEN_AS_IS = ("yuv420p", "yuvj420p")
BT601_MATRIX = 6
MATRIX_OF_RGB = 0


def is_rgb(format: Any) -> bool:
    """Whether a pixel format holds red, green and blue rather than luma and chroma."""
    return bool(format.is_rgb or format.has_palette)


def colour_of(frame: av.VideoFrame) -> Colour:
    """The tags that the coded pictures carry, after the conversion that `to_image` makes."""
    name = frame.format.name
    if is_rgb(frame.format):
        return Colour(1, int(frame.color_primaries), int(frame.color_trc), BT601_MATRIX)
    range_ = int(frame.color_range)
    if name.startswith("yuvj") or (range_ == 0 and name.startswith("gray")):
        range_ = FULL_RANGE
    return Colour(range_, int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace))


def orientation_of(frame: av.VideoFrame) -> tuple[Orientation, int, bool]:
    """Orientation, rotation in degrees counter-clockwise, and whether the display matrix is one of right angles.

    The matrix maps (column, row) to (a x + c y, b x + d y), 16.16 fixed point.
    """
    try:
        side_data: Any = list(frame.side_data)
    except ValueError:  # of a type that PyAV does not know, as in some pictures
        side_data = []
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(data), np.int32)[:5])
            if b == 0 and c == 0:
                return Orientation(False, d < 0, a < 0), int(frame.rotation), True
            if a == 0 and d == 0:
                return Orientation(True, b < 0, c < 0), int(frame.rotation), True
            return Orientation(), int(frame.rotation), False
    return Orientation(), 0, True


def to_image(
    frame: av.VideoFrame, width: int, height: int, full_range: bool, orientation: Orientation
) -> Image:
    """The picture as it will be coded: width and height are those before it is turned."""
    if frame.format.name not in TAKEN_AS_IS or (frame.width, frame.height) != (width, height):
        frame = _convert(frame, width, height, full_range)
    y, u, v = (_plane_array(plane) for plane in frame.planes[:3])
    half = ((height + 1) // 2, (width + 1) // 2)
    return Image(
        _turn(y[:height, :width], orientation),
        _turn(u[: half[0], : half[1]], orientation),
        _turn(v[: half[0], : half[1]], orientation),
    )


def _convert(frame: av.VideoFrame, width: int, height: int, full_range: bool) -> av.VideoFrame:
    source_full = int(colour_of(frame).range) == FULL_RANGE or is_rgb(frame.format)
    matrices: dict[str, Any] = {}
    if is_rgb(frame.format):
        matrices = {"dst_colorspace": Colorspace.ITU601}
    return frame.reformat(
        width,
        height,
        "yuv420p",
        interpolation=SCALING,
        src_color_range=ColorRange.JPEG if source_full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
        threads=1,
        **matrices,
    )


def _plane_array(plane: Any) -> NDArray[np.uint8]:
    rows = np.frombuffer(plane, np.uint8)
    height = rows.size // plane.line_size
    return rows[: height * plane.line_size].reshape(height, plane.line_size)


def _turn(plane: NDArray[np.uint8], orientation: Orientation) -> NDArray[np.uint8]:
    if orientation.transpose:
        plane = plane.T
    if orientation.flip_rows:
        plane = plane[::-1]
    if orientation.flip_columns:
        plane = plane[:, ::-1]
    return np.array(plane, order="C", copy=True)
