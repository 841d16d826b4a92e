"""A vpxenc that the system kills, that hangs or finds no memory is tried again elsewhere; what is its own fault is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from test_api import write_film

import excamera_dask
from codec.frame import Image
from codec.kernel_cache import INTERPRETED
from excamera_dask import first_pass
from excamera_dask.first_pass import EncoderKilled, FirstPassSettings, encode_chunk
from excamera_dask.progress import Notice
from executors.tries import TRIES

pytestmark = [
    pytest.mark.vpx,
    pytest.mark.skipif(INTERPRETED, reason="the chains would take minutes"),
]

WRAPPER = """#!/bin/sh
case "$*" in *--help*) exec {real} "$@";; esac
touch "{folder}/call-$$"
for number in $(seq {times}); do
    if mkdir "{folder}/$number" 2>/dev/null; then {fault}; fi
done
exec {real} "$@"
"""
KILLED = "kill -KILL $$"
OPTIONS = {"encoder": "vpxenc", "chunk_frames": 3, "batch_chunks": 2, "scene_cuts": False}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "in.y4m", frames=12)


@pytest.fixture(scope="module")
def undisturbed(film: Path, vpxenc: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed") / "out.ivf"
    excamera_dask.encode(film, out, executor="sync", **OPTIONS)
    return out.read_bytes()


@pytest.fixture
def faulty(
    vpxenc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, int], Path]:
    """Puts a vpxenc on PATH that meets a fault the first few times that it encodes; returns the folder of its calls."""

    def put(fault: str, times: int) -> Path:
        folder = write_wrapper(tmp_path / "faulty", vpxenc, fault, times)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return folder

    return put


def write_wrapper(folder: Path, real: str, fault: str, times: int) -> Path:
    folder.mkdir()
    wrapper = folder / "vpxenc"
    wrapper.write_text(WRAPPER.format(real=real, folder=folder, fault=fault, times=times))
    wrapper.chmod(0o755)
    return folder


def calls(folder: Path) -> int:
    return len(list(folder.glob("call-*")))


@pytest.fixture
def address(faulty: Callable[[str, int], Path]) -> Iterator[Callable[[], str]]:
    """Starts a cluster of two workers, which find whatever is on PATH then."""
    clusters = []

    def start() -> str:
        clusters.append(
            LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=50)
        )
        return str(clusters[0].scheduler_address)

    yield start
    for cluster in clusters:
        cluster.close()


@pytest.mark.parametrize("where", ["sync", "local", "tcp", "submit"])
@pytest.mark.parametrize("fault", [KILLED, "exit 137", "kill -SEGV $$"])
def test_a_killed_encoder_is_tried_again_and_changes_nothing(
    film: Path,
    undisturbed: bytes,
    faulty: Callable[[str, int], Path],
    address: Callable[[], str],
    tmp_path: Path,
    where: str,
    fault: str,
) -> None:
    folder = faulty(fault, TRIES - 1)
    out = tmp_path / "out.ivf"
    if where == "submit":
        with Client(address(), set_as_default=False) as client:
            excamera_dask.submit(film, out, client=client, **OPTIONS).result(timeout=120)
    else:
        told: list[str] = []
        excamera_dask.encode(
            film,
            out,
            executor=address() if where == "tcp" else where,
            workers=2 if where == "local" else None,
            on_event=lambda event: told.append(event.text) if isinstance(event, Notice) else None,
            **OPTIONS,
        )
        again = [line for line in told if "trying again" in line]
        assert 1 <= len(again) <= TRIES - 1
        assert all(
            line.startswith("chunk ") and "vpxenc was killed by SIG" in line for line in again
        )
    assert out.read_bytes() == undisturbed
    # A chunk that was let go meanwhile is encoded anew.
    assert 4 + TRIES - 1 <= calls(folder) <= 2 * 4 + TRIES - 1


@pytest.mark.parametrize("where", ["sync", "local", "tcp", "submit"])
def test_an_encoder_that_is_always_killed_ends_in_one_line(
    film: Path,
    faulty: Callable[[str, int], Path],
    address: Callable[[], str],
    tmp_path: Path,
    where: str,
) -> None:
    folder = faulty(KILLED, 1000)
    out = tmp_path / "out.ivf"
    began = time.monotonic()
    line = r"^chunk \d \(frames \d+ to \d+\): vpxenc was killed by SIGKILL \(out of memory\?[^\n]*$"
    with pytest.raises(EncoderKilled, match=line):
        if where == "submit":
            with Client(address(), set_as_default=False) as client:
                excamera_dask.submit(film, out, client=client, **OPTIONS).result(timeout=120)
        else:
            excamera_dask.encode(
                film,
                out,
                executor=address() if where == "tcp" else where,
                workers=2 if where == "local" else None,
                **OPTIONS,
            )
    assert time.monotonic() - began < 60
    assert TRIES <= calls(folder) <= 4 * TRIES
    assert not out.exists()


@pytest.mark.parametrize(
    ("fault", "tries"),
    [
        ("echo 'Error: Unrecognized option' >&2; exit 1", 1),
        ("echo 'Failed to initialize encoder: Memory allocation error' >&2; exit 1", TRIES),
    ],
)
@pytest.mark.parametrize("where", ["sync", "local"])
def test_only_what_may_go_well_elsewhere_is_tried_again(
    film: Path,
    faulty: Callable[[str, int], Path],
    tmp_path: Path,
    where: str,
    fault: str,
    tries: int,
) -> None:
    folder = faulty(fault, 1000)
    options = {**OPTIONS, "chunk_frames": 12, "batch_chunks": 1}
    with pytest.raises(excamera_dask.ExcameraError, match=r"chunk 0 \(frames 0 to 11\)"):
        excamera_dask.encode(film, tmp_path / "out.ivf", executor=where, **options)
    assert calls(folder) == tries


def test_a_machine_where_every_encoder_is_killed_is_left(
    film: Path, undisturbed: bytes, vpxenc: str, tmp_path: Path
) -> None:
    """Whatever was begun there is done by the other worker."""
    bad = write_wrapper(tmp_path / "bad", vpxenc, KILLED, 1000)
    good = write_wrapper(tmp_path / "good", vpxenc, KILLED, 0)
    with LocalCluster(
        n_workers=0, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        address = cluster.scheduler_address
        workers = [start_worker(address, bad, threads=8), start_worker(address, good)]
        try:
            with Client(cluster, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=60)
                excamera_dask.encode(film, tmp_path / "out.ivf", executor=client, **OPTIONS)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert (tmp_path / "out.ivf").read_bytes() == undisturbed
    assert calls(bad) >= 1
    assert calls(good) >= 4


def start_worker(address: str, folder: Path, threads: int = 1) -> subprocess.Popen[bytes]:
    """A Dask worker that finds the vpxenc of a folder."""
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny"]
    return subprocess.Popen(
        [*command, "--nthreads", str(threads), "--no-dashboard"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def pictures() -> list[Image]:
    y = np.zeros((16, 16), np.uint8)
    return [Image(y, y[::2, ::2].copy(), y[::2, ::2].copy())]


def test_an_encoder_that_hangs_is_ended(
    faulty: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty("sleep 60", 1)
    monkeypatch.setattr(first_pass, "ENCODER_SECONDS", 0.5)
    monkeypatch.setattr(first_pass, "ENCODER_SECONDS_A_MEGAPIXEL", 0.0)
    with pytest.raises(EncoderKilled, match="did not end within"):
        encode_chunk(pictures(), FirstPassSettings())
    monkeypatch.undo()


def test_an_encoder_that_cannot_be_started_for_want_of_memory_is_tried_again(
    vpxenc: str, tmp_path: Path
) -> None:
    """In a process of its own, which may have no further process."""
    code = """
import os, resource
import numpy as np
from codec.frame import Image
from excamera_dask import first_pass
y = np.zeros((16, 16), np.uint8)
images = [Image(y, y[::2, ::2].copy(), y[::2, ::2].copy())]
first_pass.encoder_version("vpxenc")
limit = len(os.listdir("/dev/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
try:
    first_pass.encode_chunk(images, first_pass.FirstPassSettings())
except first_pass.FirstPassError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Too many open files" in done.stdout


def test_encoders_take_turns_after_one_was_killed() -> None:
    import threading

    memory = first_pass._Memory()
    memory.is_short()
    inside, most = 0, 0

    def encode() -> None:
        nonlocal inside, most
        with memory.turn():
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1

    threads = [threading.Thread(target=encode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
