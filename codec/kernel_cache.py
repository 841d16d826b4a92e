"""Where the codec's compiled kernels are kept.

Numba notices a change of a kernel's own file only, not of a file that it calls into, so each module's kernels have a
cache directory that is named after a hash of the module, of all modules it imports, and of the versions in use. Numba
itself is not imported here: whoever only asks whether all is compiled need not wait for it.

There are several places for them, and every process of a user on a machine chooses the same one: the first that holds all
kernels, be it read-only, else the first that can be written. What is where all are compiled is listed in a file beside them,
so that files that are missing or were cut short are noticed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import stat
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

_PACKAGE = Path(__file__).parent
_IMPORT = re.compile(r"^\s*from codec([\w.]*) import (\([^)]*\)|.*)", re.M)
_FOR_TYPES = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t].*\n|\n)+", re.M)

FOR_ALL_USERS = Path("/var/cache/excamera-dask")
"""Kernels that an administrator, or who builds an image, has compiled for all users."""

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
BOUNDS_CHECKED = os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0")


@functools.cache
def _imports(module: str) -> set[str]:
    """Modules of this package that a module's source imports, but for those that only its types are from."""
    source = _FOR_TYPES.sub("", _path(module).read_text())
    named = {
        f"{home}.{name}".strip(".")
        for home, names in _IMPORT.findall(source)
        for name in ("", *re.findall(r"\w+", names))
    }
    return named.intersection(modules())


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
    for name in modules() if module is None else _sources_behind(module):
        digest.update(name.encode() + b"\0" + _path(name).read_bytes())
    return digest.hexdigest()[:16]


def cache_root() -> Path:
    """The folder that this process's compiled kernels are in, complete or not: see `places`."""
    return _chosen(places())


def places() -> tuple[Path, ...]:
    """Folders where kernels may lie, in the order in which they are asked.

    That of NUMBA_CACHE_DIR or EXCAMERA_CACHE_DIR, else the user's cache directory and the machine's; and one of this user's
    own among the temporary files, for where nothing else can be written.
    """
    for name in ("NUMBA_CACHE_DIR", "EXCAMERA_CACHE_DIR"):
        if os.environ.get(name):
            return (Path(os.environ[name]).absolute(), *_temporary_place())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    own = (caches / "excamera-dask",) if caches.is_absolute() else ()  # else there is no home
    return (*own, FOR_ALL_USERS, *_temporary_place())


def _temporary_place() -> tuple[Path, ...]:
    try:
        place = Path(tempfile.gettempdir()) / f"excamera-kernels-{os.geteuid()}"
    except FileNotFoundError:
        return ()
    return (place,) if _is_nobody_elses(place) else ()


def _is_nobody_elses(place: Path) -> bool:
    """Whether a place where anybody may make folders is ours alone, or not made yet: what lies in it is run."""
    try:
        found = place.lstat()
    except OSError:
        return True
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return ours and not found.st_mode & 0o022


@functools.cache
def _chosen(among: tuple[Path, ...]) -> Path:
    for place in among:
        if lacking(place) is None:
            return place
    return next(filter(is_writable, among), among[0])


def is_writable(place: Path) -> bool:
    """Whether kernels can be added to a place, with the folders of this version that are there."""
    try:
        if (place,) == _temporary_place():
            place.mkdir(mode=0o700, exist_ok=True)
            if not _is_nobody_elses(place):
                return False
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
        kept = [folder for module in modules() for folder in _folders(place, module)]
    except OSError:
        return False
    return all(os.access(folder, os.W_OK | os.X_OK) for folder in kept)


@functools.cache
def modules() -> tuple[str, ...]:
    """Names of all modules of the codec, within it: `loop_filter`, `encoding.rebase`."""
    files = (path.relative_to(_PACKAGE).with_suffix("") for path in _PACKAGE.rglob("*.py"))
    return tuple(sorted(".".join(file.parts) for file in files))


def _path(module: str) -> Path:
    return _PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def _folders(place: Path, module: str) -> list[Path]:
    """The folders of a module's kernels that exist: Numba makes one for each installation."""
    folder = cache_directory(module, place)
    return (
        [folder, *(path for path in folder.iterdir() if path.is_dir())] if folder.is_dir() else []
    )


@functools.cache
def processor() -> str:
    """What kernels are compiled for here, as Numba sees it: what is asked for, else this machine's own."""
    name, features = (os.environ.get(f"NUMBA_CPU_{what}") for what in ("NAME", "FEATURES"))
    if name is None or features is None:
        from llvmlite import binding

        name = name or binding.get_host_cpu_name()
        features = binding.get_host_cpu_features().flatten() if features is None else features
    return hashlib.sha256(f"{name}\n{features}".encode()).hexdigest()[:8]


def complete_mark(place: Path | None = None) -> Path:
    """The file that lists the kernels when all are compiled: for this very installation, since Numba goes by the path of the
    sources too, and for this processor."""
    return cache_directory(None, place) / f"complete-{_installation()}-{processor()}"


def _installation() -> str:
    return hashlib.sha256(os.fsencode(_PACKAGE.resolve())).hexdigest()[:16]


def mark_complete(folders: Iterable[str]) -> None:
    """Tell that all kernels are in these folders of `cache_root()`. Raises OSError."""
    root, mark = cache_root(), complete_mark()
    files = [path for folder in sorted(folders) for path in sorted(Path(folder).glob("*.nb?"))]
    sizes = {str(path.relative_to(root)): _size_on_disk(path) for path in files}
    mark.parent.mkdir(parents=True, exist_ok=True)
    part = mark.with_name(f".{mark.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(sizes))
        part.replace(mark)
    finally:
        part.unlink(missing_ok=True)


def _size_on_disk(path: Path) -> int:
    """Bytes of a file that even a crash leaves whole."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def lacking(place: Path) -> str | None:
    """Why the kernels in a place are not all that this process needs; None where they are, "" where there are none."""
    mark = complete_mark(place)
    try:
        sizes = json.loads(mark.read_text())
        for name, size in sizes.items():
            found = (place / name).stat().st_size
            # an index grows with each processor that is added to it
            if found < size or (found > size and not name.endswith(".nbi")):
                return f"{place / name} is damaged"
    except FileNotFoundError as error:
        missing = str(error.filename)
        return _why_unmarked(mark) if missing == str(mark) else f"{missing} is missing"
    except (ValueError, AttributeError, TypeError):
        return f"{mark} is damaged"
    except OSError as error:
        return f"{error.filename or place} cannot be read ({error.strerror})"
    return None


def _why_unmarked(mark: Path) -> str:
    place = mark.parent.parent
    with contextlib.suppress(OSError):
        others = [path.name for path in mark.parent.glob("complete-*")]
        if any(name.startswith(f"complete-{_installation()}") for name in others):
            return f"those in {place} are for another processor"
        if others:
            return f"those in {place} are for an installation in another folder"
        if mark.parent.exists() or any(cache_directory(m, place).exists() for m in modules()):
            return f"those in {place} are incomplete"
        if any(place.glob("codec-*")):
            return f"those in {place} are for another version of excamera, Python, Numba or NumPy"
    return ""


def cache_directory(module: str | None = None, place: Path | None = None) -> Path:
    """Directory of a module's compiled kernels, or of all that is compiled, made from exactly the present sources."""
    return (place or cache_root()) / sources_name(module)


def sources_name(module: str | None = None) -> str:
    """A name for exactly the present sources of a module, or of the whole package, and the versions in use."""
    return f"{module or 'codec'}-{_digest(module)}"
