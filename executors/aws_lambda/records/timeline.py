"""When each invocation was requested, invoked, connected and ready, and what it ran: figures, text and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from executors.aws_lambda.fleet.snapshot import span as duration
from executors.aws_lambda.records.history import Course, History

VERSION = 1
PERCENTILES = (5, 50, 90, 99, 100)

PHASES: tuple[tuple[str, str, str], ...] = (
    ("answer", "requested", "invoked"),
    ("appear", "requested", "connected"),
    ("load", "connected", "ready"),
    ("start", "requested", "ready"),
)
"""The latencies of starting up: name, from, to."""


@dataclass(frozen=True)
class Bar:
    """A piece of a row, in seconds since the timeline begins."""

    kind: str
    start: float
    end: float
    key: str | None = None
    number: int | None = None


@dataclass(frozen=True)
class Row:
    """One invocation."""

    name: str
    state: str
    bars: tuple[Bar, ...]


WAITING = "waits"
IDLE = "idle"
STARTING = "starts"
LOADING = "loads"
LEAVING = "drains"
OWN_KINDS = (STARTING, LOADING, IDLE, WAITING, LEAVING)


class Timeline:
    """The timeline of a history. Times in what it gives out are seconds since `began` (seconds since the epoch)."""

    def __init__(self, history: History, name: str = "") -> None:
        self.name = name
        self.history = history
        self.began = history.began or 0.0
        self.seconds = (history.latest or 0.0) - self.began
        courses = sorted(history.courses.values(), key=_order)
        self.rows = tuple(self._row(course) for course in courses)

    def kinds(self) -> list[str]:
        """What the bars show: our own kinds first, then the stages as they first come."""
        stages = {bar.kind: None for row in self.rows for bar in row.bars}
        return [*OWN_KINDS, *(stage for stage in stages if stage not in OWN_KINDS)]

    def latencies(self) -> dict[str, list[float]]:
        """Sorted seconds of each phase of starting up, over all invocations that came through it."""
        found = {}
        for phase, begin, end in PHASES:
            pairs = (
                (getattr(course, begin), getattr(course, end))
                for course in self.history.courses.values()
            )
            found[phase] = sorted(
                max(0.0, b - a) for a, b in pairs if a is not None and b is not None
            )
        return found

    def stages(self) -> dict[str, list[float]]:
        """Sorted seconds that the tasks of each stage ran, waiting left out."""
        found: dict[str, list[float]] = {}
        for course in self.history.courses.values():
            for span in course.spans:
                if span.end is not None and not span.waiting:
                    found.setdefault(span.stage, []).append(span.end - span.start)
        return {stage: sorted(seconds) for stage, seconds in found.items()}

    def reached(self, event: str) -> list[float]:
        """When the first, second, third ... invocation was "connected" (or "ready", ...), in seconds."""
        times = (getattr(course, event) for course in self.history.courses.values())
        return sorted(time - self.began for time in times if time is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "version": VERSION,
            "cluster": self.name,
            "began": self.began,
            "seconds": round(self.seconds, 6),
            "target": self.history.target,
            "dollars": self.dollars,
            "counts": self.history.counts(),
            "stopped": self.history.stopped,
            "latencies": {phase: summary(values) for phase, values in self.latencies().items()},
            "stages": {stage: summary(values) for stage, values in self.stages().items()},
            "invocations": [self._row_to_dict(row) for row in self.rows],
        }

    @property
    def dollars(self) -> float:
        """What was spent, as far as the log tells."""
        ended = sum(course.dollars or 0.0 for course in self.history.courses.values())
        return max(ended, self.history.dollars)

    def to_text(self) -> str:
        """A summary of a few lines."""
        counts = ", ".join(f"{count} {state}" for state, count in self.history.counts().items())
        lines = [
            f"{self.name or 'cluster'}: {len(self.rows)} invocations ({counts or 'none'}) in "
            f"{duration(self.seconds)}, ${self.dollars:.4f}"
        ]
        lines += _table("start-up, s", self.latencies())
        lines += _table("stage, s", self.stages())
        if self.history.stopped:
            lines.append(f"stopped: {self.history.stopped}")
        return "\n".join(lines)

    def _row(self, course: Course) -> Row:
        return Row(course.name, str(course.state), tuple(self._bars(course)))

    def _bars(self, course: Course) -> list[Bar]:
        last = self.began + self.seconds
        end = course.ended if course.ended is not None else last
        bars: list[Bar] = []

        def add(kind: str, start: float | None, stop: float | None, **about: Any) -> None:
            if start is None:
                return
            stop = end if stop is None else stop
            if stop > start:
                bars.append(Bar(kind, start - self.began, stop - self.began, **about))

        add(STARTING, course.requested, course.connected)
        add(LOADING, course.connected, course.ready)
        at = course.ready
        for span in course.spans:
            add(IDLE, at, span.start)
            kind = WAITING if span.waiting else span.stage
            add(kind, span.start, span.end, key=span.key, number=span.number)
            ends = span.end if span.end is not None else end
            at = ends if at is None else max(at, ends)
        if course.draining is not None and at is not None:
            add(IDLE, at, max(at, course.draining))
            add(LEAVING, max(at, course.draining), None)
        else:
            add(IDLE, at, None)
        return bars

    def _row_to_dict(self, row: Row) -> dict[str, Any]:
        course = self.history.courses[row.name]

        def since(time: float | None) -> float | None:
            return None if time is None else round(time - self.began, 6)

        return {
            "name": row.name,
            "state": row.state,
            "request_id": course.request_id,
            "log_stream": course.log_stream,
            "requested": since(course.requested),
            "invoked": since(course.invoked),
            "connected": since(course.connected),
            "ready": since(course.ready),
            "draining": since(course.draining),
            "ended": since(course.ended),
            "throttles": course.throttles,
            "dollars": course.dollars,
            "reason": course.reason or None,
            "error": course.error,
            "bars": [
                {
                    "kind": bar.kind,
                    "start": round(bar.start, 6),
                    "end": round(bar.end, 6),
                    "key": bar.key,
                    "number": bar.number,
                }
                for bar in row.bars
            ],
        }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values; `share` in percent, of at least one value."""
    rank = max(1, math.ceil(share / 100 * len(ordered)))
    return ordered[rank - 1]


def summary(ordered: Sequence[float]) -> dict[str, float]:
    """Count, total and percentiles of sorted values."""
    found: dict[str, float] = {"count": len(ordered), "total": round(sum(ordered), 6)}
    if ordered:
        found |= {f"p{share}": round(percentile(ordered, share), 6) for share in PERCENTILES}
    return found


def _order(course: Course) -> tuple[float, str]:
    first = course.requested if course.requested is not None else course.ended
    return (first if first is not None else 0.0, course.name)


def _table(title: str, rows: dict[str, list[float]]) -> list[str]:
    rows = {name: values for name, values in rows.items() if values}
    if not rows:
        return []
    width = max(len(title), *map(len, rows))
    heads = "".join(f"{f'p{share}' if share < 100 else 'max':>9}" for share in PERCENTILES)
    lines = [f"{title:<{width}}{'count':>9}{'total':>11}{heads}"]
    for name, values in rows.items():
        cells = "".join(f"{percentile(values, share):9.3f}" for share in PERCENTILES)
        lines.append(f"{name:<{width}}{len(values):>9}{sum(values):>11.1f}{cells}")
    return lines
