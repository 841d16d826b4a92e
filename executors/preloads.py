"""Dask's preloads: whether they are there, and let the process live that imports them."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys

from executors.child_python import child_environment
from executors.dask_values import refusal

TRIAL = 60.0
"""Seconds that one may take to be imported; whoever takes longer is left to Dask."""
LIVES = "lives"
IMPORT = f"""
import importlib, importlib.util, json, os, sys
sys.path[:] = json.loads(sys.argv[1])
try:
    if sys.argv[2].endswith(".py"):
        sys.path.insert(0, os.path.dirname(sys.argv[2]))
        found = importlib.util.spec_from_file_location("preload", sys.argv[2])
        found.loader.exec_module(importlib.util.module_from_spec(found))
    else:
        importlib.import_module(sys.argv[2])
except Exception:  # which Dask tells
    pass
sys.stdout.flush()
os.write(1, b"{LIVES}")
os._exit(0)
"""


def require_preload(name: str, wanted: str) -> None:
    """Raises InvalidExecutor, in one line. A file, or a module; what Dask downloads, or is a script itself, is seen when it
    runs."""
    if "://" in wanted or (" " in wanted and not wanted.endswith(".py")):
        return
    if wanted in sys.modules and not wanted.endswith(".py"):
        return
    path = wanted if wanted.endswith(".py") else _origin(wanted)
    if path is None or (wanted.endswith(".py") and not os.path.isfile(path)):
        raise refusal(name, wanted, "which is not there", "correct it, or leave it out")
    fault = _syntax_fault(path) or _end(wanted)
    if fault:
        raise refusal(name, wanted, fault, "correct it, or leave it out")


def _origin(module: str) -> str | None:
    """Where a module comes from, empty where from no file; None: it is not there."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return None if found is None else found.origin or ""


def _syntax_fault(path: str) -> str | None:
    if not path.endswith(tuple(importlib.machinery.SOURCE_SUFFIXES)):
        return None
    try:
        with open(path, "rb") as file:
            compile(file.read(), path, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"which is no Python ({error.msg}, line {error.lineno} of {path})"
    except (OSError, ValueError) as error:
        return f"which cannot be read ({error})"
    return None


def _end(wanted: str) -> str | None:
    """How a process of its own ends that imports it, where it does not live on: one of ours would end, or wait for ever."""
    command = [sys.executable, "-P", "-c", IMPORT, json.dumps(sys.path), wanted]
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        tried = subprocess.run(
            command,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TRIAL,
        )
        if not tried.stdout.endswith(LIVES.encode()):
            return f"which ends the process that imports it (exit status {tried.returncode})"
    return None
