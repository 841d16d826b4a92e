"""What there is to see of a fleet at one moment: values, and a table of them for a terminal by rich or a notebook as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from executors.aws_lambda.fleet.books import Books
from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.states import LIVE, State

ROWS = 40
"""Invocations shown; those that work longest on their task come first, then what went wrong."""

COLUMNS = ("worker", "state", "for", "stage", "piece", "memory", "cost", "")
COLOURS = {
    State.READY: "green",
    State.RUNNING: "blue",
    State.DRAINING: "magenta",
    State.THROTTLED: "yellow",
    State.LOST: "red",
    State.EXPIRED: "red",
    State.FAILED: "red",
    State.DUPLICATE: "yellow",
}

_ORDER = {
    state: place
    for place, state in enumerate(
        (
            State.FAILED,
            State.RUNNING,
            State.DRAINING,
            State.CONNECTED,
            State.THROTTLED,
            State.READY,
            State.INVOKED,
            State.REQUESTED,
            State.LOST,
            State.EXPIRED,
            State.DUPLICATE,
            State.FINISHED,
        )
    )
}


@dataclass(frozen=True, slots=True)
class InvocationView:
    """One invocation: `seconds` in its state, `rss` in bytes, `cost` in dollars until now."""

    name: str
    state: str
    seconds: float
    stage: str | None = None
    key: str | None = None
    number: int | None = None
    waiting: bool = False
    rss: int | None = None
    cost: float = 0.0
    address: str | None = None
    log_stream: str | None = None
    request_id: str | None = None
    remaining: float | None = None
    reason: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A fleet at the time `at`: what is asked for, what there is, what it costs."""

    at: float
    asked: int
    target: int
    at_work: int
    counts: Mapping[str, int]
    spent: float
    budget: float | None
    dollars_per_hour: float
    stopping: str | None
    invocations: tuple[InvocationView, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def _repr_html_(self) -> str:
        return to_html(self)

    def __rich__(self) -> Any:
        return to_rich(self)


def take_snapshot(books: Books) -> Snapshot:
    """The live invocations and the latest that ended, and the counts of all."""
    counts = dict.fromkeys(map(str, State), 0)
    for one in books.roster:
        if one.state in LIVE:
            counts[one.state] += 1
    for state, count in books.roster.ended.items():
        counts[state] = count
    return Snapshot(
        at=books.now,
        asked=books.asked,
        target=books.target,
        at_work=books.roster.at_work,
        counts=counts,
        spent=books.spent,
        budget=books.settings.budget,
        dollars_per_hour=3600 * books.ledger.rate * books.ledger.running,
        stopping=books.stopping,
        invocations=tuple(_view(one, books) for one in books.roster),
    )


def _view(one: Invocation, books: Books) -> InvocationView:
    task = next(iter(one.tasks.values()), None)
    return InvocationView(
        name=one.name,
        state=str(one.state),
        seconds=max(0.0, books.now - (task.since if task else one.since)),
        stage=task.stage if task else None,
        key=task.key if task else None,
        number=task.number if task else None,
        waiting=task.waiting if task else False,
        rss=one.rss,
        cost=books.cost_of(one),
        address=one.address,
        log_stream=one.log_stream,
        request_id=one.request_id,
        remaining=None if one.deadline is None else one.deadline - books.now,
        reason=one.reason,
        error=one.error,
    )


def dollars(amount: float) -> str:
    """Such as $1.73, or $0.0042: a sum of less than ten cents with the digits that tell it from nothing."""
    return f"${amount:.4f}" if amount < 0.1 else f"${amount:.2f}"


def headline(shot: Snapshot) -> str:
    """One line: workers of those wanted, states, money."""
    states = ", ".join(f"{count} {state}" for state, count in shot.counts.items() if count)
    money = dollars(shot.spent)
    if shot.budget is not None:
        money += f" of ${shot.budget:g}"
    line = f"{shot.at_work} of {shot.target} workers ({states or 'none yet'}); {money}"
    if shot.dollars_per_hour:
        line += f", {dollars(shot.dollars_per_hour)} an hour"
    return f"{line}; stopping: {shot.stopping}" if shot.stopping else line


def rows(shot: Snapshot, limit: int = ROWS) -> tuple[list[tuple[str, ...]], int]:
    """The cells of the most telling invocations, and how many more there are."""
    ranked = sorted(
        shot.invocations, key=lambda one: (_ORDER[State(one.state)], -one.seconds, one.name)
    )
    return [_cells(one) for one in ranked[:limit]], max(0, len(ranked) - limit)


def _cells(one: InvocationView) -> tuple[str, ...]:
    live = State(one.state) in LIVE
    stage = one.stage or one.key or ""
    return (
        one.name,
        one.state,
        span(one.seconds) if live else "",
        f"waits: {stage}" if one.waiting else stage,
        "" if one.number is None else str(one.number),
        "" if one.rss is None else f"{one.rss / 2**20:.0f} MiB",
        f"${one.cost:.5f}" if one.cost else "",
        one.error or one.reason,
    )


def span(seconds: float) -> str:
    """Seconds for people: 4.2 s, 3:07, 1:02:03."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def to_rich(shot: Snapshot, limit: int = ROWS) -> Any:
    """A rich table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(headline(shot)), title_justify="left", box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in ("for", "memory", "cost") else "left")
    cells, more = rows(shot, limit)
    for row in cells:
        colour = COLOURS.get(State(row[1]), "")
        table.add_row(*(Text(cell, style=colour if at == 1 else "") for at, cell in enumerate(row)))
    if more:
        table.caption = Text(f"and {more} more")
    return table


def to_html(shot: Snapshot, limit: int = ROWS) -> str:
    """The same for a notebook."""
    cells, more = rows(shot, limit)
    body = "".join(f"<tr>{_joined('td', row)}</tr>" for row in cells)
    rest = f"<p>and {more} more</p>" if more else ""
    return (
        f"<div><p>{escape(headline(shot))}</p><table><thead><tr>{_joined('th', COLUMNS)}</tr></thead>"
        f"<tbody>{body}</tbody></table>{rest}</div>"
    )


def _joined(tag: str, cells: Iterable[str]) -> str:
    return "".join(f'<{tag} style="text-align: left">{escape(cell)}</{tag}>' for cell in cells)
