"""What batches with hidden frames do to save bits, by name: each can be left out, to see what it is worth."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mechanisms:
    """All are on, but where somebody measures what one is worth (`excamera bench where`).

    hidden_frames: frames ahead of time at all; without, a batch is one chunk, each frame leaning on the one before it.
    temporal_filter: hidden frames show pictures filtered along motion. quantizers: macroblocks of key and hidden frames
    are as fine as they live long; without, such a frame has one index, the mean. hints: motion of the survey leads the
    search. filter_deltas: the best of several of ZEROMV for each frame, not the usual one. group_lengths: chosen by
    content, not as long as can be. masking: rates weigh by activity.
    """

    hidden_frames: bool = True
    temporal_filter: bool = True
    quantizers: bool = True
    hints: bool = True
    filter_deltas: bool = True
    group_lengths: bool = True
    masking: bool = True

    def without(self, name: str) -> Mechanisms:
        """All of these but one."""
        return dataclasses.replace(self, **{name: False})


ALL_ON = Mechanisms()
NAMES = tuple(field.name for field in dataclasses.fields(Mechanisms))
