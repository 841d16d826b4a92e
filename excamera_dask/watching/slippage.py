"""Where the frames of a video slip by one against its original, because one is missing or doubled."""

from __future__ import annotations

from typing import NamedTuple

from codec.encoding import quality
from codec.frame import Image

CLEARLY_NEARER = 0.5
"""Part of its error that a picture keeps when it is held against the right one instead."""
FRAMES_IN_A_ROW = 3
"""After which a likeness to a neighbour is no chance."""


class Slip(NamedTuple):
    """From frame `frame` on (from 0) pictures are those of the original's frame `by` further on, -1 or 1."""

    frame: int
    by: int

    def __str__(self) -> str:
        neighbour, fault = ("before", "doubled") if self.by < 0 else ("after", "missing")
        return (
            f"from frame {self.frame} on the pictures are those of one frame {neighbour}: "
            f"a frame is {fault} there"
        )


class SlipFinder:
    """Hears pairs of pictures in order; `slip` is the first one found, None until then.

    A picture has slipped if it is much nearer to the reference's neighbour than to its counterpart, and so are those
    that follow. Costs two comparisons of pictures a frame until then, where pairs are not equal.
    """

    def __init__(self) -> None:
        self.slip: Slip | None = None
        self._before: tuple[Image, Image] | None = None
        self._error_before = 0.0
        self._rows = {-1: 0, 1: 0}

    def hear(self, number: int, reference: Image, distorted: Image, error: float) -> None:
        """The pair of this number, from 0, and the mean squared error of its luma."""
        if self._before is not None and self.slip is None:
            earlier_reference, earlier_distorted = self._before
            self._note(-1, number, earlier_reference, distorted, error)
            self._note(1, number - 1, reference, earlier_distorted, self._error_before)
        self._before, self._error_before = (reference, distorted), error

    def _note(self, by: int, number: int, neighbour: Image, distorted: Image, error: float) -> None:
        nearer = error > 0 and (
            quality.mean_squared_error(neighbour, distorted).y < CLEARLY_NEARER * error
        )
        self._rows[by] = self._rows[by] + 1 if nearer else 0
        if self._rows[by] == FRAMES_IN_A_ROW and self.slip is None:
            self.slip = Slip(number - FRAMES_IN_A_ROW + 1, by)
