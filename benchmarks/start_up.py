"""First compile of all kernels, and how soon a warm command begins its work.

Usage: python benchmarks/start_up.py

Compiles into an empty cache directory, once, by ``excamera doctor --warm-up``. The warm start is the time from starting
``excamera encode`` to its first task, read from its own JSON progress; the median of three.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from codec.frame import Image
from excamera_dask.formats.y4m import Y4mWriter

EXCAMERA = [sys.executable, "-m", "excamera_dask.cli"]


def first_compile(environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    command = [*EXCAMERA, "doctor", "--warm-up"]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - begin


def warm_start(source: Path, out: Path, environment: dict[str, str]) -> float:
    """Seconds until the first line of progress that follows the start of the workers."""
    command = [*EXCAMERA, "encode", str(source), "-o", str(out), "-y", "--progress=json"]
    begin = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        found = None
        for line in process.stderr:
            if found is None and line.startswith("{"):
                found = time.perf_counter() - begin
    if process.returncode or found is None:
        raise RuntimeError(
            f"excamera encode ended with {process.returncode} before it told its progress"
        )
    return found


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="excamera-start-") as folder:
        environment = {**os.environ, "EXCAMERA_CACHE_DIR": str(Path(folder) / "cache")}
        environment.pop("NUMBA_CACHE_DIR", None)
        source, out = Path(folder) / "source.y4m", Path(folder) / "out.ivf"
        grey = Image(*(np.full(size, 128, np.uint8) for size in ((64, 64), (32, 32), (32, 32))))
        with Y4mWriter(str(source), 64, 64, 25) as writer:
            for _ in range(12):
                writer.write(grey)
        compiled = first_compile(environment)
        starts = [warm_start(source, out, environment) for _ in range(3)]
    result = {
        "first_compile_s": round(compiled, 1),
        "warm_start_s": round(statistics.median(starts), 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
