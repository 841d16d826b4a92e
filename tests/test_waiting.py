"""A scheduler of somebody else's: without workers, with workers that go, that lack something, or gone itself."""

from __future__ import annotations

import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import get_worker
from test_api import write_film

import excamera_dask
from excamera_dask.progress import Notice
from executors import InvalidExecutor, NoWorkers, WorkerLost, open_executor
from executors.dask import DaskExecutor
from executors.waiting import FIRST_NOTICE, NEXT_NOTICE, TIMEOUT, Patience

OPTIONS = {"batch_chunks": 1, "chunk_frames": 4, "encoder": "libvpx", "scene_cuts": False}
NOTHING_OF_OURS = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("codec", "executors", "excamera_dask"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


class Cluster:
    """A scheduler and workers as processes, started and ended one by one."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self._port = str(port)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start_scheduler(self, **environment: str) -> subprocess.Popen[bytes]:
        here = ["--host", "127.0.0.1", "--port", self._port, "--no-dashboard"]
        return self._start("dask_scheduler", *here, **environment)

    def start_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        options = ["--no-nanny", "--nthreads", "2", "--no-dashboard"]
        return self._start("dask_worker", self.address, *options, **environment)

    def _start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{name}", *arguments]
        place = str(Path(__file__).parent)
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": place, **environment},
            cwd=place,  # Python looks there first, and would find the checkout
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "film.y4m", frames=12)


class Told(queue.SimpleQueue[str]):
    """Lines that were told, to wait for."""

    def __call__(self, event: object) -> None:
        if isinstance(event, Notice):
            self.put(event.text)
        elif isinstance(event, str):
            self.put(event)


def at_once(act: Callable[[], object]) -> Callable[[], BaseException | None]:
    """Run it in a thread; what is returned waits for its end and gives its error."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def ended() -> BaseException | None:
        thread.join(timeout=90)
        assert not thread.is_alive()
        return errors[0] if errors else None

    return ended


def test_workers_that_come_late_are_waited_for_with_a_word(cluster: Cluster, film: Path) -> None:
    cluster.start_scheduler()
    told, out = Told(), film.with_name("out.ivf")
    ended = at_once(
        lambda: excamera_dask.encode(film, out, executor=cluster.address, on_event=told, **OPTIONS)
    )
    assert f"{cluster.address} has had no worker for" in told.get(timeout=60)
    cluster.start_worker()
    assert told.get(timeout=60) == f"a worker is there at {cluster.address}: going on"
    assert ended() is None
    sync = film.with_name("sync.ivf")
    excamera_dask.encode(film, sync, executor="sync", **OPTIONS)
    assert out.read_bytes() == sync.read_bytes()


def test_workers_that_never_come_are_given_up(cluster: Cluster, film: Path) -> None:
    cluster.start_scheduler()
    with dask.config.set({TIMEOUT: "7s"}), pytest.raises(NoWorkers, match="has had no worker for"):
        excamera_dask.encode(film, film.with_name("out.ivf"), executor=cluster.address, **OPTIONS)
    assert not film.with_name("out.ivf").exists()


def test_workers_that_all_pause_are_given_up_too() -> None:
    graph = {("a", 1): (abs, -1)}
    told = {"distributed.worker.memory.pause": 0.0001, TIMEOUT: "4s"}
    with dask.config.set(told), open_executor("local", workers=1) as executor:
        client = executor.client
        while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.running)):
            time.sleep(0.2)
        with pytest.raises(NoWorkers, match=r"all 1 workers of .* have paused for want of memory"):
            executor.run(graph, list(graph), print)


def test_paused_workers_that_end_what_they_have_begun_are_waited_for() -> None:
    """They take nothing new, but the task of each may be the last."""
    graph = {("a", 1): (_paused_for, 12)}
    with dask.config.set({TIMEOUT: "4s"}), open_executor("local", workers=1) as executor:
        results: list[Any] = []
        executor.run(graph, list(graph), lambda key, result: results.append(result))
        assert results == ["paused"]


def _paused_for(seconds: float) -> str:
    memory = get_worker().memory_manager
    before, memory.memory_pause_fraction = memory.memory_pause_fraction, 0.0001
    time.sleep(seconds)
    memory.memory_pause_fraction = before
    return str(get_worker().status.name)


def test_a_scheduler_that_waits_less_says_which_option_that_is(cluster: Cluster) -> None:
    cluster.start_scheduler(DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT="2s")
    graph = {("a", 1): (abs, -1)}
    with (
        DaskExecutor.connect(cluster.address, timeout=60) as executor,
        pytest.raises(NoWorkers, match=r"for 2 s, and distributed\.scheduler\.no-workers-timeout"),
    ):
        executor.run(graph, list(graph), print)


@pytest.mark.parametrize(
    ("blocked", "says"),
    [
        ("gather", "refuses gather, which a job needs: take that out of .*blocked-handlers"),
        ("ncores", "refuses ncores, which a job needs: take that out of .*blocked-handlers"),
        ("identity", "refuses identity, which a job needs: take that out of .*blocked-handlers"),
        ("register_worker_plugin", "cannot load .*'register_worker_plugin' handler"),
        ("register-client", "no Dask scheduler answers"),
    ],
)
def test_handlers_that_a_foreign_scheduler_blocks_are_told_in_one_line(
    cluster: Cluster, blocked: str, says: str
) -> None:
    cluster.start_scheduler(DASK_DISTRIBUTED__SCHEDULER__BLOCKED_HANDLERS=f"['{blocked}']")
    code = f"""
import time
from executors import InvalidExecutor
from executors.dask import DaskExecutor
try:
    DaskExecutor.connect({cluster.address!r}, timeout=10, warm_up=time.time)
except InvalidExecutor as error:
    print(error)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    (line,) = done.stdout.splitlines()
    assert re.search(says, line) and done.stderr == ""
    assert time.monotonic() - began < 60, "also when Python ends"


def wait_for_file(path: str) -> int:
    while not os.path.exists(path):
        threading.Event().wait(0.1)
    return 1


def test_workers_that_all_go_in_the_middle_are_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_scheduler()
    worker = cluster.start_worker()
    told, begun = Told(), Told()
    tasks = {("wait", i): (wait_for_file, str(tmp_path / str(i))) for i in range(2)}
    graph = HighLevelGraph({"wait": MaterializedLayer(tasks)}, {"wait": set()})
    (tmp_path / "0").touch()
    with DaskExecutor.connect(cluster.address, timeout=60) as executor:
        executor.on_notice(told)
        with dask.config.set({TIMEOUT: "6s"}):
            ended = at_once(
                lambda: executor.run(graph, list(tasks), lambda key, _: begun.put(str(key)))
            )
            assert begun.get(timeout=60) == "('wait', 0)"
            worker.kill()
            assert "since it lost them all" in told.get(timeout=60)
            threading.Event().wait(3)  # longer than a first worker would have been waited for
            cluster.start_worker()
            assert "going on" in told.get(timeout=60)
            (tmp_path / "1").touch()
            assert ended() is None


def test_a_scheduler_that_dies_ends_the_wait(cluster: Cluster, tmp_path: Path) -> None:
    scheduler = cluster.start_scheduler()
    told = Told()
    tasks = {("wait", 0): (wait_for_file, str(tmp_path / "0"))}
    graph = HighLevelGraph({"wait": MaterializedLayer(tasks)}, {"wait": set()})
    with DaskExecutor.connect(cluster.address, timeout=60) as executor:
        executor.on_notice(told)
        ended = at_once(lambda: executor.run(graph, list(tasks), lambda *_: None))
        told.get(timeout=60)
        scheduler.kill()
        assert isinstance(ended(), WorkerLost)


@pytest.mark.parametrize("who", ["scheduler", "worker"])
@pytest.mark.parametrize("what", ["nothing", "other sources"])
def test_what_is_not_installed_alike_is_told(
    cluster: Cluster, film: Path, tmp_path: Path, who: str, what: str
) -> None:
    path = tmp_path / "path"
    if what == "nothing":
        path.mkdir()
        (path / "sitecustomize.py").write_text(NOTHING_OF_OURS)
    else:
        for name in ("codec", "executors", "excamera_dask"):
            shutil.copytree(Path(sys.modules[name].__file__ or "").parent, path / name)
        with (path / "excamera_dask" / "ivf.py").open("a") as file:
            file.write("# a change\n")
    changed = {"PYTHONPATH": str(path)}
    cluster.start_scheduler(**(changed if who == "scheduler" else {}))
    cluster.start_worker(**(changed if who == "worker" else {}))
    from distributed import Client

    with Client(cluster.address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
        with pytest.raises(InvalidExecutor, match=f"the {who} at tcp://") as caught:
            excamera_dask.encode(film, film.with_name("out.ivf"), executor=client, **OPTIONS)
    line = str(caught.value)
    assert ("lacks excamera_dask" if what == "nothing" else "other sources") in line
    assert "install there what is installed here" in line


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_patience_is_told_again_and_again() -> None:
    clock, told = Clock(), []
    patience = Patience(told.append, clock)
    patience.begin("tcp://host:8786")
    with dask.config.set({TIMEOUT: None}):
        for _ in range(int(FIRST_NOTICE + 2 * NEXT_NOTICE) + 2):
            patience.look(0, 0)
            clock.now += 1
    assert [line.split(" for ")[1].split(" s")[0] for line in told] == ["5", "65", "125"]
    assert all("dask worker tcp://host:8786" in line for line in told)
    patience.look(2, 0)
    assert told[-1] == "2 workers are there at tcp://host:8786: going on"
    patience.look(0, 0)
    clock.now += 1000
    patience.look(0, 0)
    assert "since it lost them all" in told[-1]


def test_paused_workers_are_told_and_given_up() -> None:
    clock, told = Clock(), []
    patience = Patience(told.append, clock)
    patience.begin("local")
    with dask.config.set({TIMEOUT: "10s"}):
        patience.look(0, 3)
        clock.now += 6
        patience.look(0, 3)
        assert "all 3 workers of local have paused for want of memory for 6 s: waiting" in told[0]
        clock.now += 10
        with pytest.raises(NoWorkers, match=r"all 3 workers .* for 16 s: give them more memory"):
            patience.look(0, 3)
        with pytest.raises(NoWorkers, match="local has had no worker for 16 s"):
            patience.look(0, 0)
