"""Whatever happens to Lambda functions, their network and their coordinator: the very same bytes come out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil
import pytest
from lambda_faults import HIDDEN_STAGES, SERVER, STAGES, FaultServer
from streams import moving_images

import excamera_dask
from codec.kernel_cache import cache_root
from excamera_dask.formats.y4m import Y4mWriter
from executors import WorkerLost
from executors.aws_lambda import ClusterStopped, LambdaExecutor
from executors.aws_lambda.handler import PREPARE

pytest.importorskip("awslambdaric", reason="needs AWS's runtime client: pip install awslambdaric")
from executors.local_lambda import Faults

ROOT = Path(__file__).parents[1]
OPTIONS: dict[str, Any] = {
    "chunk_frames": 3, "batch_chunks": 6, "cq_level": 30, "encoder": "libvpx",
}  # fmt: skip
HIDDEN: dict[str, Any] = {
    "preset": "balanced", "chunk_frames": 6, "key_distance": 27, "cq_level": 30,
}  # fmt: skip
"""Batches with hidden frames: two of two groups, of two or three chunks each."""
PATIENCE = {
    "heartbeat_timeout": 8.0, "straggler_seconds": 2.0, "straggler_samples": 3, "exit_grace": 2.0,
    "appear_timeout": 20.0,
}  # fmt: skip
PATIENT = {"allowed_failures": 20}
"""Of functions that live for seconds: where a machine is slow, few tasks fit into one."""
FRAMES = 54


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("film"), FRAMES)


def film(folder: Path, frames: int) -> Path:
    path = folder / "film.y4m"
    with Y4mWriter(path, 160, 96, Fraction(25)) as writer:
        for image in moving_images(160, 96, frames):
            writer.write(image)
    return path


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The output of the sync executor."""
    out = tmp_path_factory.mktemp("sync") / "out.webm"
    excamera_dask.encode(source, out, executor="sync", **OPTIONS)
    return out.read_bytes()


@pytest.fixture(scope="module")
def expected_with_hidden(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same of batches with hidden frames."""
    out = tmp_path_factory.mktemp("sync") / "hidden.webm"
    excamera_dask.encode(source, out, executor="sync", **HIDDEN)
    return out.read_bytes()


@contextlib.contextmanager
def functions(
    source: Path, server: FaultServer | None = None, workers: int = 2, **options: Any
) -> Iterator[LambdaExecutor]:
    """Lambda functions on this machine; with a server, their stages ask it for faults."""
    environment = {"EXCAMERA_CACHE_DIR": str(cache_root())}
    if server is not None:
        environment[SERVER] = server.address
        environment[PREPARE] = "lambda_faults:install"
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
    patience = {**PATIENCE, **options.pop("fleet_options", {})}
    backend = {
        "visible": (str(source.parent), str(cache_root())),
        **options.pop("backend_options", {}),
    }
    with LambdaExecutor(
        workers,
        backend="local",
        environment=environment,
        backend_options=backend,
        fleet_options=patience,
        **options,
    ) as executor:
        yield executor


def encode(
    source: Path, out: Path, executor: LambdaExecutor, options: dict[str, Any] = OPTIONS
) -> bytes:
    excamera_dask.encode(source, out, executor=executor, **options)
    return out.read_bytes()


def ended(executor: LambdaExecutor, state: str) -> int:
    """Invocations that ended so."""
    coordinator = executor.cluster.coordinator
    assert coordinator is not None
    return coordinator.fleet.snapshot().counts[state]


def await_error(executor: LambdaExecutor, words: str) -> None:
    """Wait until it is known that an invocation failed for a reason with these words."""
    coordinator = executor.cluster.coordinator
    assert coordinator is not None
    deadline = time.monotonic() + 30
    while True:
        views = coordinator.fleet.snapshot().invocations
        if any(words in (view.error or "") for view in views):
            return
        assert time.monotonic() < deadline, views
        time.sleep(0.1)


@pytest.mark.parametrize("stage", STAGES)
def test_a_worker_is_killed_in_a_stage(
    stage: str, source: Path, expected: bytes, tmp_path: Path
) -> None:
    faults = {stage: ["", "", "kill"]}
    with FaultServer(**faults) as server, functions(source, server) as executor:
        assert encode(source, tmp_path / "out.webm", executor) == expected
        assert server.told == [(stage, "kill")]
        assert ended(executor, "lost") + ended(executor, "failed") == 1


@pytest.mark.parametrize("stage", HIDDEN_STAGES)
def test_a_worker_is_killed_between_hidden_frames(
    stage: str, source: Path, expected_with_hidden: bytes, tmp_path: Path
) -> None:
    """What it held of the skeleton is made again, and whoever needs that gets the same."""
    faults = {stage: ["", "kill"]}
    with FaultServer(**faults) as server, functions(source, server) as executor:
        assert encode(source, tmp_path / "out.webm", executor, HIDDEN) == expected_with_hidden
        assert server.told == [(stage, "kill")]
        assert ended(executor, "lost") + ended(executor, "failed") == 1


def test_all_workers_are_killed_at_once(source: Path, expected: bytes, tmp_path: Path) -> None:
    faults = {"rebase": ["", "kill", "kill"], "encode": ["", "", "", "kill"]}
    with FaultServer(**faults) as server, functions(source, server, 3) as executor:
        assert encode(source, tmp_path / "out.webm", executor) == expected
        assert len(server.told) == 3


def test_a_worker_hangs(source: Path, expected: bytes, tmp_path: Path) -> None:
    """It is stopped: its connection stays open, and nothing comes from it any more."""
    with FaultServer(rebase=["", "hang"]) as server, functions(source, server) as executor:
        assert encode(source, tmp_path / "out.webm", executor) == expected
        assert server.told == [("rebase", "hang")]


def test_another_takes_over_from_a_slow_worker(
    source: Path, expected: bytes, tmp_path: Path
) -> None:
    faults = {"encode": ["", "", "", "", "slow"]}
    begin = time.monotonic()
    with FaultServer(**faults) as server, functions(source, server) as executor:
        assert encode(source, tmp_path / "out.webm", executor) == expected
        assert server.told == [("encode", "slow")]
    assert time.monotonic() - begin < 50, "somebody waited for the slow one"


def test_the_relay_is_killed(source: Path, expected: bytes, tmp_path: Path) -> None:
    with FaultServer(rebase=["", "none"]) as server, functions(source, server) as executor:
        killer = when(server, lambda: os.kill(executor.cluster.relays[0].pid, signal.SIGKILL))
        assert encode(source, tmp_path / "out.webm", executor) == expected
        killer.join()
        assert executor.cluster.relays[0].is_running


def test_the_relay_is_killed_between_hidden_frames(
    source: Path, expected_with_hidden: bytes, tmp_path: Path
) -> None:
    """While skeletons are on their way to chunks."""
    with FaultServer(code=["", "none"]) as server, functions(source, server) as executor:
        killer = when(server, lambda: os.kill(executor.cluster.relays[0].pid, signal.SIGKILL))
        assert encode(source, tmp_path / "out.webm", executor, HIDDEN) == expected_with_hidden
        killer.join()
        assert executor.cluster.relays[0].is_running


def when(server: FaultServer, act: Callable[[], None]) -> threading.Thread:
    """Do something once the server has told a fault."""

    def wait() -> None:
        assert server.event.wait(60)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_lambda_doubles_loses_delays_and_throttles(
    source: Path, expected: bytes, tmp_path: Path
) -> None:
    faults = Faults(
        throttle=frozenset({1, 4}),
        lose=frozenset({2}),
        duplicate=frozenset({3, 5}),
        delay={6: 3.0},
        server_error=frozenset({7}),
    )
    patience = {"appear_timeout": 4.0, "backoff": 0.1}
    with functions(source, workers=0, fleet_options=patience) as executor:
        cluster = executor.cluster
        cluster.backend.local.set_faults(cluster.backend.function_name, faults)
        cluster.scale(3)
        assert encode(source, tmp_path / "out.webm", executor) == expected
        deadline = time.monotonic() + 30
        while ended(executor, "duplicate") < 1 or len(cluster.scheduler.workers) != 3:
            assert time.monotonic() < deadline, cluster.coordinator
            time.sleep(0.1)


def test_the_time_of_the_functions_runs_out(source: Path, expected: bytes, tmp_path: Path) -> None:
    """A worker is drained before Lambda ends it, others take its place, and the work goes on."""
    patience = {"deadline_margin": 3.0, "replace_ahead": 2.0, "drain_timeout": 2.0}
    faults = {"encode": ["wait"] * 18}
    with (
        FaultServer(**faults) as server,
        functions(
            source, server, timeout=8, fleet_options=patience, scheduler_options=PATIENT
        ) as executor,
    ):
        assert encode(source, tmp_path / "out.webm", executor) == expected
        assert ended(executor, "finished") >= 2


def test_lambda_ends_a_function_in_mid_task(source: Path, expected: bytes, tmp_path: Path) -> None:
    """A worker that hears nothing any more is killed by Lambda at its time limit, and that is what is told of it."""
    patience = {"deadline_margin": 1.0, "replace_ahead": 1.0, "heartbeat_timeout": 60.0}
    with (
        FaultServer(encode=["", "deaf"]) as server,
        functions(
            source, server, timeout=9, fleet_options=patience, scheduler_options=PATIENT
        ) as executor,
    ):
        assert encode(source, tmp_path / "out.webm", executor) == expected
        await_error(executor, "task timed out after 9")


def test_a_task_that_takes_all_memory_is_named(source: Path, tmp_path: Path) -> None:
    faults = {"encode": ["memory"] * 100}
    with (
        FaultServer(**faults) as server,
        functions(source, server, memory=512) as executor,
        pytest.raises((ClusterStopped, WorkerLost), match="out of memory"),
    ):
        encode(source, tmp_path / "out.webm", executor)
    assert not (tmp_path / "out.webm").exists()


def test_one_worker_short_of_memory_is_replaced(
    source: Path, expected: bytes, tmp_path: Path
) -> None:
    with (
        FaultServer(encode=["", "memory"]) as server,
        functions(source, server, memory=512) as executor,
    ):
        assert encode(source, tmp_path / "out.webm", executor) == expected
        await_error(executor, "out of memory")


def test_the_budget_is_not_exceeded(source: Path, tmp_path: Path) -> None:
    with (
        FaultServer(encode=["wait"] * 18, rebase=["wait"] * 18, replace=["wait"] * 18) as server,
        functions(source, server, budget=0.001, fleet_options={"budget_drain": 1.0}) as executor,
    ):
        with pytest.raises(ClusterStopped, match="budget"):
            encode(source, tmp_path / "out.webm", executor)
        assert 0 < executor.spent <= 0.00105


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_client_is_interrupted_or_killed_and_goes_on(
    sent: signal.Signals, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nothing is left running; what was finished is kept, and the next run goes on with it."""
    folder = tmp_path_factory.mktemp("long")
    source = film(folder, 4 * FRAMES)  # so long that it is not done before it is interrupted
    excamera_dask.encode(source, folder / "expected.webm", executor="sync", **OPTIONS)
    out = tmp_path / "out.webm"
    job = start_job(source, out)
    assert job.stderr is not None
    wait_for(job, "ChunkDone")
    family = psutil.Process(job.pid).children(recursive=True)
    if sent == signal.SIGKILL:
        job.kill()
    else:
        job.send_signal(sent)
    _, errors = job.communicate(timeout=30)
    _, alive = psutil.wait_procs(family, timeout=25)
    assert not alive
    assert not out.exists()
    if sent != signal.SIGKILL:
        assert job.returncode == 130
        assert errors.splitlines()[-1] == "excamera: interrupted"
    again = start_job(source, out)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "continuing an interrupted job" in errors
    assert out.read_bytes() == (folder / "expected.webm").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out.webm"]


def start_job(source: Path, out: Path) -> subprocess.Popen[str]:
    """The command itself, as a user starts it."""
    command = [
        *(sys.executable, "-m", "excamera_dask.cli", "encode", str(source), "-o", str(out), "-y"),
        *("--executor", "lambda", "--backend", "local", "-w", "2", "--progress", "json"),
        *("-N", "3", "-x", "6", "--cq-level", "30", "--first-pass", "libvpx"),
    ]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def wait_for(job: subprocess.Popen[str], word: str) -> None:
    """Read the job's lines until one has the word."""
    assert job.stderr is not None
    for line in job.stderr:
        if word in line:
            return
    raise AssertionError(f"the job ended without {word}")
