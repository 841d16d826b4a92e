"""What a person or a program sees of a running job: a live line, JSON lines, or notices alone; all on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from excamera_dask.cli.terminal.output import notice
from excamera_dask.cli.terminal.printing import console
from excamera_dask.progress import STAGES, ChunkDone, Event, Notice, StageCounts, Started
from executors import Counts

WEIGHTS = {
    "load": 1, "encode": 30, "final_state": 2, "replace": 8, "rebase": 8, "mux": 0,
    "survey": 5, "skeleton": 9, "code": 26,
}  # fmt: skip
"""Rough seconds of work in one task of each stage, relative to each other; only the estimate of time hangs on it."""

HALF_LIFE = 10.0  # seconds after which a measured speed counts half


class Display(Protocol):
    """A context manager that is called with each event of a job."""

    def __call__(self, event: Event) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_display(mode: str) -> Display:
    """The display for "auto", "rich", "json" or "none"; auto is rich on a terminal, else notices alone."""
    if mode == "auto":
        mode = "rich" if sys.stderr.isatty() else "none"
    displays: dict[str, type[LiveDisplay] | type[JsonDisplay] | type[NoticeDisplay]] = {
        "rich": LiveDisplay,
        "json": JsonDisplay,
        "none": NoticeDisplay,
    }
    return displays[mode]()


class Estimate:
    """Time left, from a speed that is smoothed exponentially over what has been done."""

    def __init__(self) -> None:
        self._time: float | None = None
        self._done = 0.0
        self._speed = 0.0
        self._weight = 0.0

    def update(self, now: float, done: float) -> None:
        """Tell that the fraction `done` of all work is done at `now`, in seconds of any clock."""
        if self._time is None or done < self._done:
            self._time, self._done = now, done
            return
        passed = now - self._time
        if passed <= 0 or done == self._done:
            return
        keep = 0.5 ** (passed / HALF_LIFE)
        self._speed = keep * self._speed + (1 - keep) * (done - self._done) / passed
        self._weight = keep * self._weight + (1 - keep)
        self._time, self._done = now, done

    def seconds_left(self, now: float) -> float | None:
        """Seconds until all is done; None before there is anything to judge by."""
        if self._time is None or self._weight == 0 or self._speed == 0:
            return None
        left = (1 - self._done) * self._weight / self._speed
        return max(0.0, left - (now - self._time))


def fraction_done(counts: Mapping[str, Counts]) -> float:
    """Fraction of a job's work that is done, tasks weighed by stage."""
    total = sum(WEIGHTS.get(stage, 1) * count.total for stage, count in counts.items())
    done = sum(WEIGHTS.get(stage, 1) * count.done for stage, count in counts.items())
    return done / total if total else 0.0


class NoticeDisplay:
    """Only the notices and warnings, one line each."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            notice(f"warning: {event.text}" if event.is_warning else event.text)


class JsonDisplay:
    """One JSON object a line for each event, with the seconds since the start."""

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        line = {
            "event": type(event).__name__,
            "seconds": round(time.monotonic() - self._begin, 3),
            **_plain(event),
        }
        print(json.dumps(line), file=sys.stderr, flush=True)


def _plain(event: Event) -> dict[str, Any]:
    if isinstance(event, StageCounts):
        stages = {stage: count._asdict() for stage, count in event.counts.items()}
        fleet = {"workers": event.workers, "spent": event.spent}
        return {"stages": stages, **{name: v for name, v in fleet.items() if v is not None}}
    if isinstance(event, Started):
        plan = event.plan
        return {
            "frames": plan.frame_count,
            "chunks": len(plan.chunks),
            "batches": len(plan.key_frames),
            "tasks": plan.task_count,
            "executor": event.executor,
            "workers": event.workers,
            "frames_done": event.frames_done,
            "bytes_done": event.bytes_done,
        }
    return dataclasses.asdict(event)


class LiveDisplay:
    """A bar with frames, speed, size and time left, and below it the count of each stage."""

    def __enter__(self) -> Self:
        from rich.live import Live

        self._started: Started | None = None
        self._begin = time.monotonic()
        self._counts: Mapping[str, Counts] = {}
        self._frames = self._bytes = 0
        self._workers: int | None = None
        self._spent: float | None = None
        self._estimate = Estimate()
        self._live = Live(
            console=console(stderr=True),
            get_renderable=self._render,
            refresh_per_second=4,
            transient=True,
        )
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            style = "yellow" if event.is_warning else ""
            self._live.console.print(event.text, style=style, markup=False)
        elif isinstance(event, Started):
            self._started = event
            self._begin = time.monotonic()
            self._frames, self._bytes = event.frames_done, event.bytes_done
        elif isinstance(event, StageCounts):
            self._counts = event.counts
            self._workers, self._spent = event.workers, event.spent
            self._estimate.update(time.monotonic(), fraction_done(event.counts))
        elif isinstance(event, ChunkDone):
            self._frames, self._bytes = event.frames_done, event.bytes_done

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self._started is None:
            return Text("")
        total = self._started.plan.frame_count
        now = time.monotonic()
        fresh = self._frames - self._started.frames_done
        fps = fresh / max(now - self._begin, 1e-3)
        left = self._estimate.seconds_left(now)
        line = Table.grid(padding=(0, 2))
        line.add_row(
            ProgressBar(total=1.0, completed=fraction_done(self._counts), width=30),
            f"{self._frames}/{total} frames",
            f"{fps:.1f} fps" if fresh else "",
            f"{self._bytes / 1e6:.2f} MB" if self._bytes else "",
            "" if left is None else f"{clock(left)} left",
        )
        stages = "  ".join(
            f"{stage.replace('_', ' ')} {count.done}/{count.total}"
            for stage in STAGES
            if (count := self._counts.get(stage)) is not None
        )
        return Group(line, Text("  ".join(filter(None, (stages, self._fleet()))), style="dim"))

    def _fleet(self) -> str:
        """Workers that have come and what has been spent, where both change."""
        if self._workers is None or self._started is None:
            return ""
        spent = "" if self._spent is None else f"  ${self._spent:.4f}"
        return f"workers {self._workers}/{self._started.workers}{spent}"


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss, rounded up."""
    whole = math.ceil(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
