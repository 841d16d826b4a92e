"""The user's Dask configuration: what it says beyond Dask's own defaults, and whether it can be used."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import dask.config
from distributed.protocol.compression import get_compression_settings

from executors.base import InvalidExecutor

logger = logging.getLogger("excamera")

COMPRESSIONS = ("distributed.comm.compression", "distributed.worker.memory.spill-compression")
OF_THIS_MACHINE = ("excamera", "temporary-directory", "scheduler-address", "distributed.comm.tls")
"""What is not for workers elsewhere: our own settings, and files and addresses that are here."""

_ABSENT = object()


def unless_configured(ours: Mapping[str, Any]) -> dict[str, Any]:
    """Those of our settings that the user has none of: his configuration says what Dask's defaults say, if anything."""
    given, defaults = dask.config.collect(), dask.config.merge(*dask.config.defaults)
    return {
        name: value
        for name, value in ours.items()
        if dask.config.get(name, _ABSENT, config=given) is _ABSENT
        and dask.config.get(name, None) == dask.config.get(name, None, config=defaults)
    }


def users_configuration() -> dict[str, Any]:
    """What differs from Dask's defaults now and is of use to workers elsewhere: nested, plain values.

    What is no plain value (JSON's) stays here, and a warning says so.
    """
    found = _beyond(dask.config.merge(*dask.config.defaults), dask.config.config, "")
    return found if isinstance(found, dict) else {}


def _beyond(default: Any, value: Any, name: str) -> Any:
    if name in OF_THIS_MACHINE:
        return _ABSENT
    if isinstance(value, Mapping):
        known = default if isinstance(default, Mapping) else {}
        inner = {
            str(key): _beyond(known.get(key, _ABSENT), each, f"{name}.{key}" if name else str(key))
            for key, each in value.items()
        }
        found = {key: each for key, each in inner.items() if each is not _ABSENT}
        return found if found or (default is _ABSENT and not value) else _ABSENT
    if default is not _ABSENT and default == value:
        return _ABSENT
    if not _is_plain(value):
        logger.warning("Dask's configuration %s is no plain value: workers do not get it", name)
        return _ABSENT
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def require_usable() -> None:
    """Raises InvalidExecutor, in one line, for what Dask would fail at with every connection."""
    for name in COMPRESSIONS:
        try:
            get_compression_settings(name)
        except (ValueError, TypeError):
            wanted = dask.config.get(name)
            raise InvalidExecutor(
                f"Dask's configuration {name} is {wanted!r}, which is not installed here or does not exist: "
                f"install {wanted}, or set it to false"
            ) from None
