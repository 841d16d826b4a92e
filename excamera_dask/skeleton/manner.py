"""How frames of a batch with hidden ones are made."""

from __future__ import annotations

from dataclasses import dataclass

from excamera_dask.mechanisms import ALL_ON, Mechanisms
from excamera_dask.presets import PRESETS, Preset


@dataclass(frozen=True)
class Manner:
    """q_index: quantizer index of plain frames; preset: whose effort the encoder makes; mechanisms: those that are on."""

    q_index: int
    preset: str
    mechanisms: Mechanisms = ALL_ON

    @property
    def structure(self) -> Preset:
        """The preset's."""
        structure = PRESETS[self.preset]
        assert structure is not None
        return structure
