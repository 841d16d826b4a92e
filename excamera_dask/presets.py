"""How batches are built, by name: the method of the paper, or hidden frames with chunks between."""

from __future__ import annotations

from typing import NamedTuple

PAPER = "paper"


class Preset(NamedTuple):
    """A structure with hidden frames.

    chunk_frames: of a chunk, about, unless that is chosen; group_frames: of a group, at most, about.
    """

    chunk_frames: int
    group_frames: int


PRESETS: dict[str, Preset | None] = {
    PAPER: None,
    "balanced": Preset(24, 24),
}
"""None for the paper's, which -N and -x describe."""

KEY_DISTANCE = 240
"""Frames from one key frame to the next, about, with hidden frames."""
