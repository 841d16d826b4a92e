"""How batches are built, by name: the method of the paper, or hidden frames with chunks between."""

from __future__ import annotations

from typing import NamedTuple

PAPER = "paper"
DEFAULT = "balanced"


class Preset(NamedTuple):
    """A structure with hidden frames, and what is looked at beforehand; how hard the encoder tries is told in
    `skeleton.efforts`.

    chunk_frames: of a chunk, about, unless that is chosen; filter_radius: frames to each side over which a hidden frame's
    picture is filtered; survey_every: frames from one picture to the next that a survey looks at.
    """

    chunk_frames: int
    filter_radius: int
    survey_every: int


PRESETS: dict[str, Preset | None] = {
    PAPER: None,
    "fast": Preset(24, filter_radius=2, survey_every=8),
    "balanced": Preset(24, filter_radius=3, survey_every=4),
    "smallest": Preset(24, filter_radius=7, survey_every=4),
}
"""None for the paper's, which -N and -x describe."""

LONGEST_CHUNK = 32
"""Frames that a chunk may be asked to have between hidden frames."""

KEY_DISTANCE = 240
"""Frames from one key frame to the next, about, with hidden frames."""
