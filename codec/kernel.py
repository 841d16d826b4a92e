"""How the codec's kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from codec.kernel_cache import INTERPRETED, cache_directory
from codec.kernel_files import KernelCache

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile a kernel: cached on disk, without the GIL, C arithmetic; plain Python under NUMBA_DISABLE_JIT=1.

    It counts no references, which costs more than the work of small functions: it must neither make nor return arrays
    (a part that LLVM inlines may hand its caller's back, in a tuple).
    """
    return _cached(function, counts_references=False)


def allocating_kernel(function: F) -> F:
    """Like `kernel`, for the few that make arrays of their own; slower wherever they pick arrays out of tuples."""
    return _cached(function, counts_references=True)


def _cached(function: F, counts_references: bool) -> F:
    package, _, module = function.__module__.partition(".")
    directory = cache_directory(module if package == "codec" else None)
    numba.config.CACHE_DIR = str(directory)  # type: ignore[attr-defined]
    compiled: Any = _compiled(function, _nrt=counts_references)
    if not INTERPRETED:
        compiled._cache = KernelCache(function)
    return cast(F, compiled)


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
