"""What became of each invocation, told from the lines of an event log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from executors.aws_lambda.fleet.events import COORDINATOR
from executors.aws_lambda.fleet.states import LIVE, TERMINAL, State


class Line(Protocol):
    """A line of an event log: `LogEntry` and `Record` are both."""

    @property
    def at(self) -> float: ...
    @property
    def clock(self) -> str: ...
    @property
    def seen(self) -> float: ...
    @property
    def invocation(self) -> str | None: ...
    @property
    def origin(self) -> str | None: ...
    @property
    def to(self) -> str | None: ...
    @property
    def event(self) -> str: ...
    @property
    def detail(self) -> Any: ...
    @property
    def request_id(self) -> str | None: ...


@dataclass
class Span:
    """A time in which a worker did one thing; `end` is None while it still does."""

    stage: str
    start: float
    end: float | None = None
    key: str | None = None
    number: int | None = None
    waiting: bool = False


@dataclass
class Course:
    """The course of one invocation; times are the coordinator's, None where it did not come to that."""

    name: str
    state: State = State.REQUESTED
    requested: float | None = None
    invoked: float | None = None
    connected: float | None = None
    ready: float | None = None
    draining: float | None = None
    ended: float | None = None
    started: float | None = None
    remaining: float | None = None
    throttles: int = 0
    dollars: float | None = None
    request_id: str | None = None
    log_stream: str | None = None
    reason: str = ""
    error: str | None = None
    log_tail: str = ""
    spans: list[Span] = field(default_factory=list)
    open: dict[str | None, Span] = field(default_factory=dict)

    @property
    def is_live(self) -> bool:
        """True if it may still run, as far as the log tells."""
        return self.state in LIVE


class History:
    """Everything that a log tells, line by line."""

    def __init__(self) -> None:
        self.courses: dict[str, Course] = {}
        self.began: float | None = None
        self.latest: float | None = None
        self.target = 0
        self.dollars = 0.0
        self.running = 0
        self.stopped: str | None = None
        self.notices: list[str] = []

    def add(self, line: Line, at: float | None = None) -> None:
        """One more line; `at`: its time by the coordinator's clock, if that is known better than by `seen`."""
        at = line.seen if at is None else at
        self.began = at if self.began is None else min(self.began, at)
        self.latest = at if self.latest is None else max(self.latest, at)
        if line.invocation is None:
            self._add_fleet_line(line)
        else:
            course = self.courses.get(line.invocation)
            if course is None:
                course = self.courses[line.invocation] = Course(line.invocation)
            self._add_step(course, line, at)

    def counts(self) -> dict[str, int]:
        """Invocations by state, states without one left out."""
        found: dict[str, int] = {}
        for state in State:
            count = sum(course.state is state for course in self.courses.values())
            if count:
                found[str(state)] = count
        return found

    def live(self) -> list[Course]:
        """Invocations that had not ended when the log ends."""
        return [course for course in self.courses.values() if course.is_live]

    def _add_fleet_line(self, line: Line) -> None:
        detail = line.detail
        match line.event:
            case "TargetChanged":
                self.target = int(detail.get("workers", self.target))
            case "Spend":
                self.dollars = float(detail["dollars"])
                self.running = int(detail["running"])
            case "Stop":
                self.stopped = str(detail.get("reason", "stopped"))
                self.dollars = float(detail.get("dollars", self.dollars))
            case "Notice":
                self.notices.append(str(detail.get("text", "")))

    def _add_step(self, course: Course, line: Line, at: float) -> None:
        detail = line.detail
        course.request_id = line.request_id or course.request_id
        if line.event == "Connected":
            course.remaining = detail.get("remaining", course.remaining)
            course.log_stream = detail.get("log_stream", course.log_stream)
        if line.to is None:
            return
        course.state = State(line.to)
        self._note_time(course, line, at)
        self._note_span(course, line, at)
        if course.state in TERMINAL:
            course.reason = str(detail.get("reason", course.reason))
            course.error = detail.get("error", course.error)
            course.log_tail = str(detail.get("log_tail", course.log_tail))
            course.started = detail.get("started", course.started)
            if "dollars" in detail:
                course.dollars = float(detail["dollars"])

    def _note_time(self, course: Course, line: Line, at: float) -> None:
        match course.state:
            case State.REQUESTED if line.origin is None:
                course.requested = at
            case State.THROTTLED if line.event == "InvokeThrottled":
                course.throttles += 1
            case State.INVOKED:
                course.invoked = at
            case State.CONNECTED if course.connected is None:
                course.connected, course.ended = at, None
            case State.READY | State.RUNNING if course.ready is None:
                course.ready = at
            case State.DRAINING if course.draining is None:
                course.draining = at
            case state if state in TERMINAL and course.ended is None:
                course.ended = at

    def _note_span(self, course: Course, line: Line, at: float) -> None:
        detail = line.detail
        begins = line.event in ("Running", "Waiting") and course.state in _BUSY
        alone = begins and "beside" not in detail
        if alone or line.event == "Idle" or course.state in TERMINAL:
            for span in course.open.values():
                span.end = max(span.start, at)
            course.open.clear()
        elif begins or line.event == "Done":
            ended = course.open.pop(detail.get("key"), None)
            if ended is not None:
                ended.end = max(ended.start, at)
        if begins:
            key, number = detail.get("key"), detail.get("number")
            stage = str(detail.get("stage") or key or "task")
            span = Span(stage, at, None, key, number, line.event == "Waiting")
            course.spans.append(span)
            course.open[key] = span


_BUSY = (State.RUNNING, State.DRAINING)


def read_history(lines: Iterable[Line]) -> History:
    """The history that a whole log tells, with the workers' clocks set by the coordinator's.

    A message cannot arrive before it was sent, so the least difference between a worker's clock and the coordinator's,
    over all its messages, is how far the two clocks are apart, but for the shortest time that a message took.
    """
    known = list(lines)
    offsets: dict[str, float] = {}
    for line in known:
        if line.clock != COORDINATOR:
            offset = line.seen - line.at
            offsets[line.clock] = min(offset, offsets.get(line.clock, offset))
    history = History()
    for line in known:
        own = line.clock == COORDINATOR
        history.add(line, line.seen if own else min(line.seen, line.at + offsets[line.clock]))
    return history
