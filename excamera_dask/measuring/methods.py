"""What is compared: ways to encode a film, and libvpx in one piece as somebody runs it who knows it."""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.mechanisms import ALL_ON, NAMES, Mechanisms
from excamera_dask.presets import PAPER, PRESETS
from excamera_dask.settings import CHUNK_FRAMES

SERIAL = "vpxenc"
COARSER_KEY = "vpxenc --min-q"
"""The same with a key frame no finer than its alt-ref frames: better where a film moves, worse where it stands."""
PAPERS = "vpxenc of 2017"

ALTREF_Q = ((16, 3), (26, 5), (36, 9), (46, 18), (56, 29))
"""cq level, and vpxenc's quantizer of its alt-ref frames there."""


class Method(NamedTuple):
    """A way to encode: a preset, frames a chunk and chunks a batch where they are chosen, a mechanism left out."""

    preset: str = PAPER
    chunk_frames: int | None = None
    batch_chunks: int | None = 16
    left_out: str | None = None

    @property
    def mechanisms(self) -> Mechanisms:
        """Those that are on."""
        return ALL_ON if self.left_out is None else ALL_ON.without(self.left_out)

    def each_left_out(self) -> list[Method]:
        """This method without one of its mechanisms, for each."""
        return [self._replace(left_out=name) for name in NAMES]

    @property
    def name(self) -> str:
        """As it is written: "[6,16]", "balanced", "balanced:12"; "balanced without hints"."""
        if self.preset == PAPER:
            limit = "unlimited" if self.batch_chunks is None else self.batch_chunks
            return f"[{self.chunk_frames or CHUNK_FRAMES},{limit}]"
        without = f" without {self.left_out}" if self.left_out else ""
        return self.preset + (f":{self.chunk_frames}" if self.chunk_frames else "") + without


def parse_method(text: str) -> Method:
    """A method from its name; raises ValueError for none."""
    paper = re.fullmatch(r"\[?([1-9]\d*),([1-9]\d*|unlimited)\]?", text)
    if paper:
        chunks = None if paper[2] == "unlimited" else int(paper[2])
        return Method(PAPER, int(paper[1]), chunks)
    preset, _, frames = text.partition(":")
    if preset not in PRESETS or (frames and re.fullmatch(r"[1-9]\d*", frames) is None):
        known = ", ".join(name for name in PRESETS if name != PAPER)
        raise ValueError(
            f"{text!r} is no method such as 6,16 or 6,unlimited, nor a preset ({known})"
        )
    if preset == PAPER:
        return Method()
    return Method(preset, int(frames) if frames else None)


def reference_settings(name: str, settings: FirstPassSettings) -> FirstPassSettings:
    """How libvpx is run for a reference, at the cq level of `settings`; PAPERS as they are, at full effort."""
    full = settings.full_effort()
    if name == PAPERS:
        return full
    best = dataclasses.replace(
        full, lag_in_frames=25, auto_alt_ref=1, arnr_maxframes=7, arnr_strength=5, arnr_type=3
    )
    if name == COARSER_KEY:
        return dataclasses.replace(best, min_q=min(altref_q(settings.cq_level), settings.cq_level))
    return best


def altref_q(cq_level: int) -> int:
    """vpxenc's quantizer of alt-ref frames at a cq level, between those that were looked up."""
    (low, low_q), *_ = ALTREF_Q
    if cq_level <= low:
        return min(low_q, cq_level)
    for high, high_q in ALTREF_Q[1:]:
        if cq_level <= high:
            return low_q + (high_q - low_q) * (cq_level - low) // (high - low)
        low, low_q = high, high_q
    return low_q + (cq_level - low)
