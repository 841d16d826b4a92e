"""From a decoded frame to an 8-bit 4:2:0 picture: format, size and orientation."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from codec.frame import Image
from excamera_dask.overrides import FULL, LIMITED
from excamera_dask.sources.description import Colour, Orientation, SourceInfo
from excamera_dask.sources.side_data import side_data

SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
TAKEN_AS_IS = ("yuv420p", "yuvj420p")
FULL_BY_NAME = ("yuvj", "gray", "ya8", "ya16")
"""Formats that swscale takes for full range, whatever it is told: full they are where no tag says otherwise."""
BT601_MATRIX = 6
MATRICES = {
    1: Colorspace.ITU709, 4: Colorspace.FCC, 7: Colorspace.SMPTE240M, 9: Colorspace.BT2020,
}  # fmt: skip
"""Matrices of ITU-T H.273 that RGB can be converted by; any other is BT.601."""


def is_rgb(format: Any) -> bool:
    """Whether a pixel format holds red, green and blue, or black and white, rather than luma and chroma."""
    return bool(format.is_rgb or format.has_palette or format.name.startswith("mono"))


def is_full_range(frame: av.VideoFrame, stated: int = 0) -> bool:
    """Whether a frame uses all values from black to white: as `stated`, else as its tags say, else its format."""
    name, tagged = frame.format.name, int(frame.color_range)
    if is_rgb(frame.format):
        return True
    if stated:
        return stated == FULL
    return tagged == FULL or (tagged == 0 and name.startswith(FULL_BY_NAME))


def is_converted(frame: av.VideoFrame, stated: int = 0) -> bool:
    """Whether values change on the way to 8-bit 4:2:0 of limited range."""
    return frame.format.name not in TAKEN_AS_IS or is_full_range(frame, stated)


def colour_of(frame: av.VideoFrame, stated: int = 0) -> Colour:
    """The tags that the coded pictures carry, after the conversion that `to_image` makes; `stated` is their range."""
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    if is_rgb(frame.format):
        return Colour(LIMITED, primaries, transfer, BT601_MATRIX)
    range_ = LIMITED if is_full_range(frame, stated) else stated or int(frame.color_range)
    return Colour(range_, primaries, transfer, int(frame.colorspace))


def orientation_of(frame: av.VideoFrame) -> tuple[Orientation, int, bool]:
    """Orientation, rotation in degrees counter-clockwise, and whether the display matrix is one of right angles.

    The matrix maps (column, row) to (a x + c y, b x + d y), 16.16 fixed point.
    """
    matrix = side_data(frame).get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation(), 0, True
    a, b, _, c, d = (int(v) for v in np.frombuffer(matrix, np.int32)[:5])
    if b == 0 and c == 0:
        return Orientation(False, d < 0, a < 0), int(frame.rotation), True
    if a == 0 and d == 0:
        return Orientation(True, b < 0, c < 0), int(frame.rotation), True
    return Orientation(), int(frame.rotation), False


def to_image(frame: av.VideoFrame, source: SourceInfo) -> Image:
    """The picture as it will be coded: 8-bit 4:2:0 of limited range, in the source's size, turned."""
    width, height = source.coded_width, source.coded_height
    if is_converted(frame, source.range) or (frame.width, frame.height) != (width, height):
        frame = _convert(frame, source)
    y, u, v = (_plane_array(plane) for plane in frame.planes[:3])
    half = ((height + 1) // 2, (width + 1) // 2)
    return Image(
        _turn(y[:height, :width], source.orientation),
        _turn(u[: half[0], : half[1]], source.orientation),
        _turn(v[: half[0], : half[1]], source.orientation),
    )


def _convert(frame: av.VideoFrame, source: SourceInfo) -> av.VideoFrame:
    by_name = frame.format.name.startswith(FULL_BY_NAME)
    full = is_full_range(frame, source.range)
    seen = ColorRange.JPEG if full or by_name else ColorRange.MPEG
    matrices: dict[str, Any] = {}
    if is_rgb(frame.format):
        matrices = {"dst_colorspace": MATRICES.get(source.colour.matrix, Colorspace.ITU601)}
    return _unsited(frame).reformat(
        source.coded_width,
        source.coded_height,
        "yuv420p",
        interpolation=SCALING,
        src_color_range=seen,
        dst_color_range=ColorRange.MPEG if full else seen,
        threads=1,
        **matrices,
    )


def _unsited(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame without where its chroma lies, by which PyAV's scaler, unlike the command ffmpeg, would shift it."""
    format_ = frame.format
    if format_.has_palette or (format_.chroma_width(2) == 1 and format_.chroma_height(2) == 1):
        return frame
    bare = av.VideoFrame(frame.width, frame.height, format_.name)
    for plane, target in zip(frame.planes, bare.planes, strict=True):
        pixels, copied = _plane_array(plane), _plane_array(target)
        width = min(plane.line_size, target.line_size)
        copied[: len(pixels), :width] = pixels[: len(copied), :width]
    return bare


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
