"""How hard the encoder tries, by preset; found by measurement (docs/presets.md)."""

from __future__ import annotations

from codec.encoding.encoder import Effort
from codec.encoding.mode_decision import Limits
from excamera_dask.skeleton.manner import Manner

MASKING = (170, 384)
FEWEST = Limits(1, 256, 340, 300, 290, 16 * 256, 16 * 256)
MORE = Limits(6, 450, 450, 320, 450, 4 * 256, 8 * 256)
EFFORTS = {
    "fast": Effort(limits=FEWEST, fits=1, masking_range=MASKING, zero_deltas=(-12,)),
    "balanced": Effort(limits=MORE, masking_range=MASKING, zero_deltas=(-2, -12, -63)),
    "smallest": Effort(limits=MORE, masking_range=MASKING, zero_deltas=(-2, -12, -63)),
}


def effort_of(manner: Manner) -> Effort:
    """The preset's, with the mechanisms that are on."""
    effort, on = EFFORTS[manner.preset], manner.mechanisms
    deltas = effort.zero_deltas if on.filter_deltas else Effort().zero_deltas
    return effort._replace(masking=on.masking, zero_deltas=deltas)
