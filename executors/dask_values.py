"""The values of Dask's configuration: each must be of the kind that Dask's own default of it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import dask.config
from dask.utils import parse_bytes, parse_timedelta

from executors.base import InvalidExecutor

ROLES = ("scheduler", "worker", "nanny", "client")
"""Parts of Dask that have a section of their own."""
TLS = "distributed.comm.tls"
TLS_FILES = ("ca-file", *(f"{role}.{file}" for role in ROLES if role != "nanny" for file in ("cert", "key")))  # fmt: skip
EXAMPLES = {
    "temporary-directory": Path("folder"),
    **{f"{TLS}.{name}": Path("file") for name in TLS_FILES},
    "distributed.scheduler.idle-timeout": "1h",
    "distributed.scheduler.no-workers-timeout": "1h",
    "distributed.worker.lifetime.duration": "1h",
    "distributed.worker.memory.max-spill": "1 GiB",
    "excamera.workers-timeout": "5 minutes",
}
"""Values of options that are nothing by default, or may be more than their default is."""
FREE = (
    "distributed.nanny.environ",
    "distributed.nanny.pre-spawn-environ",
    *(f"distributed.{role}.preload-argv" for role in ROLES),
)
"""What may be of other kinds than its default."""


class Kind(NamedTuple):
    """What values an option takes, and how that is said."""

    accepts: Callable[[Any], bool]
    wrong: str
    cure: str


def configured() -> dict[str, Any]:
    """All of Dask's configuration, each name spelt as in Dask's defaults: Dask itself keeps those of variables with
    underscores."""
    return dask.config.merge(*dask.config.defaults, dask.config.config)


def import_distributed() -> None:
    """Raises InvalidExecutor where a value keeps Dask's cluster from being imported, which reads some then."""
    try:
        import distributed  # noqa: F401
    except Exception:
        require_values(*ROLES)
        raise


def require_values(*roles: str) -> None:
    """Raises InvalidExecutor, in one line, for a value that no Dask could read; roles: the parts that will run."""
    examples = {"distributed": dask.config.merge(*dask.config.defaults).get("distributed", {})}
    dask.config.set(EXAMPLES, config=examples)
    idle = {f"distributed.{role}" for role in ROLES if role not in roles}
    _require_kinds("", examples, configured(), {*FREE, *idle})


def require_value(name: str, value: Any) -> None:
    """The same of one option of EXAMPLES."""
    _require_kinds(name, EXAMPLES[name], value, set())


def refusal(name: str, value: Any, why: str, cure: str) -> InvalidExecutor:
    """What is said of a value with which nothing could work."""
    return InvalidExecutor(f"Dask's configuration {name} is {value!r}, {why}: {cure}")


def _require_kinds(name: str, example: Any, value: Any, free: set[str]) -> None:
    if value is None or name in free:
        return
    kind = _kind_of(example)
    if kind is not None and not kind.accepts(value):
        raise refusal(name, value, kind.wrong, kind.cure)
    if isinstance(example, Mapping) and isinstance(value, Mapping):
        for key in example.keys() & value.keys():
            _require_kinds(f"{name}.{key}" if name else key, example[key], value[key], free)


def _kind_of(example: Any) -> Kind | None:
    """None: of all kinds."""
    if isinstance(example, str):
        return next((kind for kind in (TIME, SIZE) if kind.accepts(example)), None)
    if example is None or isinstance(example, bool):  # whatever is not empty is true
        return None
    if isinstance(example, (int, float)):
        return NUMBER
    if isinstance(example, Path):
        return PATH
    return NAMES if isinstance(example, Mapping) else LIST


def _reads(*readers: Callable[[Any], Any]) -> Callable[[Any], bool]:
    def accepts(value: Any) -> bool:
        return any(_can(reader, value) for reader in readers)

    return accepts


def _can(reader: Callable[[Any], Any], value: Any) -> bool:
    try:
        reader(value)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        return False
    return True


TIME = Kind(_reads(parse_timedelta), "which is no time", "use seconds, or such as 90s or 5m")
SIZE = Kind(_reads(parse_bytes), "which is no size", "use bytes, or such as 64 MiB")
NUMBER = Kind(_reads(float, parse_bytes, parse_timedelta), "which is no number", "use one")
LIST = Kind(
    lambda value: isinstance(value, Iterable), "which is no list", "use one, such as ['name']"
)
NAMES = Kind(
    lambda value: not value or isinstance(value, Mapping),
    "which is one value",
    "use names with values",
)
PATH = Kind(
    lambda value: not value or isinstance(value, (str, os.PathLike)), "which is no path", "use one"
)
