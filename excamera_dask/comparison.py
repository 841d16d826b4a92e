"""How near one video is to another, frame by frame: PSNR and SSIM as ffmpeg's filters compute them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

from codec import quality
from codec.frame import Image
from codec.quality import PlaneValues
from excamera_dask.errors import SourceError
from excamera_dask.sources import SourceInfo, iter_frames


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Mean squared errors and SSIM of each frame, in order; sizes are equal by construction."""

    errors: list[PlaneValues]
    similarities: list[PlaneValues]

    @property
    def frames(self) -> int:
        """Frames compared."""
        return len(self.errors)

    @property
    def psnr(self) -> PlaneValues:
        """PSNR in dB of the mean error over all frames."""
        return quality.overall_psnr(self.errors)

    @property
    def ssim(self) -> PlaneValues:
        """Mean SSIM over all frames."""
        return quality.mean(self.similarities)

    def overall(self) -> dict[str, Any]:
        """Figures over all frames as plain values; None stands for infinite (identical pictures)."""
        return {
            "frames": self.frames,
            "psnr": _plain(self.psnr),
            "ssim": _plain(self.ssim),
            "ssim_db": _plain(PlaneValues(*map(quality.ssim_db, self.ssim))),
        }

    def per_frame(self) -> list[dict[str, Any]]:
        """The figures of each frame as plain values, `frame` counting from 0."""
        return [
            {
                "frame": number,
                "psnr": _plain(PlaneValues(*map(quality.psnr_from_error, error))),
                "ssim": _plain(similarity),
            }
            for number, (error, similarity) in enumerate(
                zip(self.errors, self.similarities, strict=True)
            )
        ]


def compare_images(
    pairs: Iterable[tuple[Image, Image]], on_frame: Callable[[int], None] | None = None
) -> Comparison:
    """Compare (reference, distorted) pictures one pair at a time; `on_frame` hears the count so far.

    Raises ValueError where the sizes of a pair differ.
    """
    errors, similarities = [], []
    for reference, distorted in pairs:
        errors.append(quality.mean_squared_error(reference, distorted))
        similarities.append(quality.ssim(reference, distorted))
        if on_frame is not None:
            on_frame(len(errors))
    return Comparison(errors, similarities)


def compare_sources(
    reference: SourceInfo, distorted: SourceInfo, on_frame: Callable[[int], None] | None = None
) -> Comparison:
    """Compare two sources over the frames that both have; raises SourceError where their sizes differ."""
    if (reference.width, reference.height) != (distorted.width, distorted.height):
        raise SourceError(
            f"{distorted.path}: is {distorted.width}x{distorted.height} but {reference.path} is "
            f"{reference.width}x{reference.height}; only videos of one size can be compared"
        )
    count = min(reference.frame_count, distorted.frame_count)
    if count == 0:
        raise SourceError(f"{reference.path}: no frames to compare")
    pairs = zip(iter_frames(reference, 0, count), iter_frames(distorted, 0, count), strict=True)
    return compare_images(pairs, on_frame)


def _plain(values: PlaneValues) -> dict[str, float | None]:
    return {
        name: None if math.isinf(value) else round(value, 6)
        for name, value in values._asdict().items()
    }
