"""Values that callers give: ValueError, which names them, for what they cannot be."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np


def check_flag(name: str, value: Any) -> None:
    """Numbers are none: a header has one bit, and a state that says 2 is not the one that a decoder has."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is True or False, not {value!r}")


def checked_whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number within a range, of whatever type."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = least - 1
    if not least <= whole <= most:
        raise ValueError(f"{name} is a whole number from {least} to {most}, not {value!r}")
    return whole


def check_number(name: str, value: Any, least: float, most: float) -> None:
    """A number within a range; no NaN."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or not least <= value <= most:
        raise ValueError(f"{name} is a number from {least:g} to {most:g}, not {value!r}")
