"""Pickles of workers, read without running what they name: warnings of Python, errors of its, our and the user's classes."""

from __future__ import annotations

import builtins
import io
import pickle
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

LARGEST = 1 << 20
"""Bytes of a pickled error; Dask cuts errors to some ten thousand."""
LARGEST_COMPRESSED = 64 << 10
LONGEST = 1 << 16
"""Characters and elements of an error or a warning, each counted wherever it appears."""
DEEPEST = 50
"""Collections and errors within each other."""

OURS = frozenset({"builtins", "__main__", "codec", "executors", "excamera_dask"})
"""Packages whose errors are read, besides those of the user's own modules."""
INSTALLED = tuple(
    Path(folder)
    for folder in {
        *sysconfig.get_paths().values(),
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
)
"""Where the modules of others lie."""
PLAIN = (str, bytes, int, float, type(None), tuple, list, dict, set, frozenset, BaseException)
STAYS = "stays_where_it_is"
"""Attribute of classes of errors that mean something only where they are raised."""
CONTROL = (StopIteration, StopAsyncIteration)


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
    """The error of a task as a worker has serialized it, pickled anew; of a class of an installed package's, larger than errors
    are, or made of more than plain values, only its `text`.
    """
    try:
        return _error_anew(_read(_Errors, _bytes_of(serialized)))
    except Exception:  # of whatever kind: it is a stranger's
        words = text[:LONGEST] if isinstance(text, str) else "a task's error that cannot be read"
        return pickle.dumps(Exception(words))


def _error_anew(error: Any) -> bytes:
    """Raises whatever happens where an error is none, or none that can be shown."""
    _require(isinstance(error, BaseException))
    spend(error, LONGEST, whole=True)
    error.__cause__ = error.__context__ = error.__traceback__ = None
    if isinstance(error, OSError):
        texts = (error.strerror, error.filename, error.filename2)
        _require(all(isinstance(each, (str, type(None))) for each in texts))
        _require(isinstance(error.errno, (int, type(None))))
    data = pickle.dumps(error)
    again = pickle.loads(data)
    _require(type(again) is type(error) and len(f"{again}{again!r}") <= 8 * LONGEST)
    return data


def spend(value: Any, budget: int, *, whole: bool = False) -> int:
    """What is left of a budget of characters and elements when `value` has been written out. Raises UnpicklingError where
    that is too much, or where it shall be whole and something in it is not plain."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        value, depth = waiting.pop()
        budget -= 1 + (value.bit_length() // 3 if isinstance(value, int) else 0)
        if isinstance(value, (str, bytes, bytearray)):
            budget -= len(value)
        parts = _parts(value)
        _require(not whole or isinstance(value, PLAIN))
        _require(budget >= len(parts) and depth <= DEEPEST)
        waiting += [(each, depth + 1) for each in parts]
    return budget


def _parts(value: Any) -> list[Any]:
    if isinstance(value, BaseException):
        return [value.args, *value.__dict__.items()]
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else []


def _require(holds: bool) -> None:
    if not holds:
        raise pickle.UnpicklingError("more than an error")


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


def _read(reader: type[_Plain], data: Any) -> Any:
    """What is pickled there; None where it cannot be read. A text is read as it is."""
    if isinstance(data, str):
        return data[:LONGEST]
    try:
        _require(len(data) <= LARGEST)
        return reader(io.BytesIO(data)).load()
    except Exception:  # of whatever kind: it is a stranger's
        return None


def _spending(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """As `load`, but what is called gets no more than the reader has budget for."""

    def spending(reader: _Plain) -> None:
        reader.budget = spend(reader.stack[-1], reader.budget)
        load(reader)

    return spending


def _dispatch(opcodes: Iterable[str]) -> dict[int, Callable[[Any], None]]:
    all_of_them = _Python.dispatch
    chosen = {code: all_of_them[code] for code in (getattr(pickle, name)[0] for name in opcodes)}
    calls = {code[0]: _spending(chosen[code[0]]) for code in (pickle.REDUCE, pickle.NEWOBJ)}
    return chosen | calls


_Python: Any = pickle._Unpickler
"""Python's in Python: the one in C makes a list as long as a pickle of a few bytes says."""


class _Plain(_Python):
    """Loads plain values, and calls what `find_class` finds with no more than errors are made of."""

    dispatch = _dispatch(
        (
            "PROTO", "FRAME", "MARK", "STOP", "POP", "POP_MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
            "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
            "SHORT_BINBYTES", "BINBYTES", "SHORT_BINUNICODE", "BINUNICODE",
            "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
            "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS", "FROZENSET",
            "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD",
        )
    )  # fmt: skip

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.budget = 4 * LONGEST  # of all calls together


class _Warnings(_Plain):
    """Loads plain values and Python's categories of warnings."""

    def find_class(self, module: str, name: str) -> Any:
        found = getattr(builtins, name, None) if module == "builtins" else None
        if isinstance(found, type) and issubclass(found, Warning):
            return found
        raise pickle.UnpicklingError(f"{module}.{name}")


class _Errors(_Plain):
    """Loads plain values and admitted exceptions; imports nothing, and has neither tracebacks nor causes of other classes."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "tblib":  # by which Dask has errors pickled
            return _TBLIB.get(name, _Nothing)
        found = getattr(sys.modules.get(module), name, None)
        return found if is_admitted(found) else _Nothing


def is_admitted(found: Any) -> bool:
    """Whether it is a class of errors that say what went wrong, and do nothing else, made of no installed package's."""
    return (
        isinstance(found, type)
        and issubclass(found, Exception)
        and not issubclass(found, CONTROL)
        and not getattr(found, STAYS, False)
        and all(_is_own(kind.__module__.partition(".")[0]) for kind in found.__mro__)
    )


def _is_own(package: str) -> bool:
    """Whether a package is Python's, ours, or one of the user's own that is loaded here."""
    if package in OURS:
        return True
    file = getattr(sys.modules.get(package), "__file__", None)
    return file is not None and not any(Path(file).is_relative_to(folder) for folder in INSTALLED)


class _Nothing:
    """Stands for what is not read: parts of tracebacks, and errors that others were raised from."""

    def __new__(cls, *_: Any) -> _Nothing:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def _made(kind: Any, arguments: Any, *_: Any) -> Any:
    return kind(*arguments)


def _made_of_attributes(
    kind: Any, attributes: Mapping[str, Any], *others: Any, args: Any = ()
) -> Any:
    error = kind.__new__(kind, *(others[5] if len(others) > 5 else args))
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
