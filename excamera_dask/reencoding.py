"""One chunk by hand, from files: the replacement of its key frame and the rebase, without a graph.

The same functions as in `stages`, over decoder states that the caller brings; for debugging and for notebooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import codec
from codec.encoding.encoder import encode_given_state, replace_key_frame
from codec.encoding.rebase import rebase
from codec.frame import Image
from codec.state import DecoderState
from excamera_dask.errors import ExcameraError
from excamera_dask.formats.ivf import is_key_frame, is_shown
from excamera_dask.stages import KEY_FRAME_Q_WEIGHT, hidden_picture


class Reencoded(NamedTuple):
    """Frames in decoding order and the state that a decoder has after them."""

    packets: list[bytes]
    state: DecoderState


def encode_onto(state: DecoderState, images: Sequence[Image], q_index: int) -> Reencoded:
    """Encode pictures as inter frames against `state`, all at quantizer index `q_index` (0..127)."""
    packets = []
    for image in images:
        encoded = encode_given_state(state, image, q_index=q_index)
        packets.append(encoded.data)
        state = encoded.state
    return Reencoded(packets, state)


def reencode(
    state: DecoderState,
    images: Sequence[Image],
    packets: Sequence[bytes],
    pred_state: DecoderState | None = None,
    kf_q_weight: float = KEY_FRAME_Q_WEIGHT,
) -> Reencoded:
    """Move the frames `packets`, which show `images`, onto `state`.

    pred_state: what `packets` were made against; None when they start with a key frame, which is then encoded anew as
    an inter frame. Raises ExcameraError where pictures and frames do not match.
    """
    if pred_state is None and not (packets and is_key_frame(packets[0])):
        raise ExcameraError(
            "the prediction's first frame is not a key frame; give the state before it (--pred-state)"
        )
    done: list[bytes] = []
    for packet, image, before in _with_pictures(packets, images, pred_state):
        if not packet:
            done.append(packet)
            continue
        if is_key_frame(packet):
            following = next(filter(None, packets[1:]), None)
            encoded = replace_key_frame(state, image, packet, following, kf_q_weight=kf_q_weight)
        else:
            assert before is not None
            encoded = rebase(state, image, packet, before)
        done.append(encoded.data)
        state = encoded.state
    return Reencoded(done, state)


def _with_pictures(
    packets: Sequence[bytes], images: Sequence[Image], before: DecoderState | None
) -> Iterator[tuple[bytes, Image, DecoderState | None]]:
    """Each frame, the original picture it stands for (a hidden one: its own picture), the state before it."""
    shown = sum(map(is_shown, packets))
    if shown != len(images):
        raise ExcameraError(f"{len(images)} pictures but a prediction of {shown} shown frames")
    if any(map(is_key_frame, packets[1:])):
        raise ExcameraError("the prediction has a key frame after its first frame")
    originals = iter(images)
    for packet in packets:
        after, _ = codec.decode(before, packet)
        image = next(originals) if is_shown(packet) else hidden_picture(before, after)
        yield packet, image, before
        before = after
