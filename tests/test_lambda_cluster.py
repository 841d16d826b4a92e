"""LambdaCluster as Dask users know clusters, on the Lambda of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from dask.highlevelgraph import HighLevelGraph
from distributed import (
    Client,
    KilledWorker,
    SchedulerPlugin,
    WorkerPlugin,
    get_client,
    get_worker,
)
from distributed.comm import CommClosedError, connect
from distributed.core import Status
from distributed.diagnostics.plugin import Environ
from distributed.protocol.serialize import ToPickle, to_serialize
from distributed.scheduler import NoWorkerError
from gates import Gate, wait_at
from test_worker_rights import Trap
from wires import Wire

from excamera_dask import submit
from excamera_dask.errors import ExcameraError
from executors import InvalidResult, open_executor
from executors.aws_lambda import ClusterStopped, LambdaCluster, LambdaError, NotDeployed, relays
from executors.aws_lambda.backend import HANDLER
from executors.aws_lambda.deploy.versions import VARIABLE, installed, to_text
from executors.aws_lambda.errors import InvalidOption
from executors.aws_lambda.fleet import TERMINAL
from executors.aws_lambda.records import UnknownCluster
from executors.aws_lambda.records.clusters import ClusterFolder
from executors.aws_lambda.records.leftovers import LEAVES_WITHIN, leftovers
from executors.rendezvous import Authority, Credential, RendezvousSecurity

pytest.importorskip("awslambdaric", reason="needs AWS's runtime client: pip install awslambdaric")

HERE = Path(__file__).parent
ENVIRONMENT = {"PYTHONPATH": f"{HERE.parent}:{HERE}"}


def local_cluster(workers: int = 0, **options: Any) -> LambdaCluster:
    return LambdaCluster(workers, backend="local", environment=ENVIRONMENT, **options)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LambdaCluster]:
    with local_cluster(2, idle_timeout=3600) as opened:
        yield opened


@pytest.fixture
def client(cluster: LambdaCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as opened:
        opened.wait_for_workers(2, timeout=30)
        yield opened


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def square(value: int) -> int:
    return value * value


def sleep_and_return(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_submit_map_and_gather(client: Client) -> None:
    assert client.submit(square, 7).result(timeout=20) == 49
    assert client.gather(client.map(square, range(20))) == [i * i for i in range(20)]


def test_data_travels_between_workers(client: Client) -> None:
    first, second = client.scheduler_info()["workers"]
    block = client.submit(os.urandom, 40_000_000, workers=[first], pure=False)
    size = client.submit(len, block, workers=[second])
    assert size.result(timeout=60) == 40_000_000
    assert len(block.result(timeout=60)) == 40_000_000


def test_scatter(client: Client) -> None:
    future = client.scatter(b"x" * 1_000_000, broadcast=True)
    assert len(client.who_has(future)[future.key]) == 2


def test_what_it_shows(cluster: LambdaCluster, client: Client) -> None:
    assert "LambdaCluster" in repr(cluster)
    assert "workers=2" in repr(cluster)
    assert cluster._repr_html_()
    shot = cluster.coordinator.fleet.snapshot()
    assert (shot.target, shot.at_work) == (2, 2)
    assert shot.spent > 0
    assert "<table" in cluster.coordinator._repr_html_()
    assert {view.name for view in shot.invocations} >= set(cluster.observed)


def test_what_lambda_runs_once_more_never_becomes_a_worker() -> None:
    """Event invocations that failed are repeated, long after the fleet has replaced them."""
    with local_cluster(1) as cluster, Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=30)
        (name,) = (one.name for one in cluster.coordinator.fleet.books.roster)
        again = cluster._payload(name)
        cluster.scale(0)
        eventually(lambda: cluster.coordinator.fleet.get(name).state in TERMINAL)
        joined: list[str] = []
        cluster.scheduler.add_plugin(Joining(joined), name="joining")
        answer = cluster.backend.client.invoke(
            FunctionName=cluster.backend.function_name, Payload=again
        )
        assert json.loads(answer["Payload"].read()) == {
            "outcome": "finished", "reason": "ran before",
        }  # fmt: skip
        assert joined == []


class Joining(SchedulerPlugin):
    def __init__(self, joined: list[str]) -> None:
        self.joined = joined

    def add_worker(self, scheduler: Any, worker: str) -> None:
        self.joined.append(worker)


def test_tasks_do_not_wait_for_a_fleet_that_has_stopped() -> None:
    with (
        local_cluster(1, budget=1e-6) as cluster,
        Client(cluster, set_as_default=False) as client,
        pytest.raises(NoWorkerError),
    ):
        client.submit(square, 3).result(timeout=60)


def test_the_coordinator_sees_what_workers_do(cluster: LambdaCluster, client: Client) -> None:
    future = client.submit(sleep_and_return, 1.0, key=("napping-1f", 12))

    def napping() -> bool:
        views = cluster.coordinator.fleet.snapshot().invocations
        return any(
            (view.state, view.stage, view.number) == ("running", "napping", 12) for view in views
        )

    eventually(napping)
    assert future.result(timeout=20) == 1.0


def test_logs(cluster: LambdaCluster, client: Client) -> None:
    logs = cluster.get_logs()
    assert "Scheduler" in logs
    assert sum(name.startswith("rdv://") for name in logs) == 2


def test_the_event_log_and_the_card(cluster: LambdaCluster, client: Client) -> None:
    folder = ClusterFolder.open(cluster.name)
    assert folder.is_alive()
    assert folder.card.relay and folder.card.backend == "local"
    ways: dict[str, list[str]] = {}
    for record in folder.read():
        if record.invocation and record.to:
            ways.setdefault(record.invocation, []).append(record.to)
    assert len(ways) == 2
    for way in ways.values():
        assert way[0] in ("requested", "invoked")
        assert {"connected", "ready"} <= set(way)


def test_attach_by_name(cluster: LambdaCluster) -> None:
    access = json.loads((ClusterFolder.open(cluster.name).path / "access.json").read_text())
    assert access["credential"]["role"] == "client"
    with LambdaCluster.from_name(cluster.name) as attached, attached.get_client() as client:
        assert client.submit(square, 3).result(timeout=20) == 9
        assert attached.snapshot()["target"] == 2
    with pytest.raises(UnknownCluster, match="no cluster 'nobody'"):
        LambdaCluster.from_name("nobody")


def ask_as_a_client() -> int:
    return get_client(timeout=10).submit(abs, -1).result()


def test_a_task_that_asks_for_a_client_is_told_why_there_is_none(client: Client) -> None:
    with pytest.raises(ImportError, match="tasks have no client of their own"):
        client.submit(ask_as_a_client, pure=False).result(timeout=30)


def test_what_a_payload_holds_runs_nothing_where_the_client_is(
    cluster: LambdaCluster, tmp_path: Path
) -> None:
    payload = json.loads(cluster._payload("stranger"))
    trap = ToPickle(Trap(tmp_path / "trap"))

    async def try_everything() -> list[str]:
        own = RendezvousSecurity(payload["relay"], Credential.from_dict(payload["credential"]))
        asked = [
            (payload["scheduler"], {"op": "run_function", "function": trap}),
            (payload["scheduler"], {"op": "register-client", "client": "me", "versions": {}}),
            (payload["scheduler"], {"op": "lambda_scale", "n": 0}),
            (payload["coordinator"], {"op": "connected", "invocation": trap}),
            (cluster.scheduler.listeners[1].contact_address, {"op": "identity"}),
        ]
        answers = []
        for address, message in asked:
            try:
                arguments = own.get_connection_args("client")
                comm = await connect(address, timeout=2, **arguments)
                await comm.write(message)
                answer = await comm.read()
                answers.append(answer["status"] if isinstance(answer, dict) else "no client")
                comm.abort()
            except (CommClosedError, OSError):
                answers.append("closed")
        await own.close()
        return answers

    answers = asyncio.run(try_everything())
    assert answers == ["uncaught-error", "no client", "uncaught-error", "closed", "closed"]
    assert not (tmp_path / "trap").exists()
    assert cluster.target == 2


def test_scale_up_and_down() -> None:
    with local_cluster(1) as cluster, cluster.get_client() as client:
        client.wait_for_workers(1, timeout=30)
        kept = client.submit(os.urandom, 1000, pure=False)
        content = kept.result(timeout=20)
        cluster.scale(3)
        client.wait_for_workers(3, timeout=30)
        cluster.scale(1)
        eventually(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 1)
        assert kept.result(timeout=20) == content
        cluster.scale(0)
        eventually(lambda: not client.scheduler_info(n_workers=-1)["workers"])
    assert cluster.coordinator.fleet.snapshot().counts["finished"] == 3


def test_no_more_workers_are_wanted_than_relays_may_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit that children inherit is lowered when the relay runs already: only what comes later is judged by it."""
    with local_cluster(0, relays=2) as cluster:
        monkeypatch.setattr(relays, "hard_limit", lambda: 264)
        with pytest.raises(InvalidOption, match="101 workers need 266 file descriptors") as caught:
            cluster.scale(201)
        assert "\n" not in str(caught.value) and cluster.target == 0
        with (
            LambdaCluster.from_name(cluster.name) as attached,
            pytest.raises(InvalidOption, match="101 workers need 266 file descriptors"),
        ):
            attached.scale(201)
        assert cluster.adapt(minimum=0, interval="1h").maximum == 200
        assert cluster.adapt(minimum=0, maximum=7, interval="1h").maximum == 7
        with pytest.raises(InvalidOption, match="at least 201 and at most 200"):
            cluster.adapt(minimum=201)


def test_plugins_of_nannies_are_refused(client: Client) -> None:
    with pytest.raises(LambdaError, match="have no nanny"):
        client.register_plugin(Environ({"FILM": "1"}))


def test_several_relays() -> None:
    with local_cluster(3, relays=2) as cluster, cluster.get_client() as client:
        client.wait_for_workers(3, timeout=30)
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        assert len({address.partition("/excamera")[0] for address in workers}) == 2
        blocks = [
            client.submit(os.urandom, 1_000_000, workers=[each], pure=False) for each in workers
        ]
        sizes = client.submit(lambda *blocks: sum(map(len, blocks)), *blocks)
        assert sizes.result(timeout=30) == 3_000_000


@contextlib.contextmanager
def all_at_work(client: Client, workers: int) -> Iterator[list[str]]:
    """Wait for so many workers, each of which has something to do until the block ends; gives their addresses."""
    with Gate() as gate:
        work = client.map(wait_at, [gate.port] * 4 * workers, pure=False)
        client.wait_for_workers(workers, timeout=60)
        yield list(client.scheduler_info(n_workers=-1)["workers"])
        gate.open()
        client.gather(work)


def test_idle_workers_go_home_and_come_back_when_needed() -> None:
    with local_cluster(2, idle_timeout=1.0) as cluster, cluster.get_client() as client:
        with all_at_work(client, 2):
            pass
        eventually(lambda: not client.scheduler_info(n_workers=-1)["workers"])
        assert client.submit(square, 5, pure=False).result(timeout=30) == 25


class Counter:
    """An actor."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


def test_idle_workers_take_nothing_with_them() -> None:
    """Results go to one that stays, which goes when nobody holds them any more; nothing is computed or scattered again."""
    with local_cluster(3, idle_timeout=1.0) as cluster, cluster.get_client() as client:
        with all_at_work(client, 3) as addresses:
            held = [
                client.submit(os.urandom, 1000 + n, pure=False, workers=[address])
                for n, address in enumerate(addresses)
            ]
        contents = client.gather(held)
        (scattered,) = client.scatter([b"only here"])
        eventually(lambda: len(cluster.scheduler.workers) == 1)
        time.sleep(2)
        assert len(cluster.scheduler.workers) == 1
        assert client.gather(held) == contents
        assert scattered.result(timeout=10) == b"only here"
        assert len(list(cluster.coordinator.fleet.books.roster)) == 3, "nobody else was invoked"
        del held, scattered
        eventually(lambda: not cluster.scheduler.workers)
        counter = client.submit(Counter, actor=True).result(timeout=30)
        assert counter.add().result(timeout=10) == 1
        time.sleep(2)
        assert counter.add().result(timeout=10) == 2


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_cluster_ends_with_its_scheduler(
    by_itself: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As one does that has nothing to do for the configured time, or is shut down by a client; nobody is invoked any more."""
    heard: list[str] = []
    options = {"scheduler_options": {"idle_timeout": "2s" if by_itself else None}}
    with local_cluster(2, **options) as cluster:
        cluster.on_notice(heard.append)
        fleet = cluster.coordinator.fleet
        if not by_itself:
            address = cluster.scheduler_address
            with Client(address, security=cluster.security, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=30)
                client.shutdown()
        eventually(lambda: cluster.status == Status.closed)
        roster = fleet.books.roster
        assert fleet.stopping and roster.live == len(roster.dismissed) and len(list(roster)) == 2
        assert any("scheduler has closed" in text for text in heard)
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not any(record.exc_info for record in told), caplog.text


def end_at_once() -> None:
    os._exit(1)


def test_a_task_that_ends_its_worker_is_given_up_and_holds_up_no_other() -> None:
    with local_cluster(2) as cluster, cluster.get_client() as client:
        bad = client.submit(end_at_once)
        good = client.map(square, range(20))
        assert client.gather(good) == [square(n) for n in range(20)]
        assert isinstance(bad.exception(timeout=60), KilledWorker)

        def deaths() -> int:
            return ended(cluster).get("failed", 0) + ended(cluster).get("lost", 0)

        eventually(lambda: deaths() >= 4)
        # Of what ran in the very last moment a worker cannot tell; all but always there are 4.
        assert deaths() <= 6


def test_workers_of_other_versions_are_refused() -> None:
    ours = installed() | {"distributed": "1.0.0"}
    stopped: list[str] = []
    with local_cluster(2, versions=ours) as cluster:
        cluster.on_stop(stopped.append)
        eventually(lambda: stopped)
    assert "distributed" in stopped[0] and "excamera lambda build" in stopped[0]


def test_a_handler_that_cannot_start_stops_the_cluster() -> None:
    environment = {**ENVIRONMENT, "EXCAMERA_PREPARE": "no_such_module:prepare"}
    told: list[str] = []
    with (
        open_executor("lambda", workers=2, backend="local", environment=environment) as executor,
        pytest.raises(ClusterStopped, match=r"cannot start: .*no_such_module"),
    ):
        executor.on_notice(told.append)
        eventually(lambda: executor._stopped, 20)
        executor.run({}, [("a", 0)], print)
    assert not [line for line in told if "no_such_module" in line], "the error tells it"


def give_pickles_away(path: Path) -> int:
    """A worker that answers whoever asks for its results with a pickle, whatever was asked for."""
    worker = get_worker()

    async def answer(comm: Any, keys: Any, **_: Any) -> Any:
        data = {key: to_serialize(Trap(path)) for key in keys}
        await comm.write({"status": "OK", "data": data}, serializers=["pickle"])
        return Status.dont_reply

    worker.handlers["get_data"] = answer
    return 1


def test_results_of_the_executor_are_plain_values_or_refused(tmp_path: Path) -> None:
    with open_executor("lambda", workers=1, backend="local", environment=ENVIRONMENT) as executor:
        for name, task, found in (
            ("plain", (tuple, ["a", 1, 2.5, b"c", None]), ("a", 1, 2.5, b"c", None)),
            ("complex", (complex, 1), None),
            ("pickles", (give_pickles_away, tmp_path / "trap"), None),
        ):
            graph = HighLevelGraph.from_collections(name, {(name, 0): task}, [])
            got: list[Any] = []
            with contextlib.nullcontext() if found else pytest.raises(InvalidResult, match="more"):
                executor.run(graph, [(name, 0)], lambda key, value, got=got: got.append(value))
            assert got == ([found] if found else [])
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backend": "nowhere"}, "unknown backend 'nowhere'"),
        ({"backend": "http://127.0.0.1:9"}, "cannot be reached"),
        (
            {"backend": "aws", "region": "moon-north-1"},
            "no AWS region moon-north-1|no AWS credentials",
        ),
        ({"backend": "aws"}, "no AWS (credentials|region)"),
    ],
)
def test_bad_configuration_is_one_line(
    options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if options["backend"].startswith("http"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
    with pytest.raises((NotDeployed, InvalidOption), match=says) as caught:
        LambdaCluster(1, **options)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, LambdaError)


def test_an_interrupted_start_or_close_leaves_nothing() -> None:
    code = (
        "import os, signal, sys, threading, psutil\n"
        "from executors.aws_lambda import LambdaCluster\n"
        "interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Timer(float(sys.argv[1]), interrupt).start()\n"
        "try:\n"
        "    LambdaCluster(1, backend='local').close()\n"
        "except KeyboardInterrupt:\n"
        "    pass\n"
        "psutil.wait_procs(psutil.Process().children(recursive=True), timeout=15)\n"
        "print(len(psutil.Process().children(recursive=True)))\n"
    )
    for moment in ("0.2", "0.5", "0.8"):
        told = subprocess.run(
            [sys.executable, "-c", code, moment], capture_output=True, text=True, timeout=60
        )
        assert told.stdout == "0\n", told.stderr


def test_a_listener_that_fails_is_not_the_fleets_affair(cluster: LambdaCluster) -> None:
    heard: list[str] = []

    def fails(text: str) -> None:
        raise ValueError(text)

    cluster.on_notice(fails)
    cluster.on_notice(heard.append)
    cluster._tell("something")
    assert heard == ["something"]


def test_nothing_is_said_that_was_not_asked_for() -> None:
    """Not even of tasks that still run when the cluster closes."""
    code = (
        "import time\n"
        "from executors.aws_lambda import LambdaCluster\n"
        "patience = {'notice_after': 100}\n"
        "with LambdaCluster(2, backend='local', fleet_options=patience) as cluster, cluster.get_client() as client:\n"
        "    running = client.map(time.sleep, [0.01, 30, 60])\n"
        "    running[0].result(timeout=30)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (told.stdout, told.stderr) == ("", "")


def test_workers_of_a_coordinator_that_was_killed_end_in_the_time_that_clean_tells() -> None:
    """Its relay dies with it."""
    from executors.local_lambda import LocalLambda

    code = (
        "import sys, time\n"
        "from executors.aws_lambda import LambdaCluster\n"
        "with LambdaCluster(2, backend=sys.argv[1], region='us-east-1', host='127.0.0.1', name='killed') as cluster:\n"
        "    cluster.wait_for_workers(2)\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(100)\n"
    )
    with LocalLambda() as lam:
        variables = {**ENVIRONMENT, VARIABLE: to_text(installed())}
        lam.create_function("excamera", HANDLER, memory=1769, timeout=900, environment=variables)
        client = subprocess.Popen(
            [sys.executable, "-c", code, lam.endpoint_url],
            env={**os.environ, **lam.keys.variables()},
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert client.stdout is not None and client.stdout.readline() == "ready\n"
        client.kill()
        client.communicate()
        left = leftovers(ClusterFolder.open("killed"), time.time())
        assert len(left) == 2
        assert all(one.by is not None and one.by < time.time() + LEAVES_WITHIN for one in left)

        def working() -> list[Any]:
            return [one for one in lam.environments() if one["state"] == "busy"]

        assert working()
        eventually(lambda: not working(), LEAVES_WITHIN)


class SlowStart(WorkerPlugin):
    """A worker that has it is not ready for a minute."""

    async def setup(self, worker: Any) -> None:
        await asyncio.sleep(60)


def ended(cluster: LambdaCluster) -> dict[str, int]:
    """How many invocations ended how."""
    counts = cluster.coordinator.fleet.snapshot().counts
    return {state: counts[state] for state in TERMINAL if counts[state]}


def environments(cluster: LambdaCluster) -> list[tuple[str, str, int]]:
    """Each of Lambda's: (identity, state, invocations)."""
    told = cluster.backend.local.environments()
    return [(one["id"], one["state"], one["invocations"]) for one in told if one["state"] != "dead"]


def test_a_worker_that_starts_obeys_at_once() -> None:
    with local_cluster(0) as cluster, Client(cluster, set_as_default=False) as client:
        client.register_plugin(SlowStart())
        fleet = cluster.coordinator.fleet
        cluster.scale(1)
        eventually(lambda: fleet.snapshot().counts["connected"] == 1 and fleet_controls(cluster))
        cluster.scale(0)
        eventually(lambda: ended(cluster))
        assert ended(cluster) == {"finished": 1}, "it had to be cut off"
        eventually(lambda: [one[1] for one in environments(cluster)] in (["idle"], ["idle"] * 2))


def fleet_controls(cluster: LambdaCluster) -> int:
    """Workers that have a control stream."""
    return len(cluster.coordinator._controls)


def test_an_environment_ends_with_a_task_that_does_not() -> None:
    with (
        local_cluster(1, fleet_options={"drain_timeout": 0.5}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        fleet = cluster.coordinator.fleet
        endless = client.submit(sleep_and_return, 300.0)
        eventually(lambda: fleet.snapshot().counts["running"] == 1)
        (before,) = [one for one in environments(cluster) if one[1] == "busy"]
        cluster.scale(0)
        eventually(lambda: ended(cluster) == {"finished": 1})
        endless.cancel()
        eventually(lambda: before[0] not in [one[0] for one in environments(cluster)])
        log = "\n".join(cluster.backend.local.logs(cluster.backend.function_name))
        assert "a task still runs: this environment ends" in log
        assert "Runtime.ExitError" not in log, "it answered first"


def test_an_environment_whose_tasks_have_ended_is_used_again() -> None:
    with local_cluster(1) as cluster, Client(cluster, set_as_default=False) as client:
        assert client.submit(square, 3).result(timeout=30) == 9
        (before,) = [one for one in environments(cluster) if one[1] == "busy"]
        cluster.scale(0)
        eventually(lambda: ended(cluster) == {"finished": 1})
        eventually(
            lambda: before[0] in [one[0] for one in environments(cluster) if one[1] == "idle"]
        )


@contextlib.contextmanager
def cluster_behind(wire: Wire, workers: int, **options: Any) -> Iterator[LambdaCluster]:
    """A cluster whose way to Lambda's API is the wire; workers reach it as ever."""
    from executors.local_lambda import LocalLambda

    with LocalLambda() as lam:
        variables = {**ENVIRONMENT, VARIABLE: to_text(installed())}
        lam.create_function("excamera", HANDLER, memory=1769, timeout=900, environment=variables)
        with (
            mock.patch.dict(os.environ, lam.keys.variables()),
            wire.leading_to(lam.endpoint_url) as endpoint,
            LambdaCluster(workers, backend=endpoint, region="us-east-1", host="127.0.0.1", **options) as opened,
        ):  # fmt: skip
            yield opened


def test_workers_come_as_soon_as_lambda_can_be_reached_again() -> None:
    told: list[str] = []
    wire = Wire()
    with cluster_behind(wire, 1, fleet_options={"appear_timeout": 600.0}) as cluster:
        cluster.on_notice(told.append)
        fleet = cluster.coordinator.fleet
        eventually(lambda: fleet.workers == 1)
        wire.cut()
        cluster.scale(3)
        eventually(lambda: told)
        assert told[0].startswith("Lambda cannot be reached (Could not connect to the endpoint")
        time.sleep(2)
        assert fleet.workers == 1 and fleet.snapshot().counts["throttled"] == 2
        wire.mend()
        eventually(lambda: fleet.workers == 3)
        counts = fleet.snapshot().counts
        assert counts["failed"] == counts["expired"] == counts["lost"] == 0


@contextlib.contextmanager
def answering(port: int, answer: bytes | None) -> Iterator[None]:
    """A server on that port which answers everything alike; None: it resets connections."""

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            if answer is None:
                self.request.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            else:
                self.request.sendall(answer)

    with Server(("127.0.0.1", port), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def http(status: str, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", *headers, "Content-Length: 2", "Connection: close", "", "{}")
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http("429 Too Many Requests", "x-amzn-ErrorType: TooManyRequestsException"), "throttled"),
        (None, "Lambda does not answer"),
    ],
)
def test_where_no_worker_comes_that_is_told_and_ends(
    answer: bytes | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    told: list[str] = []
    wire = Wire()
    patience = {"notice_after": 0.5, "outage_timeout": 2.0}
    with cluster_behind(wire, 0, fleet_options=patience) as cluster:
        cluster.on_notice(told.append)
        with Client(cluster, set_as_default=False) as client:
            wire.cut()
            with answering(wire._port, answer):
                future = client.submit(square, 3)
                cluster.scale(2)
                with pytest.raises(NoWorkerError):
                    future.result(timeout=60)
            wire.mend()
    lines = [text for text in told if "no worker is there" in text]
    assert len(lines) >= 2 and lines[-1].startswith("stopped: no worker is there for 2 s")
    assert all(said in text and "\n" not in text for text in lines), lines


def test_a_relay_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    Authority.create().save(tmp_path / "authority")
    with pytest.raises(NotDeployed, match=r"no relay answers at 127\.0\.0\.1:1 "):
        local_cluster(0, relay="127.0.0.1:1", security=tmp_path / "authority")


def test_an_output_that_functions_cannot_write_is_refused_at_once(
    cluster: LambdaCluster, client: Client, tmp_path: Path
) -> None:
    source = tmp_path / "grey.y4m"
    source.write_bytes(b"YUV4MPEG2 W16 H16 F25:1\n" + 2 * (b"FRAME\n" + bytes(384)))
    with pytest.raises(ExcameraError, match="cannot write this machine's files"):
        submit(source, tmp_path / "out.webm", client=client)
