"""How the codec's kernels are compiled, and where the compiled code is kept.

Numba notices a change of a kernel's own file only, not of a file that it calls into, so the cache directory
is named after a hash of all sources of this package, the versions and the processor.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

INTERPRETED = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]
BOUNDS_CHECKED = bool(numba.config.BOUNDSCHECK)  # type: ignore[attr-defined]


def _source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for version in (sys.version, numba.__version__, llvmlite.__version__, np.__version__):
        digest.update(version.encode())
    digest.update(platform.machine().encode())
    digest.update(b"checked" if BOUNDS_CHECKED else b"")
    return digest.hexdigest()[:16]


def cache_directory() -> Path:
    """Directory of the compiled kernels of exactly these sources (``EXCAMERA_CACHE_DIR`` moves its parent)."""
    base = os.environ.get("EXCAMERA_CACHE_DIR")
    if base is None:
        base = os.path.join(
            os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "excamera-dask"
        )
    return Path(base) / f"kernels-{_source_hash()}"


if not os.environ.get("NUMBA_CACHE_DIR"):
    numba.config.CACHE_DIR = str(cache_directory())  # type: ignore[attr-defined]


def kernel(function: F) -> F:
    """Compile a kernel: cached on disk, without the GIL, C arithmetic; plain Python under NUMBA_DISABLE_JIT=1."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def inline_kernel(function: F) -> F:
    """Like `kernel`, for small functions that LLVM must inline into each caller; not cached on their own."""
    return cast(F, numba.njit(nogil=True, error_model="numpy", forceinline=True)(function))


def part_kernel(function: F) -> F:
    """Like `inline_kernel`, for the parts of one large kernel: compiled faster, but callable from kernels only."""
    return cast(
        F,
        numba.njit(
            nogil=True,
            error_model="numpy",
            forceinline=True,
            no_cpython_wrapper=True,
            no_cfunc_wrapper=True,
        )(function),
    )
