"""Dask's preloads: whether they are there, and let the process live that imports them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

from executors.child_python import child_environment
from executors.dask_values import refusal

TRIAL = 60.0
"""Seconds that one may take to be imported; whoever takes longer is left to Dask."""
LIVES = 83
"""The exit status of a process that has imported one."""
IMPORT = f"""
import importlib, importlib.util, json, os, sys
path, wanted, told = sys.argv[1:]
sys.path[:] = json.loads(path)
fault = ""
try:
    if wanted.endswith(".py"):
        sys.path.insert(0, os.path.dirname(wanted))
        found = importlib.util.spec_from_file_location("preload", wanted)
        found.loader.exec_module(importlib.util.module_from_spec(found))
    else:
        importlib.import_module(wanted)
except SyntaxError as error:
    fault = f"which is no Python ({{error.msg}}, line {{error.lineno}} of {{error.filename}})"
except ModuleNotFoundError as error:
    if f"{{wanted}}.".startswith(f"{{error.name}}."):
        fault = "which is not there"
except Exception:
    pass  # Dask tells it
os.write(int(told), fault.encode()[:1000])
os._exit({LIVES})
"""


def require_preload(name: str, wanted: str) -> None:
    """Raises InvalidExecutor, in one line. A file, or a module; what Dask downloads, or is a script itself, is seen when it
    runs."""
    is_file = wanted.endswith(".py")
    if "://" in wanted or (not is_file and (" " in wanted or wanted in sys.modules)):
        return
    fault = "which is not there" if is_file and not os.path.isfile(wanted) else _fault(wanted)
    if fault:
        raise refusal(name, wanted, fault, "correct it, or leave it out")


def _fault(wanted: str) -> str:
    """What happens to a process of its own that imports it: one of ours would end, or wait for ever; empty: it lives on."""
    read, told = os.pipe()
    command = [sys.executable, "-P", "-c", IMPORT, json.dumps(sys.path), wanted, str(told)]
    try:
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            tried = subprocess.run(
                command, env=child_environment(), pass_fds=[told], timeout=TRIAL,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            if tried.returncode != LIVES:
                return f"which ends the process that imports it (exit status {tried.returncode})"
            os.set_blocking(read, False)
            return os.read(read, 1000).decode(errors="replace")
    finally:
        os.close(read)
        os.close(told)
    return ""
