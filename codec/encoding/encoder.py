"""Encoding a picture against a state: `encode_given_state`, and the replacement of a chunk's key frame by an inter frame.

Modes are decided macroblock by macroblock (mode_decision.py); the probabilities, the bytes and the state that follows come
from frame_coding.py. The same state, picture and settings give the same bytes on every machine.
"""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.bool_coder import BoolReader
from codec.checks import check_flag, checked_whole
from codec.encoding.adaptation import adapt
from codec.encoding.filter_level import choose_filter_level, guess_filter_level
from codec.encoding.frame_coding import Encoded, filter_delta_update, finish_frame
from codec.encoding.half_pixels import interpolate_half_pixels
from codec.encoding.masking import activity_masking
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
    FrameHeader,
    QuantizerIndices,
    SegmentationUpdate,
    parse_frame_header,
    parse_frame_tag,
)
from codec.quantize import Y1_AC, Y1_DC, segment_quantizers
from codec.state import DecoderState, FilterDeltas, ProbabilityTables, References, distinct_pictures
from codec.tables import (
    B_MODE_TREE,
    KF_BMODE_PROBS,
    KF_UV_MODE_PROBS,
    KF_Y_MODE_TREE,
    KF_YMODE_PROBS,
    UV_MODE_TREE,
)
from codec.transition import filter_deltas_after, segmentation_after

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
    fits: int = 3  # times that the rates are fitted to the rows coded so far

    def check(self) -> None:
        """Raises ValueError for values out of their range."""
        self.limits.check()
        self.tuning.check()
        check_flag("masking of an effort", self.masking)
        checked_whole("fits of an effort", self.fits, 0, MOST_FITS)


class Refresh(NamedTuple):
    """What a frame leaves behind."""

    last: bool = True
    golden: bool = False
    altref: bool = False
    entropy: bool = True


REFRESH_ALL = Refresh(golden=True, altref=True)
"""After such a frame a state is one picture, as after a key frame."""


def encode_given_state(
    state: DecoderState,
    image: Image,
    *,
    q_index: int,
    refresh: Refresh = Refresh(),
    show: bool = True,
    effort: Effort = Effort(),
) -> Encoded:
    """Encode a picture as an inter frame that follows `state`, at a quantizer index 0..127.

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
    header = _inter_header(state, _checked_index(q_index), refresh, show)
    return _encode(state, header, image, effort)


def encode_key_frame(
    image: Image, *, q_index: int, show: bool = True, effort: Effort = Effort()
) -> Encoded:
    """Encode a picture as a key frame, at a quantizer index 0..127; ValueError as of `encode_given_state`."""
    check_image(image)
    return _encode(None, _key_header(image, _checked_index(q_index), show), image, effort)


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


def _checked_index(q_index: int) -> int:
    return checked_whole("a quantizer index", q_index, 0, 127)


# Headers ---------------------------------------------------------------------------------------------------------


def frame_q_index(data: bytes) -> int:
    """A frame's quantizer index, which can be read without the state that the frame follows."""
    tag = parse_frame_tag(data)
    carried = Carried(0, 0, 0, 0, 0, 0, DEFAULT_PROBABILITIES)
    reader = BoolReader(np.frombuffer(data, np.uint8), tag.size, len(data))
    return parse_frame_header(tag, carried, reader)[0].quantizer.y_ac


def _key_header(
    size: Image | DecoderState, q_index: int, show: bool, deltas: FilterDeltas | None = None
) -> FrameHeader:
    """A key frame's, of that size; deltas: the filter's that a decoder has."""
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
        filter_deltas=filter_delta_update(deltas, DELTAS),
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
    return _key_header(state, q_index, show, state.filter_deltas)._replace(
        key_frame=False,
        horizontal_scale=state.horizontal_scale,
        vertical_scale=state.vertical_scale,
        color_space=state.color_space,
        clamping_type=state.clamping_type,
        refresh_golden=refresh.golden,
        refresh_altref=refresh.altref,
        refresh_entropy=refresh.entropy,
        refresh_last=refresh.last,
        prob_intra=32,
        prob_last=192,
        prob_golden=128,
    )


# Frames ----------------------------------------------------------------------------------------------------------


def _encode(
    state: DecoderState | None, header: FrameHeader, image: Image, effort: Effort
) -> Encoded:
    header.check_flags()
    effort.check()
    rows, columns = macroblock_size(image.width, image.height)
    source, picture = picture_from_image(image), new_picture(rows, columns)
    macroblocks = new_macroblocks(rows, columns)
    probabilities = DEFAULT_PROBABILITIES
    if state is not None and not header.key_frame:
        macroblocks.segment[:] = state.segmentation.map
        probabilities = state.probabilities
    quantizers = segment_quantizers(header.quantizer.y_ac, header.quantizer[1:], None, False)
    frame = _frame_search(state, source, quantizers, effort)
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
    level = choose_filter_level(
        source,
        picture,
        macroblocks,
        segmentation_after(state, header, macroblocks.segment),
        filter_deltas_after(state, header),
        guess=guess_filter_level(int(quantizers[0, Y1_AC])),
        key_frame=header.key_frame,
    )
    return finish_frame(state, header._replace(filter_level=level), macroblocks, picture)


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
    effort: Effort,
) -> FrameSearch:
    """What the search needs to know of the frame, rates apart."""
    if state is None or state.references is None:
        references, usable = References(source, source, source), []
    else:
        references = state.references
        _, slots = distinct_pictures(references)
        usable = [1 + slots.index(number) for number in range(1 + max(slots))]
    size = (source.rows, source.columns)
    masking = activity_masking(source) if effort.masking else np.full(size, 256, np.int32)
    even = BOOLEAN_RATES[[128, 128]]
    nothing = DEFAULT_PROBABILITIES.coefficients
    return FrameSearch(
        source,
        references,
        np.array(usable, np.int64),
        interpolate_half_pixels([references[reference - 1].y for reference in usable]),
        new_residual_coder(quantizers, nothing, even, masking, tuning=effort.tuning),
        UNKNOWN_MODE_RATES,
        np.zeros((14, 14, 10), np.int32),
        np.zeros(4, np.uint8),
        satd_multiplier(int(quantizers[0, Y1_DC]), effort.tuning.rate_weight),
        effort.limits,
    )


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
    coder = frame.coder._replace(
        token_rates=position_token_rates(probabilities.coefficients), skip_rates=rates.skip
    )
    return frame._replace(coder=coder, rates=rates, sub_mode_rates=sub_mode_rates)


def _key_mode_rates(rates: ModeRates) -> ModeRates:
    return rates._replace(
        inter=np.zeros(2, np.int32),
        y_mode=tree_rates(KF_Y_MODE_TREE, KF_YMODE_PROBS),
        uv_mode=tree_rates(UV_MODE_TREE, KF_UV_MODE_PROBS),
    )
