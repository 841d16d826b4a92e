"""How near one video is to another, frame by frame: PSNR and SSIM as ffmpeg's filters compute them, and times."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from codec.encoding import quality
from codec.encoding.quality import PlaneValues
from excamera_dask.errors import SourceError
from excamera_dask.overrides import MATRICES, Reading
from excamera_dask.storage import PathLike
from excamera_dask.watching import Film, Hints, watch
from excamera_dask.watching.slippage import Slip, SlipFinder
from excamera_dask.watching.timing import TimeKeeper, Timeline, Timing


class Selection(NamedTuple):
    """Frames of a file or an object: without the first `skip`, at most `limit`; stream and hints are those of `watch`."""

    path: PathLike
    skip: int = 0
    limit: int | None = None
    stream: int | str | None = None
    hints: Hints = Hints()


def hints_of(reading: Reading) -> Hints:
    """What a reading says of pictures and times."""
    matrix = MATRICES.get(reading.colorspace or "", 0)
    return Hints(reading.range, matrix, reading.frame_rate)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Mean squared errors and SSIM of each frame, in order; sizes are equal by construction.

    timing: of both films; slip: where frames slip by one; warnings: lines about either file or the pair.
    """

    errors: list[PlaneValues]
    similarities: list[PlaneValues]
    timing: Timing
    slip: Slip | None
    warnings: list[str]

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

    def times(self) -> dict[str, Any]:
        """What the times have in common, as plain values in seconds, and where frames slip by one."""
        return self.timing.plain() | {"slip": self.slip and self.slip._asdict()}

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


def compare_films(
    reference: Selection, distorted: Selection, on_frame: Callable[[int], None] | None = None
) -> Comparison:
    """Compare two videos, each played once from its start, over the frames that both have.

    `on_frame` hears the count so far. Raises SourceError where one cannot be read, their sizes differ, or there is nothing
    to compare, StorageError for the troubles of a store.
    """
    with (
        watch(reference.path, reference.stream, reference.hints) as first,
        watch(distorted.path, distorted.stream, distorted.hints) as second,
    ):
        _refuse_other_size(first, second)
        timelines = (
            Timeline(first, reference.skip, reference.limit),
            Timeline(second, distorted.skip, distorted.limit),
        )
        return _compare(*timelines, on_frame)


def _compare(
    reference: Timeline, distorted: Timeline, on_frame: Callable[[int], None] | None
) -> Comparison:
    errors, similarities = [], []
    times, slips = TimeKeeper(reference, distorted), SlipFinder()
    for number, (first, second) in enumerate(zip(reference, distorted, strict=False)):
        times.hear(number, first, second)
        pictures = first.picture(), second.picture()
        errors.append(quality.mean_squared_error(*pictures))
        similarities.append(quality.ssim(*pictures))
        slips.hear(number, *pictures, errors[-1].y)
        if on_frame is not None:
            on_frame(number + 1)
    timing = times.timing()
    for timeline in (reference, distorted):
        if timeline.frames == 0:
            left = f" after the first {timeline.skip}" if timeline.skip else ""
            raise SourceError(f"{timeline.film.path}: no frames to compare{left}")
    warnings = [
        f"{timeline.film.path}: {warning}"
        for timeline in (reference, distorted)
        for warning in timeline.film.warnings
    ]
    warnings += timing.warnings() + ([str(slips.slip)] if slips.slip else [])
    return Comparison(errors, similarities, timing, slips.slip, warnings)


def _refuse_other_size(reference: Film, distorted: Film) -> None:
    if (reference.width, reference.height) != (distorted.width, distorted.height):
        raise SourceError(
            f"{distorted.path}: is {distorted.width}x{distorted.height} but {reference.path} is "
            f"{reference.width}x{reference.height}; only videos of one size can be compared"
        )


def _plain(values: PlaneValues) -> dict[str, float | None]:
    return {
        name: None if math.isinf(value) else round(value, 6)
        for name, value in values._asdict().items()
    }
