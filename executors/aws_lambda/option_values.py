"""What the options of a Lambda cluster may be; anything else is refused before something is started.

All that is wrong is a ValueError of one line.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

Check = Callable[[str, Any], Any]
"""(name, value) -> the value to use; raises ValueError."""

PLACED = {"protocol", "host", "port", "security"}
"""Keywords of the scheduler that the cluster gives itself."""
NAMED = {"scheduler_ip", "scheduler_port", "name", "protocol", "security", "local_directory"}
"""The same of a worker."""


def seconds(name: str, value: Any) -> float:
    """A number, or such as 90s or 5m."""
    from dask.utils import parse_timedelta

    try:
        found = float(parse_timedelta(value))
    except (ValueError, LookupError, TypeError, AttributeError):
        found = math.nan
    if not 0 <= found < math.inf:
        raise ValueError(f"{name} {value!r} is no time: use seconds, or such as 90s or 5m")
    return found


def some_seconds(name: str, value: Any) -> float:
    """A time above zero."""
    found = seconds(name, value)
    if not found:
        raise ValueError(f"{name} must be positive, not {value!r}")
    return found


def whole(least: int, most: int, unit: str = "") -> Check:
    """A whole number within bounds."""

    def check(name: str, value: Any) -> int:
        found = _number(value)
        if not (least <= found <= most and found == int(found)):
            raise ValueError(
                f"{name} {value!r} is not possible: use a whole number from {least} to {most}{unit}"
            )
        return int(found)

    return check


def dollars(name: str, value: Any) -> float:
    """An amount of money."""
    found = _number(value)
    if not found > 0:
        raise ValueError(f"{name} must be a number of dollars above 0, not {value!r}")
    return found


def factor(name: str, value: Any) -> float:
    """How many times as much."""
    found = _number(value)
    if not found >= 1:
        raise ValueError(f"{name} must be a number of 1 or more, not {value!r}")
    return found


def cluster_name(_: str, value: str) -> str:
    """It is part of the names of workers, and of a folder's."""
    if value and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", value):
        raise ValueError(
            f"a cluster cannot have the name {value[:80]!r}: use up to 80 letters (a-z), digits and . _ -"
        )
    return value


def as_it_is(_: str, value: Any) -> Any:
    """Whatever it is; whoever uses it knows."""
    return value


def one_of(*choices: str) -> Check:
    """One of some words."""

    def check(name: str, value: Any) -> Any:
        if value not in choices:
            raise ValueError(f"{name} {value!r} is not possible: use {' or '.join(choices)}")
        return value

    return check


def texts(name: str, value: Any) -> dict[str, str]:
    """Names with texts; numbers become texts."""
    for key, text in mapping(name, value).items():
        if not isinstance(text, (str, int, float)):
            raise ValueError(f"{name} {key!r} is {text!r}: use text")
    return {str(key): str(text) for key, text in value.items()}


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Names with values of any kind."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} {value!r} is not possible: use names with values")
    return dict(value)


def keywords(find: Callable[[], Collection[str]]) -> Check:
    """Names with values, where the names are some that `find` knows."""

    def check(name: str, value: Any) -> dict[str, Any]:
        found = mapping(name, value)
        check_names(name, found, find())
        return found

    return check


def check_names(where: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises ValueError for the first of `given` that is unknown."""
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f": did you mean {close[0]}?" if close else ""
            raise ValueError(f"{where} has no {name!r}{hint}")


def _number(value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return math.nan
    return found if math.isfinite(found) else math.nan


def of_fleet() -> set[str]:
    """What `fleet_options` may name; the next three the same of the local Lambda, Dask's scheduler and workers."""
    from executors.aws_lambda.fleet import FleetSettings

    return {field.name for field in dataclasses.fields(FleetSettings)}


def of_local_lambda() -> set[str]:
    from executors.local_lambda.quotas import Settings

    return {"directory", "port", *(field.name for field in dataclasses.fields(Settings))}


def of_scheduler() -> set[str]:
    from distributed import Scheduler

    return _parameters(Scheduler) - PLACED


def of_worker() -> set[str]:
    from distributed import Worker

    return _parameters(Worker) - NAMED


def _parameters(kind: type) -> set[str]:
    """Keywords of a class whose constructor hands on what it does not know to those of its bases."""
    makers = (vars(one).get("__init__") for one in kind.__mro__)
    signatures = [inspect.signature(make) for make in makers if inspect.isfunction(make)]
    return {name for one in signatures for name in one.parameters} - {"self", "kwargs"}
