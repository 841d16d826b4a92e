"""The user's Dask configuration: what it says beyond Dask's own defaults, and whether it can be used."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import dask.config
from distributed.protocol.compression import get_compression_settings

from executors.dask_values import TLS, configured, refusal, require_values
from executors.preloads import require_preload
from executors.worker_processes import current_folder

logger = logging.getLogger("excamera")

COMPRESSIONS = ("distributed.comm.compression", "distributed.worker.memory.spill-compression")
OF_THIS_MACHINE = ("excamera", "temporary-directory", "scheduler-address", TLS)
"""What is not for workers elsewhere: our own settings, and files and addresses that are here."""
ASKED = ("register-client", "identity", "run_function", "ncores", "gather")
"""Handlers of a scheduler that its clients need in every job."""
NEEDED_HANDLERS = {
    "scheduler": (
        *ASKED, "register-worker", "register_nanny", "heartbeat_worker", "get_metadata", "register_worker_plugin",
        "subscribe_worker_status", "retire_workers", "terminate",
    ),
    "worker": ("get_data", "plugin-add"),
}  # fmt: skip
"""The same of what is started for a job, by whomever they are needed."""

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
    found = _beyond(dask.config.merge(*dask.config.defaults), configured(), "")
    return found if isinstance(found, dict) else {}


def _beyond(default: Any, value: Any, name: str) -> Any:
    if name.replace("_", "-") in OF_THIS_MACHINE:  # one of them has no default to be spelt like
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


def require_usable(*roles: str, elsewhere: Sequence[str] = (), tls: bool = False) -> None:
    """Raises InvalidExecutor, in one line, for what Dask would fail at, late and in other words.

    roles: the parts of Dask that run on this machine ("scheduler", "worker", "nanny", "client"), whose preloads are needed
    here; elsewhere: those that run on others with this configuration; tls: whether the files of `distributed.comm.tls` are
    needed.
    """
    require_values(*roles, *elsewhere)
    for name in COMPRESSIONS:
        _require_compression(name)
    for role in (*roles, *elsewhere):
        _require_handlers(role)
    for role in roles:
        for wanted in _list(dask.config.get(f"distributed.{role}.preload", None)):
            require_preload(f"distributed.{role}.preload", str(wanted))
    if tls:
        _require_files(TLS, configured()["distributed"]["comm"]["tls"])
    if "scheduler" in roles:
        current_folder()
    if "worker" in roles:
        _require_temporary_folder()


def require_certificates(*roles: str) -> None:
    """Raises InvalidExecutor where encryption is required and these have nothing to encrypt with."""
    name = "distributed.comm.require-encryption"
    required = dask.config.get(name, None)
    needed = (f"{TLS}.ca-file", *(f"{TLS}.{role}.cert" for role in roles))
    missing = [each for each in needed if not dask.config.get(each, None)]
    if required and missing:
        raise refusal(
            name,
            required,
            f"which needs {', '.join(missing)}",
            "set what is missing, or leave it out",
        )


def _require_handlers(role: str) -> None:
    """A scheduler or worker of ours must do what a job asks of it."""
    name = f"distributed.{role}.blocked-handlers"
    blocked = _list(dask.config.get(name, None))
    needed = [handler for handler in NEEDED_HANDLERS.get(role, ()) if handler in blocked]
    if needed:
        raise refusal(
            name, blocked, f"and a job needs {' and '.join(needed)}",
            "take that out",
        )  # fmt: skip


def _require_compression(name: str) -> None:
    wanted = dask.config.get(name)
    try:
        get_compression_settings(name)
    except (ValueError, TypeError):
        raise refusal(
            name, wanted, "which is not installed here or does not exist",
            f"install {wanted}, or set it to false",
        ) from None  # fmt: skip


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
            raise refusal(
                name, value, f"which cannot be read ({error.strerror})", "name one that can"
            ) from None


def _require_temporary_folder() -> None:
    """Where they write."""
    name = "temporary-directory"
    folder = dask.config.get(name, None)
    if folder:
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            why = f"where nothing can be written ({error.strerror})"
            raise refusal(name, folder, why, "name another folder") from None


def _list(value: Any) -> list[Any]:
    return [] if not value else [value] if isinstance(value, str) else list(value)
