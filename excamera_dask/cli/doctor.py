"""`excamera doctor`: what is installed here, what is missing, and the kernels compiled ahead of time."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from typing import Any

import click

from excamera_dask.cli.terminal.output import print_json
from excamera_dask.cli.terminal.printing import console
from excamera_dask.version import __version__

PACKAGES = (
    "numpy",
    "numba",
    "llvmlite",
    "dask",
    "distributed",
    "av",
    "zstandard",
    "psutil",
    "click",
    "rich",
)
SMALL_SHM = 64 << 20
MEMORY_PER_CORE = 1 << 30


@click.command(short_help="Check the installation; compile the kernels ahead of time.")
@click.option("--warm-up", is_flag=True, help="Compile all kernels now, so that no job has to.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
def doctor(warm_up: bool, as_json: bool) -> None:
    """Tell what this machine has, and what would hold back an encode.

    \b
    excamera doctor
    excamera doctor --warm-up        once after an installation or in an image
    excamera doctor --json | jq .warnings

    Exits 1 when something that every encode needs is missing.
    """
    from excamera_dask.cli.terminal.failures import Failure

    findings = examine()
    if warm_up and not findings["files"]:
        findings["warm_up_seconds"] = round(_warm_up(), 2)
        findings["kernels"] = _kernels()
    findings["warnings"], findings["errors"] = judge(findings)
    if as_json:
        print_json(findings)
    else:
        _print_findings(findings)
    if findings["errors"]:
        raise Failure(findings["errors"][0])


def examine() -> dict[str, Any]:
    """Everything that is worth knowing of this machine, as plain values."""
    files = _files()
    return {
        "excamera": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "vpxenc": _tool("vpxenc", "--help", r"WebM Project VP8 Encoder (\S+)"),
        "vpxdec": _tool("vpxdec", "--help", r"WebM Project VP8 Decoder (\S+)"),
        "ffmpeg": _tool("ffmpeg", "-version", r"ffmpeg version (\S+)"),
        "pyav_libvpx": _pyav_libvpx(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": _memory(),
        "shm_bytes": _free("/dev/shm"),
        "processes_refused": None if files else _processes_refused(),
        "temporary_bytes": _free(os.environ.get("TMPDIR", "/tmp")),
        "files": files,
        "kernels": None if files else _kernels(),
    }


def judge(findings: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(warnings, errors) in words: what slows an encode, what prevents it."""
    warnings, errors = [], [findings["files"]] if findings["files"] else []
    for name, version in findings["packages"].items():
        if version is None:
            errors.append(f"the package {name} is missing; pip install excamera-dask brings it")
    if not findings["pyav_libvpx"]["encoder"] and not findings["vpxenc"]:
        errors.append(
            "neither vpxenc nor PyAV's libvpx can encode VP8; pip install av, or apt-get install vpx-tools"
        )
    elif not findings["vpxenc"]:
        warnings.append(
            "vpxenc is not on PATH; PyAV's libvpx stands in for it (Debian: apt-get install vpx-tools)"
        )
    if findings["memory_bytes"] < MEMORY_PER_CORE * findings["cores"]:
        warnings.append("less than 1 GiB of memory a core; large pictures may need fewer --workers")
    if findings["processes_refused"]:
        errors.append(findings["processes_refused"])
    elif findings["shm_bytes"] is not None and findings["shm_bytes"] < SMALL_SHM:
        warnings.append("less than 64 MiB free in /dev/shm; Dask's processes may fail to start")
    kernels = findings["kernels"]
    if kernels is not None and not kernels["complete"]:
        why = f" ({kernels['lacking']})" if kernels["lacking"] else ""
        if kernels["writable"]:
            warnings.append(
                f"not all kernels are compiled yet{why}; excamera doctor --warm-up does it once"
            )
        else:
            warnings.append(
                f"cannot write {kernels['folder']}{why}; kernels are compiled anew in each process: "
                "set EXCAMERA_CACHE_DIR to a folder"
            )
    return warnings, errors


def _files() -> str | None:
    """What is wrong with the installed files, None where nothing is."""
    from excamera_dask.errors import InstallationError
    from excamera_dask.installation import check_files

    try:
        check_files()
    except InstallationError as error:
        return str(error)
    return None


def _processes_refused() -> str | None:
    from executors.worker_processes import processes_refused

    return processes_refused()


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _tool(name: str, flag: str, pattern: str) -> dict[str, str] | None:
    path = shutil.which(name)
    if path is None:
        return None
    try:
        done = subprocess.run([path, flag], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"path": path, "version": f"unknown ({error})"}
    match = re.search(pattern, done.stdout + done.stderr)
    return {"path": path, "version": match.group(1) if match else "unknown"}


def _pyav_libvpx() -> dict[str, bool]:
    try:
        from av.codec import Codec
    except ImportError:
        return {"encoder": False, "decoder": False}

    def has(name: str, mode: str) -> bool:
        try:
            return bool(Codec(name, mode))  # type: ignore[arg-type]
        except Exception:  # PyAV's own error type, a ValueError in some versions
            return False

    return {"encoder": has("libvpx", "w"), "decoder": has("libvpx", "r")}


def _memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _free(folder: str) -> int | None:
    return shutil.disk_usage(folder).free if os.path.isdir(folder) else None


def _kernels() -> dict[str, Any]:
    """Where compiled kernels live, whether all are there, else why not, and whether more could be written."""
    from codec.kernel_cache import (
        cache_directory,
        cache_root,
        is_writable,
        lacking,
        modules,
        places,
    )

    root = cache_root()
    folders = map(cache_directory, modules())
    files = [file for folder in folders if folder.is_dir() for file in folder.rglob("*.nbc")]
    complete = lacking(root) is None
    return {
        "folder": str(root),
        "writable": is_writable(root),
        "compiled": len(files),
        "complete": complete,
        "lacking": None if complete else next(filter(None, map(lacking, places())), None),
        "bytes": sum(file.stat().st_size for file in files),
    }


def _warm_up() -> float:
    from excamera_dask.cli.terminal.output import notice
    from excamera_dask.kernels.warm_up import compile_kernels

    begin = time.perf_counter()
    compile_kernels(notice)
    return time.perf_counter() - begin


def _print_findings(findings: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(findings):
        table.add_row(name, value)
    shown = console()
    shown.print(table)
    for text in findings["errors"]:
        shown.print(f"[red]error[/red]    {text}")
    for text in findings["warnings"]:
        shown.print(f"[yellow]note[/yellow]     {text}")
    if not findings["errors"] and not findings["warnings"]:
        shown.print("[green]ready[/green]")


def _rows(findings: dict[str, Any]) -> list[tuple[str, str]]:
    packages = ", ".join(
        f"{name} {version or '-'}" for name, version in findings["packages"].items()
    )
    kernels = findings["kernels"]
    libvpx = findings["pyav_libvpx"]
    rows = [
        (
            "excamera",
            f"{findings['excamera']} on Python {findings['python']}, {findings['platform']}",
        ),
        ("packages", packages),
    ]
    for name in ("vpxenc", "vpxdec", "ffmpeg"):
        tool = findings[name]
        rows.append((name, f"{tool['version']} ({tool['path']})" if tool else "not on PATH"))
    rows += [
        ("PyAV libvpx", ", ".join(kind for kind, there in libvpx.items() if there) or "none"),
        ("cores", str(findings["cores"])),
        ("memory", _size(findings["memory_bytes"])),
        (
            "/dev/shm",
            "none" if findings["shm_bytes"] is None else f"{_size(findings['shm_bytes'])} free",
        ),
    ]
    if kernels:
        there = f"{kernels['compiled']} compiled, {_size(kernels['bytes'])} in {kernels['folder']}"
        there += ", complete" if kernels["complete"] else ""
        there += "" if kernels["writable"] else ", read-only"
        rows.append(("kernels", there))
    if "warm_up_seconds" in findings:
        rows.append(("warm-up", f"{findings['warm_up_seconds']} s"))
    return rows


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
