"""One conformance suite over all executors: results, order, exceptions, big results, cancelling, dying workers."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import Client, LocalCluster

from executors import (
    Cancelled,
    Executor,
    InvalidExecutor,
    TryElsewhere,
    WorkerLost,
    WrongUse,
    open_executor,
)
from executors.local import _threads
from executors.tries import TRIES


class Refused(Exception):
    """A typed exception of a task, with more than a message."""

    def __init__(self, message: str, frame: int) -> None:
        super().__init__(message, frame)
        self.frame = frame


def square(value: int) -> int:
    return value * value


def add(first: int, second: int, *_after: object) -> int:
    return first + second


def refuse(frame: int) -> None:
    raise Refused("no such frame", frame)


def big(value: int) -> bytes:
    return bytes([value]) * 8_000_000


def slow(value: int, seconds: float) -> int:
    time.sleep(seconds)
    return value


def slow_pid(_: int) -> int:
    """Long enough that no worker can run all of them."""
    time.sleep(0.2)
    return os.getpid()


def die_once(marker: str, value: int) -> int:
    """Kill this very process with SIGKILL, the first time."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return value
    os.kill(os.getpid(), signal.SIGKILL)
    return -1


def be_unlucky(folder: str, times: int, value: int) -> int:
    """Fail the first few times, wherever that is, through no fault of its own."""
    for number in range(times):
        try:
            os.mkdir(f"{folder}/{value}-{number}")
        except FileExistsError:
            continue
        raise TryElsewhere(f"no luck with {value}")
    return value


def die_always() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def warm_up() -> None:
    os.environ["EXCAMERA_TEST_WARM"] = "yes"


def is_warm() -> str | None:
    for _ in range(100):
        if "EXCAMERA_TEST_WARM" in os.environ:
            break
        time.sleep(0.05)
    return os.environ.get("EXCAMERA_TEST_WARM")


def graph_of(**layers: dict[Any, Any]) -> HighLevelGraph:
    """Layers in the order given, each on those before it."""
    names = list(layers)
    return HighLevelGraph(
        {
            name: MaterializedLayer(tasks, annotations={"priority": place})
            for place, (name, tasks) in enumerate(layers.items())
        },
        {name: set(names[:place]) for place, name in enumerate(names)},
    )


def collect(executor: Executor, graph: HighLevelGraph, keys: list[Any]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    executor.run(graph, keys, found.__setitem__)
    return found


def assert_usable(executor: Executor) -> None:
    name = f"usable-{time.time_ns()}"
    assert collect(executor, graph_of(**{name: {(name, 0): (square, 5)}}), [(name, 0)]) == {
        (name, 0): 25
    }


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster


HERE = str(Path(__file__).parent)


def open_lambda(**options: Any) -> Executor:
    """Functions of the Lambda on this machine, which find the tasks of this module."""
    pytest.importorskip(
        "awslambdaric", reason="needs AWS's runtime client: pip install awslambdaric"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(Path(HERE).parent), HERE])}
    return open_executor("lambda", backend="local", environment=environment, **options)


@pytest.fixture(
    params=["sync", "local-1", "local-2", "local-6", "address", "client", "lambda"], scope="module"
)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    kind: str = request.param
    if kind == "sync":
        opened = open_executor("sync")
    elif kind.startswith("local"):
        opened = open_executor("local", workers=int(kind[-1]))
    elif kind == "lambda":
        opened = open_lambda(workers=2)
    else:
        address = request.getfixturevalue("cluster").scheduler_address
        opened = open_executor(
            address if kind == "address" else Client(address, set_as_default=False)
        )
    with opened:
        yield opened
    if kind == "client":
        opened.client.close()  # type: ignore[attr-defined]


def test_results_by_key(executor: Executor) -> None:
    squares = {("square-results", i): (square, i) for i in range(20)}
    sums = {
        ("sum-results", i): (add, ("square-results", i), ("square-results", i + 1))
        for i in range(19)
    }
    found = collect(
        executor, graph_of(**{"square-results": squares, "sum-results": sums}), list(sums)
    )
    assert found == {("sum-results", i): i * i + (i + 1) ** 2 for i in range(19)}


def test_a_chain_completes_in_order(executor: Executor) -> None:
    tasks: dict[Any, Any] = {("chain", 0): (square, 1)}
    tasks |= {("chain", i): (add, ("chain", i - 1), i) for i in range(1, 15)}
    order: list[Any] = []
    executor.run(graph_of(chain=tasks), list(tasks), lambda key, _: order.append(key))
    assert order[-1] == ("chain", 14)
    assert sorted(order) == list(tasks)


def test_a_wanted_result_may_have_dependents(executor: Executor) -> None:
    tasks = {("a-dependents", 0): (square, 3)}
    last = {
        ("b-dependents", 0): (add, ("a-dependents", 0), 1),
        ("b-dependents", 1): (add, 1, 1, ("a-dependents", 0)),
    }
    found = collect(
        executor, graph_of(**{"a-dependents": tasks, "b-dependents": last}), [*tasks, *last]
    )
    assert found == {("a-dependents", 0): 9, ("b-dependents", 0): 10, ("b-dependents", 1): 2}


def test_no_keys(executor: Executor) -> None:
    assert collect(executor, graph_of(none={("none", 0): (square, 1)}), []) == {}


def test_big_results(executor: Executor) -> None:
    tasks = {("big", i): (big, i) for i in range(6)}
    found = collect(executor, graph_of(big=tasks), list(tasks))
    assert {key: (value[0], len(value)) for key, value in found.items()} == {
        ("big", i): (i, 8_000_000) for i in range(6)
    }


def test_a_task_fails_with_its_own_exception(executor: Executor) -> None:
    tasks = {("refuse", i): (refuse, i) for i in range(3)}
    with pytest.raises(Refused, match="no such frame") as caught:
        collect(executor, graph_of(refuse=tasks), list(tasks))
    assert caught.value.frame in range(3)
    assert_usable(executor)


def test_an_unlucky_task_is_tried_again(executor: Executor, tmp_path: Path) -> None:
    """Several at once, in a chain that hangs on all of them, time after time."""
    if executor.name.startswith("lambda"):
        pytest.skip("functions write no files here")
    for turn in range(5):
        folder, tries, sums = str(tmp_path / f"{turn}"), f"tries-{turn}", f"sums-{turn}"
        os.mkdir(folder)
        unlucky = {
            (tries, i): (be_unlucky, folder, TRIES - 1 if i % 3 == 0 else 0, i) for i in range(7)
        }
        chain: dict[Any, Any] = {(sums, 0): (add, (tries, 0), 0)}
        chain |= {(sums, i): (add, (tries, i), (sums, i - 1)) for i in range(1, 7)}
        found = collect(executor, graph_of(**{tries: unlucky, sums: chain}), list(chain))
        assert found[(sums, 6)] == 21
        assert len(os.listdir(folder)) == 3 * (TRIES - 1)


def test_a_task_without_any_luck_is_given_up(executor: Executor, tmp_path: Path) -> None:
    if executor.name.startswith("lambda"):
        pytest.skip("functions write no files here")
    told: list[str] = []
    executor.on_notice(told.append)
    tasks = {("luckless", i): (be_unlucky, str(tmp_path), 99, i) for i in range(1)}
    with pytest.raises(TryElsewhere, match="no luck with 0"):
        collect(executor, graph_of(luckless=tasks), list(tasks))
    assert len(os.listdir(tmp_path)) == TRIES
    assert told == [f"no luck with 0; trying again ({n} of {TRIES})" for n in range(2, TRIES + 1)]
    assert_usable(executor)


def test_a_failing_callback_ends_the_run(executor: Executor) -> None:
    tasks = {("callback", i): (square, i) for i in range(10)}

    def fail(key: Any, value: Any) -> None:
        raise ZeroDivisionError("disk full, say")

    with pytest.raises(ZeroDivisionError):
        executor.run(graph_of(callback=tasks), list(tasks), fail)
    assert_usable(executor)


def test_cancel(executor: Executor) -> None:
    tasks = {("slow", i): (slow, i, 0.2) for i in range(400)}
    timer = threading.Timer(0.4, executor.cancel)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(Cancelled):
        collect(executor, graph_of(slow=tasks), list(tasks))
    assert time.monotonic() - begin < 15  # all of them would take 40
    assert_usable(executor)


def test_counts(executor: Executor) -> None:
    tasks = {("counted", i): (slow, i, 0.02) for i in range(50)}
    seen: list[Any] = []
    executor.run(
        graph_of(counted=tasks),
        list(tasks),
        lambda key, value: None,
        lambda counts: seen.append(counts["counted"]),
    )
    done = [counts.done for counts in seen]
    assert done == sorted(done)
    assert seen[-1] == (50, 0, 50)
    assert all(counts.done + counts.running <= counts.total for counts in seen)


def test_workers_and_memory(executor: Executor) -> None:
    assert executor.workers >= 1
    assert executor.memory > 0


@pytest.mark.parametrize(("workers", "processes"), [(1, 1), (2, 1), (5, 5), (6, 2), (8, 2)])
def test_up_to_four_workers_share_a_process(workers: int, processes: int) -> None:
    assert workers // _threads(workers) == processes


def test_workers_of_several_processes() -> None:
    with open_executor("local", workers=6) as executor:
        assert executor.workers == 6
        pids = {("pid", i): (slow_pid, i) for i in range(12)}
        assert len(set(collect(executor, graph_of(pid=pids), list(pids)).values())) == 2


def test_warm_up_runs_in_each_worker() -> None:
    with open_executor("local", workers=2, warm_up=warm_up) as executor:
        tasks = {("warm", i): (is_warm,) for i in range(4)}
        assert set(collect(executor, graph_of(warm=tasks), list(tasks)).values()) == {"yes"}


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    tasks: dict[Any, Any] = {("die", 0): (square, 2)}
    tasks |= {
        ("die", i): (add, ("die", i - 1), (die_once, str(tmp_path / str(i)), i))
        for i in range(1, 4)
    }
    with open_executor("local", workers=2) as executor:
        assert collect(executor, graph_of(die=tasks), [("die", 3)]) == {("die", 3): 10}
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
def test_a_deadly_task_is_given_up() -> None:
    with open_executor("local", workers=1) as executor, pytest.raises(WorkerLost, match="died"):
        collect(executor, graph_of(deadly={("deadly", 0): (die_always,)}), [("deadly", 0)])


def test_closing_leaves_no_process() -> None:
    before = set(psutil.Process().children(recursive=True))
    with open_executor("local", workers=6):
        assert len(set(psutil.Process().children(recursive=True)) - before) >= 2
    left = [
        child
        for child in set(psutil.Process().children(recursive=True)) - before
        if "tracker" not in _command(child)
    ]
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_client_leaves_no_process(tmp_path: Path, sent: signal.Signals) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys, time
            from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
            from executors import open_executor

            def slow(i):
                os.write(1, b"running\\n")
                time.sleep(60)

            if __name__ == "__main__":
                graph = HighLevelGraph({"s": MaterializedLayer({("s", i): (slow, i) for i in range(9)})}, {"s": set()})
                try:
                    with open_executor("local", workers=2) as executor:
                        executor.run(graph, list(graph), print)
                except KeyboardInterrupt:
                    sys.exit(130)
            """
        )
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    job = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        env=environment,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "running\n"
    family = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
    if sent == signal.SIGINT:
        os.killpg(job.pid, sent)  # as a terminal does
    else:
        job.kill()
    _, errors = job.communicate(timeout=20)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    if sent == signal.SIGINT:
        assert job.returncode == 130
        assert "Traceback" not in errors


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    """Its worker processes would run it again from the top."""
    script = tmp_path / "job.py"
    script.write_text("from executors import open_executor\nopen_executor('local', workers=1)\n")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    job = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert job.returncode == 1
    assert "InvalidExecutor: worker processes cannot start" in job.stderr.splitlines()[-1]
    assert "__main__" in job.stderr.splitlines()[-1]


def test_unknown_executors_are_refused() -> None:
    with pytest.raises(InvalidExecutor, match="use sync, local, lambda or an address"):
        open_executor("cloud")
    with pytest.raises(InvalidExecutor, match="one worker"):
        open_executor("sync", workers=3)
    with pytest.raises(WrongUse):
        open_executor("tcp://127.0.0.1:8786", workers=3)
    with pytest.raises(InvalidExecutor, match="no Dask scheduler answers"):
        from executors.dask import DaskExecutor

        DaskExecutor.connect("tcp://127.0.0.1:1", timeout=0.5)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("tls://127.0.0.1:1", "needs certificates"),
        ("foo://127.0.0.1:1", "unknown address scheme"),
        ("tcp://127.0.0.1", "missing port"),
        ("tcp://127.0.0.1:99999", "from 1 to 65535"),
        ("tcp://nobody.invalid:8786", "no Dask scheduler answers"),
    ],
)
def test_addresses_that_cannot_work_are_refused_at_once(address: str, reason: str) -> None:
    began = time.monotonic()
    with pytest.raises(InvalidExecutor, match=reason):
        open_executor(address)
    assert time.monotonic() - began < 9  # it would be tried for 10


def test_errors_pickle() -> None:
    for error in (InvalidExecutor("a"), WorkerLost("b"), Cancelled("c"), Refused("d", 4)):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
