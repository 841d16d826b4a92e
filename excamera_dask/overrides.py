"""What the user says of a source: which stream is meant, and what is true where a file is silent or lies."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from excamera_dask.errors import InvalidSetting

LIMITED, FULL = 1, 2
RANGES = {
    "tv": LIMITED, "mpeg": LIMITED, "limited": LIMITED, "pc": FULL, "jpeg": FULL, "full": FULL,
}  # fmt: skip
MATRICES = {
    "bt709": 1, "fcc": 4, "bt470bg": 5, "smpte170m": 6, "bt601": 6, "smpte240m": 7, "bt2020nc": 9,
}  # fmt: skip
PRIMARIES = {
    "bt709": 1, "bt470m": 4, "bt470bg": 5, "smpte170m": 6, "bt601": 6, "smpte240m": 7, "film": 8, "bt2020": 9,
    "smpte428": 10, "smpte431": 11, "smpte432": 12, "ebu3213": 22,
}  # fmt: skip
TRANSFERS = {
    "bt709": 1, "gamma22": 4, "gamma28": 5, "smpte170m": 6, "bt601": 6, "smpte240m": 7, "linear": 8, "log100": 9,
    "log316": 10, "iec61966-2-4": 11, "bt1361e": 12, "iec61966-2-1": 13, "bt2020-10": 14, "bt2020-12": 15,
    "smpte2084": 16, "smpte428": 17, "arib-std-b67": 18,
}  # fmt: skip
"""ffmpeg's names and the codes of ITU-T H.273."""
FASTEST = 1000
"""Frames a second; WebM counts milliseconds."""
WIDEST = 100
_STREAM = re.compile(r"\d+|[vV]:\d+")
_RATIO = re.compile(r"(\d+(?:\.\d+)?)[:/](\d+(?:\.\d+)?)")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a source is to be read; None leaves it to the file.

    stream: its index in the file as ffprobe prints it, or "v:N" for the N-th video stream. color_range ("tv", "pc"):
    how pictures of luma and chroma are converted; colorspace, color_primaries, color_trc (ffmpeg's names): what the
    output is tagged with, and the matrix also what RGB is converted by. aspect: of the picture as displayed, or
    sample_aspect: of a pixel, both of the turned picture, as "W:H" or a number. frame_rate: frames a second, as "N/D"
    or a number; frame n is then shown at n / frame_rate.

    Raises: InvalidSetting.
    """

    stream: int | str | None = None
    color_range: str | None = None
    colorspace: str | None = None
    color_primaries: str | None = None
    color_trc: str | None = None
    aspect: Fraction | None = None
    sample_aspect: Fraction | None = None
    frame_rate: Fraction | None = None

    def __post_init__(self) -> None:
        self._set("stream", _stream(self.stream))
        for name, known in NAMED.items():
            self._set(name, _named(name, getattr(self, name), known))
        self._set("aspect", _ratio("aspect", self.aspect, WIDEST, 1 / Fraction(WIDEST)))
        self._set(
            "sample_aspect",
            _ratio("sample_aspect", self.sample_aspect, WIDEST, 1 / Fraction(WIDEST)),
        )
        self._set("frame_rate", _ratio("frame_rate", self.frame_rate, FASTEST))
        if self.aspect is not None and self.sample_aspect is not None:
            raise InvalidSetting("aspect and sample_aspect say the same thing; give one of them")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def range(self) -> int:
        """The code of the range that is given, 0 where none is."""
        return RANGES[self.color_range] if self.color_range else 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = dataclasses.asdict(self)
        return {name: str(v) if isinstance(v, Fraction) else v for name, v in values.items()}


NAMED: dict[str, Mapping[str, int]] = {
    "color_range": RANGES,
    "colorspace": MATRICES,
    "color_primaries": PRIMARIES,
    "color_trc": TRANSFERS,
}
FIELDS = tuple(field.name for field in dataclasses.fields(Reading))


def _stream(value: Any) -> int | str | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    if not _STREAM.fullmatch(str(value)):
        raise InvalidSetting(
            f"stream {value!r}; give its index in the file, or v:N for the N-th video stream"
        )
    return int(value) if value.isdigit() else value.lower()


def _named(name: str, value: Any, known: Mapping[str, int]) -> str | None:
    if value is None:
        return None
    if str(value).lower() not in known:
        raise InvalidSetting(f"{name} {value!r}; it must be one of {', '.join(known)}")
    return str(value).lower()


def _ratio(name: str, value: Any, most: int, least: Fraction = Fraction(0)) -> Fraction | None:
    """A positive number from "N:D", "N/D" or anything that Fraction takes."""
    if value is None:
        return None
    try:
        parts = _RATIO.fullmatch(value) if isinstance(value, str) else None
        ratio = Fraction(parts[1]) / Fraction(parts[2]) if parts else Fraction(str(value))
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        raise InvalidSetting(
            f"{name} {value!r}; give a number, or two as 16:9 or 30000/1001"
        ) from None
    if not 0 < ratio <= most or ratio < least or ratio.denominator >= 1 << 31:
        raise InvalidSetting(f"{name} {value!r} is beyond what a film can have")
    return ratio
