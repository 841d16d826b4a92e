"""How a module of ours is started in a Python of its own: with what is imported here, not what lies where we stand."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def module_command(module: str) -> list[str]:
    """The command that runs `module`; Python's -P keeps the current folder out of the import path."""
    return [sys.executable, "-P", "-m", module]


def child_environment() -> dict[str, str]:
    """The variables of this process, with an import path on which these packages come first."""
    root = Path(__file__).resolve().parents[1]
    path = [str(root), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}
