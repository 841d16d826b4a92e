"""Defaults of the Lambda cluster from Dask's configuration, below the keywords that a caller gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.config
import yaml

from executors.aws_lambda import option_values

SECTION = "excamera.lambda"

with (Path(__file__).parent / "lambda.yaml").open() as _file:
    _DEFAULTS = yaml.safe_load(_file)
dask.config.update_defaults(_DEFAULTS)

DASK_CONFIG: dict[str, Any] = {
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


CONFIGURED = "as configured"
"""Stands for a keyword that was not given, where None has a meaning of its own."""


def setting(name: str, given: Any = None) -> Any:
    """What was given, else the configured value, None where neither is; checked, times as seconds. Raises InvalidOption."""
    value = _configured(name) if given is None else given
    return value if value is None else option_values.CHECKS.get(name, _as_it_is)(name, value)


def _configured(name: str) -> Any:
    """A misspelt name is refused, for a budget that nobody reads is none."""
    section = dask.config.get(SECTION)
    known = _DEFAULTS["excamera"]["lambda"]
    option_values.check_names(SECTION, (key.replace("_", "-") for key in section), known)
    return dask.config.get(f"{SECTION}.{name}")


def _as_it_is(name: str, value: Any) -> Any:
    return value


WORKER_CONFIG: dict[str, Any] = {
    name: value
    for name, value in DASK_CONFIG.items()
    if not name.startswith("distributed.scheduler")
}
"""What a worker is told of it."""
