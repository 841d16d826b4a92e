"""Where the codec's compiled kernels are kept.

Numba notices a change of a kernel's own file only, not of a file that it calls into, so each module's kernels have a
cache directory that is named after a hash of the module, of all modules it imports, and of the versions in use. Numba
itself is not imported here: whoever only asks whether all is compiled need not wait for it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

_PACKAGE = Path(__file__).parent
_IMPORT = re.compile(r"^\s*(?:from|import) codec(?:\.| import )(\w+)", re.M)

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
BOUNDS_CHECKED = os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0")


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
    versions = (sys.version, *map(version, ("numba", "llvmlite", "numpy")))
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


def complete_mark() -> Path:
    """The file that tells that all kernels are compiled, for this very installation: Numba goes by the sources' path too."""
    place = hashlib.sha256(os.fsencode(_PACKAGE.resolve())).hexdigest()[:16]
    return cache_directory() / f"complete-{place}"


def cache_directory(module: str | None = None) -> Path:
    """Directory of a module's compiled kernels, or of all that is compiled, made from exactly the present sources."""
    return cache_root() / f"{module or 'codec'}-{_digest(module)}"
