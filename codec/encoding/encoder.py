"""Encoding a picture against a state: `encode_given_state`, and the replacement of a chunk's key frame by an inter frame.

Modes are decided macroblock by macroblock (mode_decision.py); the probabilities, the bytes and the state that follows come
from frame_coding.py. The same state, picture and settings give the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.bool_coder import BoolReader
from codec.checks import check_flag, checked_whole
from codec.encoding.adaptation import adapt
from codec.encoding.filter_level import choose_filter, guess_filter_level
from codec.encoding.frame_coding import Encoded, filter_delta_update, finish_frame
from codec.encoding.half_pixels import HalfPixels, half_pixels_of
from codec.encoding.masking import LARGEST_FACTOR, LEAST_FACTOR, activity_masking
from codec.encoding.mode_decision import FrameSearch, Limits, code_rows, new_room
from codec.encoding.motion_search import satd_multiplier
from codec.encoding.rate_distortion import (
    BOOLEAN_RATES,
    ModeRates,
    mode_rates,
    position_token_rates,
    tree_rates,
)
from codec.encoding.residual import Tuning, new_contexts, new_residual_coder
from codec.errors import UnsupportedFeature
from codec.frame import (
    ALTREF_FRAME,
    GOLDEN_FRAME,
    LAST_FRAME,
    Image,
    Macroblocks,
    Picture,
    check_image,
    macroblock_size,
    new_macroblocks,
    new_picture,
    picture_from_image,
)
from codec.frame_header import (
    DEFAULT_PROBABILITIES,
    Carried,
    FilterDeltaUpdate,
    FrameHeader,
    QuantizerIndices,
    SegmentationUpdate,
    parse_frame_header,
    parse_frame_tag,
)
from codec.quantize import Y1_AC, Y1_DC
from codec.reconstruct import frame_quantizers
from codec.state import DecoderState, FilterDeltas, ProbabilityTables, References, distinct_pictures
from codec.tables import (
    B_MODE_TREE,
    KF_BMODE_PROBS,
    KF_UV_MODE_PROBS,
    KF_Y_MODE_TREE,
    KF_YMODE_PROBS,
    UV_MODE_TREE,
)
from codec.transition import (
    probabilities_before,
    segment_map_before,
    segmentation_after,
)

DELTAS = FilterDeltas(True, np.array([2, 0, -2, -2], np.int8), np.array([4, -2, 2, 4], np.int8))
"""Loop-filter deltas by reference and by mode, those of libvpx."""


MOST_FITS = 16
"""More are none: of 3 ** 16 rows."""


class Effort(NamedTuple):
    """How hard the encoder tries."""

    limits: Limits = Limits(3, 340, 340, 256, 384, 8 * 256, 8 * 256)
    tuning: Tuning = Tuning()
    # rates weigh by activity, for structural similarity rather than squared errors
    masking: bool = True
    # how far they may, least and largest factor x 256: the wider, the more squared errors cost
    masking_range: tuple[int, int] = (LEAST_FACTOR, LARGEST_FACTOR)
    fits: int = 3  # times that the rates are fitted to the rows coded so far
    # loop-filter deltas of ZEROMV of which inter frames take the best: areas that stand still need no filter again
    zero_deltas: tuple[int, ...] = (-2,)

    def check(self) -> None:
        """Raises ValueError for values out of their range."""
        self.limits.check()
        self.tuning.check()
        check_flag("masking of an effort", self.masking)
        least, largest = self.masking_range
        checked_whole("the largest factor of masking", largest, 1, LARGEST_FACTOR)
        checked_whole("the least factor of masking", least, 1, largest)
        checked_whole("fits of an effort", self.fits, 0, MOST_FITS)
        checked_whole("zero_deltas of an effort: how many", len(self.zero_deltas), 1, MOST_FITS)
        for delta in self.zero_deltas:
            checked_whole("zero_deltas of an effort", delta, -63, 63)


class Refresh(NamedTuple):
    """What a frame leaves behind."""

    last: bool = True
    golden: bool = False
    altref: bool = False
    entropy: bool = True
    # of pictures as they were before this frame, ALTREF's before GOLDEN's (section 9.7)
    copy_to_golden: int = 0  # 1: LAST, 2: ALTREF becomes GOLDEN
    copy_to_altref: int = 0  # 1: LAST, 2: GOLDEN becomes ALTREF

    def check(self) -> None:
        """Raises ValueError for copies of what there is not."""
        checked_whole("copy_to_golden of a refresh", self.copy_to_golden, 0, 2)
        checked_whole("copy_to_altref of a refresh", self.copy_to_altref, 0, 2)


REFRESH_ALL = Refresh(golden=True, altref=True)
"""After such a frame a state is one picture, as after a key frame."""

ALL_REFERENCES = (LAST_FRAME, GOLDEN_FRAME, ALTREF_FRAME)

Hints = Mapping[int, NDArray[np.int16]]
"""Vectors (R, C, 2) by reference, quarter pixels, from which its motion search starts too."""


class Segments(NamedTuple):
    """Macroblocks that differ in their quantizer (section 9.3)."""

    q_indices: tuple[int, int, int, int]  # 0..127, by segment
    map: NDArray[np.uint8]  # (R, C), 0..3

    def check(self, size: tuple[int, int]) -> None:
        """Raises ValueError for what is no map of so many rows and columns, and for indices that are none."""
        for index in self.q_indices:
            _checked_index(index)
        _check_map("map of segments", self.map, np.uint8, size)
        if len(self.q_indices) != 4 or self.map.max(initial=0) > 3:
            raise ValueError("there are four segments, 0 to 3")


def encode_given_state(
    state: DecoderState,
    image: Image,
    *,
    q_index: int,
    refresh: Refresh = Refresh(),
    show: bool = True,
    references: Sequence[int] = ALL_REFERENCES,
    segments: Segments | None = None,
    hints: Hints | None = None,
    settled: bool = False,
    effort: Effort = Effort(),
) -> Encoded:
    """Encode a picture as an inter frame that follows `state`, at a quantizer index 0..127.

    references: those that may be predicted from. segments: quantizer indices of macroblocks, in place of `q_index`.
    hints: where motion may be looked for. settled: the frame can be translated to any other state (`translation.translate`).

    Raises UnsupportedFeature if the picture's size is not the state's, ValueError for a state without references, for
    another index, for flags that are no bools and efforts out of range, and for what is no picture
    (`codec.frame.check_image`).
    """
    check_image(image)
    if (image.width, image.height) != (state.width, state.height):
        raise UnsupportedFeature(
            f"cannot encode a picture of {image.width}x{image.height} pixels against a state of "
            f"{state.width}x{state.height}: only a key frame changes the size"
        )
    if state.references is None:
        raise ValueError("this state has no reference pictures: it serves for parsing only")
    refresh.check()
    header = _inter_header(state, _checked_index(q_index), refresh, show)
    return _encode(state, header, image, effort, segments, references, hints, settled)


def encode_key_frame(
    image: Image,
    *,
    q_index: int,
    show: bool = True,
    segments: Segments | None = None,
    effort: Effort = Effort(),
) -> Encoded:
    """Encode a picture as a key frame, at a quantizer index 0..127; ValueError as of `encode_given_state`."""
    check_image(image)
    header = _key_header(image, _checked_index(q_index), show)
    return _encode(None, header, image, effort, segments)


def replace_key_frame(
    state: DecoderState,
    image: Image,
    key_frame: bytes,
    next_frame: bytes | None = None,
    *,
    kf_q_weight: float = 0.75,
    effort: Effort = Effort(),
) -> Encoded:
    """Encode the picture of a chunk's key frame as an inter frame that follows `state` instead.

    The quantizer index lies between the key frame's (weight 1) and that of the frame after it (weight 0). The frame refreshes
    every reference, as the key frame did, so that the frames after it find what they lean on.
    """
    q_index = frame_q_index(key_frame)
    if next_frame:
        q_index = weighted_q_index(q_index, frame_q_index(next_frame), kf_q_weight)
    return encode_given_state(state, image, q_index=q_index, refresh=REFRESH_ALL, effort=effort)


def weighted_q_index(key_frame: int, next_frame: int, weight: float) -> int:
    """A quantizer index between that of a key frame (weight 1) and that of the frame after it (weight 0)."""
    if not isfinite(weight):
        raise ValueError(f"a weight of quantizers must be a number, not {weight}")
    return min(max(int(weight * key_frame + (1 - weight) * next_frame + 0.5), 0), 127)


def _check_map(
    name: str, values: NDArray[np.generic], type_: type[np.generic], shape: tuple[int, ...]
) -> None:
    if values.shape != shape or values.dtype != type_:
        raise ValueError(f"a {name} is {shape} {type_.__name__}, not {values.shape} {values.dtype}")


def _checked_index(q_index: int) -> int:
    return checked_whole("a quantizer index", q_index, 0, 127)


# Headers ---------------------------------------------------------------------------------------------------------


def frame_q_index(data: bytes) -> int:
    """A frame's quantizer index, which can be read without the state that the frame follows."""
    tag = parse_frame_tag(data)
    carried = Carried(0, 0, 0, 0, 0, 0, DEFAULT_PROBABILITIES)
    reader = BoolReader(np.frombuffer(data, np.uint8), tag.size, len(data))
    return parse_frame_header(tag, carried, reader)[0].quantizer.y_ac


def _key_header(size: Image | DecoderState, q_index: int, show: bool) -> FrameHeader:
    """A key frame's, of that size."""
    return FrameHeader(
        key_frame=True,
        version=0,
        show=show,
        width=size.width,
        height=size.height,
        horizontal_scale=0,
        vertical_scale=0,
        color_space=0,
        clamping_type=0,
        segmentation=SegmentationUpdate(),
        simple_filter=False,
        filter_level=0,
        sharpness=0,
        filter_deltas=FilterDeltaUpdate(),
        log2_partitions=0,
        quantizer=QuantizerIndices(q_index),
        refresh_golden=True,
        refresh_altref=True,
        copy_to_golden=0,
        copy_to_altref=0,
        sign_bias_golden=False,
        sign_bias_altref=False,
        refresh_entropy=True,
        refresh_last=True,
        skip_enabled=True,
        prob_skip_false=128,
        prob_intra=0,
        prob_last=0,
        prob_golden=0,
    )


def _inter_header(state: DecoderState, q_index: int, refresh: Refresh, show: bool) -> FrameHeader:
    return _key_header(state, q_index, show)._replace(
        key_frame=False,
        horizontal_scale=state.horizontal_scale,
        vertical_scale=state.vertical_scale,
        color_space=state.color_space,
        clamping_type=state.clamping_type,
        refresh_golden=refresh.golden,
        refresh_altref=refresh.altref,
        copy_to_golden=refresh.copy_to_golden,
        copy_to_altref=refresh.copy_to_altref,
        refresh_entropy=refresh.entropy,
        refresh_last=refresh.last,
        prob_intra=32,
        prob_last=192,
        prob_golden=128,
    )


# Frames ----------------------------------------------------------------------------------------------------------


def _encode(
    state: DecoderState | None,
    header: FrameHeader,
    image: Image,
    effort: Effort,
    segments: Segments | None = None,
    allowed: Sequence[int] = ALL_REFERENCES,
    hints: Hints | None = None,
    settled: bool = False,
) -> Encoded:
    header.check_flags()
    effort.check()
    rows, columns = macroblock_size(image.width, image.height)
    _check_choices(segments, allowed, hints or {}, (rows, columns))
    source, picture = picture_from_image(image), new_picture(rows, columns)
    macroblocks = new_macroblocks(rows, columns)
    header = _with_segments(state, header, segments, macroblocks)
    probabilities = probabilities_before(state, header)
    segmentation = segmentation_after(state, header, macroblocks.segment)
    quantizers = frame_quantizers(header, segmentation)
    frame = _frame_search(
        state, source, quantizers, macroblocks.segment, allowed, hints or {}, effort
    )
    contexts, room = new_contexts(columns), new_room(rows, columns)
    fitted, tables, first = header, probabilities, 0
    for end in _row_spans(rows, effort.fits):
        frame = _with_rates(frame, fitted, tables)
        code_rows(frame, macroblocks, first, end, contexts, picture, room)
        first = end
        if end < rows:
            coded = Macroblocks._make(array[:end] for array in macroblocks)
            fitted, tables = adapt(probabilities, header, coded)
            fitted = _hedged(fitted)
    deltas, level = choose_filter(
        source,
        picture,
        macroblocks,
        segmentation,
        [DELTAS] if header.key_frame else _candidates(effort.zero_deltas),
        guess=guess_filter_level(int(quantizers[0, Y1_AC])),
        key_frame=header.key_frame,
    )
    held = None if header.key_frame or state is None else state.filter_deltas
    header = header._replace(filter_level=level, filter_deltas=filter_delta_update(held, deltas))
    return finish_frame(state, header, macroblocks, picture, settled)


def _candidates(zero_deltas: Sequence[int]) -> list[FilterDeltas]:
    """Loop-filter deltas that differ in what they say of ZEROMV."""
    before, _, *after = DELTAS.mode
    return [DELTAS._replace(mode=np.array([before, zero, *after], np.int8)) for zero in zero_deltas]


def _check_choices(
    segments: Segments | None, allowed: Sequence[int], hints: Hints, size: tuple[int, int]
) -> None:
    if segments is not None:
        segments.check(size)
    if not set(allowed) | set(hints) <= set(ALL_REFERENCES):
        raise ValueError("references are 1 (LAST), 2 (GOLDEN) and 3 (ALTREF)")
    for field in hints.values():
        _check_map("field of hints", field, np.int16, (*size, 2))


def _with_segments(
    state: DecoderState | None,
    header: FrameHeader,
    segments: Segments | None,
    macroblocks: Macroblocks,
) -> FrameHeader:
    """Write the map that is in force into the macroblocks; gives the header that says it."""
    if segments is None:
        macroblocks.segment[:] = segment_map_before(state, header)
        return header
    macroblocks.segment[:] = segments.map
    deltas = tuple(index - header.quantizer.y_ac for index in segments.q_indices)
    update = SegmentationUpdate(True, False, deltas, (0, 0, 0, 0), (128, 128, 128))
    return header._replace(segmentation=update)


def _row_spans(rows: int, fits: int) -> list[int]:
    """Ends of the spans of rows between which the rates are fitted: each twice as long as what is coded."""
    ends = [rows]
    while len(ends) <= fits and ends[0] > 2:
        ends.insert(0, -(-ends[0] // 3))
    return ends


def _hedged(header: FrameHeader) -> FrameHeader:
    """Probabilities of modes kept from extremes: the rows to come may differ from those they were fitted to."""
    return header._replace(
        skip_enabled=True,
        prob_skip_false=_kept_within(
            header.prob_skip_false if header.skip_enabled else 255, 4, 252
        ),
        prob_intra=_kept_within(header.prob_intra, 2, 224),
        prob_last=_kept_within(header.prob_last, 16, 248),
        prob_golden=_kept_within(header.prob_golden, 16, 240),
    )


def _kept_within(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


UNKNOWN_MODE_RATES = mode_rates(
    DEFAULT_PROBABILITIES, prob_skip_false=128, prob_intra=128, prob_last=128, prob_golden=128
)


def _frame_search(
    state: DecoderState | None,
    source: Picture,
    quantizers: NDArray[np.int16],
    segments: NDArray[np.uint8],
    allowed: Sequence[int],
    hints: Hints,
    effort: Effort,
) -> FrameSearch:
    """What the search needs to know of the frame, rates apart."""
    if state is None or state.references is None:
        references, usable = References(source, source, source), []
    else:
        references = state.references
        usable = _distinct(references, allowed)
    size = (source.rows, source.columns)
    masking = np.full(size, 256, np.int32)
    if effort.masking:
        masking = activity_masking(source, *effort.masking_range)
    even = BOOLEAN_RATES[[128, 128]]
    nothing = DEFAULT_PROBABILITIES.coefficients
    return FrameSearch(
        source,
        references,
        np.array(usable, np.int64),
        _half_pixels(references, usable),
        _stacked_hints(hints, usable, size),
        new_residual_coder(quantizers, nothing, even, masking, tuning=effort.tuning),
        UNKNOWN_MODE_RATES,
        np.zeros((14, 14, 10), np.int32),
        np.zeros(4, np.uint8),
        np.array(
            [satd_multiplier(int(step), effort.tuning.rate_weight) for step in quantizers[:, Y1_DC]]
        ),
        segments,
        effort.limits,
    )


def _half_pixels(references: References, usable: Sequence[int]) -> tuple[HalfPixels, ...]:
    """The half-pixel planes of each reference, of those that are not usable nothing."""
    planes = [np.zeros((4, 1, 1), np.uint8)] * len(references)
    made = half_pixels_of([references[reference - 1].y for reference in usable])
    for reference, half_pixels in zip(usable, made, strict=True):
        planes[reference - 1] = half_pixels
    return tuple(planes)


def _stacked_hints(hints: Hints, usable: Sequence[int], size: tuple[int, int]) -> NDArray[np.int16]:
    none = np.zeros((*size, 2), np.int16)
    return np.array([hints.get(reference, none) for reference in usable], np.int16).reshape(
        -1, *size, 2
    )


def _distinct(references: References, allowed: Sequence[int]) -> list[int]:
    """Those of the allowed references whose pictures differ, LAST first."""
    _, slots = distinct_pictures(references)
    return sorted({slots[reference - 1]: reference for reference in sorted(allowed)[::-1]}.values())


def _with_rates(
    frame: FrameSearch, header: FrameHeader, probabilities: ProbabilityTables
) -> FrameSearch:
    """The search under the rates that these probabilities give."""
    rates = mode_rates(
        probabilities,
        prob_skip_false=header.prob_skip_false,
        prob_intra=header.prob_intra,
        prob_last=header.prob_last,
        prob_golden=header.prob_golden,
    )
    sub_mode_rates = np.broadcast_to(rates.sub_mode, (14, 14, 10)).copy()
    if header.key_frame:
        rates = _key_mode_rates(rates)
        sub_mode_rates[:10, :10] = tree_rates(B_MODE_TREE, KF_BMODE_PROBS)
    coder = frame.coder.with_rates(position_token_rates(probabilities.coefficients), rates.skip)
    return frame._replace(coder=coder, rates=rates, sub_mode_rates=sub_mode_rates)


def _key_mode_rates(rates: ModeRates) -> ModeRates:
    return rates._replace(
        inter=np.zeros(2, np.int32),
        y_mode=tree_rates(KF_Y_MODE_TREE, KF_YMODE_PROBS),
        uv_mode=tree_rates(UV_MODE_TREE, KF_UV_MODE_PROBS),
    )
