"""Parts of the Lambda executor that need no cluster."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import boto3
import dask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from excamera_dask.cli.terminal.display import JsonDisplay, LiveDisplay
from excamera_dask.lambda_jobs import options_for
from excamera_dask.planning import make_plan
from excamera_dask.progress import StageCounts, Started
from executors import Counts
from executors.aws_lambda import facts, handler
from executors.aws_lambda.activity import Activity
from executors.aws_lambda.backend import check_backend
from executors.aws_lambda.config import setting
from executors.aws_lambda.errors import InvalidOption
from executors.aws_lambda.fleet import Fleet, FleetSettings, actions, events
from executors.aws_lambda.invoker import (
    THREADS,
    Accepted,
    Failed,
    Invoker,
    Throttled,
    Unsent,
    invoke_config,
)
from executors.aws_lambda.log_tail import LogTail
from executors.aws_lambda.messages import (
    InvalidMessage,
    read_connected,
    read_message,
    read_versions,
)
from executors.aws_lambda.payload import InvalidPayload, Payload
from executors.aws_lambda.post_mortem import judge
from executors.aws_lambda.wanted import Wanted
from executors.base import REPEATABLE

# Payload and handler

PAYLOAD = Payload("w-0", "relay:1", {"name": "w-0"}, "rdv://relay:1/s", "rdv://relay:1/c")


def test_a_payload_is_read_as_it_was_written() -> None:
    assert Payload.from_event(json.loads(PAYLOAD.to_json())) == PAYLOAD


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({}, "is a worker of excamera"),
        ("hello", "is a worker of excamera"),
        (None, "is a worker of excamera"),
        ({"excamera": 99}, "version 99"),
        ({"excamera": 1, "invocation": "w"}, "incomplete"),
        ({**json.loads(PAYLOAD.to_json()), "more": 1}, "incomplete or of another version"),
    ],
)
def test_other_events_are_refused(event: Any, says: str) -> None:
    with pytest.raises(InvalidPayload, match=says):
        handler.handle(event)


def test_what_lambda_says_of_an_invocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts.time, "time", lambda: 1000.0)
    context = SimpleNamespace(
        aws_request_id="r", log_stream_name="s", function_version="7", memory_limit_in_mb="512",
        get_remaining_time_in_millis=lambda: 90_000,
    )  # fmt: skip
    found = facts.read_facts(context, cold=True)
    assert found == facts.Facts("r", "s", "7", 512 << 20, 1090.0, True)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
    assert facts.read_facts(None, cold=False).memory == 128 << 20


# The invoker, against a server that answers as told


class Answers(BaseHTTPRequestHandler):
    status, body, headers_out = 202, b"", {}

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        for name, value in self.headers_out.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *told: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), type("Told", (Answers,), {}))
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def invoker_at(
    port: int, versions: dict[str, str] | None = None, host: str = "127.0.0.1"
) -> Invoker:
    client = boto3.client(
        "lambda", endpoint_url=f"http://{host}:{port}", config=invoke_config("us-east-1"),
        aws_access_key_id="x", aws_secret_access_key="y",
    )  # fmt: skip
    return Invoker(client, "f", versions or {})


def error(status: int, code: str, **more: str) -> dict[str, Any]:
    told = {"Type": "User", "message": "because", **more}
    headers = {"x-amzn-ErrorType": code, "Content-Type": "application/json"}
    return {"status": status, "headers_out": headers, "body": json.dumps(told).encode()}


@pytest.mark.parametrize(
    ("answer", "means"),
    [
        ({"status": 202, "headers_out": {"x-amzn-RequestId": "id-1"}}, Accepted("id-1")),
        (
            error(429, "TooManyRequestsException", Reason="ConcurrentInvocationLimitExceeded"),
            Throttled("ConcurrentInvocationLimitExceeded"),
        ),
        (
            {"status": 200, "body": b"<html>", "headers_out": {"Content-Type": "text/html"}},
            Failed("what answers 200 at {} is not Lambda", fatal=True),
        ),
        (error(503, "EC2ThrottledException"), Throttled("EC2ThrottledException")),
        (error(500, "ServiceException"), Failed("ServiceException: because", fatal=False)),
        (
            error(502, "ENILimitReachedException"),
            Failed("ENILimitReachedException: because", fatal=False),
        ),
        (
            error(404, "ResourceNotFoundException"),
            Failed("ResourceNotFoundException: because", fatal=True),
        ),
        (
            error(403, "ExpiredTokenException"),
            Failed("ExpiredTokenException: because", fatal=True),
        ),
    ],
)
def test_what_lambdas_answers_mean(
    server: ThreadingHTTPServer, answer: dict[str, Any], means: Any
) -> None:
    for name, value in answer.items():
        setattr(server.RequestHandlerClass, name, value)
    if isinstance(means, Failed):
        endpoint = f"http://127.0.0.1:{server.server_port}"
        means = dataclasses.replace(means, reason=means.reason.format(endpoint))
    assert invoker_at(server.server_port).submit(lambda: b"{}").result(timeout=20) == means


def test_an_answer_that_never_came_may_have_been_a_yes(server: ThreadingHTTPServer) -> None:
    server.RequestHandlerClass.do_POST = lambda self: self.connection.close()  # type: ignore[attr-defined]
    outcome = invoker_at(server.server_port).submit(lambda: b"{}").result(timeout=20)
    assert isinstance(outcome, Failed) and outcome.unanswered and not outcome.fatal


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_call_that_cannot_have_reached_lambda_is_known(host: str) -> None:
    outcome = invoker_at(1, host=host).submit(lambda: b"{}").result(timeout=20)
    assert isinstance(outcome, Unsent) and "Could not connect" in outcome.reason


def test_calls_that_waited_for_one_that_could_not_be_sent_are_not_sent_either() -> None:
    """Or a thousand of them would each wait for a connection of its own, a few at a time."""
    invoker, submitted, made = invoker_at(1), threading.Event(), []

    def make() -> bytes:
        made.append(1)
        submitted.wait(20)
        return b"{}"

    calls = [invoker.submit(make) for _ in range(10 * THREADS)]
    submitted.set()
    assert all(isinstance(call.result(timeout=20), Unsent) for call in calls)
    assert len(made) == THREADS
    assert isinstance(invoker.submit(make).result(timeout=20), Unsent)
    assert len(made) == THREADS + 1, "a later call tries again"


def test_a_payload_that_cannot_be_made_is_fatal() -> None:
    outcome = invoker_at(1).submit(lambda: bytes(1 // 0)).result(timeout=20)
    assert isinstance(outcome, Failed) and outcome.fatal and "ZeroDivisionError" in outcome.reason


@pytest.mark.parametrize(
    ("headers", "body", "says"),
    [
        ({}, {"outcome": "ready", "versions": {"dask": "1"}}, None),
        ({}, {"outcome": "ready", "versions": {"dask": "2"}}, "function f has dask 2"),
        ({}, "Hello from Lambda!", "is no worker of excamera"),
        ({}, None, "is no worker of excamera"),
        ({}, {"statusCode": 200}, "is no worker of excamera"),
        (
            {"X-Amz-Function-Error": "Unhandled"},
            {"errorType": "Runtime.ImportModuleError", "errorMessage": "No module\nnamed x"},
            "function f cannot start: Runtime.ImportModuleError: No module named x",
        ),
    ],
)
def test_a_function_is_tried_once(
    server: ThreadingHTTPServer, headers: dict[str, str], body: Any, says: str | None
) -> None:
    told = server.RequestHandlerClass
    told.status, told.headers_out = 200, headers  # type: ignore[attr-defined]
    told.body = json.dumps(body).encode()  # type: ignore[attr-defined]
    found = invoker_at(server.server_port, {"dask": "1"}).probe()
    assert (found is None) if says is None else (found is not None and says in found.reason)


# What Lambda's log tells

LOG = """START RequestId: first Version: 1
Task timed out after 3.00 seconds
END RequestId: first
REPORT RequestId: first Duration: 3000 ms Billed Duration: 3000 ms Memory Size: 512 MB Max Memory Used: 100 MB
START RequestId: second Version: 1
Error: Runtime exited with error: signal: killed
END RequestId: second
REPORT RequestId: second Duration: 10 ms Billed Duration: 20 ms Memory Size: 512 MB Max Memory Used: 512 MB
START RequestId: third Version: 1
END RequestId: third
REPORT RequestId: third Duration: 3000 ms Billed Duration: 3001 ms Memory Size: 512 MB Max Memory Used: 100 MB
Task timed out after 3.00 seconds
START RequestId: fourth Version: 1
Error: cannot import name 'x'
REPORT RequestId: fourth Duration: 10 ms Billed Duration: 11 ms Memory Size: 512 MB Max Memory Used: 9 MB
START RequestId: fifth Version: 1
"""


@pytest.mark.parametrize(
    ("request_id", "says", "billed"),
    [
        ("first", "task timed out after 3.00 seconds", 3.0),
        ("second", "out of memory: Lambda killed it at 512 of 512 MB", 0.02),
        ("third", "task timed out", 3.001),
        ("fourth", "the runtime ended: Error: cannot import name 'x'", 0.011),
    ],
)
def test_a_log_of_many_requests_is_read_for_one(request_id: str, says: str, billed: float) -> None:
    cause = judge(LOG, request_id)
    assert cause is not None
    assert says in cause.error
    assert cause.billed == billed
    assert cause.log_tail.count("REPORT") == 1


@pytest.mark.parametrize("request_id", ["fifth", "sixth", ""])
def test_a_log_that_does_not_tell_yet(request_id: str) -> None:
    assert judge(LOG, request_id) is None


# What workers say

CONNECTED = {
    "op": "connected", "invocation": "w", "request_id": "r", "log_stream": "s", "cold": True, "memory": 512 << 20,
    "versions": {"dask": "1"}, "clock": 1000.0, "remaining": 60.0,
}  # fmt: skip


def test_messages_become_events() -> None:
    assert read_connected(CONNECTED, "w") == events.Connected(
        at=1000.0, clock="w", name="w", request_id="r", log_stream="s", cold=True, memory=512, remaining=60.0,
    )  # fmt: skip
    assert read_versions(CONNECTED) == {"dask": "1"}
    running = {"op": "running", "key": "rebase-7", "stage": "rebase", "number": None}
    assert read_message(running, "w", 5.0) == events.Running(
        at=5.0, name="w", key="rebase-7", stage="rebase", number=None
    )


@pytest.mark.parametrize(
    "change",
    [
        {"invocation": "another"}, {"clock": math.nan}, {"remaining": math.inf}, {"remaining": "60"},
        {"memory": 1 << 70}, {"cold": "yes"}, {"request_id": None}, {"log_stream": "s" * 5000}, {"op": "ready"},
    ],
)  # fmt: skip
def test_a_false_first_message_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage):
        read_connected({**CONNECTED, **change}, "w")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
OPS = st.sampled_from(
    ["ready", "running", "waiting", "idle", "heartbeat", "draining", "finished", "failed", "connected"]
)  # fmt: skip
FIELDS = st.sampled_from(
    ["worker_address", "key", "stage", "number", "rss", "reason", "error", "log_tail"]
)
GARBAGE = PLAIN | st.builds(
    lambda op, fields: {**fields, "op": op}, OPS | PLAIN, st.dictionaries(FIELDS, PLAIN)
)


@given(st.lists(GARBAGE, max_size=8))
def test_garbage_is_refused_or_harmless(messages: list[Any]) -> None:
    fleet = Fleet(FleetSettings())
    wanted = fleet.handle(events.TargetChanged(1, at=1000.0))
    (name,) = [action.name for action in wanted if isinstance(action, actions.Invoke)]
    fleet.handle(events.Invoked(name=name, at=1000.0))
    fleet.handle(read_connected({**CONNECTED, "invocation": name}, name), 1000.0)
    for number, told in enumerate(messages):
        try:
            fleet.handle(read_message(told, name, 1001.0 + number))
        except InvalidMessage as refusal:
            assert len(str(refusal)) < 200
    fleet.handle(events.Tick(at=2000.0))
    json.dumps(fleet.snapshot().to_dict())


# What a worker says of its tasks


def test_activity_tells_only_what_is_new() -> None:
    told: list[dict[str, Any]] = []
    pauses: list[Callable[[], None]] = []
    activity = Activity(told.append, lambda seconds, speak: pauses.append(speak))

    def change(key: Any, start: str, finish: str) -> None:
        activity.transition(key, start, finish)
        while pauses:
            pauses.pop()()

    change(("rebase-1f", 7), "released", "waiting")
    change(("rebase-1f", 8), "released", "waiting")
    change(("rebase-1f", 7), "waiting", "executing")
    change(("rebase-1f", 7), "executing", "memory")
    change(("rebase-1f", 8), "waiting", "released")
    change("total", "ready", "executing")
    assert [(m["op"], m.get("stage"), m.get("number")) for m in told] == [
        ("waiting", "rebase", 7), ("running", "rebase", 7), ("waiting", "rebase", 8), ("idle", None, None),
        ("running", "total", None),
    ]  # fmt: skip


def test_activity_does_not_tell_of_each_of_a_thousand_moments() -> None:
    told: list[dict[str, Any]] = []
    pauses: list[Callable[[], None]] = []
    activity = Activity(told.append, lambda seconds, speak: pauses.append(speak))
    for number in range(1000):
        activity.transition(("square-1f", number), "ready", "executing")
        activity.transition(("square-1f", number), "executing", "memory")
    assert [one["op"] for one in told] == ["running"] * 1000 and len(pauses) == 1
    pauses.pop()()
    assert [one["op"] for one in told[1000:]] == ["idle"], "the last word is as things are"
    pauses.pop()()
    assert len(told) == 1001 and not pauses
    activity.transition("long", "ready", "executing")
    assert told[-1] == {"op": "running", "key": "long", "stage": "long", "number": None}


def test_a_repeated_run_that_is_not_needed_any_more_still_keeps_its_worker_busy() -> None:
    marked, unmarked = (SimpleNamespace(annotations=one) for one in ({REPEATABLE: True}, None))
    told: list[dict[str, Any]] = []
    activity = Activity(told.append, lambda seconds, speak: speak())
    tasks = {"encode": marked, "mine": unmarked}
    activity.setup(SimpleNamespace(state=SimpleNamespace(tasks=tasks)))
    seen = []
    for key in tasks:
        for start, finish in (("ready", "executing"), ("executing", "cancelled")):
            activity.transition(key, start, finish)
            seen.append((told[-1]["op"], told[-1].get("repeatable", False)))
        activity.transition(key, "cancelled", "released")
        seen.append((told[-1]["op"], len(told)))
    assert seen == [
        ("running", True), ("running", True), ("idle", 2),
        ("running", False), ("idle", False), ("idle", 4),
    ]  # fmt: skip


def test_a_record_that_cannot_be_formatted_harms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log = logging.getLogger("excamera-test")
    monkeypatch.setattr(log, "propagate", True)
    with LogTail(lines=2) as tail:
        log.warning("%d", "no number")
        for number in range(3):
            log.warning("line %d", number)
    log.warning("afterwards")
    assert [line.rpartition(": ")[2] for line in tail.text().splitlines()] == ["line 1", "line 2"]


# Options


@pytest.mark.parametrize(("given", "seconds"), [("90s", 90.0), (5, 5.0), ("2 minutes", 120.0)])
def test_times(given: Any, seconds: float) -> None:
    assert setting("idle-timeout", given) == seconds


def test_no_idle_timeout_is_never() -> None:
    assert Wanted({"idle_timeout": None})["idle_timeout"] is None
    assert (
        Wanted({})["idle_timeout"] == 60.0
        and Wanted({"idle_timeout": "5m"})["idle_timeout"] == 300.0
    )
    with dask.config.set({"excamera.lambda.idle-timeout": None}):
        assert Wanted({})["idle_timeout"] is None


@pytest.mark.parametrize("given", ["abc", "-5", -5, "", "nan", float("inf")])
def test_what_is_no_time(given: Any) -> None:
    with pytest.raises(InvalidOption, match=r"idle-timeout .*is no time"):
        setting("idle-timeout", given)
    with dask.config.set({"excamera.lambda.margin": given}), pytest.raises(InvalidOption):
        setting("margin")


@pytest.mark.parametrize("spec", ["foo", "http://", "ftp://host", "http://[", ""])
def test_what_is_no_backend(spec: str) -> None:
    with pytest.raises(InvalidOption, match="unknown backend"):
        check_backend(spec)
    with pytest.raises(InvalidOption, match="unknown backend"):
        options_for({"backend": spec}, SimpleNamespace(path="/film.mkv"))  # type: ignore[arg-type]


# What a job on a fleet shows


def test_workers_and_dollars_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(96, 6, 16, frame_bytes=100)
    counts = {"encode": Counts(16, 2, 3)}
    with JsonDisplay() as display:
        display(StageCounts(counts))
        display(StageCounts(counts, workers=5, spent=0.25))
    plain, fleet = map(json.loads, capsys.readouterr().err.splitlines())
    assert "workers" not in plain and "spent" not in plain
    assert (fleet["workers"], fleet["spent"]) == (5, 0.25)
    with LiveDisplay() as live:
        live(Started(plan, "lambda", 1000))
        live(StageCounts(counts))
        cells = [
            str(cell) for column in live._render().renderables[0].columns for cell in column.cells
        ]
        assert cells[1:4] == ["0/96 frames", "", ""], "no speed before the first chunk"
        assert "workers" not in str(live._render().renderables[1])
        live(StageCounts(counts, workers=5, spent=0.25))
        assert "workers 5/1000  $0.2500" in str(live._render().renderables[1])
