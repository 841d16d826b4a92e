"""Compiled kernels that travel in an image: packed when it is built, loaded at start without compiling anything.

`install` points to them, before anything of the codec is imported; they are read where they lie. Numba compiles in silence
whenever what it finds was made for another processor, source or version; `verify` counts that, refuses it, and names what
differs.

`python -m excamera_dask.kernels.shipped FOLDER` packs them, under the same NUMBA_CPU_NAME and NUMBA_CPU_FEATURES.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import codec
from codec.kernel_cache import INTERPRETED, sources_name
from excamera_dask.errors import ExcameraError

logger = logging.getLogger("excamera")

SHIPPED = "EXCAMERA_SHIPPED_KERNELS"
"""The environment variable that names the folder of shipped kernels; without it nothing is shipped."""
MANIFEST = "kernels.json"
CACHE = "cache"
PINS = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")
NEEDED_FLAGS = {
    "x86-64-v2": ("sse4_2", "ssse3", "popcnt"),
    "x86-64-v3": ("avx2", "bmi1", "bmi2", "fma", "f16c", "movbe", "abm"),
}
"""What a processor level promises, in the words of /proc/cpuinfo."""


class KernelMismatch(ExcameraError):
    """The shipped kernels are not for this Python, Numba, processor or source."""


class Loaded(NamedTuple):
    """What `verify` found: kernels that came from the cache, and the seconds that took."""

    kernels: int
    seconds: float


def prepare() -> Loaded | None:
    """`install` and `verify`, for a worker that starts; None where no kernels are shipped."""
    if install() is None:
        return None
    return verify()


def load() -> None:
    """Load the kernels, in a worker beside its first tasks; shipped ones are verified, and what is wrong is logged.

    Raises: KernelMismatch.
    """
    from excamera_dask.kernels.warm_up import prepare_worker

    if not os.environ.get(SHIPPED):
        prepare_worker()
        return
    try:
        verify()
    except KernelMismatch as mismatch:
        logger.error("%s", mismatch)
        raise


def install(shipped: Path | None = None) -> Path | None:
    """Point to the shipped kernels; returns their folder.

    shipped: default what EXCAMERA_SHIPPED_KERNELS names, None is returned where that is unset.

    Raises: KernelMismatch, also when the codec's kernels are imported already.
    """
    if shipped is None:
        if not os.environ.get(SHIPPED):
            return None
        shipped = Path(os.environ[SHIPPED])
    if "codec.kernel" in sys.modules:
        raise KernelMismatch("the codec was imported before its shipped kernels were installed")
    manifest = _read_manifest(shipped)
    for name in PINS:
        os.environ.setdefault(name, manifest["environment"][name])
    os.environ["NUMBA_CACHE_DIR"] = str(shipped / CACHE)
    differences = _differences(manifest)
    if differences:
        raise KernelMismatch(_refusal(shipped, differences))
    return shipped / CACHE


def verify(shipped: Path | None = None) -> Loaded:
    """Load every kernel, and see that none was compiled.

    Raises: KernelMismatch, which names what differs from the machine that compiled them.
    """
    from excamera_dask.kernels.warm_up import count_loads, load_kernels

    begin = time.perf_counter()
    load_kernels()
    seconds = time.perf_counter() - begin
    hits, missed = count_loads()
    if missed:
        where = shipped or Path(os.environ.get(SHIPPED, "the kernel cache"))
        some = ", ".join(missed[:3])
        raise KernelMismatch(
            _refusal(where, [f"{len(missed)} kernels had to be compiled ({some})"])
        )
    return Loaded(hits, seconds)


def pack(folder: Path) -> dict[str, Any]:
    """Compile all kernels into `folder`, with a manifest of what they are for; returns the manifest.

    Runs in a process that has not imported the codec's kernels. Raises: KernelMismatch when the processor level is not
    pinned, OSError.
    """
    if INTERPRETED:
        raise KernelMismatch("NUMBA_DISABLE_JIT is set: there is nothing to compile")
    missing = [name for name in PINS if name not in os.environ]
    if missing:
        raise KernelMismatch(
            f"{' and '.join(missing)} must be set: kernels for just this processor cannot travel"
        )
    cache = folder / CACHE
    cache.mkdir(parents=True, exist_ok=True)
    os.environ["NUMBA_CACHE_DIR"] = str(cache)
    from excamera_dask.kernels.warm_up import compile_kernels

    compile_kernels(lambda text: print(text, file=sys.stderr))
    manifest = {**_here(), "name": sources_name(), "environment": _pins()}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return manifest


def _here() -> dict[str, str]:
    """What compiled kernels depend on, as it is in this process."""
    return {
        "Python": sys.version,
        "Numba": version("numba"),
        "llvmlite": version("llvmlite"),
        "NumPy": version("numpy"),
        "machine": platform.machine(),
        "codec sources": sources_name(),
        "codec folder": str(Path(codec.__file__).parent),
    }


def _pins() -> dict[str, str]:
    return {name: os.environ.get(name, "") for name in PINS}


def _differences(manifest: dict[str, Any]) -> list[str]:
    """What differs between this process and the one that compiled, in words."""
    here = {**_here(), **_pins()}
    made = {**manifest, **manifest["environment"]}
    found = [
        f"{name} is {_short(here[name])}, compiled for {_short(made.get(name, 'unknown'))}"
        for name in here
        if here[name] != made.get(name)
    ]
    lacking = missing_flags(here["NUMBA_CPU_NAME"])
    if lacking:
        found.append(f"this processor lacks {', '.join(lacking)} of {here['NUMBA_CPU_NAME']}")
    return found


def missing_flags(level: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Abilities of a processor level that this machine's processor does not tell of; [] where unknown."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return []
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), None)
    if flags is None:
        return []
    return [flag for flag in NEEDED_FLAGS.get(level, ()) if flag not in flags]


def _short(value: str) -> str:
    return value.split(" ")[0] or "empty"


def _refusal(where: Path, differences: list[str]) -> str:
    return (
        f"{where}: shipped kernels do not fit: {'; '.join(differences)}; "
        "build the image anew (excamera lambda build)"
    )


def _read_manifest(shipped: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((shipped / MANIFEST).read_text())
        manifest["name"], manifest["environment"][PINS[0]], manifest["environment"][PINS[1]]
    except OSError as error:
        raise KernelMismatch(f"{shipped}: no shipped kernels ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise KernelMismatch(f"{shipped / MANIFEST}: not a list of shipped kernels") from None
    return manifest


def main(arguments: list[str]) -> None:
    """Pack into the folder that is the one argument, and print the manifest."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m excamera_dask.kernels.shipped FOLDER")
    try:
        print(json.dumps(pack(Path(arguments[0]))))
    except (KernelMismatch, OSError) as error:
        raise SystemExit(f"kernels: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
