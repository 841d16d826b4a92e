"""How the codec's kernels are compiled, and where the compiled code is kept.

Numba notices a change of a kernel's own file only, not of a file that it calls into, so each module's kernels have a
cache directory that is named after a hash of the module, of all modules it imports, and of the versions in use.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE = Path(__file__).parent
_IMPORT = re.compile(r"^\s*(?:from|import) codec(?:\.| import )(\w+)", re.M)

INTERPRETED = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]
BOUNDS_CHECKED = bool(numba.config.BOUNDSCHECK)  # type: ignore[attr-defined]


@functools.cache
def _imports(module: str) -> frozenset[str]:
    """Modules of this package that a module's source names in its imports."""
    return frozenset(_IMPORT.findall((_PACKAGE / f"{module}.py").read_text()))


@functools.cache
def _sources_behind(module: str) -> tuple[str, ...]:
    """A module and all that it leans on within this package, sorted."""
    found: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= _imports(name) - found
    return tuple(sorted(found))


@functools.cache
def _environment() -> bytes:
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    checked = "checked" if BOUNDS_CHECKED else ""
    return "\n".join((*versions, platform.machine(), checked)).encode()


@functools.cache
def _digest(module: str | None) -> str:
    """Of a module with all behind it, or of the whole package; and of the versions in use."""
    digest = hashlib.sha256(_environment())
    every = sorted(path.stem for path in _PACKAGE.glob("*.py"))
    for name in every if module is None else _sources_behind(module):
        digest.update(name.encode() + b"\0" + (_PACKAGE / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def cache_root() -> Path:
    """Where compiled kernels are kept: NUMBA_CACHE_DIR, EXCAMERA_CACHE_DIR, or the user's cache directory."""
    for name in ("NUMBA_CACHE_DIR", "EXCAMERA_CACHE_DIR"):
        if os.environ.get(name):
            return Path(os.environ[name])
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches) / "excamera-dask"


def cache_directory(module: str | None = None) -> Path:
    """Directory of a module's compiled kernels, or of all that is compiled, made from exactly the present sources."""
    return cache_root() / f"{module or 'codec'}-{_digest(module)}"


def kernel(function: F) -> F:
    """Compile a kernel: cached on disk, without the GIL, C arithmetic; plain Python under NUMBA_DISABLE_JIT=1.

    It counts no references, which costs more than the work of small functions: it must neither make nor return arrays.
    """
    return _cached(function, counts_references=False)


def allocating_kernel(function: F) -> F:
    """Like `kernel`, for the few that make arrays of their own; slower wherever they pick arrays out of tuples."""
    return _cached(function, counts_references=True)


def _cached(function: F, counts_references: bool) -> F:
    package, _, module = function.__module__.rpartition(".")
    directory = cache_directory(module if package == "codec" else None)
    numba.config.CACHE_DIR = str(directory)  # type: ignore[attr-defined]
    return _compiled(function, cache=True, _nrt=counts_references)


def inline_kernel(function: F) -> F:
    """Like `kernel`, for small functions that LLVM must inline into each caller; not cached on their own."""
    return _compiled(function, forceinline=True, _nrt=False)


def part_kernel(function: F) -> F:
    """Like `inline_kernel`, for the parts of one large kernel: compiled faster, but callable from kernels only."""
    return _compiled(
        function, forceinline=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True
    )


def _compiled(function: F, **options: bool) -> F:
    njit: Any = numba.njit  # its stubs leave some of its options out
    return cast(F, njit(nogil=True, error_model="numpy", **options)(function))
