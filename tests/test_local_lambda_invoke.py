"""The local Lambda runs handlers under AWS's runtime client as Lambda does, for unmodified boto3."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from local_lambda import (
    HANDLER,
    TESTS,
    call,
    invoke,
    is_gone,
    process_state,
    require_runtime,
    wait_for,
)

require_runtime()

from executors.local_lambda import LocalLambda  # noqa: E402


@pytest.fixture(scope="module")
def server() -> Iterator[LocalLambda]:
    with LocalLambda() as local:
        local.create_function("probe", HANDLER, code=TESTS, memory=256, timeout=10)
        yield local


@pytest.fixture
def client(server: LocalLambda) -> Any:
    return server.client(config=Config(retries={"total_max_attempts": 1}))


def fresh(server: LocalLambda, name: str, **options: Any) -> str:
    """A function of its own for a test that counts environments."""
    settings = {"memory": 256, "timeout": 10, **options}
    server.create_function(name, HANDLER, code=TESTS, **settings)
    return name


def environments(server: LocalLambda, name: str) -> list[dict[str, Any]]:
    return [each for each in server.environments() if each["function"] == name]


def test_a_handler_answers(client: Any) -> None:
    assert invoke(client, "probe", "echo", number=7)["event"] == {"do": "echo", "number": 7}


def test_the_context_is_as_on_lambda(client: Any) -> None:
    custom = base64.b64encode(json.dumps({"custom": {"key": "value"}}).encode()).decode()
    answer = client.invoke(
        FunctionName="probe", Payload=json.dumps({"do": "tell_context"}), ClientContext=custom
    )
    context = json.loads(answer["Payload"].read())
    assert context.pop("request_id") == answer["ResponseMetadata"]["RequestId"]
    assert 9_000 < context.pop("remaining") <= 10_000
    assert context.pop("stream").startswith("20")
    assert context == {
        "function": "probe",
        "version": "$LATEST",
        "memory": "256",
        "arn": "arn:aws:lambda:us-east-1:123456789012:function:probe",
        "group": "/aws/lambda/probe",
        "custom": {"key": "value"},
    }


def test_the_answer_has_lambdas_headers(client: Any) -> None:
    answer = client.invoke(FunctionName="probe", Payload=b"{}")
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert "FunctionError" not in answer and "LogResult" not in answer


def test_the_tail_of_the_log_tells_of_this_invocation(client: Any) -> None:
    call(client, "probe", "echo")
    answer = call(client, "probe", "sleep", seconds=0)
    request_id = answer["ResponseMetadata"]["RequestId"]
    lines = answer["LogResult"].splitlines()
    assert lines[0] == f"START RequestId: {request_id} Version: $LATEST"
    assert lines[1] == "working on sleep"
    assert lines[2] == f"END RequestId: {request_id}"
    assert lines[3].startswith(f"REPORT RequestId: {request_id}\tDuration: ")
    assert "Memory Size: 256 MB" in lines[3] and "Init Duration" not in lines[3]


def test_a_long_log_keeps_its_last_4_kb(client: Any) -> None:
    payload = json.dumps({"do": "echo", "text": "x" * 10_000}).encode()
    answer = client.invoke(FunctionName="probe", Payload=payload, LogType="Tail")
    assert len(base64.b64decode(answer["LogResult"])) <= 4096


def test_an_environment_is_used_again(server: LocalLambda, client: Any) -> None:
    name = fresh(server, "again")
    first, second = invoke(client, name), invoke(client, name)
    assert first["pid"] == second["pid"]
    assert (first["count"], second["count"]) == (1, 2)
    assert len(environments(server, name)) == 1


def test_the_report_of_a_cold_start_has_the_init_phase(server: LocalLambda, client: Any) -> None:
    name = fresh(server, "cold")
    report = call(client, name)["LogResult"].splitlines()[-1]
    fields = dict(part.split(": ") for part in report.split("\t") if ": " in part)
    duration, init = (float(fields[key].split()[0]) for key in ("Duration", "Init Duration"))
    assert init > 1.0
    assert int(fields["Billed Duration"].split()[0]) >= int(duration + init)
    assert 1 <= int(fields["Max Memory Used"].split()[0]) < 256


def test_calls_at_once_have_environments_of_their_own(server: LocalLambda, client: Any) -> None:
    name = fresh(server, "parallel")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: invoke(client, name, "sleep", seconds=1.0), range(4)))
    assert len(environments(server, name)) == 4
    assert server.stats()["peak_running"] >= 4


def test_an_idle_environment_is_frozen(server: LocalLambda, client: Any) -> None:
    name = fresh(server, "freeze")
    children = [invoke(client, name, "start_child", session=session) for session in (False, True)]
    (environment,) = environments(server, name)
    assert environment["frozen"]
    for process in (environment["pid"], *children):
        wait_for(lambda process=process: process_state(process) == "T", f"{process} stopped")
    before = invoke(client, name, "tick")
    time.sleep(0.5)
    assert invoke(client, name, "tick") < before + 25  # 50 more ticks, had it gone on in between


def test_a_function_error_is_the_handlers(client: Any) -> None:
    answer = call(client, "probe", "fail")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    error = answer["Payload"]
    assert error["errorType"] == "ValueError"
    assert error["errorMessage"] == "this is the handler's own error"
    assert error["requestId"] == answer["ResponseMetadata"]["RequestId"]
    assert "in fail" in error["stackTrace"][-1]
    assert "[ERROR] ValueError: this is the handler's own error" in answer["LogResult"]
    assert "Status: error\tError Type: ValueError" in answer["LogResult"]


def test_an_environment_outlives_a_function_error(server: LocalLambda, client: Any) -> None:
    name = fresh(server, "survivor")
    pid = invoke(client, name)["pid"]
    call(client, name, "fail")
    assert invoke(client, name)["pid"] == pid


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"do": "leave", "status": 3}, "Runtime exited with error: exit status 3"),
        ({"do": "leave", "status": 0}, "Runtime exited without providing a reason"),
        ({"do": "die", "signal": signal.SIGKILL}, "Runtime exited with error: signal: killed"),
        ({"do": "die", "signal": signal.SIGTERM}, "Runtime exited with error: signal: terminated"),
    ],
)
def test_the_end_of_the_runtime_is_a_function_error(
    client: Any, event: dict[str, Any], reason: str
) -> None:
    answer = call(client, "probe", **event)
    assert answer["FunctionError"] == "Unhandled"
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert answer["Payload"] == {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: {request_id} Error: {reason}",
    }
    assert "Error Type: Runtime.ExitError" in answer["LogResult"]
    assert invoke(client, "probe")["count"] == 1  # in another environment


def test_at_the_time_limit_everything_is_killed(server: LocalLambda, client: Any) -> None:
    name = fresh(server, "limit", timeout=1)
    answer = call(client, name, "start_child", session=True, seconds=30)
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert answer["FunctionError"] == "Unhandled"
    assert answer["Payload"] == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {request_id} Error: Task timed out after 1.00 seconds",
    }
    assert f"{request_id} Task timed out after 1.00 seconds" in answer["LogResult"]
    assert (
        "Duration: 1000.00 ms" in answer["LogResult"] and "Status: timeout" in answer["LogResult"]
    )
    (line,) = [line for line in answer["LogResult"].splitlines() if line.startswith("child ")]
    wait_for(lambda: is_gone(int(line.split()[1])), "end of the handler's child")
    wait_for(lambda: environments(server, name) == [], "end of the environment")


def test_too_much_memory_is_named(server: LocalLambda, client: Any) -> None:
    name = fresh(server, "memory", memory=128)
    answer = call(client, name, "fill_memory", megabytes=4000)
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert answer["FunctionError"] == "Unhandled"
    assert answer["Payload"] == {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: {request_id} Error: Runtime exited with error: signal: killed",
    }
    report = answer["LogResult"].splitlines()[-1]
    assert "Max Memory Used: 128 MB" in report
    assert "Status: error\tError Type: Runtime.OutOfMemory" in report


def test_a_handler_that_cannot_be_loaded_is_an_init_error(server: LocalLambda, client: Any) -> None:
    server.create_function("absent", "no_such_module.handle", code=TESTS)
    answer = call(client, "absent")
    assert answer["FunctionError"] == "Unhandled"
    assert answer["Payload"]["errorType"] == "Runtime.ImportModuleError"
    assert "no_such_module" in answer["Payload"]["errorMessage"]
    log = "\n".join(server.logs("absent"))
    assert "INIT_REPORT Init Duration: " in log
    assert "Status: error\tError Type: Runtime.ImportModuleError" in log


def test_a_handler_that_ends_while_it_is_loaded_is_an_init_error(
    server: LocalLambda, client: Any
) -> None:
    server.create_function("leaver", "this.s", code=TESTS, environment={"PYTHONHOME": "/nowhere"})
    answer = call(client, "leaver")
    assert answer["Payload"]["errorType"] == "Runtime.ExitError"
    assert "exit status 1" in answer["Payload"]["errorMessage"]


def test_an_answer_above_6_mb_is_a_function_error(client: Any) -> None:
    answer = call(client, "probe", "answer_much", bytes=6_291_557)
    assert answer["FunctionError"] == "Unhandled"
    assert answer["Payload"]["errorType"] == "Function.ResponseSizeTooLarge"


def test_an_answer_of_almost_6_mb_arrives(client: Any) -> None:
    assert len(invoke(client, "probe", "answer_much", bytes=6_200_000)) == 6_200_000


def test_a_function_that_is_not_there_is_404(client: Any) -> None:
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="nowhere"):
        client.invoke(FunctionName="nowhere")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.invoke(FunctionName="probe", Qualifier="7")


@pytest.mark.parametrize(("kind", "limit"), [("RequestResponse", 6_291_456), ("Event", 1_048_576)])
def test_a_payload_above_the_limit_is_413(client: Any, kind: str, limit: int) -> None:
    fits = json.dumps("x" * (limit - 2)).encode()
    assert len(fits) == limit
    with pytest.raises(client.exceptions.RequestTooLargeException, match=str(limit)):
        client.invoke(FunctionName="probe", InvocationType=kind, Payload=fits + b" ")
    name = "probe" if kind == "RequestResponse" else "nobody-waits-for-this"
    if kind == "Event":
        client.create_function(
            FunctionName=name, Role="r", Handler=HANDLER, Runtime="python3.11",
            Code={"S3Bucket": "local-folder", "S3Key": str(TESTS)},
        )  # fmt: skip
    assert client.invoke(FunctionName=name, InvocationType=kind, Payload=fits)["StatusCode"] < 300


def test_a_payload_that_is_no_json_is_refused(client: Any) -> None:
    with pytest.raises(client.exceptions.InvalidRequestContentException):
        client.invoke(FunctionName="probe", Payload=b"{not json")


def test_a_dry_run_runs_nothing(server: LocalLambda, client: Any) -> None:
    name = fresh(server, "dry")
    assert client.invoke(FunctionName=name, InvocationType="DryRun")["StatusCode"] == 204
    assert environments(server, name) == []


def test_an_arn_or_a_qualifier_means_the_same_function(client: Any) -> None:
    arn = client.get_function_configuration(FunctionName="probe")["FunctionArn"]
    for name in (arn, f"{arn}:$LATEST", "123456789012:function:probe", "probe:$LATEST"):
        assert client.invoke(FunctionName=name, Payload=b"{}")["StatusCode"] == 200
    assert client.invoke(FunctionName="probe", Qualifier="$LATEST")["StatusCode"] == 200


def test_a_kill_between_invocations_costs_only_a_cold_start(
    server: LocalLambda, client: Any
) -> None:
    name = fresh(server, "killed")
    invoke(client, name)
    (environment,) = environments(server, name)
    os.kill(environment["pid"], signal.SIGKILL)
    wait_for(lambda: not environments(server, name), "end of the environment")
    assert invoke(client, name)["count"] == 1


def test_an_update_makes_new_environments(server: LocalLambda, client: Any) -> None:
    name = fresh(server, "changed")
    invoke(client, name)
    client.update_function_configuration(
        FunctionName=name, MemorySize=512, Environment={"Variables": {"COLOUR": "blue"}}
    )
    limits = invoke(client, name, "tell_limits")
    assert limits["variables"]["COLOUR"] == "blue"
    assert limits["variables"]["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "512"
    wait_for(lambda: len(environments(server, name)) == 1, "end of the old environment")


def test_an_init_phase_that_takes_too_long_begins_again_with_the_functions_limit() -> None:
    with LocalLambda(init_timeout=0.001) as local:
        local.create_function("slow", HANDLER, code=TESTS, memory=256, timeout=20)
        assert invoke(local.client(), "slow")["count"] == 1
        log = "\n".join(local.logs("slow"))
    assert "Phase: init\tStatus: timeout" in log


def test_an_environment_that_idles_too_long_is_discarded() -> None:
    with LocalLambda(idle_lifetime=0.1) as local:
        local.create_function("idler", HANDLER, code=TESTS, memory=256)
        invoke(local.client(), "idler")
        wait_for(lambda: not local.environments(), "end of the idle environment")


def test_errors_of_the_api_are_botocores(client: Any) -> None:
    with pytest.raises(ClientError) as caught:
        client.get_function(FunctionName="nowhere")
    assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"
