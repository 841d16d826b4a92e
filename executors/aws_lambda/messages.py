"""What workers tell on their control streams, as the fleet's events; whatever else comes is refused.

A worker runs what its users gave it, so nothing that it says is taken on trust: types, lengths and ranges are checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from executors.aws_lambda.errors import LambdaError
from executors.aws_lambda.fleet import events
from executors.rendezvous.protocol.texts import shown

Told = Mapping[str, Any]
LONGEST_NAME = 1_000
LONGEST_TEXT = 200_000
LARGEST = 1e15
"""Beyond any time in seconds and any memory in bytes."""


class InvalidMessage(LambdaError):
    """A worker said what none of ours would say."""


def key_text(key: Any) -> str:
    """What stands for a task's key in events: users' keys may be long."""
    return str(key)[:LONGEST_NAME]


def read_connected(told: Any, name: str) -> events.Connected:
    """The first message of the worker `name`. Raises InvalidMessage."""
    if not isinstance(told, dict) or told.get("op") != "connected":
        raise InvalidMessage("a control stream that does not begin with who it is")
    if told.get("invocation") != name:
        raise InvalidMessage(f"a control stream of {_short(told.get('invocation'))}")
    cold = told.get("cold")
    if cold is not None and not isinstance(cold, bool):
        raise InvalidMessage("cold is no truth value")
    return events.Connected(
        at=_number(told, "clock"),
        clock=name,
        name=name,
        request_id=_text(told, "request_id", LONGEST_NAME),
        log_stream=_text(told, "log_stream", LONGEST_NAME),
        cold=cold,
        memory=int(_number(told, "memory")) >> 20,
        remaining=_number(told, "remaining"),
    )


def read_versions(told: Told) -> dict[str, str]:
    """The packages that a worker says it has; none where it says nothing of use."""
    found = told.get("versions")
    if not isinstance(found, dict):
        return {}
    return {
        shown(str(name)[:LONGEST_NAME]): shown(str(version)[:LONGEST_NAME])
        for name, version in found.items()
    }


def read_message(told: Any, name: str, at: float) -> events.Event:
    """Any later message of the worker `name`, heard at `at`. Raises InvalidMessage."""
    op = told.get("op") if isinstance(told, dict) else None
    read = _READERS.get(op) if isinstance(op, str) else None
    if read is None:
        raise InvalidMessage(f"an unknown message: {_short(op)}")
    return read(told, name, at)


def _text(told: Told, field: str, longest: int) -> str:
    value = told.get(field)
    if not isinstance(value, str) or len(value) > longest:
        raise InvalidMessage(f"{field} is {_short(value)}")
    return shown(value)


def _reason(told: Told) -> str:
    return _text(told, "reason", LONGEST_TEXT) if "reason" in told else ""


def _number(told: Told, field: str) -> float:
    value = told.get(field)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidMessage(f"{field} is {_short(value)}")
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise InvalidMessage(f"{field} is {_short(value)}")
    return value


def _task(told: Told) -> dict[str, Any]:
    repeatable = told.get("repeatable", False)
    if not isinstance(repeatable, bool):
        raise InvalidMessage("repeatable is no truth value")
    return {**_piece(told), "repeatable": repeatable}


def _piece(told: Told) -> dict[str, Any]:
    number = told.get("number")
    return {
        "key": key_text(_text(told, "key", LONGEST_TEXT)),
        "stage": _text(told, "stage", LONGEST_TEXT)[:LONGEST_NAME],
        "number": None if number is None else int(_number(told, "number")),
    }


def _short(value: Any) -> str:
    text = (
        repr(value) if isinstance(value, (str, int, float, bool, type(None))) else "no such thing"
    )
    return text if len(text) < 80 else f"{text[:80]}..."


_READERS: dict[str, Callable[[Told, str, float], events.Event]] = {
    "ready": lambda told, name, at: events.Ready(
        at=at, name=name, address=_text(told, "worker_address", LONGEST_NAME)
    ),
    "running": lambda told, name, at: events.Running(at=at, name=name, **_task(told)),
    "waiting": lambda told, name, at: events.Waiting(at=at, name=name, **_piece(told)),
    "idle": lambda told, name, at: events.Idle(at=at, name=name),
    "heartbeat": lambda told, name, at: events.Heartbeat(
        at=at, name=name, rss=int(_number(told, "rss"))
    ),
    "draining": lambda told, name, at: events.Draining(at=at, name=name, reason=_reason(told)),
    "finished": lambda told, name, at: events.Finished(at=at, name=name, reason=_reason(told)),
    "failed": lambda told, name, at: events.Failed(
        at=at,
        name=name,
        error=_text(told, "error", LONGEST_TEXT),
        log_tail=_text(told, "log_tail", LONGEST_TEXT) if "log_tail" in told else "",
    ),
}
