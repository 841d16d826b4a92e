"""How hard the encoder tries, by preset; found by measurement (docs/presets.md)."""

from __future__ import annotations

from codec.encoding.encoder import Effort
from codec.encoding.mode_decision import Limits
from excamera_dask.skeleton.manner import Manner

MASKING = (170, 384)
FEW = Limits(
    finalists=1,
    finalist_margin=256,
    subblock_margin=340,
    split_margin=300,
    reference_margin=290,
    leap=16 * 256,
    enough=16 * 256,
)
MANY = Limits(
    finalists=6,
    finalist_margin=450,
    subblock_margin=450,
    split_margin=320,
    reference_margin=450,
    leap=4 * 256,
    enough=8 * 256,
)
HASTE = Effort(limits=FEW, fits=1, masking_range=MASKING, zero_deltas=(-12,))
CARE = Effort(limits=MANY, masking_range=MASKING, zero_deltas=(-2, -12, -63))
EFFORTS = {"fast": HASTE, "balanced": CARE, "smallest": CARE}


def effort_of(manner: Manner) -> Effort:
    """The preset's, with the mechanisms that are on."""
    effort, on = EFFORTS[manner.preset], manner.mechanisms
    deltas = effort.zero_deltas if on.filter_deltas else Effort().zero_deltas
    return effort._replace(masking=on.masking, zero_deltas=deltas)
