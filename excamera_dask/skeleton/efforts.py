"""How hard the encoder tries, by preset."""

from __future__ import annotations

from codec.encoding.encoder import Effort
from excamera_dask.skeleton.manner import Manner

EFFORTS = {
    "balanced": Effort(masking_range=(170, 384), zero_deltas=(-2, -12, -63)),
}


def effort_of(manner: Manner) -> Effort:
    """The preset's, with the mechanisms that are on."""
    effort, on = EFFORTS[manner.preset], manner.mechanisms
    deltas = effort.zero_deltas if on.filter_deltas else Effort().zero_deltas
    return effort._replace(masking=on.masking, zero_deltas=deltas)
