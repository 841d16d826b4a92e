"""How far one video's times lie from another's: of each frame, of the start, of the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from typing import Any

from excamera_dask.watching import Film, ShownFrame

MILLISECOND = Fraction(1, 1000)
ZERO = Fraction(0)


class Timeline:
    """The frames of a film without the first `skip`, at most `limit`, and what their times were.

    frames: how many have passed; first: time of the first, end: when the last one's ended, in seconds.
    """

    def __init__(self, film: Film, skip: int = 0, limit: int | None = None) -> None:
        self.film, self.skip, self.limit = film, skip, limit
        self.frames = 0
        self.first = self.end = ZERO
        self._passing = self._pass()

    def __iter__(self) -> Iterator[ShownFrame]:
        return self._passing

    def _pass(self) -> Iterator[ShownFrame]:
        for frame in islice(self.film.frames(), self.skip, None):
            if self.frames == self.limit:  # it begins where the last one wanted ends
                self.end = frame.time
                return
            if self.frames == 0:
                self.first = frame.time
            self.frames += 1
            self.end = max(self.end, frame.time + frame.duration)
            yield frame
        self.end = max(self.end, self.film.end)

    def run_out(self) -> None:
        """Let the rest pass unseen."""
        for _ in self:
            pass

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last."""
        return self.end - self.first

    @property
    def starts(self) -> tuple[Fraction, ...]:
        """When the film may be said to start, in seconds: against the other streams, or, where it has no company, at
        its first frame, or when its container's own clock says.
        """
        return (
            (self.first, self.first + self.film.start, ZERO) if self.film.alone else (self.first,)
        )


@dataclasses.dataclass(frozen=True)
class Timing:
    """Times of two films, reference first, in seconds; `start` is None where frames were left out before.

    largest_error: of a frame's time since the first frame compared; error_frame: where. rounding: what the ticks of
    both containers may make of equal times. step: the mean time from a frame of the reference to the next.
    """

    frames: tuple[int, int]
    start: tuple[Fraction, Fraction] | None
    duration: tuple[Fraction, Fraction]
    largest_error: Fraction
    error_frame: int
    rounding: Fraction
    step: Fraction

    def plain(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "largest_error": _seconds(self.largest_error),
            "largest_error_frame": self.error_frame,
            "start": None if self.start is None else _differing(*self.start),
            "duration": _differing(*self.duration),
            "frames": {"reference": self.frames[0], "distorted": self.frames[1]},
        }

    def warnings(self) -> list[str]:
        """One line for each difference that rounding does not explain."""
        warnings = []
        if self.frames[0] != self.frames[1]:
            warnings.append(
                f"{self.frames[0]} frames against {self.frames[1]}; the first {min(self.frames)} are compared"
            )
        if self.start is not None and abs(self.start[1] - self.start[0]) > self._allowance:
            warnings.append(f"starts differ: {_against(self.start)}")
        if self.largest_error > self._allowance:
            error = f"{float(self.largest_error):.3f} s"
            warnings.append(f"times differ by up to {error}, at frame {self.error_frame}")
        if abs(self.duration[1] - self.duration[0]) > max(self._allowance, self.step / 2):
            warnings.append(f"durations differ: {_against(self.duration)}")
        return warnings

    @property
    def _allowance(self) -> Fraction:
        return max(min(self.rounding, self.step / 2), MILLISECOND)


class TimeKeeper:
    """Hears pairs of frames as they pass, and tells the `timing` when both films have ended."""

    def __init__(self, reference: Timeline, distorted: Timeline) -> None:
        self.reference, self.distorted = reference, distorted
        self._largest_error, self._error_frame = ZERO, 0

    def hear(self, number: int, reference: ShownFrame, distorted: ShownFrame) -> None:
        """The pair of this number, from 0."""
        passed = reference.time - self.reference.first
        error = abs(distorted.time - self.distorted.first - passed)
        if error > self._largest_error:
            self._largest_error, self._error_frame = error, number

    def timing(self) -> Timing:
        """The times of both, of which all frames are let pass."""
        both = self.reference, self.distorted
        for timeline in both:
            timeline.run_out()
        starts = [(a, b) for a in both[0].starts for b in both[1].starts]
        return Timing(
            frames=(both[0].frames, both[1].frames),
            start=min(starts, key=lambda s: abs(s[1] - s[0])) if both[0].skip == 0 else None,
            duration=(both[0].duration, both[1].duration),
            largest_error=self._largest_error,
            error_frame=self._error_frame,
            rounding=both[0].film.time_base + both[1].film.time_base,
            step=both[0].duration / max(1, both[0].frames),
        )


def _differing(reference: Fraction, distorted: Fraction) -> dict[str, float]:
    return {
        "reference": _seconds(reference),
        "distorted": _seconds(distorted),
        "difference": _seconds(distorted - reference),
    }


def _against(values: tuple[Fraction, Fraction]) -> str:
    return f"{float(values[0]):.3f} s against {float(values[1]):.3f} s"


def _seconds(value: Fraction) -> float:
    return round(float(value), 6)
