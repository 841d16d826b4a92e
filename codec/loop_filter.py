"""The loop filter: RFC 6386 section 15, with limits and levels as libvpx derives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codec import simd
from codec.frame import B_PRED, BORDER, INTRA_FRAME, SPLITMV, ZEROMV
from codec.kernel import kernel, part_kernel

if TYPE_CHECKING:
    from codec.frame import Macroblocks, Picture
    from codec.state import FilterDeltas, Segmentation

MAX_LEVEL = 63

_join = simd.shuffle(tuple(range(16)))
_first_half = simd.shuffle(tuple(range(8)))
_second_half = simd.shuffle(tuple(range(8, 16)))


# Levels ----------------------------------------------------------------------------------------------------------


def _mode_delta_numbers() -> NDArray[np.intp]:
    """Which delta a reference and luma mode take (4, 10), 4 for none: of intra modes, B_PRED only (section 9.6)."""
    numbers = np.full((4, SPLITMV + 1), 2)
    numbers[:, ZEROMV], numbers[:, SPLITMV] = 1, 3
    numbers[INTRA_FRAME] = 4
    numbers[INTRA_FRAME, B_PRED] = 0
    return numbers


_MODE_DELTA_NUMBERS = _mode_delta_numbers()


def filter_levels(
    level: int, segmentation: Segmentation, deltas: FilterDeltas
) -> NDArray[np.uint8]:
    """Filter levels (4, 4, 10) uint8 by segment, reference and luma mode (sections 9.3, 9.6 and 15).

    `level` is the frame header's; where that is 0, libvpx filters nothing at all, whatever segments say.
    """
    return _filter_levels(np.array([level]), segmentation, deltas)[0]


def all_filter_levels(segmentation: Segmentation, deltas: FilterDeltas) -> NDArray[np.uint8]:
    """`filter_levels` of each level: (64, 4, 4, 10)."""
    return _filter_levels(np.arange(MAX_LEVEL + 1), segmentation, deltas)


def _filter_levels(
    frame_levels: NDArray[np.int_], segmentation: Segmentation, deltas: FilterDeltas
) -> NDArray[np.uint8]:
    bases = np.broadcast_to(frame_levels[:, None], (len(frame_levels), 4))
    if segmentation.enabled:
        given = segmentation.filter_level.astype(int)
        bases = np.clip(given + (0 if segmentation.absolute else bases), 0, MAX_LEVEL)
        bases = np.broadcast_to(bases, (len(frame_levels), 4))
    offsets = np.zeros((4, SPLITMV + 1), int)
    if deltas.enabled:
        by_mode = np.append(deltas.mode.astype(int), 0)[_MODE_DELTA_NUMBERS]
        offsets = deltas.reference[:, None] + by_mode
    levels = np.clip(bases[:, :, None, None] + offsets, 0, MAX_LEVEL).astype(np.uint8)
    levels[frame_levels == 0] = 0
    return levels


@kernel
def macroblock_levels(macroblocks, table, levels, inner):
    """Look up the levels (R, C) uint8 of a frame's macroblocks, and where their inner edges are filtered too.

    table (4, 4, 10) uint8 is of `filter_levels`; inner (R, C) uint8 is 0 where a macroblock without coefficients was
    predicted as a whole.
    """
    rows, columns = levels.shape
    for row in range(rows):
        for column in range(columns):
            mode = macroblocks.y_mode[row, column]
            segment = macroblocks.segment[row, column]
            levels[row, column] = table[segment, macroblocks.reference[row, column], mode]
            split = mode in (B_PRED, SPLITMV)
            inner[row, column] = 1 if split or macroblocks.coded[row, column] != 0 else 0


@part_kernel
def _interior_limit(level, sharpness):
    limit = level
    if sharpness > 0:
        limit >>= 2 if sharpness > 4 else 1
        limit = min(limit, 9 - sharpness)
    return max(limit, 1)


@part_kernel
def _variance_threshold(level, key_frame):
    """Above which a neighbouring difference counts as high edge variance (section 15.5)."""
    if level >= 40:
        return 2 if key_frame else 3
    if level >= 20:
        return 1 if key_frame else 2
    return 1 if level >= 15 else 0


# Filters across an edge, p3 p2 p1 p0 | q0 q1 q2 q3, sixteen places at a time: vectors of i16 lanes, 0..255 ----------
# Signed clamping to -128..127 of a pixel less 128 is the same as saturation to 0..255, which storing does.


@part_kernel
def _clamp(vector):
    return simd.maximum(simd.minimum(vector, 127), -128)


@part_kernel
def _keep(mask, vector):
    return simd.select(mask, vector, vector ^ vector)


@part_kernel
def _simple_mask(p1, p0, q0, q1, edge_limit):
    return simd.absolute(p0 - q0) * 2 + (simd.absolute(p1 - q1) >> 1) <= edge_limit


@part_kernel
def _normal_mask(p3, p2, p1, p0, q0, q1, q2, q3, edge_limit, interior_limit):
    steps = simd.maximum(
        simd.maximum(
            simd.maximum(simd.absolute(p3 - p2), simd.absolute(p2 - p1)),
            simd.maximum(simd.absolute(q3 - q2), simd.absolute(q2 - q1)),
        ),
        simd.maximum(simd.absolute(p1 - p0), simd.absolute(q1 - q0)),
    )
    return (steps <= interior_limit) & _simple_mask(p1, p0, q0, q1, edge_limit)


@part_kernel
def _high_variance(p1, p0, q0, q1, threshold):
    return simd.maximum(simd.absolute(p1 - p0), simd.absolute(q1 - q0)) > threshold


@part_kernel
def _simple(p1, p0, q0, q1, mask):
    """Section 15.2: new p0 and q0."""
    a = _keep(mask, _clamp(_clamp(p1 - q1) + (q0 - p0) * 3))
    return p0 + (simd.minimum(a + 3, 127) >> 3), q0 - (simd.minimum(a + 4, 127) >> 3)


@part_kernel
def _inner(p1, p0, q0, q1, mask, high_variance):
    """Section 15.3, subblock_filter: new p1, p0, q0, q1."""
    a = _keep(high_variance, _clamp(p1 - q1))
    a = _keep(mask, _clamp(a + (q0 - p0) * 3))
    down = simd.minimum(a + 4, 127) >> 3
    up = simd.minimum(a + 3, 127) >> 3
    outer = _keep(~high_variance, (down + 1) >> 1)
    return p1 + outer, p0 + up, q0 - down, q1 - outer


@part_kernel
def _outer(p2, p1, p0, q0, q1, q2, mask, high_variance):
    """Section 15.3, MBfilter: new p2, p1, p0, q0, q1, q2."""
    w = _keep(mask, _clamp(_clamp(p1 - q1) + (q0 - p0) * 3))
    sharp = _keep(high_variance, w)
    smooth = _keep(~high_variance, w)
    down = simd.minimum(sharp + 4, 127) >> 3
    up = simd.minimum(sharp + 3, 127) >> 3
    ninth = smooth * 9
    a0 = (ninth * 3 + 63) >> 7
    a1 = (ninth * 2 + 63) >> 7
    a2 = (ninth + 63) >> 7
    return p2 + a2, p1 + a1, p0 + up + a0, q0 - down - a0, q1 - a1, q2 - a2


# The same at a place in planes: across a row boundary ("row") or a column boundary ("column") -----------------------


@part_kernel
def _load_pair(u, v, y, x):
    return _join(simd.load8(u, y, x), simd.load8(v, y, x))


@part_kernel
def _store_pair(vector, u, v, y, x):
    simd.store(_first_half(vector, vector), u, y, x)
    simd.store(_second_half(vector, vector), v, y, x)


@part_kernel
def _luma_row_outer(plane, y, x, edge_limit, interior_limit, threshold):
    p3 = simd.load16(plane, y - 4, x)
    p2 = simd.load16(plane, y - 3, x)
    p1 = simd.load16(plane, y - 2, x)
    p0 = simd.load16(plane, y - 1, x)
    q0 = simd.load16(plane, y, x)
    q1 = simd.load16(plane, y + 1, x)
    q2 = simd.load16(plane, y + 2, x)
    q3 = simd.load16(plane, y + 3, x)
    mask = _normal_mask(p3, p2, p1, p0, q0, q1, q2, q3, edge_limit, interior_limit)
    if simd.any_lane(mask):
        high_variance = _high_variance(p1, p0, q0, q1, threshold)
        p2, p1, p0, q0, q1, q2 = _outer(p2, p1, p0, q0, q1, q2, mask, high_variance)
        simd.store(p2, plane, y - 3, x)
        simd.store(p1, plane, y - 2, x)
        simd.store(p0, plane, y - 1, x)
        simd.store(q0, plane, y, x)
        simd.store(q1, plane, y + 1, x)
        simd.store(q2, plane, y + 2, x)


@part_kernel
def _luma_rows_inner(plane, top, x, edge_limit, interior_limit, threshold):
    for y in range(top + 4, top + 16, 4):
        p3 = simd.load16(plane, y - 4, x)
        p2 = simd.load16(plane, y - 3, x)
        p1 = simd.load16(plane, y - 2, x)
        p0 = simd.load16(plane, y - 1, x)
        q0 = simd.load16(plane, y, x)
        q1 = simd.load16(plane, y + 1, x)
        q2 = simd.load16(plane, y + 2, x)
        q3 = simd.load16(plane, y + 3, x)
        mask = _normal_mask(p3, p2, p1, p0, q0, q1, q2, q3, edge_limit, interior_limit)
        if simd.any_lane(mask):
            high_variance = _high_variance(p1, p0, q0, q1, threshold)
            p1, p0, q0, q1 = _inner(p1, p0, q0, q1, mask, high_variance)
            simd.store(p1, plane, y - 2, x)
            simd.store(p0, plane, y - 1, x)
            simd.store(q0, plane, y, x)
            simd.store(q1, plane, y + 1, x)


@part_kernel
def _luma_column_outer(plane, y, x, edge_limit, interior_limit, threshold):
    p3, p2, p1, p0, q0, q1, q2, q3 = simd.load_columns16(plane, y, x - 4)
    mask = _normal_mask(p3, p2, p1, p0, q0, q1, q2, q3, edge_limit, interior_limit)
    if simd.any_lane(mask):
        high_variance = _high_variance(p1, p0, q0, q1, threshold)
        p2, p1, p0, q0, q1, q2 = _outer(p2, p1, p0, q0, q1, q2, mask, high_variance)
        simd.store_columns((p3, p2, p1, p0, q0, q1, q2, q3), plane, y, x - 4)


@part_kernel
def _luma_columns_inner(plane, y, left, edge_limit, interior_limit, threshold):
    for x in range(left + 4, left + 16, 4):
        p3, p2, p1, p0, q0, q1, q2, q3 = simd.load_columns16(plane, y, x - 4)
        mask = _normal_mask(p3, p2, p1, p0, q0, q1, q2, q3, edge_limit, interior_limit)
        if simd.any_lane(mask):
            high_variance = _high_variance(p1, p0, q0, q1, threshold)
            p1, p0, q0, q1 = _inner(p1, p0, q0, q1, mask, high_variance)
            simd.store_columns((p3, p2, p1, p0, q0, q1, q2, q3), plane, y, x - 4)


@part_kernel
def _chroma_row_outer(u, v, y, x, edge_limit, interior_limit, threshold):
    p3 = _load_pair(u, v, y - 4, x)
    p2 = _load_pair(u, v, y - 3, x)
    p1 = _load_pair(u, v, y - 2, x)
    p0 = _load_pair(u, v, y - 1, x)
    q0 = _load_pair(u, v, y, x)
    q1 = _load_pair(u, v, y + 1, x)
    q2 = _load_pair(u, v, y + 2, x)
    q3 = _load_pair(u, v, y + 3, x)
    mask = _normal_mask(p3, p2, p1, p0, q0, q1, q2, q3, edge_limit, interior_limit)
    if simd.any_lane(mask):
        high_variance = _high_variance(p1, p0, q0, q1, threshold)
        p2, p1, p0, q0, q1, q2 = _outer(p2, p1, p0, q0, q1, q2, mask, high_variance)
        _store_pair(p2, u, v, y - 3, x)
        _store_pair(p1, u, v, y - 2, x)
        _store_pair(p0, u, v, y - 1, x)
        _store_pair(q0, u, v, y, x)
        _store_pair(q1, u, v, y + 1, x)
        _store_pair(q2, u, v, y + 2, x)


@part_kernel
def _chroma_row_inner(u, v, y, x, edge_limit, interior_limit, threshold):
    p3 = _load_pair(u, v, y - 4, x)
    p2 = _load_pair(u, v, y - 3, x)
    p1 = _load_pair(u, v, y - 2, x)
    p0 = _load_pair(u, v, y - 1, x)
    q0 = _load_pair(u, v, y, x)
    q1 = _load_pair(u, v, y + 1, x)
    q2 = _load_pair(u, v, y + 2, x)
    q3 = _load_pair(u, v, y + 3, x)
    mask = _normal_mask(p3, p2, p1, p0, q0, q1, q2, q3, edge_limit, interior_limit)
    if simd.any_lane(mask):
        high_variance = _high_variance(p1, p0, q0, q1, threshold)
        p1, p0, q0, q1 = _inner(p1, p0, q0, q1, mask, high_variance)
        _store_pair(p1, u, v, y - 2, x)
        _store_pair(p0, u, v, y - 1, x)
        _store_pair(q0, u, v, y, x)
        _store_pair(q1, u, v, y + 1, x)


@part_kernel
def _chroma_column_outer(u, v, y, x, edge_limit, interior_limit, threshold):
    p3, p2, p1, p0, q0, q1, q2, q3 = simd.load_columns_of_two(u, v, y, x - 4)
    mask = _normal_mask(p3, p2, p1, p0, q0, q1, q2, q3, edge_limit, interior_limit)
    if simd.any_lane(mask):
        high_variance = _high_variance(p1, p0, q0, q1, threshold)
        p2, p1, p0, q0, q1, q2 = _outer(p2, p1, p0, q0, q1, q2, mask, high_variance)
        simd.store_columns_of_two((p3, p2, p1, p0, q0, q1, q2, q3), u, v, y, x - 4)


@part_kernel
def _chroma_column_inner(u, v, y, x, edge_limit, interior_limit, threshold):
    p3, p2, p1, p0, q0, q1, q2, q3 = simd.load_columns_of_two(u, v, y, x - 4)
    mask = _normal_mask(p3, p2, p1, p0, q0, q1, q2, q3, edge_limit, interior_limit)
    if simd.any_lane(mask):
        high_variance = _high_variance(p1, p0, q0, q1, threshold)
        p1, p0, q0, q1 = _inner(p1, p0, q0, q1, mask, high_variance)
        simd.store_columns_of_two((p3, p2, p1, p0, q0, q1, q2, q3), u, v, y, x - 4)


@kernel
def _simple_row(plane, y, x, edge_limit):
    p1 = simd.load16(plane, y - 2, x)
    p0 = simd.load16(plane, y - 1, x)
    q0 = simd.load16(plane, y, x)
    q1 = simd.load16(plane, y + 1, x)
    p0, q0 = _simple(p1, p0, q0, q1, _simple_mask(p1, p0, q0, q1, edge_limit))
    simd.store(p0, plane, y - 1, x)
    simd.store(q0, plane, y, x)


@kernel
def _simple_column(plane, y, x, edge_limit):
    p3, p2, p1, p0, q0, q1, q2, q3 = simd.load_columns16(plane, y, x - 4)
    p0, q0 = _simple(p1, p0, q0, q1, _simple_mask(p1, p0, q0, q1, edge_limit))
    simd.store_columns((p3, p2, p1, p0, q0, q1, q2, q3), plane, y, x - 4)


# Pictures --------------------------------------------------------------------------------------------------------


@part_kernel
def _limits(level, sharpness, key_frame):
    """Limits of outer and inner edges and of the interior, and the threshold of high variance, spread over lanes."""
    interior = _interior_limit(level, sharpness)
    return (
        simd.i16x16(2 * (level + 2) + interior),
        simd.i16x16(2 * level + interior),
        simd.i16x16(interior),
        simd.i16x16(_variance_threshold(level, key_frame)),
    )


@part_kernel
def _filter_luma(plane, row, column, inner, limits):
    outer_limit, inner_limit, interior_limit, threshold = limits
    y = BORDER + 16 * row
    x = BORDER + 16 * column
    if column > 0:
        _luma_column_outer(plane, y, x, outer_limit, interior_limit, threshold)
    if inner:
        _luma_columns_inner(plane, y, x, inner_limit, interior_limit, threshold)
    if row > 0:
        _luma_row_outer(plane, y, x, outer_limit, interior_limit, threshold)
    if inner:
        _luma_rows_inner(plane, y, x, inner_limit, interior_limit, threshold)


@part_kernel
def _filter_chroma(u, v, row, column, inner, limits):
    outer_limit, inner_limit, interior_limit, threshold = limits
    y = BORDER + 8 * row
    x = BORDER + 8 * column
    if column > 0:
        _chroma_column_outer(u, v, y, x, outer_limit, interior_limit, threshold)
    if inner:
        _chroma_column_inner(u, v, y, x + 4, inner_limit, interior_limit, threshold)
    if row > 0:
        _chroma_row_outer(u, v, y, x, outer_limit, interior_limit, threshold)
    if inner:
        _chroma_row_inner(u, v, y + 4, x, inner_limit, interior_limit, threshold)


@part_kernel
def _filter_macroblock_simply(plane, row, column, level, inner, sharpness):
    interior = _interior_limit(level, sharpness)
    outer_limit = simd.i16x16(2 * (level + 2) + interior)
    inner_limit = simd.i16x16(2 * level + interior)
    y = BORDER + 16 * row
    x = BORDER + 16 * column
    if column > 0:
        _simple_column(plane, y, x, outer_limit)
    if inner:
        for step in range(4, 16, 4):
            _simple_column(plane, y, x + step, inner_limit)
    if row > 0:
        _simple_row(plane, y, x, outer_limit)
    if inner:
        for step in range(4, 16, 4):
            _simple_row(plane, y + step, x, inner_limit)


@kernel
def loop_filter_picture(picture, levels, inner, sharpness, simple, key_frame):
    """Filter a whole picture in place, macroblock after macroblock in raster order; its borders stay as they are.

    levels (R, C) uint8 0..63, 0 for none; inner (R, C) uint8, see `macroblock_levels`; sharpness 0..7; `simple` for the
    filter of section 15.2, which leaves chroma alone.
    """
    luma, u, v = picture
    rows, columns = levels.shape
    for row in range(rows):
        for column in range(columns):
            level = np.int64(levels[row, column])
            if level == 0:
                continue
            inside = inner[row, column] != 0
            if simple:
                _filter_macroblock_simply(luma, row, column, level, inside, sharpness)
            else:
                limits = _limits(level, sharpness, key_frame)
                _filter_luma(luma, row, column, inside, limits)
                _filter_chroma(u, v, row, column, inside, limits)


@kernel
def loop_filter_luma(plane, levels, inner, key_frame):
    """What the normal filter of `loop_filter_picture`, at sharpness 0, makes of a padded plane of luma, in place."""
    rows, columns = levels.shape
    for row in range(rows):
        for column in range(columns):
            level = np.int64(levels[row, column])
            if level != 0:
                limits = _limits(level, 0, key_frame)
                _filter_luma(plane, row, column, inner[row, column] != 0, limits)


def loop_filter_frame(
    picture: Picture,
    macroblocks: Macroblocks,
    table: NDArray[np.uint8],
    sharpness: int,
    simple: bool,
    key_frame: bool,
) -> None:
    """Filter a reconstructed picture in place, by the table of `filter_levels`."""
    levels = np.empty(macroblocks.y_mode.shape, np.uint8)
    inner = np.empty(macroblocks.y_mode.shape, np.uint8)
    macroblock_levels(macroblocks, table, levels, inner)
    loop_filter_picture(picture, levels, inner, sharpness, simple, key_frame)
