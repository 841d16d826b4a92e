"""Previews: the luma of frames at an eighth of their size, for a fraction of what pictures cost.

No chroma, no conversion of pixel formats where luma can be had without, no loop filter in the source's decoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from codec.frame import Image
from excamera_dask.sources.description import SourceInfo
from excamera_dask.sources.reading import Reader

STEP = 8
_NO_CHROMA = np.zeros((0, 0), np.uint8)


def iter_previews(source: SourceInfo, start: int, count: int) -> Iterator[NDArray[np.uint8]]:
    """Previews of frames start .. start + count - 1 of the selected frames: (H / 8, W / 8) uint8, unturned.

    Frames smaller than that come as they are.
    """
    reader = _PreviewReader(source)
    try:
        for image in reader.read(source.skip + start, count):
            yield image.y
    finally:
        reader.close()


class _PreviewReader(Reader):
    def _open(self) -> None:
        super()._open()
        self.stream.codec_context.options = {"skip_loop_filter": "all"}

    def _image(self, frame: av.VideoFrame) -> Image:
        whole = (frame.width, frame.height) == (self.source.coded_width, self.source.coded_height)
        luma = _luma(frame) if whole else None
        if luma is None:
            luma = super()._image(frame).y
        return Image(_reduced(luma), _NO_CHROMA, _NO_CHROMA)


def _luma(frame: av.VideoFrame) -> NDArray[Any] | None:
    """A view of a frame's luma if it has a plane of its own, in 8 bits or in the 8 bits that count."""
    name = frame.format.name
    if not name.startswith(("yuv4", "yuvj4", "yuva4", "gray", "nv12", "nv21")):
        return None
    bits = frame.format.components[0].bits
    if bits > 8 and not name.endswith("le"):
        return None
    plane: Any = frame.planes[0]
    samples = np.frombuffer(plane, "<u2" if bits > 8 else np.uint8)
    stride = plane.line_size // samples.itemsize
    rows = samples[: samples.size // stride * stride].reshape(-1, stride)
    rows = rows[: frame.height, : frame.width]
    return rows >> (bits - 8) if bits > 8 else rows


def _reduced(luma: NDArray[Any]) -> NDArray[np.uint8]:
    """Means over squares of STEP by STEP pixels, of which every other row counts."""
    rows, columns = luma.shape[0] // STEP, luma.shape[1] // STEP
    if rows == 0 or columns == 0:
        return luma.astype(np.uint8)
    inside = luma[: rows * STEP, : columns * STEP]
    sums = inside[::STEP].astype(np.uint16)
    for row in range(2, STEP, 2):
        sums += inside[row::STEP]
    means = sums.reshape(rows, columns, STEP).sum(axis=2, dtype=np.uint16) // (STEP * STEP // 2)
    return means.astype(np.uint8)
