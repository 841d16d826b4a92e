"""What the holder of a worker's credential can do at the scheduler and at other workers: what a worker does, and nothing else."""

from __future__ import annotations

import pickle
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Scheduler, Worker
from distributed.comm import CommClosedError, connect, listen
from distributed.core import error_message
from distributed.protocol.serialize import Serialized, ToPickle, serialize, to_serialize
from rendezvous_relay import Served, run, serving

from excamera_dask.errors import ExcameraError
from excamera_dask.stages import ChunkResult, read_result
from executors.rendezvous import Authority, Credential, RendezvousSecurity
from executors.rendezvous.operations import (
    AT_SCHEDULER,
    AT_WORKER,
    ON_STREAM,
    Guard,
    take_plain_errors,
)
from executors.rendezvous.plain_pickles import read_error
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.link_core import LinkCore
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

    def security(self, name: str, *names: str, role: str = "worker") -> RendezvousSecurity:
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
            for number, op in enumerate(sorted(set(handlers) - ON_STREAM)):
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


def test_what_a_client_would_unpickle_besides_results_is_harmless(tmp_path: Path) -> None:
    guard = Guard(AT_SCHEDULER, OWN, "mallory")
    guard.refusal(registration(OWN, "mallory"))
    trap = pickle.dumps(Trap(tmp_path / "trap"))
    finished = {"op": "task-finished", "key": "x", "type": trap, "typename": "int"}
    warned = {"op": "log-event", "topic": "warn", "msg": {"message": trap, "category": trap}}
    fair = {"message": pickle.dumps("watch out"), "category": pickle.dumps(RuntimeWarning)}
    fairly = {"op": "log-event", "topic": ("warn", "x"), "msg": fair}
    assert guard.refusal([finished, warned, fairly]) is None
    assert finished["type"] is None
    told = [
        {name: pickle.loads(value) for name, value in each["msg"].items()}
        for each in (warned, fairly)
    ]
    assert told[0]["category"] is UserWarning and "no text" in told[0]["message"]
    assert told[1] == {"message": "watch out", "category": RuntimeWarning}
    assert not (tmp_path / "trap").exists()


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
    link = LinkCore("a", "s" * 32, window=1 << 20, first_stream=1, rank=2)
    assert link.open("b", 1.0, 0.0).peer_rank == 0
    assert f.VERSION > 2, "relays of version 2 let everybody claim every role"


# Errors and results of an encode


class Odd(Exception):
    """An error that takes more than its text, and says so in a way of its own."""

    def __init__(self, text: str, frame: int) -> None:
        super().__init__(text)
        self.frame = frame

    def __reduce__(self) -> Any:
        return Odd, (self.args[0], self.frame)


class Plain(ValueError):
    def __init__(self, text: str, frame: int = 0) -> None:
        super().__init__(text)
        self.frame = frame


def error_of(error: BaseException) -> Any:
    """What a worker's message would hold of an error that was raised, as the scheduler reads it."""
    try:
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise error from cause
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
        KeyError("k"),
    ],
)
def test_errors_of_known_classes_arrive_as_they_are(error: BaseException) -> None:
    read = pickle.loads(read_error(*error_of(error)))
    assert type(read) is type(error) and str(read) == str(error)
    assert read.__dict__ == error.__dict__


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
