"""The transition table as a Mermaid state diagram; `python tests/test_fleet_table.py` writes it anew into the documents."""

from __future__ import annotations

import re
from collections.abc import Iterator

from executors.aws_lambda.fleet.states import TERMINAL, State
from executors.aws_lambda.fleet.transitions import EVENTS, TABLE, Kind

GROUPS: dict[str, tuple[State, ...]] = {
    "unseen": (State.REQUESTED, State.THROTTLED, State.INVOKED),
    "at_work": (State.READY, State.RUNNING),
}
"""States that are drawn in one box; what all of them do alike is drawn once, from the box."""

_FENCE = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)


def mermaid() -> str:
    """A `stateDiagram-v2`: an arrow for each change of state, labelled with the events that may bring it about."""
    lines = [
        "stateDiagram-v2",
        "    [*] --> requested",
        "    [*] --> duplicate : Refused, Connected",
    ]
    for name, members in GROUPS.items():
        lines += [
            f"    state {name} {{",
            *(f"        {one}" for one in members),
            *_arrows(members, " " * 8),
            "    }",
        ]
    labels: dict[tuple[str, State], list[str]] = {}
    for origin, to, event in _outer():
        names = labels.setdefault((origin, to), [])
        if event.__name__ not in names:
            names.append(event.__name__)
    lines += [
        f"    {origin} --> {to} : {', '.join(names)}" for (origin, to), names in labels.items()
    ]
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(lines) + "\n"


def _changes() -> Iterator[tuple[State, State, Kind]]:
    for origin in State:
        for event in EVENTS:
            for to in TABLE[origin, event].to:
                yield origin, to, event


def _arrows(members: tuple[State, ...], indent: str) -> list[str]:
    """Arrows within a box."""
    labels: dict[tuple[State, State], list[str]] = {}
    for origin, to, event in _changes():
        if origin in members and to in members:
            labels.setdefault((origin, to), []).append(event.__name__)
    return [
        f"{indent}{origin} --> {to} : {', '.join(names)}" for (origin, to), names in labels.items()
    ]


def _outer() -> Iterator[tuple[str, State, Kind]]:
    """Changes that leave a box or were never in one."""
    for origin, to, event in _changes():
        group = next((name for name, members in GROUPS.items() if origin in members), None)
        if group is None:
            yield origin, to, event
        elif to not in GROUPS[group]:
            alike = all(to in TABLE[member, event].to for member in GROUPS[group])
            yield (group if alike else origin), to, event


def with_diagram(page: str) -> str:
    """A Markdown page with the diagram put into its ```mermaid block."""
    return _FENCE.sub(lambda _: mermaid(), page, count=1)
