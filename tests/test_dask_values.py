"""Values of Dask's configuration that Dask could not read are named before anything is started, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import dask
import distributed  # noqa: F401 - its defaults
import pytest

from executors import InvalidExecutor, open_executor
from executors.dask_values import ROLES, require_values
from executors.waiting import Patience

WRONG = {
    "distributed.comm.shard": "banana",
    "distributed.comm.timeouts.connect": "banana",
    "distributed.comm.socket-backlog": "banana",
    "distributed.comm.tls.client.cert": 5,
    "distributed.scheduler.worker-ttl": "banana",
    "distributed.scheduler.no-workers-timeout": "banana",
    "distributed.scheduler.allowed-failures": [],
    "distributed.scheduler.blocked-handlers": 5,
    "distributed.worker.lifetime.duration": "banana",
    "distributed.worker.memory.pause": "banana",
    "distributed.worker.memory.max-spill": "banana",
    "distributed.worker.resources": "banana",
    "distributed.worker.preload": 5,
    "temporary-directory": 5,
    "excamera.workers-timeout": "banana",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_cannot_be_read_is_named(name: str) -> None:
    with dask.config.set({name: WRONG[name]}), pytest.raises(InvalidExecutor) as caught:
        require_values(*ROLES)
    line = str(caught.value)
    assert f"{name} is {WRONG[name]!r}, which is no" in line or "which is one value" in line
    assert ": use " in line and "\n" not in line


@pytest.mark.parametrize("spec", ["local", "lambda", "tcp://127.0.0.1:9"])
def test_it_is_refused_by_whatever_reads_it(spec: str) -> None:
    options = {"backend": "local"} if spec == "lambda" else {}
    for name in ("comm.timeouts.connect", "client.heartbeat"):
        with (
            dask.config.set({f"distributed.{name}": "banana"}),
            pytest.raises(InvalidExecutor, match=f"distributed.{name} is 'banana'"),
        ):
            open_executor(spec, **options)


RIGHT: dict[str, list[Any]] = {
    "distributed.comm.timeouts.connect": [5, 0.5, "5", "5s", "1.5 hours", timedelta(1), None],
    "distributed.comm.shard": [5, 5.0, "5", "5 kB", None],
    "distributed.comm.offload": [False, "1MiB"],
    "distributed.comm.compression": ["auto", None, False],
    "distributed.scheduler.bandwidth": ["100 MB", 1e8],
    "distributed.scheduler.worker-saturation": ["inf", 2, float("inf")],
    "distributed.scheduler.worker-ttl": [None, 0],
    "distributed.scheduler.idle-timeout": ["1h", None],
    "distributed.scheduler.preload": ["text", ["a", "b"], ("a",)],
    "distributed.scheduler.work-stealing": [0, "yes", None],
    "distributed.worker.memory.target": [False, 0.5, 1, None],
    "distributed.worker.memory.max-spill": [False, "1 GB", 5],
    "distributed.worker.preload-argv": [False, ["a"], [["a"], ["b"]]],
    "distributed.nanny.pre-spawn-environ": [{"OMP_NUM_THREADS": "4,2"}, None],
    "distributed.admin.system-monitor.log-length": [None, 5],
    "temporary-directory": ["/tmp", Path("/tmp"), None, ""],
    "excamera.workers-timeout": [None, "3m", 90],
    "films.length": ["banana"],
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_dask_reads_is_taken(name: str) -> None:
    for value in RIGHT[name]:
        with dask.config.set({name: value}):
            require_values(*ROLES)


def test_what_a_process_does_not_run_does_not_matter_there() -> None:
    with dask.config.set({"distributed.scheduler.worker-ttl": "banana"}):
        require_values("client", "worker")


def test_a_timeout_that_is_none_is_named_to_whoever_brings_a_client() -> None:
    patience = Patience(print, time.monotonic)
    patience.begin("tcp://host:8786")
    with (
        dask.config.set({"excamera.workers-timeout": "banana"}),
        pytest.raises(InvalidExecutor, match=r"excamera\.workers-timeout is 'banana'"),
    ):
        patience.look(0, 0)


@pytest.mark.parametrize("executor", ["local", "sync"])
@pytest.mark.parametrize(
    "name", ["COMM__SHARD", "COMM__OFFLOAD", "ADMIN__TICK__LIMIT", "SCHEDULER__DEFAULT_DATA_SIZE"]
)
def test_what_is_read_when_dask_is_imported_is_told_in_one_line(
    name: str, executor: str, tmp_path: Path
) -> None:
    film = tmp_path / "film.y4m"
    film.write_bytes(b"YUV4MPEG2 W16 H16 F25:1\n" + 4 * (b"FRAME\n" + bytes(384)))
    job = ["encode", film, "-o", tmp_path / "out.webm", "-x", "1", "--executor", executor]
    done = subprocess.run(
        [sys.executable, "-m", "excamera_dask.cli", *job],
        env={**os.environ, f"DASK_DISTRIBUTED__{name}": "banana"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    (line,) = done.stderr.splitlines()
    option = f"distributed.{name.lower().replace('__', '.').replace('_', '-')}"
    assert done.returncode == 1
    assert line.startswith(f"excamera: Dask's configuration {option} is 'banana', which is no ")
