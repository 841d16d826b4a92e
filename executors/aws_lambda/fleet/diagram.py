"""The transition table as a Mermaid state diagram."""

from __future__ import annotations

from executors.aws_lambda.fleet.states import TERMINAL, State
from executors.aws_lambda.fleet.transitions import EVENTS, TABLE


def mermaid() -> str:
    """The lines of a `stateDiagram-v2`: an arrow for each pair of states, labelled with the events that may lead there."""
    labels: dict[tuple[State, State], list[str]] = {}
    for origin in State:
        for event in EVENTS:
            for to in TABLE[origin, event].to:
                labels.setdefault((origin, to), []).append(event.__name__)
    lines = ["stateDiagram-v2", "    [*] --> requested"]
    for (origin, to), events in labels.items():
        lines.append(f"    {origin} --> {to} : {', '.join(events)}")
    lines.append("    [*] --> duplicate : Refused, Connected")
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(lines) + "\n"
