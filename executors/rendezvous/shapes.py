"""Shapes of what is in messages: each is a test that says whether a value has it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Shape = Callable[[Any], bool]
Fields = Mapping[str, Shape]
"""What a message may hold, by name."""

LARGEST = 1e18
"""Beyond any time in seconds and any memory in bytes."""


def misfit(message: Mapping[str, Any], fields: Fields) -> str | None:
    """The first name in a message that it may not have, or whose value has not the shape; None where all is well."""
    return next(
        (name for name, value in message.items() if name not in fields or not fields[name](value)),
        None,
    )


def anything(value: Any) -> bool:
    return True


def text(value: Any) -> bool:
    return isinstance(value, str)


def number(value: Any) -> bool:
    """A finite one that means something in seconds or bytes."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) <= LARGEST
    )


def amount(value: Any) -> bool:
    return number(value) and value >= 0


def positive(value: Any) -> bool:
    return number(value) and value > 0


def count(value: Any) -> bool:
    return isinstance(value, int) and amount(value)


def key(value: Any) -> bool:
    """What Dask takes for the key of a task."""
    if isinstance(value, tuple):
        return all(map(key, value))
    return isinstance(value, (str, bytes, int, float))


def maybe(shape: Shape) -> Shape:
    return lambda value: value is None or shape(value)


def each(shape: Shape) -> Shape:
    return lambda value: isinstance(value, (list, tuple)) and all(map(shape, value))


def pairs(names: Shape, values: Shape) -> Shape:
    return lambda value: (
        isinstance(value, dict) and all(map(names, value)) and all(map(values, value.values()))
    )


def record(**fields: Shape) -> Shape:
    """A dictionary with these among its names."""
    return lambda value: (
        isinstance(value, dict)
        and all(name in value and shape(value[name]) for name, shape in fields.items())
    )


def share(value: Any) -> bool:
    """A sum, and of how many; none of them negative, and of one at least."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and amount(value[0])
        and positive(value[1])
    )
