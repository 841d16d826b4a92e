"""What the holder of a worker's credential can do at the scheduler and at other workers: what a worker does, and nothing else."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import click
import pytest
from distributed import Client, Scheduler, Worker, WorkerPlugin
from distributed.comm import CommClosedError, connect, listen
from distributed.core import error_message
from distributed.protocol.pickle import dumps
from distributed.protocol.serialize import Serialized, ToPickle, serialize, to_serialize
from peak_memory import forget_peak, peak_memory
from rendezvous_relay import Served, run, serving

import codec.errors
from codec.errors import CodecError
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.errors import ExcameraError
from excamera_dask.stages import ChunkResult, read_result
from excamera_dask.storage.errors import StdoutClosed, StoreUnavailable
from executors.aws_lambda.executor import load_everywhere
from executors.base import Cancelled
from executors.rendezvous import Authority, Credential, RendezvousSecurity
from executors.rendezvous.operations import (
    AT_SCHEDULER,
    AT_WORKER,
    ON_STREAM,
    Guard,
    take_plain_errors,
)
from executors.rendezvous.plain_pickles import read_error, read_warning
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.line import Line
from executors.rendezvous.protocol.link_streams import LinkStreams
from executors.tries import TryElsewhere

AUTHORITY = Authority.create()
OWN = "rdv://relay:1/mallory"


class Trap:
    """Makes a folder wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.path,)


class Place:
    """A relay with a scheduler, and securities of whatever role."""

    def __init__(self, relay: Served, stack: AsyncExitStack) -> None:
        self.relay, self.stack = relay, stack
        self.scheduler: Any = None
        self.called: list[str] = []
        self.securities: dict[str, RendezvousSecurity] = {}

    def security(self, name: str, *names: str, role: str = "worker") -> RendezvousSecurity:
        """One for each name, as a process has one."""
        if name not in self.securities:
            self.securities[name] = self._security(name, *names, role=role)
        return self.securities[name]

    def _security(self, name: str, *names: str, role: str) -> RendezvousSecurity:
        made = RendezvousSecurity(
            self.relay.address, AUTHORITY.issue(name, names=names, role=role), connect_timeout=5.0
        )
        self.stack.push_async_callback(made.close)
        return made

    def record(self, handlers: dict[str, Any]) -> None:
        """Have a server's handlers do nothing but tell that they were called."""
        for op in handlers:
            handlers[op] = lambda *arguments, op=op, **named: self.called.append(op)

    async def ask(self, security: RendezvousSecurity, address: str, **message: Any) -> Any:
        comm = await connect(address, **security.get_connection_args("worker"))
        try:
            await comm.write(message)
            return await comm.read()
        finally:
            comm.abort()

    async def connected(self, name: str) -> Any:
        security = self.security(name)
        return await connect(self.scheduler.address, **security.get_connection_args("worker"))

    async def registered(self, name: str) -> Any:
        """A worker's comm to the scheduler, which takes it for one."""
        comm = await self.connected(name)
        await comm.write(registration(f"rdv://{self.relay.address}/{name}", name))
        assert (await comm.read())["status"] == "OK"
        return comm

    async def scheduler_watched(self) -> None:
        """A cluster that hears of each worker, as a cluster's manager does."""
        boss = self.security("watch", role="client")
        comm = await connect(self.scheduler.address, **boss.get_connection_args("client"))
        await comm.write({"op": "subscribe_worker_status"})

        async def read() -> None:
            with suppress(CommClosedError):
                while True:
                    await comm.read()

        task = asyncio.create_task(read())
        self.stack.callback(task.cancel)
        self.stack.callback(comm.abort)

    @asynccontextmanager
    async def answering(self, answer: Callable[[Any], Awaitable[None]]) -> AsyncIterator[Any]:
        """A worker that answers whatever it is asked in a way of its own; as the scheduler calls it."""
        mallory = self.security("mallory")
        link = await mallory.link()
        comms: list[Any] = []

        async def asked(comm: Any) -> None:
            comms.append(comm)  # a comm that nobody holds is closed
            await comm.read()
            await answer(comm)

        async with listen("rdv://", asked, **mallory.get_listen_args("worker")):
            yield self.scheduler.rpc(f"rdv://{link.relay}/mallory")
            comms.pop().abort()


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(serving(AUTHORITY))
        made = Place(relay, stack)
        boss = made.security("boss", "scheduler", role="controller")
        made.scheduler = await stack.enter_async_context(
            Scheduler(
                protocol=["rdv", "tls"], host=["", "127.0.0.1"], port=[None, 0], security=boss,
                dashboard_address=":0",
            )
        )  # fmt: skip
        yield made


def registration(address: str, name: str) -> dict[str, Any]:
    return {
        "op": "register-worker", "reply": False, "address": address, "status": "running", "nthreads": 1, "name": name,
        "now": time.time(), "resources": {}, "memory_limit": 1 << 30, "local_directory": "/", "services": {},
        "nanny": None, "pid": 1, "versions": {}, "extra": {}, "stimulus_id": "test", "server_id": "it",
        "metrics": {"bandwidth": {"total": 1, "workers": {}, "types": {}}, "memory": 1, "managed_bytes": 0,
                    "spilled_bytes": {"memory": 0, "disk": 0}, "transfer": {}, "event_loop_interval": 0.02,
                    "digests_total_since_heartbeat": {}, "task_counts": {}},
    }  # fmt: skip


METRICS = registration(OWN, "mallory")["metrics"]


def heartbeat(address: str = OWN) -> dict[str, Any]:
    return {
        "op": "heartbeat_worker",
        "address": address,
        "now": time.time(),
        "metrics": dict(METRICS),
    }


# The scheduler


def test_whatever_a_scheduler_can_do_beyond_a_workers_needs_is_refused() -> None:
    async def story() -> None:
        async with place() as made:
            handlers = made.scheduler.handlers
            assert {"run_function", "terminate", "register-client", "feed", "proxy"} <= set(
                handlers
            )
            made.record(handlers)
            mallory = made.security("mallory")
            for op in sorted(set(handlers) - set(AT_SCHEDULER)):
                answer = await made.ask(mallory, made.scheduler.address, op=op, reply=True)
                if op == "register-client":
                    assert "not for workers" in answer[0]["error"]
                else:
                    assert answer["status"] == "uncaught-error" and op in answer["exception_text"]
            assert made.called == []

    run(story)


def test_a_registered_worker_says_what_workers_say() -> None:
    async def story() -> None:
        async with place() as made:
            handlers = made.scheduler.stream_handlers
            assert {"update-graph", "cancel-keys", "close-client"} <= set(handlers)
            made.record(handlers)
            for number, op in enumerate(sorted(set(handlers) - set(ON_STREAM))):
                mallory = made.security(f"mallory-{number}")
                address = f"rdv://{made.relay.address}/mallory-{number}"
                comm = await connect(
                    made.scheduler.address, **mallory.get_connection_args("worker")
                )
                await comm.write(registration(address, f"mallory-{number}"))
                assert (await comm.read())["status"] == "OK"
                await comm.write([{"op": op}])
                with pytest.raises(CommClosedError):
                    while True:
                        await comm.read()
            assert made.called == []

    run(story)


@pytest.mark.parametrize(
    "message",
    [
        {"op": "run_function", "function": b""},
        {"op": "connection_stream"},
        {"op": ["who_has"]},
        {"op": None},
        {},
        [{"op": "who_has"}],
        "OK",
        None,
        {"op": "heartbeat_worker", "address": "rdv://relay:1/other"},
        {"op": "retire_workers"},
        {"op": "retire_workers", "workers": [OWN], "key": pickle.dumps(1)},
        {"op": "retire_workers", "workers": [OWN, "rdv://relay:1/other"]},
        {"op": "retire_workers", "names": ["other"]},
        {"op": "retire_workers", "workers": 7},
        {"op": "set_resources", "worker": "rdv://relay:1/other", "resources": {}},
        registration("rdv://relay:1/other", "mallory"),
        registration("tcp://10.0.0.1:80", "mallory"),
        registration(OWN, "other"),
        {**registration(OWN, "mallory"), "nanny": "tcp://10.0.0.1:80"},
    ],
)
def test_requests_that_are_refused(message: Any) -> None:
    assert Guard(AT_SCHEDULER, OWN, "mallory").refusal(message) is not None


@pytest.mark.parametrize(
    "message",
    [
        {"op": "task-finished", "key": "x", "worker": "rdv://relay:1/other"},
        {"op": "register-client"},
        {"op": {}},
        {"op": "log-event", "topic": [{}]},
        [{"op": "keep-alive"}, {"op": "cancel-keys"}],
        [7],
        7,
    ],
)
def test_what_a_registered_worker_may_not_say(message: Any) -> None:
    guard = Guard(AT_SCHEDULER, OWN, "mallory")
    assert guard.refusal(registration(OWN, "mallory")) is None
    assert (
        guard.refusal([{"op": "keep-alive"}, {"op": "log-event", "topic": "x", "msg": 1}]) is None
    )
    assert guard.refusal(message) is not None


def registered() -> Guard:
    guard = Guard(AT_SCHEDULER, OWN, "mallory")
    assert guard.refusal(registration(OWN, "mallory")) is None
    return guard


def run_of(key: str = "x", run: int = 1, **fetches: list[str]) -> dict[str, Any]:
    return {"op": "compute-task", "key": key, "run_id": run, "who_has": fetches}


def finished(**other: Any) -> dict[str, Any]:
    return {
        "op": "task-finished", "key": "x", "run_id": 1, "stimulus_id": "s", "status": "OK", "nbytes": 8, "type": b"",
        "typename": "int", "metadata": {}, "thread": 1, "startstops": [{"action": "compute", "start": 1.0, "stop": 2.0}], **other,
    }  # fmt: skip


def test_what_a_client_would_unpickle_besides_results_is_harmless(tmp_path: Path) -> None:
    guard = registered()
    guard.hear([run_of()])
    trap = pickle.dumps(Trap(tmp_path / "trap"))
    done = finished(type=trap)
    warned = {"op": "log-event", "topic": "warn", "msg": {"message": trap, "category": trap}}
    fair = {"message": pickle.dumps("watch out"), "category": pickle.dumps(RuntimeWarning)}
    fairly = {"op": "log-event", "topic": ("warn", "x"), "msg": fair}
    assert guard.refusal([done, warned, fairly]) is None
    assert done["type"] is None
    told = [
        {name: pickle.loads(value) for name, value in each["msg"].items()}
        for each in (warned, fairly)
    ]
    assert told[0]["category"] is UserWarning and "no text" in told[0]["message"]
    assert told[1] == {"message": "watch out", "category": RuntimeWarning}
    assert not (tmp_path / "trap").exists()


def test_a_run_that_has_ended_is_not_spoken_of_again() -> None:
    """Nor remembered: a scheduler sees millions."""
    guard = registered()
    guard.hear([run_of()])
    assert guard.refusal([finished()]) is None
    assert guard.refusal([finished()]) is not None
    assert not guard._assignments._runs
    guard.hear([run_of(run=2)])
    assert guard.refusal([finished(run_id=2)]) is None


@pytest.mark.parametrize("op", ["register-worker", "heartbeat_worker"])
@pytest.mark.parametrize(
    "other",
    [
        {"metrics": {}},
        {"metrics": 7},
        {"metrics": {**METRICS, "memory": "much"}},
        {"metrics": {**METRICS, "memory": -1}},
        {"metrics": {**METRICS, "memory": float("nan")}},
        {"metrics": {**METRICS, "bandwidth": {}}},
        {"metrics": {**METRICS, "bandwidth": {"total": 0, "workers": {}, "types": {}}}},
        {"metrics": {**METRICS, "bandwidth": {"total": 1, "workers": {"w": (1, 0)}, "types": {}}}},
        {"metrics": {**METRICS, "bandwidth": {"total": 1, "workers": {}, "types": {"int": 1}}}},
        {"metrics": {**METRICS, "spilled_bytes": {"memory": 0}}},
        {"metrics": {**METRICS, "digests_total_since_heartbeat": {"x": "y"}}},
        {"now": "soon"},
        {"host_info": {"addresses": 7}},
        {"resolve_address": False},
    ],
)
def test_numbers_that_the_scheduler_calculates_with_are_numbers(
    op: str, other: dict[str, Any]
) -> None:
    message = registration(OWN, "mallory") if op == "register-worker" else heartbeat()
    assert Guard(AT_SCHEDULER, OWN, "mallory").refusal(dict(message)) is None
    assert Guard(AT_SCHEDULER, OWN, "mallory").refusal({**message, **other}) is not None


@pytest.mark.parametrize(
    "other",
    [
        {"nthreads": 0}, {"nthreads": "1"}, {"nthreads": 1 << 40}, {"memory_limit": "all"}, {"memory_limit": -1},
        {"resources": {"GPU": "x"}}, {"resources": 7}, {"services": {"dashboard": "x"}}, {"versions": {"x": 1}},
        {"versions": {"packages": {"dask": []}}}, {"extra": {"memory_limit": "x"}}, {"extra": 7}, {"local_directory": b"x"},
        {"pid": True}, {"stimulus_id": None}, {"server_id": 7}, {"more": 1},
    ],
)  # fmt: skip
def test_a_registration_is_one_of_a_worker(other: dict[str, Any]) -> None:
    message = {**registration(OWN, "mallory"), **other}
    assert Guard(AT_SCHEDULER, OWN, "mallory").refusal(message) is not None


def test_no_worker_is_the_same_as_another_to_the_scheduler() -> None:
    told = [registration(f"rdv://relay:1/{name}", name) for name in ("a", "b")]
    for message in told:
        assert Guard(AT_SCHEDULER, message["address"], message["name"]).refusal(message) is None
    assert told[0]["server_id"] != told[1]["server_id"]


@pytest.mark.parametrize(
    "message",
    [
        finished(key="y"), finished(run_id=2), finished(nbytes="x"), finished(nbytes=-1), finished(startstops=[{}]),
        finished(startstops=7), finished(metadata=7), finished(worker=None), finished(run_id=True),
        {"op": "task-erred", "key": "y", "run_id": 1, "exception_text": "", "traceback_text": ""},
        {"op": "long-running", "key": "y", "run_id": 1, "compute_duration": 1.0, "stimulus_id": "s"},
        {"op": "long-running", "key": "x", "run_id": 1, "compute_duration": float("nan"), "stimulus_id": "s"},
        {"op": "reschedule", "key": "y", "worker": None, "stimulus_id": "s"},
        {"op": "reschedule", "key": {}, "stimulus_id": "s"},
        {"op": "steal-response", "key": "x", "state": "ready", "stimulus_id": "steal-1"},
        {"op": "steal-response", "key": "x", "state": "ready", "stimulus_id": "s"},
        {"op": "release-worker-data", "key": "x", "worker": "", "stimulus_id": "s"},
        {"op": "request-refresh-who-has", "keys": 7, "stimulus_id": "s"},
        {"op": "add-keys", "keys": 7, "stimulus_id": "s"},
        {"op": "missing-data", "key": "x", "errant_worker": "rdv://relay:1/other"},
    ],
)  # fmt: skip
def test_a_worker_speaks_of_tasks_that_are_its_own(message: dict[str, Any]) -> None:
    guard = registered()
    guard.hear([run_of("x", 1), run_of("y", 2)])
    assert guard.refusal(message) is not None


def test_a_worker_that_has_given_a_task_away_says_no_more_of_it() -> None:
    for state, kept in (("ready", False), ("waiting", False), (None, False), ("executing", True)):
        guard = registered()
        guard.hear([run_of(), {"op": "steal-request", "key": "x", "stimulus_id": "steal-1"}])
        given = {"op": "steal-response", "key": "x", "state": state, "stimulus_id": "steal-1"}
        assert guard.refusal(dict(given)) is None
        assert (guard.refusal(finished()) is None) == kept
        assert guard.refusal(dict(given)) is not None


def test_what_comes_after_a_request_to_give_it_away_is_the_workers() -> None:
    """The answer to the request may cross the task on its way back, which Dask takes for none."""
    guard = registered()
    guard.hear([run_of("x", 1), {"op": "steal-request", "key": "x", "stimulus_id": "steal-1"}])
    guard.hear([{"op": "free-keys", "keys": ["x"], "stimulus_id": "s"}, run_of("x", 2)])
    given = {"op": "steal-response", "key": "x", "state": "ready", "stimulus_id": "steal-1"}
    assert guard.refusal(given) is None
    assert guard.refusal(finished(run_id=2)) is None
    assert guard.refusal(finished(run_id=1)) is not None


def test_a_worker_has_copies_of_what_it_was_told_to_fetch() -> None:
    guard = registered()
    guard.hear(
        [
            run_of("x", 1, a=["rdv://relay:1/other"]),
            {"op": "acquire-replicas", "who_has": {"b": []}},
            {"op": "remove-replicas", "keys": ["c"]},
            {"op": "refresh-who-has", "who_has": {"d": []}},
        ]
    )
    claim = {"op": "add-keys", "keys": ("a", "b", "c", "d", "x", "e"), "stimulus_id": "s"}
    assert guard.refusal([claim]) is None
    assert claim["keys"] == ["a", "b", "c"]
    guard.hear({"op": "free-keys", "keys": ["a"]})
    assert guard.refusal([claim]) is None
    assert claim["keys"] == ["b", "c"]


def test_a_worker_gives_no_bytes_for_another_ones_task() -> None:
    async def story() -> None:
        async with place() as made:
            worker = Worker(made.scheduler.address, protocol="rdv", security=made.security("w"))
            await made.stack.enter_async_context(worker)
            own = made.security("client", role="client")
            async with Client(made.scheduler.address, security=own, asynchronous=True) as client:
                future = client.submit(bytes, 1, key="task", workers=[worker.address])
                await future
                comm = await made.registered("mallory")
                await comm.write([{"op": "add-keys", "keys": ["task"], "stimulus_id": "x"}])
                await comm.write(
                    [{"op": "request-refresh-who-has", "keys": ["task"], "stimulus_id": "x"}]
                )
                told: list[Any] = []
                while not told:  # all that it said before has been heard
                    told = [each for each in await comm.read() if each["op"] == "refresh-who-has"]
                assert (await client.who_has([future]))["task"] == (worker.address,)
                comm.abort()

    run(story)


@pytest.mark.parametrize(
    "field", ["extra", "services", "local_directory", "resources", "metrics", "versions", "memory_limit", "pid"]
)  # fmt: skip
@pytest.mark.parametrize("marked", [to_serialize, ToPickle])
def test_nothing_in_a_registration_runs_at_a_client(
    tmp_path: Path, field: str, marked: Callable[[Any], Any]
) -> None:
    """The scheduler tells clusters and clients of its workers."""

    async def story() -> None:
        async with place() as made:
            await made.scheduler_watched()
            told = marked(Trap(tmp_path / "trap"))
            for number, value in enumerate((told, {"x": told}, {"x": [{"y": told}]})):
                comm = await made.connected(f"mallory-{number}")
                address = f"rdv://{made.relay.address}/mallory-{number}"
                message = registration(address, f"mallory-{number}")
                message[field] = {**message[field], "x": value} if field == "metrics" else value
                await comm.write(message)
                with suppress(CommClosedError):
                    await comm.read()
                own = made.security(f"client-{number}", role="client")
                async with Client(
                    made.scheduler.address, security=own, asynchronous=True
                ) as client:
                    await client.scheduler.identity(n_workers=-1)
                comm.abort()
            await asyncio.sleep(0.1)
            assert not list(tmp_path.iterdir())

    run(story)


def test_nothing_in_a_heartbeat_or_an_event_runs_at_a_client(tmp_path: Path) -> None:
    async def story() -> None:
        async with place() as made:
            own = made.security("client", role="client")
            told = to_serialize(Trap(tmp_path / "trap"))
            comm = await made.registered("mallory")
            heard: list[Any] = []
            async with Client(made.scheduler.address, security=own, asynchronous=True) as client:
                client.subscribe_topic("all-of-it", heard.append)
                while not heard:
                    event = {"op": "log-event", "topic": "all-of-it", "msg": {"x": told}}
                    await comm.write([event])
                    await asyncio.sleep(0.05)
                beat = heartbeat(f"rdv://{made.relay.address}/mallory")
                beat["metrics"]["x"] = told
                other = await made.connected("mallory")
                await other.write({**beat, "reply": True})
                assert (await other.read())["status"] == "OK"
                other.abort()
                known = await client.scheduler.identity(n_workers=-1)
                assert "pickled by a worker" in str(known["workers"])
                await client.get_events("all-of-it")
            assert not list(tmp_path.iterdir())
            comm.abort()

    run(story)


def test_nothing_that_a_worker_pickles_runs_at_the_scheduler(tmp_path: Path) -> None:
    """Dask unpickles such objects while it reads a message, before it looks at what is asked for."""

    async def story() -> None:
        async with place() as made:
            mallory = made.security("mallory")
            for number, message in enumerate(
                [
                    {"op": "who_has", "keys": ["a"], "more": ToPickle(Trap(tmp_path / "asked"))},
                    {"op": ToPickle(Trap(tmp_path / "op"))},
                    ToPickle(Trap(tmp_path / "all")),
                    [ToPickle(Trap(tmp_path / "list"))],
                ]
            ):
                comm = await connect(
                    made.scheduler.address, **mallory.get_connection_args("worker")
                )
                await comm.write(message)
                with suppress(CommClosedError):
                    await comm.read()
                assert not list(tmp_path.iterdir()), number
                comm.abort()

    run(story)


def test_nothing_that_a_worker_answers_runs_at_the_scheduler(tmp_path: Path) -> None:
    async def story() -> None:
        async with place() as made:

            async def answer(comm: Any) -> None:
                await comm.write({"status": "OK", "data": ToPickle(Trap(tmp_path / "trap"))})

            async with made.answering(answer) as mallory:
                got = await mallory.get_data(keys=["x"])
            assert "pickled by a worker" in got["data"]
            assert not list(tmp_path.iterdir())

    run(story)


@pytest.mark.parametrize(
    "sizes", [(1 << 62,), (1 << 24, 1), (1, 1 << 63), (1, 65 << 20), (1, 1 << 40)]
)
def test_messages_too_large_to_be_are_refused(sizes: tuple[int, ...]) -> None:
    async def story() -> None:
        async with place() as made:
            mallory = made.security("mallory")
            comm = await connect(made.scheduler.address, **mallory.get_connection_args("worker"))
            head = b"".join(size.to_bytes(8, "little") for size in sizes)
            await comm._stream.write([memoryview(head)])
            with pytest.raises(CommClosedError):
                await comm.read()

    run(story)


def test_an_answer_too_large_to_be_is_none(tmp_path: Path) -> None:
    async def story() -> None:
        async with place() as made:

            async def answer(comm: Any) -> None:
                await comm._stream.write([memoryview((1).to_bytes(8, "little") + b"\xff" * 8)])

            async with made.answering(answer) as mallory:
                with pytest.raises(CommClosedError):
                    await mallory.get_data(keys=["x"])

    run(story)


def test_clients_and_controllers_do_what_clients_do() -> None:
    async def story() -> None:
        async with place() as made:
            worker = Worker(made.scheduler.address, protocol="rdv", security=made.security("w"))
            await made.stack.enter_async_context(worker)
            for role in ("client", "controller"):
                for address in (
                    made.scheduler.address,
                    made.scheduler.listeners[1].contact_address,
                ):
                    own = made.security(f"{role}-{address[:3]}", role=role)
                    async with Client(address, security=own, asynchronous=True) as client:
                        assert await client.submit(sum, [1, 2]) == 3
                        assert await client.run_on_scheduler(abs, -7) == 7

    run(story)


def test_workers_do_not_connect_where_clients_do() -> None:
    """The scheduler's listener for clients on this machine, where functions may run too."""

    async def story() -> None:
        async with place() as made:
            address = made.scheduler.listeners[1].contact_address
            mallory = made.security("mallory")
            arguments = mallory.get_connection_args("client")
            with pytest.raises((OSError, ssl.SSLError)):
                comm = await connect(address, timeout=1, **arguments)
                await comm.write({"op": "identity"})
                await comm.read()

    run(story)


class Greeting(WorkerPlugin):
    pass


@pytest.mark.parametrize("goes", ["asked", "before", "at-once"])
def test_a_worker_that_has_gone_does_not_say_what_can_be_loaded(goes: str) -> None:
    async def story() -> None:
        async with place() as made:
            worker = Worker(made.scheduler.address, protocol="rdv", security=made.security("w"))
            await made.stack.enter_async_context(worker)
            comm = await made.registered("mallory")
            leaving: list[Any] = []

            async def leave(asked: Any) -> None:
                await asked.read()
                asked.abort()
                comm.abort()
                leaving.append(asyncio.create_task(made.security("mallory").close()))

            if goes == "asked":
                listener = listen(
                    "rdv://", leave, **made.security("mallory").get_listen_args("worker")
                )
                await listener.start()
            elif goes == "before":
                await made.security("mallory").close()
            else:
                leaving.append(asyncio.create_task(made.security("mallory").close()))
            plugin = dumps(Greeting())
            assert await load_everywhere(plugin, "greeting", made.scheduler) == []
            assert "greeting" in worker.plugins
            await asyncio.gather(*leaving)

    run(story)


def test_a_worker_that_cannot_load_what_is_needed_says_so() -> None:
    async def story() -> None:
        async with place() as made:
            worker = Worker(made.scheduler.address, protocol="rdv", security=made.security("w"))
            await made.stack.enter_async_context(worker)
            (wrong,) = await load_everywhere(b"nonsense", "greeting", made.scheduler)
            assert "UnpicklingError" in wrong

    run(story)


# Other workers


def test_a_worker_asks_another_for_data_alone() -> None:
    async def story() -> None:
        async with place() as made:
            worker = Worker(made.scheduler.address, protocol="rdv", security=made.security("w"))
            await made.stack.enter_async_context(worker)
            assert {"run", "terminate", "plugin-add", "upload_file"} <= set(worker.handlers)
            made.record(worker.handlers)
            mallory = made.security("mallory")
            for op in sorted(set(worker.handlers) - set(AT_WORKER)):
                answer = await made.ask(mallory, worker.address, op=op, reply=True)
                assert answer["status"] == "uncaught-error" and op in answer["exception_text"]
            assert made.called == []

    run(story)


def test_data_goes_from_worker_to_worker_on_the_comms_that_are_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who asks for data says that it has arrived; were that refused, each hop would need a new comm."""

    async def story() -> None:
        async with place() as made:
            workers = [
                await made.stack.enter_async_context(
                    Worker(made.scheduler.address, protocol="rdv", security=made.security(name))
                )
                for name in ("left", "right")
            ]
            own = made.security("client", role="client")
            async with Client(made.scheduler.address, security=own, asynchronous=True) as client:

                async def hops(count: int) -> int:
                    value: Any = 0
                    for number in range(count):
                        at = [workers[number % 2].address]
                        value = client.submit(lambda n: n + 1, value, workers=at, pure=False)
                    return await value

                assert await hops(6) == 6
                opened = made.relay.server.core.stats.opened
                assert await hops(40) == 40
                assert made.relay.server.core.stats.opened - opened <= 4

    run(story)
    assert "refused of" not in caplog.text


def test_nothing_is_acknowledged_that_was_not_asked_for() -> None:
    guard = Guard(AT_WORKER, OWN, "mallory")
    assert guard.refusal("OK") is not None
    for _ in range(2):
        assert guard.refusal({"op": "get_data", "keys": ["x"]}) is None
        assert guard.refusal("OK") is None
    assert guard.refusal("OK") is not None
    assert guard.refusal({"op": "get_data", "keys": ["x"]}) is None
    assert guard.refusal({"op": "get_data", "keys": ["x"]}) is None
    assert guard.refusal({"op": ["get_data"]}) is not None


# Roles at the relay


@pytest.mark.parametrize("role", ["client", "controller"])
def test_nobody_claims_a_role_that_the_credential_lacks(role: str) -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as relay:
            own = AUTHORITY.issue("mallory")
            claimed = Credential(own.name, own.certificate, own.key, own.authority, role, own.names)
            security = RendezvousSecurity(relay.address, claimed, connect_timeout=2.0)
            link = await security.link()
            with pytest.raises(OSError):
                await link.open("mallory", 1.0)
            assert await relay.count("MALFORMED") >= 1
            await security.close()

    run(story)


def test_a_role_is_told_by_both_ends() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as relay:
            ends = {
                role: RendezvousSecurity(relay.address, AUTHORITY.issue(role, role=role))
                for role in ("worker", "client", "controller")
            }
            taken: list[Any] = []
            for role, security in ends.items():
                link = await security.link()
                await link.listen(role, taken.append)
            for caller, security in ends.items():
                for called in ends:
                    stream = await (await security.link()).open(called, 5.0)
                    assert (stream.peer_role, taken.pop().peer_role) == (called, caller)
            for security in ends.values():
                await security.close()

    run(story)


def test_an_end_that_has_said_nothing_is_a_worker() -> None:
    link = LinkStreams(Line("a", rank=2), window=1 << 20, first_stream=1)
    assert link.open("b", 1.0, 0.0).peer_rank == 0
    assert f.VERSION > 2, "relays of version 2 let everybody claim every role"


# Errors and results of an encode


class Foreign(Exception):
    """An error of an installed package's."""


class Users(Exception):
    """An error of a module that the user has loaded, and that nobody has installed."""


class Odd(CodecError):
    """As one of ours that takes more than its text, and says so in a way of its own."""

    def __init__(self, text: str, frame: int) -> None:
        super().__init__(text)
        self.frame = frame

    def __reduce__(self) -> Any:
        return Odd, (self.args[0], self.frame)


class Plain(ExcameraError):
    def __init__(self, text: str, frame: int = 0) -> None:
        super().__init__(text)
        self.frame = frame


class Doubled(CodecError):
    """As one of ours that makes a text of what it is given."""

    def __init__(self, one: Any, other: Any) -> None:
        super().__init__(f"{one}{other}")


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes above are in modules of ours, and of an installed package's."""
    for kind, module in (
        (Odd, codec.errors),
        (Plain, codec.errors),
        (Doubled, codec.errors),
        (Foreign, click.exceptions),
    ):
        monkeypatch.setattr(kind, "__module__", module.__name__)
        monkeypatch.setattr(module, kind.__name__, kind, raising=False)


def error_of(error: BaseException, cause: Exception | None = None) -> Any:
    """What a worker's message would hold of an error that was raised, as the scheduler reads it."""
    try:
        try:
            raise cause or KeyError("the cause")
        except Exception as before:
            raise error from before
    except BaseException as raised:
        told = error_message(raised)
    header, frames = serialize(told["exception"].data)
    return Serialized(header, frames), told["exception_text"]


@pytest.mark.parametrize(
    "error",
    [
        Odd("no such frame", 7),
        Plain("x", 7),
        FileNotFoundError(2, "gone", "a"),
        TryElsewhere("no"),
        StoreUnavailable("s3://bucket"),
        ModuleNotFoundError("No module named 'x'", name="x"),
        KeyError("k"),
        Users("of their own"),
    ],
)
@pytest.mark.parametrize("cause", [None, Foreign("below")])
@pytest.mark.usefixtures("ours")
def test_errors_of_known_classes_arrive_as_they_are(
    error: BaseException, cause: Exception | None
) -> None:
    read = pickle.loads(read_error(*error_of(error, cause)))
    assert type(read) is type(error) and str(read) == str(error)
    assert read.__dict__ == error.__dict__


def nested(levels: int) -> Any:
    value: Any = ("x",)
    for _ in range(levels):
        value = (value, value)
    return value


def chained() -> Any:
    """Errors within each other, whose texts are made where they are read, and double each time."""
    data = b"\x80\x04X\x01\x00\x00\x00x" + b"ccodec.errors\nDoubled\nq\x010"
    for _ in range(40):
        data += b"q\x020h\x01h\x02h\x02\x86R"
    return data + b"."


CONTROL = [
    SystemExit(0), KeyboardInterrupt(), GeneratorExit(), StopIteration(), StopAsyncIteration(), asyncio.CancelledError(),
    concurrent.futures.CancelledError(), click.exceptions.Exit(0), click.Abort(), click.ClickException("x"), Failure("x"),
    StdoutClosed("x"), Cancelled("x"), Foreign("x"),
]  # fmt: skip


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize(
    "data",
    [
        *map(pickle.dumps, CONTROL),
        pickle.dumps(ValueError(SystemExit(0))),
        pickle.dumps(ValueError(nested(26))),
        pickle.dumps(ValueError(nested(200))),
        pickle.dumps(ValueError("x" * 100_000)),
        pickle.dumps(ValueError([nested(8), nested(14)])),
        pickle.dumps(ValueError(1 << 200_000)),
        pickle.dumps(OSError(2, 7, ("x",))),
        pickle.dumps(OSError(2, "gone", ("x",))),
        pickle.dumps(ValueError(int)),
        chained(),
        b"\x80\x04Nr\xff\xff\xff\xff.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",
        b"",
    ],
)
def test_an_error_that_ends_more_than_its_task_arrives_as_text(data: bytes) -> None:
    forget_peak()
    before = peak_memory()
    kept = Serialized(*serialize(to_serialize(data)))
    read = pickle.loads(read_error(kept, "the text"))
    assert type(read) is Exception and str(read) == "the text"
    assert peak_memory() - before < 64 << 20


def test_a_warning_of_few_bytes_takes_little_memory() -> None:
    forget_peak()
    before = peak_memory()
    told = read_warning({"message": b"\x80\x04Nr\xff\xff\xff\xff.", "category": b""})
    assert "no text" in pickle.loads(told["message"])
    assert peak_memory() - before < 64 << 20


def test_what_would_run_code_arrives_as_text(tmp_path: Path) -> None:
    for number, data in enumerate(
        [
            pickle.dumps(Trap(tmp_path / "trap")),
            pickle.dumps(ValueError(Trap(tmp_path / "trap"))),
            b"cos\nsystem\n(S'touch " + str(tmp_path / "trap").encode() + b"'\ntR.",
            b"cbuiltins\nValueError\n(cos\nsystem\ntR.",
            pickle.dumps(7),
            b"nonsense",
            b"\x80\x04" * 1000,
        ]
    ):
        for wrapped in (to_serialize(data), data):
            kept = Serialized(*serialize(wrapped))
            read = pickle.loads(read_error(kept, f"the text {number}"))
            assert type(read) is Exception and str(read) == f"the text {number}"
    for header in ({"compression": (70,)}, {"compression": 7}, {"compression": ("zlib",)}):
        assert str(pickle.loads(read_error(Serialized(header, [b"x"]), "text"))) == "text"
    pickled = Serialized({"serializer": "pickle"}, [pickle.dumps(Trap(tmp_path / "trap"))])
    assert str(pickle.loads(read_error(pickled, "text"))) == "text"
    assert not (tmp_path / "trap").exists()


def test_an_error_of_a_hostile_worker_runs_nothing_at_the_client(tmp_path: Path) -> None:
    async def story() -> None:
        async with place() as made:
            take_plain_errors(made.scheduler)
            mallory = made.security("mallory")
            comm = await connect(made.scheduler.address, **mallory.get_connection_args("worker"))
            await comm.write(registration(f"rdv://{made.relay.address}/mallory", "mallory"))
            assert (await comm.read())["status"] == "OK"
            own = made.security("client", role="client")
            async with Client(made.scheduler.address, security=own, asynchronous=True) as client:
                future = client.submit(abs, -1, key="task")
                given: list[Any] = []
                while not given:
                    given = [each for each in await comm.read() if each.get("op") == "compute-task"]
                said = {
                    "op": "task-erred", "key": "task", "status": "error", "stimulus_id": "s", "thread": 1,
                    "run_id": given[0]["run_id"], "startstops": [], "exception_text": "the text", "traceback_text": "",
                    "exception": to_serialize(Trap(tmp_path / "trap")), "traceback": to_serialize(Trap(tmp_path / "more")),
                }  # fmt: skip
                await comm.write([said])
                error = await future.exception()
            assert type(error) is Exception and str(error) == "the text"
            assert not list(tmp_path.iterdir())
            comm.abort()

    run(story)


@pytest.mark.parametrize(
    "values",
    [
        (), 7, None, (1, (b"x",), {}), (0, ("x",), {}), (0, (b"x",), {"encode": "1"}), (0, (b"x",), 7),
        (0, b"x", {}, None, 7), (0, (b"x",), {}, None, None, ("a",)), (0, (b"x",), {}, None, None, (), 1),
    ],
)  # fmt: skip
def test_a_result_that_is_none_is_named(values: Any) -> None:
    with pytest.raises(ExcameraError, match="chunk 0: a worker has sent what is no result"):
        read_result(values, 0)


def test_a_result_is_read_from_plain_values() -> None:
    result = ChunkResult(3, (b"a", b"b"), {"encode": 0.5}, (b"c",), b"d", (7,))
    assert read_result(tuple(result), 3) == result
