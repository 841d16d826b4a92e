"""A snapshot as a table: for a terminal by rich, for a notebook as HTML."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from executors.aws_lambda.fleet.snapshot import InvocationView, Snapshot
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
