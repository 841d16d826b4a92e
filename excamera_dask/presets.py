"""How batches are built, by name: the method of the paper, or hidden frames with chunks between."""

from __future__ import annotations

from typing import NamedTuple

PAPER = "paper"
DEFAULT = "balanced"


class Preset(NamedTuple):
    """A structure with hidden frames: frames of a chunk, about, unless that is chosen."""

    chunk_frames: int


PRESETS: dict[str, Preset | None] = {
    PAPER: None,
    "balanced": Preset(24),
}
"""None for the paper's, which -N and -x describe."""

LONGEST_CHUNK = 32
"""Frames that a chunk may be asked to have between hidden frames."""

KEY_DISTANCE = 240
"""Frames from one key frame to the next, about, with hidden frames."""
