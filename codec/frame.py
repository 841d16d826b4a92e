"""Pictures and macroblocks: the arrays that every chapter of the codec works on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8]

LARGEST_SIDE = 16383
"""Pixels that a frame's header can say (RFC 6386 section 9.1)."""

BORDER = 32
"""Pixels around each plane, luma and chroma: room for any vector once block positions are clamped."""

INTRA_FRAME, LAST_FRAME, GOLDEN_FRAME, ALTREF_FRAME = range(4)
DC_PRED, V_PRED, H_PRED, TM_PRED, B_PRED, NEARESTMV, NEARMV, ZEROMV, NEWMV, SPLITMV = range(10)
(
    B_DC_PRED,
    B_TM_PRED,
    B_VE_PRED,
    B_HE_PRED,
    B_LD_PRED,
    B_RD_PRED,
    B_VR_PRED,
    B_VL_PRED,
    B_HD_PRED,
    B_HU_PRED,
    LEFT4X4,
    ABOVE4X4,
    ZERO4X4,
    NEW4X4,
) = range(14)
SPLIT_16X8, SPLIT_8X16, SPLIT_QUARTERS, SPLIT_4X4 = range(4)


class Image(NamedTuple):
    """A picture as it is shown, 8-bit 4:2:0: y (H, W), u and v ((H+1)//2, (W+1)//2), all uint8."""

    y: Plane
    u: Plane
    v: Plane

    @property
    def width(self) -> int:
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        return int(self.y.shape[0])

    def to_bytes(self) -> bytes:
        """I420: the three planes, one after another, without padding."""
        return self.y.tobytes() + self.u.tobytes() + self.v.tobytes()


class Picture(NamedTuple):
    """A reference picture: planes aligned to macroblocks, with BORDER pixels of replicated edge on each side.

    y is (16 R + 2 BORDER, 16 C + 2 BORDER), u and v are (8 R + 2 BORDER, 8 C + 2 BORDER), all uint8, C-contiguous,
    for R rows and C columns of macroblocks. Treated as immutable once made.
    """

    y: Plane
    u: Plane
    v: Plane

    @property
    def rows(self) -> int:
        return (self.y.shape[0] - 2 * BORDER) // 16

    @property
    def columns(self) -> int:
        return (self.y.shape[1] - 2 * BORDER) // 16

    def crop(self, width: int, height: int) -> Image:
        """The picture as shown at `width` x `height` (contiguous copies, so that the padded planes can go)."""
        half = slice(BORDER, BORDER + (height + 1) // 2), slice(BORDER, BORDER + (width + 1) // 2)
        return Image(
            self.y[BORDER : BORDER + height, BORDER : BORDER + width].copy(),
            self.u[half].copy(),
            self.v[half].copy(),
        )


def new_picture(rows: int, columns: int) -> Picture:
    """An uninitialised picture of `rows` x `columns` macroblocks."""
    chroma = (8 * rows + 2 * BORDER, 8 * columns + 2 * BORDER)
    return Picture(
        np.empty((16 * rows + 2 * BORDER, 16 * columns + 2 * BORDER), np.uint8),
        np.empty(chroma, np.uint8),
        np.empty(chroma, np.uint8),
    )


def check_image(image: Image) -> None:
    """Raises ValueError for what is no picture of VP8: planes of another shape or type, sides beyond LARGEST_SIDE."""
    if not isinstance(image, Image):
        raise ValueError(
            f"a picture is an Image of the planes y, u and v, not a {type(image).__name__}"
        )
    planes = [np.asanyarray(plane) for plane in image]
    luma = planes[0]
    if luma.ndim != 2 or not all(0 < side <= LARGEST_SIDE for side in luma.shape):
        raise ValueError(
            f"a picture's luma is an array (H, W) of 1 to {LARGEST_SIDE} pixels a side, not {luma.shape}"
        )
    half = ((luma.shape[0] + 1) // 2, (luma.shape[1] + 1) // 2)
    for name, plane, shape in zip("yuv", planes, (luma.shape, half, half), strict=True):
        if plane.shape != shape or plane.dtype != np.uint8:
            raise ValueError(
                f"plane {name} of a picture of {luma.shape[1]}x{luma.shape[0]} pixels must be {shape} uint8, "
                f"not {plane.shape} {plane.dtype}"
            )


def picture_from_image(image: Image) -> Picture:
    """Pad an image to whole macroblocks and a border by replicating its right and bottom edges (as encoders do).

    Raises ValueError as `check_image` does.
    """
    check_image(image)
    rows, columns = macroblock_size(image.width, image.height)
    picture = new_picture(rows, columns)
    for plane, padded in zip(image, picture, strict=True):
        pad_plane(plane, padded)
    return picture


def macroblock_size(width: int, height: int) -> tuple[int, int]:
    """Rows and columns of macroblocks of a picture in pixels."""
    return (height + 15) // 16, (width + 15) // 16


def pad_plane(plane: Plane, padded: Plane) -> None:
    """Fill a padded plane with `plane` at its origin, replicating the last row and column as far as it goes."""
    height, width = plane.shape
    padded[BORDER : BORDER + height, BORDER : BORDER + width] = plane
    replicate_edges(padded, height, width)


def replicate_edges(padded: Plane, height: int, width: int) -> None:
    """Fill what lies around the `height` x `width` pixels that a padded plane holds at its origin."""
    inside = padded[BORDER : BORDER + height]
    inside[:, :BORDER] = inside[:, BORDER : BORDER + 1]
    inside[:, BORDER + width :] = inside[:, BORDER + width - 1 : BORDER + width]
    padded[:BORDER] = inside[0]
    padded[BORDER + height :] = inside[-1]


class Macroblocks(NamedTuple):
    """What a frame says of its macroblocks, for R rows and C columns of them.

    Vectors are (row, column) in quarter pixels (RFC 6386 section 18); levels lie in raster order within a block.
    """

    segment: NDArray[np.uint8]  # (R, C) segment, 0..3
    skip: NDArray[np.uint8]  # (R, C) mb_skip_coeff as coded, 0 where it is not
    y_mode: NDArray[np.uint8]  # (R, C) DC_PRED .. SPLITMV
    uv_mode: NDArray[np.uint8]  # (R, C) DC_PRED .. TM_PRED
    reference: NDArray[np.uint8]  # (R, C) INTRA_FRAME .. ALTREF_FRAME
    partitioning: NDArray[np.uint8]  # (R, C) SPLIT_16X8 .. SPLIT_4X4
    # (R, C, 16) B_DC_PRED .. B_HU_PRED, or LEFT4X4 .. NEW4X4 in a split
    sub_modes: NDArray[np.uint8]
    vectors: NDArray[np.int16]  # (R, C, 16, 2)
    coefficients: NDArray[np.int16]  # (R, C, 25, 16) quantized levels, block 24 is Y2
    eobs: NDArray[np.uint8]  # (R, C, 25) position after the last token of each block
    coded: NDArray[np.uint8]  # (R, C) 1 if any block holds a token


def new_macroblocks(rows: int, columns: int) -> Macroblocks:
    """Macroblocks of a frame, all zero: DC_PRED, intra, no coefficients."""
    size = (rows, columns)
    return Macroblocks(
        segment=np.zeros(size, np.uint8),
        skip=np.zeros(size, np.uint8),
        y_mode=np.zeros(size, np.uint8),
        uv_mode=np.zeros(size, np.uint8),
        reference=np.zeros(size, np.uint8),
        partitioning=np.zeros(size, np.uint8),
        sub_modes=np.zeros((*size, 16), np.uint8),
        vectors=np.zeros((*size, 16, 2), np.int16),
        coefficients=np.zeros((*size, 25, 16), np.int16),
        eobs=np.zeros((*size, 25), np.uint8),
        coded=np.zeros(size, np.uint8),
    )
