"""What of an event goes into its line of the event log."""

from __future__ import annotations

import dataclasses
from typing import Any

from executors.aws_lambda.fleet import events as ev

_ELSEWHERE = ("at", "clock", "name", "request_id", "repeatable")
_FIELDS: dict[type[ev.Event], tuple[str, ...]] = {}


def detail_of(event: ev.InvocationEvent) -> dict[str, Any]:
    """The fields of an event that say something, but those that every line has."""
    kind = type(event)
    fields = _FIELDS.get(kind)
    if fields is None:
        names = (field.name for field in dataclasses.fields(event))
        fields = _FIELDS[kind] = tuple(name for name in names if name not in _ELSEWHERE)
    found = {}
    for name in fields:
        value = getattr(event, name)
        if value is not None and value != "":
            found[name] = value
    return found
