"""What a finished encode has to say of itself."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from excamera_dask.version import __version__

_PACKAGES = ("numpy", "numba", "dask", "distributed", "av")


@dataclass(frozen=True)
class EncodeReport:
    """Facts and figures of one encode; `stage_seconds` sums the time of all workers by stage."""

    source: str
    output: str | None
    width: int
    height: int
    frames: int
    key_frames: int
    chunks: int
    batches: int
    bytes: int
    duration: float
    seconds: float
    fps: float
    stage_seconds: dict[str, float]
    resumed_chunks: int
    executor: str
    workers: int
    settings: dict[str, Any]
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    hidden_frames: int = 0
    """Frames that are there for others to lean on and are never shown."""
    dollars: float | None = None
    """What the workers cost, as far as known; None where nobody was paid."""

    @property
    def bits_per_second(self) -> float:
        """Mean rate of the video."""
        return 8 * self.bytes / self.duration if self.duration else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the JSON."""
        return {**asdict(self), "bits_per_second": self.bits_per_second}

    def _price(self) -> str:
        if self.dollars is None:
            return ""
        price = f"${self.dollars:.4f}"
        return f", {price}" if self.executor == "lambda" else f" ({price} on AWS)"

    def to_json(self, **options: Any) -> str:
        """The report as a JSON object."""
        return json.dumps(self.to_dict(), **options)

    def __str__(self) -> str:
        return (
            f"{_count(self.frames, 'frame')}, {_count(self.key_frames, 'key frame')}, {self.bytes} bytes "
            f"in {self.seconds:.1f} s ({self.fps:.1f} fps)" + self._price()
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def versions(encoder: str) -> dict[str, str]:
    """Versions of what makes the bytes and runs the job."""
    found = {
        "excamera_dask": __version__,
        "python": platform.python_version(),
        "first_pass": encoder,
    }
    return found | {name: metadata.version(name) for name in _PACKAGES}
