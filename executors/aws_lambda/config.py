"""Dask's configuration for Lambda clusters: their options below the keywords that a caller gives, and what Dask is told.

`~/.config/dask/*.yaml`, `DASK_EXCAMERA__LAMBDA__REGION=...` and `dask.config.set({"excamera.lambda.region": ...})` set them.
"""

from __future__ import annotations

from typing import Any

import dask.config

from executors.aws_lambda.errors import InvalidOption
from executors.aws_lambda.option_values import check_names
from executors.aws_lambda.options import TABLE
from executors.dask_config import unless_configured, users_configuration

SECTION = "excamera.lambda"

DEFAULTS = {name.replace("_", "-"): one.default for name, one in TABLE.items() if one.configured}
dask.config.update_defaults({"excamera": {"lambda": DEFAULTS}})

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


def setting(name: str, given: Any = None) -> Any:
    """What was given, else the configured value, None where neither is; checked, times as seconds. Raises InvalidOption."""
    try:
        value = _configured(name) if given is None else given
        return value if value is None else TABLE[name.replace("-", "_")].check(name, value)
    except ValueError as error:
        raise InvalidOption(str(error)) from None


def _configured(name: str) -> Any:
    """A misspelt name is refused, for a budget that nobody reads is none."""
    if name not in DEFAULTS:
        return TABLE[name.replace("-", "_")].default
    section = dask.config.get(SECTION)
    check_names(SECTION, (key.replace("_", "-") for key in section), DEFAULTS)
    return dask.config.get(f"{SECTION}.{name}")
