"""What Dask's users do with a cluster, on LocalCluster and on LambdaCluster alike."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from dask.highlevelgraph import HighLevelGraph
from distributed import Client, LocalCluster, WorkerPlugin, get_worker
from gates import Gate, wait_at

from executors import Cancelled, ExecutorError, WorkerLost, open_executor
from executors.aws_lambda import LambdaCluster
from executors.aws_lambda.errors import InvalidOption
from executors.aws_lambda.executor import LambdaExecutor

MEMORY = 1000 << 20
HERE = Path(__file__).parent
Make = Callable[..., Any]


def local(workers: int = 0, **options: Any) -> LocalCluster:
    return LocalCluster(
        n_workers=workers, threads_per_worker=1, memory_limit=MEMORY, dashboard_address="127.0.0.1:0",
        processes=True, **options,
    )  # fmt: skip


def on_lambda(workers: int = 0, **options: Any) -> LambdaCluster:
    pytest.importorskip("awslambdaric", reason="needs AWS's runtime client")
    return LambdaCluster(
        workers, backend="local", memory=MEMORY >> 20, idle_timeout=3600,
        environment={"PYTHONPATH": f"{HERE.parent}:{HERE}"}, **options,
    )  # fmt: skip


@pytest.fixture(params=[local, on_lambda], ids=["local", "lambda"], scope="module")
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def cluster(make: Make) -> Iterator[Any]:
    with make(2) as opened:
        yield opened


@pytest.fixture
def client(cluster: Any) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as opened:
        opened.wait_for_workers(2, timeout=60)
        yield opened


def eventually(condition: Callable[[], Any], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def count(client: Client) -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


def set_variable(value: str) -> int:
    os.environ["LEFT_BEHIND"] = value
    return os.getpid()


def read_variable() -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("LEFT_BEHIND")


def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


# What a cluster does for its clients


def test_restart_leaves_nothing(cluster: Any, client: Client) -> None:
    """Processes, their memory and environment are new; a task that runs is not waited for."""
    before = set(client.run(set_variable, "old").values())
    # Dask's own nannies take their time over busy ones
    busy = client.submit(wait, 60 if isinstance(cluster, LambdaCluster) else 0.1, pure=False)
    eventually(lambda: any(client.processing().values()))
    began = time.monotonic()
    client.restart(timeout=60)
    assert time.monotonic() - began < 30
    assert busy.status == "cancelled"
    after = client.run(read_variable).values()
    assert len(after) == 2
    assert {variable for _, variable in after} == {None}
    assert not before & {pid for pid, _ in after}


def test_plugins_and_uploads_reach_those_that_come_later(
    cluster: Any, client: Client, tmp_path: Path
) -> None:
    module = tmp_path / "came_by_upload.py"
    module.write_text("ANSWER = 42\n")
    client.upload_file(str(module))
    client.register_plugin(Marking(), name="marking")
    cluster.scale(3)
    client.wait_for_workers(3, timeout=60)
    assert list(client.run(_answer).values()) == [(42, "marked")] * 3
    cluster.scale(2)
    eventually(lambda: count(client) == 2)


class Marking(WorkerPlugin):
    def setup(self, worker: Any) -> None:
        worker.marked = "marked"


def _answer(dask_worker: Any = None) -> tuple[int, str]:
    import came_by_upload

    return came_by_upload.ANSWER, dask_worker.marked


def test_events(client: Client) -> None:
    def seen() -> list[int]:
        return [event["seen"] for _, event in client.get_events("films")]

    client.log_event("films", {"seen": 1})
    eventually(lambda: seen() == [1])
    client.submit(_log_from_worker, pure=False).result(timeout=30)
    eventually(lambda: seen() == [1, 2])


def _log_from_worker() -> None:
    get_worker().log_event("films", {"seen": 2})


def test_retries(client: Client) -> None:
    for retries in (2, 1):
        with Counter() as counter:
            answer = client.submit(Sometimes(counter.port, 2), retries=retries, pure=False)
            if retries == 2:
                assert answer.result(timeout=30) == 3
            else:
                with pytest.raises(ValueError, match="not yet"):
                    answer.result(timeout=30)


class Sometimes:
    """Fails so many times first, as is counted here, for tries may fall to different workers."""

    def __init__(self, port: int, failures: int) -> None:
        self.port, self.failures = port, failures

    def __call__(self) -> int:
        with socket.create_connection(("127.0.0.1", self.port), 10) as counter:
            number = counter.recv(1)[0]
        if number <= self.failures:
            raise ValueError("not yet")
        return number


class Counter:
    """Tells everybody who connects the how manieth it is."""

    def __enter__(self) -> Counter:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._count, daemon=True).start()
        return self

    def _count(self) -> None:
        with contextlib.suppress(OSError):
            for number in itertools.count(1):
                connection, _ = self._listener.accept()
                with connection:
                    connection.sendall(bytes([number]))

    def __exit__(self, *error: object) -> None:
        self._listener.close()


def test_work_spreads_to_those_that_come_later(cluster: Any, client: Client) -> None:
    """What was given to the only worker that was there is taken over by others."""
    cluster.scale(1)
    eventually(lambda: count(client) == 1)
    first = client.scatter(list(range(24)))  # so many that Dask gives out at once what follows
    with Gate() as gate:
        tasks = client.map(_pid_after, first, port=gate.port, pure=False)
        eventually(lambda: sum(map(len, client.processing().values())) >= 18)
        cluster.scale(2)
        eventually(lambda: len([keys for keys in client.processing().values() if keys]) == 2, 60)
        gate.open()
        assert len(set(client.gather(tasks))) == 2


def _pid_after(_: int, port: int) -> int:
    wait_at(port)
    time.sleep(0.1)
    return os.getpid()


# How many workers there are


def test_bounds_by_cores_and_memory(make: Make) -> None:
    with make() as cluster:
        given = cluster.adapt(minimum_cores=1, maximum_cores=3, interval="1h")
        assert (given.minimum, given.maximum) == (1, 3)
        given = cluster.adapt(minimum_memory=MEMORY + 1, maximum_memory=4 * MEMORY + 1)
        assert (given.minimum, given.maximum) == (2, 4)
        given = cluster.adapt(minimum=1, maximum=9, maximum_cores=5, maximum_memory=3 * MEMORY)
        assert (given.minimum, given.maximum) == (1, 3)
        given = cluster.adapt(minimum=0, maximum=2)
        assert (given.minimum, given.maximum) == (0, 2)
        if isinstance(cluster, LambdaCluster):  # Dask's own take them, and do something else
            for bounds in IMPOSSIBLE:
                with pytest.raises(InvalidOption):
                    cluster.adapt(**bounds)
        for wanted, workers in (
            ({"cores": 2}, 2),
            ({"n": 1, "memory": MEMORY + 1}, 2),
            ({"n": 0}, 0),
        ):
            cluster.scale(**wanted)
            assert len(cluster.plan) == workers


IMPOSSIBLE: list[dict[str, Any]] = [
    {"maxmimum": 3}, {"maximum_memory": "1 kB"}, {"maximum_cores": 0}, {"minimum_memory": "much"},
    {"minimum": 3, "maximum": 2}, {"minimum": -1},
]  # fmt: skip


def test_adapt_holds_its_bounds_and_scales_down(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with make() as cluster, Client(cluster, set_as_default=False) as client:
        cluster.adapt(maximum_cores=2, interval="100ms", wait_count=2, target_duration="1s")
        most = Most(client)
        assert client.gather(client.map(wait, [0.2] * 20, pure=False)) == [0.2] * 20
        most.stop()
        assert 1 <= most.seen <= 2
        eventually(lambda: count(client) == 0)
        cluster.scale(1)  # adapting goes on, and has no use for it
        time.sleep(0.5)
        eventually(lambda: count(client) == 0 and not cluster.plan)
        cluster._adaptive.stop()
        cluster.scale(1)
        client.wait_for_workers(1, timeout=60)
    assert "error while adapting" not in caplog.text


class Most:
    """Looks how many workers there are at most."""

    def __init__(self, client: Client) -> None:
        self.seen = 0
        self._client = client
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._ends.wait(0.05):
            self.seen = max(self.seen, count(self._client))

    def stop(self) -> None:
        self._ends.set()
        self._thread.join()


def test_asynchronous(make: Make) -> None:
    """`scale` may be awaited, and does it where nobody can await it."""

    async def use() -> None:
        async with (
            make(asynchronous=True) as cluster,
            Client(cluster, asynchronous=True, set_as_default=False) as client,
        ):
            await cluster.scale(1)
            await client.wait_for_workers(1, timeout=60)
            asyncio.get_running_loop().call_soon(lambda: cluster.scale(2) and None)
            await client.wait_for_workers(2, timeout=60)
            assert await client.submit(abs, -6) == 6

    asyncio.run(use())


def test_results_that_are_lost_before_they_are_fetched_are_computed_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a worker that is killed in the moment after it has said that it is done."""
    with make(2) as cluster, Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        executor: Any = open_executor(client)
        if isinstance(cluster, LambdaCluster):  # which fetches results in a way of its own
            monkeypatch.setattr(executor, "_gather", LambdaExecutor._gather.__get__(executor))
        fetch, lost = executor._gather, []

        def lose_first(ended: list[Any]) -> Any:
            if not lost:
                lost.extend(future.key for future in ended)
                client.run_on_scheduler(_lose, keys=list(lost))
                eventually(lambda: ended[0].status == "lost")
            return fetch(ended)

        monkeypatch.setattr(executor, "_gather", lose_first)
        graph = {("square", number): (_square, number) for number in range(4)}
        found: dict[Any, int] = {}
        executor.run(
            HighLevelGraph.from_collections("square", graph, []), list(graph), found.__setitem__
        )
    assert lost and found == {("square", number): number**2 for number in range(4)}


def _square(number: int) -> int:
    time.sleep(0.7)
    return number**2


async def _lose(keys: list[Any], dask_scheduler: Any = None) -> None:
    holders = {ws.address for key in keys for ws in dask_scheduler.tasks[key].who_has}
    for address in holders:
        await dask_scheduler.remove_worker(address, stimulus_id="test", expected=True)


# How it ends


def test_closing_in_the_middle_of_a_job(make: Make) -> None:
    """The caller gets an error of a known type, and soon."""
    with make(1) as cluster:
        client = Client(cluster, set_as_default=False)
        client.wait_for_workers(1, timeout=60)
        executor = open_executor(client)
        closing = threading.Timer(1.0, cluster.close)
        closing.start()
        graph = {("wait", number): (wait, 0.3) for number in range(100)}
        began = time.monotonic()
        with pytest.raises(ExecutorError) as caught:
            executor.run(graph, list(graph), lambda key, value: None, lambda counts: None)
        assert isinstance(caught.value, WorkerLost) and not isinstance(caught.value, Cancelled)
        assert time.monotonic() - began < 20
        closing.join()
        client.close(timeout=1)


# What the user has configured


def test_the_users_configuration_reaches_scheduler_and_workers(make: Make) -> None:
    told = {
        "distributed.scheduler.worker-ttl": "77s",
        "distributed.scheduler.allowed-failures": 7,
        "distributed.scheduler.work-stealing": False,
        "distributed.worker.memory.pause": 0.77,
        "array.slicing.split-large-chunks": True,
        "films": {"names": ["a", "b"], "length": 1.5},
    }
    with dask.config.set(told), make(1) as cluster, Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
        found = client.run_on_scheduler(_of_scheduler)
        assert found == (77.0, 7, False)
        ((pause, split, films),) = client.run(_of_worker).values()
        assert (pause, split, films) == (0.77, True, {"names": ["a", "b"], "length": 1.5})


def _of_scheduler(dask_scheduler: Any = None) -> tuple[float, int, bool]:
    return (
        dask_scheduler.worker_ttl,
        dask_scheduler.allowed_failures,
        "stealing" in dask_scheduler.extensions,
    )


def _of_worker(dask_worker: Any = None) -> tuple[float, bool, Any]:
    return (
        dask_worker.memory_manager.memory_pause_fraction,
        dask.config.get("array.slicing.split-large-chunks"),
        dask.config.get("films"),
    )
