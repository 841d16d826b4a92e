"""Where the bits of an encode go, and what they leave: sums over its frames by position, stage, type and syntax element."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from codec.element_bits import ELEMENTS
from codec.encoding.quality import psnr_from_error, ssim_db
from excamera_dask.measuring.coded_frames import END, HIDDEN, JOINT, KEY, PLAIN, STAGES, CodedFrame

TYPES = (KEY, HIDDEN, PLAIN, JOINT, END)


def summary(frames: Sequence[CodedFrame], groups: bool = True) -> dict[str, Any]:
    """All of an encode as plain values; groups: whether it is known where groups end."""
    told = {"total": _sums(frames), "by_type": _by(frames, lambda frame: frame.type, TYPES)}
    if groups:
        told["by_position"] = _by(frames, position_of, positions(frames))
        told["by_stage"] = _by(
            frames, lambda frame: STAGES[frame.type], ("begin", "skeleton", "code")
        )
    return told | {"by_element": by_element(frames), "steps": steps(frames, groups)}


def position_of(frame: CodedFrame) -> str:
    """A plain frame's place in its group; of the others, what they are."""
    return str(frame.position) if frame.type == PLAIN else frame.type


def positions(frames: Sequence[CodedFrame]) -> list[str]:
    """All positions that there are, in order."""
    plain = sorted({frame.position or 0 for frame in frames if frame.type == PLAIN})
    present = {frame.type for frame in frames}
    around = [[t for t in types if t in present] for types in ((KEY, HIDDEN), (JOINT, END))]
    return [*around[0], *map(str, plain), *around[1]]


def _by(
    frames: Sequence[CodedFrame], name_of: Callable[[CodedFrame], Hashable], names: Sequence[str]
) -> dict[str, Any]:
    """Sums of the frames of each name that has any."""
    parts = {name: [frame for frame in frames if name_of(frame) == name] for name in names}
    return {name: _sums(part) for name, part in parts.items() if part}


def _sums(frames: Sequence[CodedFrame]) -> dict[str, float | None]:
    """Frames and their bytes; of those that are shown mean squared error, PSNR of it, SSIM (dB) of the mean, and PSNR of
    chroma.
    """
    size = sum(frame.bytes for frame in frames)
    error = _mean(frame.error for frame in frames)
    chroma = _mean(frame.chroma_error for frame in frames)
    similarity = _mean(frame.ssim for frame in frames)
    return {
        "frames": len(frames),
        "bytes": size,
        "bytes_a_frame": size / len(frames),
        "mse": error,
        "psnr": None if error is None else psnr_from_error(error),
        "ssim_db": None if similarity is None else ssim_db(similarity),
        "chroma_psnr": None if chroma is None else psnr_from_error(chroma),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def by_element(frames: Sequence[CodedFrame]) -> dict[str, dict[str, float]]:
    """Bytes of each syntax element in frames of each type, and in all."""
    present = [kind for kind in TYPES if any(frame.type == kind for frame in frames)]
    return {
        element: {
            kind: _element_bytes(frames, element, (kind,)) for kind in present
        } | {"all": _element_bytes(frames, element, TYPES)}
        for element in ELEMENTS
    }  # fmt: skip


def _element_bytes(frames: Sequence[CodedFrame], element: str, types: Sequence[str]) -> float:
    bits = (frame.bits.get(element, 0.0) for frame in frames if frame.type in types)
    return math.fsum(bits) / 8


# From frame to frame ---------------------------------------------------------------------------------------------


def steps(frames: Sequence[CodedFrame], groups: bool = True) -> dict[str, Any]:
    """By how much SSIM (dB) differs between neighbouring frames: anywhere, beside key frames, beside ends of groups, behind
    joints within them, and elsewhere.
    """
    shown = [frame for frame in frames if frame.frame is not None]
    pairs = [pair for pair in pairwise(shown) if all(map(math.isfinite, map(_db, pair)))]
    told = {"all": _steps(pairs)}
    for kind in ("key_frames", *(("group_ends", "joints") if groups else ()), "elsewhere"):
        told[kind] = _steps([pair for pair in pairs if _where(*pair) == kind])
    return told


def _where(before: CodedFrame, after: CodedFrame) -> str:
    types = before.type, after.type
    if KEY in types:
        return "key_frames"
    if END in types:
        return "group_ends"
    return "joints" if before.type == JOINT else "elsewhere"


def _steps(pairs: Sequence[tuple[CodedFrame, CodedFrame]]) -> dict[str, Any]:
    sizes = [(abs(_db(after) - _db(before)), after.frame) for before, after in pairs]
    largest, at = max(sizes, default=(None, None))
    mean = math.fsum(size for size, _ in sizes) / len(sizes) if sizes else None
    return {"count": len(sizes), "mean_db": mean, "largest_db": largest, "largest_at": at}


def _db(frame: CodedFrame) -> float:
    assert frame.ssim is not None
    return ssim_db(frame.ssim)


def each_frame(frames: Sequence[CodedFrame]) -> list[dict[str, Any]]:
    """Every frame in the order of coding, as plain values."""
    return [
        {
            "frame": frame.frame,
            "type": frame.type,
            "position": frame.position,
            "bytes": frame.bytes,
            "mse": frame.error,
            "chroma_mse": frame.chroma_error,
            "ssim_db": None if frame.ssim is None else ssim_db(frame.ssim),
        }
        for frame in frames
    ]
