"""Which tasks take far longer than is usual for their stage."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

WINDOW = 255
"""Latest tasks of a stage that its median is taken of."""


class StageTimes:
    """Seconds that the latest tasks of one stage took, in order of time and of size."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, seconds: float) -> None:
        """One more task has ended."""
        if len(self._recent) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(seconds)
        insort(self._sorted, seconds)

    def median(self) -> float:
        """The upper median; there must be a task."""
        return self._sorted[len(self._sorted) // 2]


class Stragglers:
    """Learns how long tasks of each stage take, and says from when on one is slow."""

    def __init__(self, factor: float | None, seconds: float, samples: int) -> None:
        self._factor = factor
        self._seconds = seconds
        self._samples = samples
        self._stages: dict[str, StageTimes] = {}

    def add(self, stage: str | None, seconds: float) -> None:
        """A task of the stage took so long."""
        if self._factor is not None and stage is not None:
            times = self._stages.get(stage)
            if times is None:
                times = self._stages[stage] = StageTimes()
            times.add(seconds)

    def patience(self, stage: str | None) -> float | None:
        """Seconds after which a task of this stage is slow; None while that cannot be said."""
        times = self._stages.get(stage) if stage is not None else None
        if self._factor is None or times is None or len(times) < self._samples:
            return None
        return max(self._seconds, self._factor * times.median())

    def median(self, stage: str | None) -> float:
        """Median seconds of a stage; 0 if none of its tasks has ended."""
        times = self._stages.get(stage) if stage is not None else None
        return times.median() if times else 0.0
