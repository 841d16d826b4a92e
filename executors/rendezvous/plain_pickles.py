"""Pickles of workers, read without running what they name: Python's warnings, and errors of classes that are loaded here."""

from __future__ import annotations

import builtins
import io
import pickle
import sys
from collections.abc import Mapping
from typing import Any

LARGEST = 1 << 20
"""Bytes of a pickled error; Dask cuts errors to some ten thousand."""
LARGEST_COMPRESSED = 64 << 10


def read_warning(told: Any) -> dict[str, bytes]:
    """What `distributed.worker.warn` tells, pickled anew: a text, and a category of Python's own."""
    found = told if isinstance(told, dict) else {"message": told}
    message, category = (_read(_Warnings, found.get(name)) for name in ("message", "category"))
    if not (isinstance(category, type) and issubclass(category, Warning)):
        category = UserWarning
    if not isinstance(message, str):
        message = "a worker's warning that is no text"
    return {"message": pickle.dumps(message), "category": pickle.dumps(category)}


def read_error(serialized: Any, text: Any) -> bytes:
    """The error of a task as a worker has serialized it, pickled anew; of another class than those that are loaded here, or
    made of more than plain values, only its `text`.
    """
    try:
        data = _bytes_of(serialized)
    except Exception:  # of whatever kind: it is a stranger's
        data = None
    error = _read(_Errors, data)
    if not isinstance(error, BaseException):
        error = Exception(text if isinstance(text, str) else "a task's error that cannot be read")
    return pickle.dumps(error)


def _bytes_of(serialized: Any) -> bytes | None:
    """The bytes that distributed has serialized as bytes; None for anything else."""
    from distributed.protocol.compression import decompress
    from distributed.protocol.serialize import Serialized

    if not isinstance(serialized, Serialized):
        return None
    header, frames = serialized.header, serialized.frames
    most = LARGEST_COMPRESSED if "compression" in header else LARGEST
    if sum(memoryview(frame).nbytes for frame in frames) > most:
        return None
    if "compression" in header:
        frames = decompress(header, frames)
    return b"".join(map(bytes, frames))


def _read(reader: type[pickle.Unpickler], data: Any) -> Any:
    if isinstance(data, str):
        return data
    try:
        return reader(io.BytesIO(data)).load()
    except Exception:  # of whatever kind: it is a stranger's
        return None


class _Warnings(pickle.Unpickler):
    """Loads plain values and Python's categories of warnings."""

    def find_class(self, module: str, name: str) -> Any:
        found = getattr(builtins, name, None) if module == "builtins" else None
        if isinstance(found, type) and issubclass(found, Warning):
            return found
        raise pickle.UnpicklingError(f"{module}.{name}")


class _Errors(pickle.Unpickler):
    """Loads plain values and exceptions of classes that are loaded already; imports nothing, and has no tracebacks."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "tblib":  # by which Dask has errors pickled
            return _TBLIB.get(name, _Nothing)
        found = getattr(sys.modules.get(module), name, None)
        if isinstance(found, type) and issubclass(found, BaseException):
            return found
        raise pickle.UnpicklingError(f"{module}.{name}")


class _Nothing:
    """Stands for a part of a traceback."""

    def __new__(cls, *_: Any) -> _Nothing:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def _made(kind: Any, arguments: Any, *_: Any) -> BaseException:
    error = kind(*arguments)
    if not isinstance(error, BaseException):
        raise pickle.UnpicklingError("no error")
    return error


def _made_of_attributes(
    kind: Any, attributes: Mapping[str, Any], *others: Any, args: Any = ()
) -> BaseException:
    error = kind.__new__(kind, *(others[5] if len(others) > 5 else args))
    if not isinstance(error, BaseException):
        raise pickle.UnpicklingError("no error")
    error.__dict__.update(attributes.get("__dict__", {}))
    for name in ("args", "errno", "strerror", "filename", "filename2"):
        if name in attributes:
            setattr(error, name, attributes[name])
    return error


_TBLIB = {
    "unpickle_exception": _made,
    "unpickle_exception_with_attrs": _made_of_attributes,
    "unpickle_traceback": _Nothing,
}
