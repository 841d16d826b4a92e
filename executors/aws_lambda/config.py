"""Defaults of the Lambda cluster from Dask's configuration, below the keywords that a caller gives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import dask.config
import yaml
from dask.utils import parse_timedelta

from executors.aws_lambda.errors import InvalidOption

SECTION = "excamera.lambda"
SECONDS = frozenset({"idle-timeout", "margin", "start-timeout"})

with (Path(__file__).parent / "lambda.yaml").open() as _file:
    dask.config.update_defaults(yaml.safe_load(_file))

DASK_CONFIG: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": 10,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.bandwidth": 10_000_000,
    "distributed.scheduler.worker-ttl": "5 minutes",
    "distributed.admin.log-length": 1000,
    "distributed.admin.low-level-log-length": 0,
    "distributed.comm.timeouts.connect": "30s",
    "distributed.worker.multiprocessing-method": "spawn",
    "distributed.worker.profile.enabled": False,
    "distributed.worker.http.routes": [],
}
"""What Dask must be told of workers that live for minutes, see each other through a relay, and may be lost at any time.

The low bandwidth keeps the tasks of a chunk where its pictures are."""


def setting(name: str, given: Any = None) -> Any:
    """What was given, else the configured value; times as seconds. Raises InvalidOption."""
    value = dask.config.get(f"{SECTION}.{name}") if given is None else given
    return _seconds(name, value) if name in SECONDS and value is not None else value


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = float(parse_timedelta(value))
    except (ValueError, LookupError, TypeError, AttributeError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InvalidOption(f"{name} {value!r} is no time: use seconds, or such as 90s or 5m")
    return seconds


WORKER_CONFIG: dict[str, Any] = {
    name: value
    for name, value in DASK_CONFIG.items()
    if not name.startswith("distributed.scheduler")
}
"""What a worker is told of it."""
