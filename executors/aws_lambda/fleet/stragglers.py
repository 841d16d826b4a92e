"""Which tasks take far longer than is usual for their stage, and when to say so again."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque

from executors.aws_lambda.fleet.invocation import Task

WINDOW = 255
"""Latest tasks of a stage that its median is taken of."""
REMEMBERED = 10_000
"""Keys of slow tasks that are remembered."""


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
    """Learns how long tasks of each stage take, and says from when on one is slow.

    A task that was slow once is remembered by its key, whoever runs it then: each time the patience with it doubles.
    """

    def __init__(self, factor: float | None, seconds: float, samples: int) -> None:
        self._factor = factor
        self._seconds = seconds
        self._samples = samples
        self._stages: dict[str, StageTimes] = {}
        self._slow: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Keys of tasks that were slow: how often, and when last."""

    def add(self, stage: str | None, seconds: float) -> None:
        """A task of the stage took so long."""
        if self._factor is not None and stage is not None:
            self._stages.setdefault(stage, StageTimes()).add(seconds)

    def add_cut(self, stage: str | None, seconds: float) -> None:
        """A task of the stage was cut off after so long: it takes longer, which says nothing below the median."""
        if seconds >= self.median(stage):
            self.add(stage, seconds)

    def was_slow(self, key: str, now: float) -> None:
        """The task was found to be slow."""
        self._slow[key] = self.times_slow(key) + 1, now
        self._slow.move_to_end(key)
        if len(self._slow) > REMEMBERED:
            self._slow.popitem(last=False)

    def times_slow(self, key: str) -> int:
        """How often a task was found to be slow."""
        return self._slow.get(key, (0, 0.0))[0]

    def patience(self, stage: str | None) -> float | None:
        """Seconds after which a task of this stage is slow for the first time; None while that cannot be said."""
        times = self._stages.get(stage) if stage is not None else None
        if self._factor is None or times is None or len(times) < self._samples:
            return None
        return max(self._seconds, self._factor * times.median())

    def slow_at(self, task: Task) -> float | None:
        """When a task will be slow (again); None while that cannot be said."""
        patience = self.patience(task.stage)
        if patience is None:
            return None
        times, latest = self._slow.get(task.key, (0, task.since))
        return max(task.since, latest) + patience * 2**times

    def median(self, stage: str | None) -> float:
        """Median seconds of a stage; 0 if none of its tasks has ended."""
        times = self._stages.get(stage) if stage is not None else None
        return times.median() if times else 0.0
