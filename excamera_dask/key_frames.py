"""How finely a batch's key frame is coded: the stiller the scene, the longer every later frame gains by it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

import codec
from codec.frame import Image
from codec.state import DecoderState

STILL_WEIGHT, MOVING_WEIGHT = 0.95, 0.75
"""Weights of the first pass's key frame's quantizer, which is next to none, against that of the frame after it."""
STILL, MOVING = 0.8, 1.6
"""Motion up to which a scene counts as still, and from which as moving; the weight falls evenly in between."""
LEAST_ERROR = 0.05
"""Mean squared errors below are beyond caring."""


def key_frame_weight(images: Sequence[Image], packets: Sequence[bytes]) -> float:
    """The weight 0 .. 1 that the key frame's quantizer gets, by a batch's first chunk: its pictures and first pass."""
    motion = chunk_motion(images, packets)
    share = (motion - STILL) / (MOVING - STILL)
    return STILL_WEIGHT + (MOVING_WEIGHT - STILL_WEIGHT) * min(max(share, 0.0), 1.0)


def chunk_motion(images: Sequence[Image], packets: Sequence[bytes]) -> float:
    """How little of a chunk's fine key frame is left at its end.

    That is the growth of the error of luma over the chunk, times the root of an inter frame's bytes as a share of the
    key frame's. Measured: 0.1 to 0.7 where little moves, 1.7 and more in motion; infinite for a picture alone.
    """
    following = [packet for packet in packets[1:] if packet]
    if not following:
        return math.inf
    codec.import_kernels()
    from codec.encoding.quality import mean_squared_error

    state: DecoderState | None = None
    shown: list[Image] = []
    for packet in packets:
        state, image = codec.decode(state, packet)
        if image is not None:
            shown.append(image)
    first, last = (
        mean_squared_error(image, decoded).y + LEAST_ERROR
        for image, decoded in ((images[0], shown[0]), (images[-1], shown[-1]))
    )
    share = float(np.mean([len(packet) for packet in following])) / len(packets[0])
    return last / first * math.sqrt(share)
