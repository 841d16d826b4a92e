"""Functions are made, changed, limited and told about as boto3 expects it; logs are read as CloudWatch Logs'."""

from __future__ import annotations

import io
import platform
import sys
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from local_lambda import HANDLER, TESTS, call, invoke, require_runtime, wait_for

require_runtime()

from executors.local_lambda import LocalLambda  # noqa: E402

RUNTIME = f"python3.{sys.version_info.minor}"
FOLDER = {"S3Bucket": "local-folder", "S3Key": str(TESTS)}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalLambda]:
    with LocalLambda(concurrency=200, account="210987654321", region="eu-central-1") as local:
        yield local


@pytest.fixture
def client(server: LocalLambda) -> Any:
    return server.client(config=Config(retries={"total_max_attempts": 1}))


@pytest.fixture
def logs(server: LocalLambda) -> Any:
    return server.client("logs")


def create(client: Any, name: str, **members: Any) -> dict[str, Any]:
    request = {"Role": "arn:aws:iam::210987654321:role/r", "Runtime": RUNTIME, "Handler": HANDLER}
    return dict(client.create_function(FunctionName=name, **{**request, "Code": FOLDER, **members}))


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


def test_a_function_has_lambdas_defaults(client: Any) -> None:
    made = create(client, "defaults", Description="for a test")
    assert made["FunctionArn"] == "arn:aws:lambda:eu-central-1:210987654321:function:defaults"
    expected = {
        "MemorySize": 128,
        "Timeout": 3,
        "EphemeralStorage": {"Size": 512},
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
        "Version": "$LATEST",
        "Description": "for a test",
        "Handler": HANDLER,
    }
    assert {key: made[key] for key in expected} == expected
    told = client.get_function_configuration(FunctionName="defaults")
    assert {key: told[key] for key in expected} == expected
    assert (
        client.get_function(FunctionName="defaults")["Configuration"]["RevisionId"]
        == made["RevisionId"]
    )


def test_boto3s_waiters_end(client: Any) -> None:
    create(client, "awaited")
    client.get_waiter("function_active_v2").wait(FunctionName="awaited")
    client.update_function_configuration(FunctionName="awaited", Timeout=9)
    client.get_waiter("function_updated_v2").wait(FunctionName="awaited")
    assert client.get_function_configuration(FunctionName="awaited")["Timeout"] == 9


def test_a_new_function_may_be_pending_for_a_while() -> None:
    with LocalLambda(activation_delay=1.5) as local:
        client = local.client(config=Config(retries={"total_max_attempts": 1}))
        made = local.create_function("young", HANDLER, code=TESTS)
        assert (made["State"], made["StateReasonCode"]) == ("Pending", "Creating")
        with pytest.raises(client.exceptions.ResourceConflictException, match="Pending"):
            client.invoke(FunctionName="young")
        client.get_waiter("function_active_v2").wait(
            FunctionName="young", WaiterConfig={"Delay": 1}
        )
        assert invoke(client, "young")["count"] == 1


def test_a_function_can_come_in_a_zip_file(client: Any) -> None:
    def packed(answer: int) -> bytes:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            archive.writestr("zipped.py", f"def handle(event, context):\n    return {answer}\n")
        return data.getvalue()

    made = create(client, "zipped", Code={"ZipFile": packed(7)}, Handler="zipped.handle")
    assert invoke(client, "zipped") == 7
    changed = client.update_function_code(FunctionName="zipped", ZipFile=packed(8))
    assert changed["CodeSha256"] != made["CodeSha256"]
    assert invoke(client, "zipped") == 8


def test_the_image_local_is_what_this_python_has(client: Any) -> None:
    name = "installed"
    client.create_function(
        FunctionName=name, Role="r", PackageType="Image", Code={"ImageUri": "local"},
        ImageConfig={"Command": ["dataclasses.make_dataclass"]},
    )  # fmt: skip
    answer = call(client, name)
    assert answer["Payload"]["errorType"] in ("TypeError", "AttributeError")
    assert "dataclasses.py" in "".join(answer["Payload"]["stackTrace"])
    assert client.get_function(FunctionName=name)["Code"]["ImageUri"] == "local"


@pytest.mark.parametrize(
    "members",
    [
        {"MemorySize": 10_241},
        {"Timeout": 901},
        {"EphemeralStorage": {"Size": 10_241}},
        {"Environment": {"Variables": {"AWS_REGION": "eu-west-1"}}},
        {"Environment": {"Variables": {"LONG": "x" * 4096}}},
        {"Code": {"ZipFile": b"no zip file"}},
        {"Code": {"S3Bucket": "local-folder", "S3Key": "/nowhere"}},
        {"Code": {"S3Bucket": "somebodys-bucket", "S3Key": "code.zip"}},
        {"PackageType": "Image", "Code": {"ImageUri": "elsewhere/image:1"}, "ImageConfig": {"Command": ["a.b"]}},
        {"PackageType": "Image", "Code": {"ImageUri": "local"}},
        {"Architectures": ["arm64" if platform.machine() == "x86_64" else "x86_64"]},
    ],
)  # fmt: skip
def test_what_lambda_does_not_take_is_refused(server: LocalLambda, members: dict[str, Any]) -> None:
    client = server.client(config=Config(parameter_validation=False))  # botocore checks some of it
    request = {
        "FunctionName": "refused", "Role": "r", "Runtime": RUNTIME, "Handler": HANDLER, "Code": FOLDER,
    }  # fmt: skip
    if members.get("PackageType") == "Image":
        del request["Handler"], request["Runtime"]
    with pytest.raises(ClientError) as caught:
        client.create_function(**{**request, **members})
    assert code_of(caught) == "InvalidParameterValueException"
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function(FunctionName="refused")


def test_a_name_can_be_given_once(client: Any) -> None:
    create(client, "once")
    with pytest.raises(client.exceptions.ResourceConflictException):
        create(client, "once")
    client.delete_function(FunctionName="once")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.delete_function(FunctionName="once")
    create(client, "once")


def test_a_deleted_function_leaves_no_environment(server: LocalLambda, client: Any) -> None:
    create(client, "brief")
    invoke(client, "brief")
    client.delete_function(FunctionName="brief")

    def gone() -> bool:
        return all(each["function"] != "brief" for each in server.environments())

    wait_for(gone, "end of the environment")


def test_lists_come_in_pages(client: Any) -> None:
    for number in range(5):
        create(client, f"page-{number}")
    pages = client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2})
    names = [each["FunctionName"] for page in pages for each in page["Functions"]]
    assert names == sorted(names)
    assert {f"page-{number}" for number in range(5)} <= set(names)


def test_concurrency_is_reserved_from_the_accounts(client: Any) -> None:
    create(client, "reserved")
    answer = client.put_function_concurrency(
        FunctionName="reserved", ReservedConcurrentExecutions=150
    )
    assert answer["ReservedConcurrentExecutions"] == 150
    limits = client.get_account_settings()["AccountLimit"]
    assert limits["ConcurrentExecutions"] == 200
    assert limits["UnreservedConcurrentExecutions"] == 50
    told = client.get_function_concurrency(FunctionName="reserved")
    assert told["ReservedConcurrentExecutions"] == 150
    with pytest.raises(client.exceptions.InvalidParameterValueException, match="minimum value"):
        client.put_function_concurrency(FunctionName="reserved", ReservedConcurrentExecutions=190)
    client.delete_function_concurrency(FunctionName="reserved")
    limits = client.get_account_settings()["AccountLimit"]
    assert limits["UnreservedConcurrentExecutions"] == 200
    assert client.get_account_settings()["AccountUsage"]["FunctionCount"] > 0


def test_the_event_configuration_is_kept(client: Any) -> None:
    create(client, "events")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function_event_invoke_config(FunctionName="events")
    client.put_function_event_invoke_config(FunctionName="events", MaximumRetryAttempts=1)
    client.update_function_event_invoke_config(FunctionName="events", MaximumEventAgeInSeconds=90)
    told = client.get_function_event_invoke_config(FunctionName="events")
    assert (told["MaximumRetryAttempts"], told["MaximumEventAgeInSeconds"]) == (1, 90)
    client.put_function_event_invoke_config(FunctionName="events", MaximumRetryAttempts=0)
    told = client.get_function_event_invoke_config(FunctionName="events")
    assert (told["MaximumRetryAttempts"], told["MaximumEventAgeInSeconds"]) == (0, 21_600)
    client.delete_function_event_invoke_config(FunctionName="events")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function_event_invoke_config(FunctionName="events")


def test_tags_are_kept(client: Any) -> None:
    arn = create(client, "tagged", Tags={"project": "film"})["FunctionArn"]
    client.tag_resource(Resource=arn, Tags={"owner": "me"})
    assert client.list_tags(Resource=arn)["Tags"] == {"project": "film", "owner": "me"}
    client.untag_resource(Resource=arn, TagKeys=["project"])
    assert client.get_function(FunctionName="tagged")["Tags"] == {"owner": "me"}


# -- logs -----------------------------------------------------------------------------------------------------------


def test_logs_are_read_with_boto3(server: LocalLambda, client: Any, logs: Any) -> None:
    create(client, "speaker")
    begun = int(time.time() * 1000)
    first = call(client, "speaker")["ResponseMetadata"]["RequestId"]
    call(client, "speaker", "fail")
    group = "/aws/lambda/speaker"
    streams = logs.describe_log_streams(logGroupName=group)["logStreams"]
    (stream,) = [each["logStreamName"] for each in streams]
    assert stream == server.environments()[-1]["log_stream"]
    events = logs.filter_log_events(logGroupName=group, startTime=begun)["events"]
    messages = [event["message"] for event in events]
    assert messages[0].startswith("INIT_START")
    assert f"START RequestId: {first} Version: $LATEST" in messages
    assert {event["logStreamName"] for event in events} == {stream}
    assert all(begun <= event["timestamp"] for event in events)
    (error,) = logs.filter_log_events(logGroupName=group, filterPattern="ValueError Traceback")[
        "events"
    ]
    assert error["message"].splitlines()[0] == "[ERROR] ValueError: this is the handler's own error"
    assert len(error["message"].splitlines()) > 2  # lines of one event stay together
    assert server.logs("speaker") == messages
    assert server.logs("speaker", stream) == messages


def test_a_stream_is_read_page_by_page(client: Any, logs: Any) -> None:
    create(client, "pager")
    for _ in range(3):
        call(client, "pager")
    group = "/aws/lambda/pager"
    stream = logs.describe_log_streams(logGroupName=group)["logStreams"][0]["logStreamName"]
    where = {"logGroupName": group, "logStreamName": stream}
    everything = logs.get_log_events(**where, startFromHead=True)["events"]
    pages, token = [], None
    while True:
        more = {"nextToken": token} if token else {"startFromHead": True}
        page = logs.get_log_events(**where, limit=2, **more)
        if page["nextForwardToken"] == token:
            break
        pages.append(page["events"])
        token = page["nextForwardToken"]
    assert [event for page in pages for event in page] == everything
    last = logs.get_log_events(**where, limit=2)
    assert last["events"] == everything[-2:]
    before = logs.get_log_events(**where, limit=2, nextToken=last["nextBackwardToken"])
    assert before["events"] == everything[-4:-2]
    limited = logs.get_paginator("filter_log_events").paginate(
        logGroupName=group, PaginationConfig={"PageSize": 3}
    )
    found = [event["message"] for page in limited for event in page["events"]]
    assert found == [event["message"] for event in everything]


def test_logs_that_are_not_there_are_refused(client: Any, logs: Any, server: LocalLambda) -> None:
    with pytest.raises(logs.exceptions.ResourceNotFoundException, match="log group"):
        logs.filter_log_events(logGroupName="/aws/lambda/silent")
    create(client, "one-line")
    call(client, "one-line")
    with pytest.raises(logs.exceptions.ResourceNotFoundException, match="log stream"):
        logs.get_log_events(logGroupName="/aws/lambda/one-line", logStreamName="none")
    assert server.logs("silent") == []
    groups = logs.describe_log_groups(logGroupNamePrefix="/aws/lambda/one")["logGroups"]
    assert [each["logGroupName"] for each in groups] == ["/aws/lambda/one-line"]
