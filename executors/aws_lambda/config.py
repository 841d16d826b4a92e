"""Defaults of the Lambda cluster from Dask's configuration, below the keywords that a caller gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.config
import yaml

from executors.aws_lambda import option_values
from executors.dask_config import unless_configured, users_configuration

SECTION = "excamera.lambda"

with (Path(__file__).parent / "lambda.yaml").open() as _file:
    _DEFAULTS = yaml.safe_load(_file)
dask.config.update_defaults(_DEFAULTS)

SCHEDULER_CONFIG: dict[str, Any] = {
    "distributed.scheduler.bandwidth": 10_000_000,
    "distributed.admin.log-length": 1000,
}
"""What Dask's scheduler is told where the user's configuration says nothing.

The low bandwidth keeps the tasks of a chunk where its pictures are."""

WORKER_CONFIG: dict[str, Any] = {
    "distributed.admin.log-length": 1000,
    "distributed.admin.low-level-log-length": 0,
    "distributed.worker.profile.enabled": False,
    "distributed.worker.http.routes": [],
}
"""The same of workers, which live for minutes and are paid for."""

LINKS = "distributed.comm.rdv"
"""What links are told; a worker needs it before it can be told anything else."""


def workers_config() -> dict[str, Any]:
    """Dask's configuration for workers as it is now, nested: the user's, and ours below it."""
    ours: dict[str, Any] = {}
    dask.config.set(unless_configured(WORKER_CONFIG), config=ours)
    return dask.config.merge(ours, users_configuration())


def links_config() -> dict[str, Any]:
    """The part of it that concerns links, by full names."""
    return {LINKS: dask.config.get(LINKS)} if dask.config.get(LINKS, None) else {}


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
