"""The user's Dask configuration: what it says beyond Dask's own defaults, and whether it can be used."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
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


def require_usable(*roles: str, tls: bool = False) -> None:
    """Raises InvalidExecutor, in one line, for what Dask would fail at, late and in other words.

    roles: the parts of Dask that run on this machine ("scheduler", "worker", "nanny", "client"), whose preloads are needed
    here; tls: whether the files of `distributed.comm.tls` are.
    """
    for name in COMPRESSIONS:
        _require_compression(name)
    for role in roles:
        for wanted in _list(dask.config.get(f"distributed.{role}.preload", None)):
            _require_preload(f"distributed.{role}.preload", str(wanted))
    if tls:
        _require_files("distributed.comm.tls", dask.config.get("distributed.comm.tls", {}))
    if "worker" in roles:
        _require_folders()


def _require_compression(name: str) -> None:
    wanted = dask.config.get(name)
    try:
        get_compression_settings(name)
    except (ValueError, TypeError):
        raise _wrong(
            name, wanted, "which is not installed here or does not exist",
            f"install {wanted}, or set it to false",
        ) from None  # fmt: skip


def _require_preload(name: str, wanted: str) -> None:
    """A file, or a module; what Dask downloads, or is a script itself, is seen when it runs."""
    if "://" in wanted or (" " in wanted and not wanted.endswith(".py")):
        return
    if wanted.endswith(".py"):
        there = os.path.isfile(wanted)
    else:
        try:
            there = wanted in sys.modules or importlib.util.find_spec(wanted) is not None
        except (ImportError, ValueError):
            there = False
    if not there:
        raise _wrong(name, wanted, "which is not there", "correct it, or leave it out")


def _require_files(name: str, value: Any) -> None:
    """A key or certificate may also stand there itself."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            _require_files(f"{name}.{key}", each)
    elif name.endswith(("-file", ".cert", ".key")) and value and "\n" not in str(value):
        try:
            with open(value, "rb"):
                pass
        except OSError as error:
            raise _wrong(
                name, value, f"which cannot be read ({error.strerror})", "name one that can"
            ) from None


def _require_folders() -> None:
    """Where processes start, and where they write."""
    try:
        os.getcwd()
    except OSError:
        raise InvalidExecutor(
            "the current folder does not exist any more, and processes cannot start in it: "
            "change to another (cd), or use --executor sync"
        ) from None
    name = "temporary-directory"
    folder = dask.config.get(name, None)
    if folder:
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            why = f"where nothing can be written ({error.strerror})"
            raise _wrong(name, folder, why, "name another folder") from None


def _wrong(name: str, value: Any, why: str, cure: str) -> InvalidExecutor:
    return InvalidExecutor(f"Dask's configuration {name} is {value!r}, {why}: {cure}")


def _list(value: Any) -> list[Any]:
    return [] if not value else [value] if isinstance(value, str) else list(value)
