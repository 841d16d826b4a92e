"""Compiled kernels of this machine, for functions on this machine: they see them, but may not write beside them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

BORROWED = "EXCAMERA_BORROWED_KERNELS"
"""The environment variable that names the folder of the machine's compiled kernels."""


def borrow() -> None:
    """Copy the compiled kernels to where this process may write, before the codec is imported."""
    folder = Path(os.environ.get("TMPDIR") or "/tmp") / "excamera-kernels"
    if not folder.is_dir():
        part = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.copytree(os.environ[BORROWED], part, copy_function=shutil.copyfile)
        part.rename(folder)
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
