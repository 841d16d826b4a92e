"""Bad configuration is found within seconds, before anything is spent, each in one line with the fix."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.exceptions
import pytest
from aws import ACCOUNT, REGION, Run, client_at, make_function
from botocore.stub import Stubber
from moto.core.exceptions import AccessDeniedError
from moto.iam.responses import IamResponse

from excamera_dask.lambda_image import versions as image_versions
from executors.aws_lambda.backend import FunctionSpec, open_backend
from executors.aws_lambda.deploy import checks as module
from executors.aws_lambda.deploy import quotas, versions
from executors.aws_lambda.deploy.checks import (
    ConfigurationRefused,
    Target,
    examine,
    preflight,
    require,
)
from executors.aws_lambda.deploy.policies import Names, worker_policy
from executors.aws_lambda.deploy.session import Place, explain
from executors.aws_lambda.errors import NotDeployed

BOUND = 10.0


def lines(target: Target) -> list[str]:
    """What preflight says, on a machine however busy."""
    return [str(problem) for problem in preflight(target, patience=60.0)]


def test_no_credentials(no_aws: None) -> None:
    assert lines(Target(place=Place(REGION))) == [
        "no AWS credentials found: run aws configure, or set AWS_PROFILE, "
        "or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    ]


def test_no_region(credentials: None) -> None:
    assert lines(Target()) == ["no AWS region chosen: give --region, or set AWS_REGION"]


def test_the_region_that_lambda_itself_names_is_taken(
    aws: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    (line,) = lines(Target(place=Place(endpoint_url=aws.endpoint_url)))
    assert line.startswith("there is no function excamera in eu-central-1: ")


def test_a_region_that_does_not_exist(credentials: None) -> None:
    assert lines(Target(place=Place("eu-wst-1"))) == [
        "there is no AWS region eu-wst-1: did you mean eu-west-1?"
    ]


def test_an_unknown_profile(credentials: None) -> None:
    assert lines(Target(place=Place(REGION, profile="film"))) == [
        "there is no AWS profile film: see aws configure list-profiles"
    ]


def test_a_missing_function(aws: Place) -> None:
    assert lines(Target(place=aws)) == [
        "there is no function excamera in eu-west-1: "
        "run excamera lambda deploy --region eu-west-1, or name the region that has it"
    ]


def test_a_function_in_another_region(aws: Place) -> None:
    make_function(aws)
    elsewhere = Place("us-east-2", endpoint_url=aws.endpoint_url)
    assert lines(Target(place=elsewhere)) == [
        "there is no function excamera in us-east-2: "
        "run excamera lambda deploy --region us-east-2, or name the region that has it"
    ]


def test_an_endpoint_where_nobody_listens(credentials: None) -> None:
    target = Target(place=Place(REGION, endpoint_url="http://127.0.0.1:9"))
    assert lines(target) == [
        "http://127.0.0.1:9 cannot be reached: is the server of that endpoint running?"
    ]


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_an_endpoint_that_never_answers(credentials: None, silent: str) -> None:
    begin = time.monotonic()
    (line,) = map(str, preflight(Target(place=Place(REGION, endpoint_url=silent))))
    assert time.monotonic() - begin < BOUND
    assert line == f"{silent} cannot be reached: is the server of that endpoint running?"


def test_a_check_that_hangs_is_left_behind(aws: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    make_function(aws)
    held = threading.Event()
    monkeypatch.setattr(module, "_quota", lambda *_: held.wait(60))
    found = [str(problem) for problem in preflight(Target(place=aws), patience=1.5)]
    held.set()
    assert found == ["quota: no answer in time: check the network, name servers and proxies"]


def test_a_good_configuration_has_no_problem(aws: Place) -> None:
    ours = versions.installed()
    make_function(aws, Environment={"Variables": {versions.VARIABLE: versions.to_text(ours)}})
    target = Target(place=aws, workers=10, memory=1769, timeout=900, versions=ours)
    require(target)
    told = {finding.check: finding.text for finding in examine(target)}
    assert told["function"] == "function excamera is there (1769 MB, 900 s)"
    assert told["versions"] == "the function has the versions of this client"
    assert told["clock"].startswith("clock within")


def test_an_image_that_is_too_old(aws: Place) -> None:
    old = {"python": versions.installed()["python"], "excamera-dask": "0.0.9", "dask": "2024.1.0"}
    make_function(aws, Environment={"Variables": {versions.VARIABLE: versions.to_text(old)}})
    ours = {**old, "excamera-dask": "0.1.0", "dask": "2026.8.0"}
    with pytest.raises(ConfigurationRefused) as refused:
        require(Target(place=aws, versions=ours))
    assert str(refused.value) == (
        "function excamera has excamera-dask 0.0.9 and dask 2024.1.0, this client 0.1.0 and 2026.8.0: "
        "run excamera lambda build && excamera lambda deploy"
    )


def test_a_function_that_is_none_of_ours(aws: Place) -> None:
    make_function(aws)
    assert lines(Target(place=aws, versions=versions.installed())) == [
        "function excamera does not tell its versions: "
        "run excamera lambda build && excamera lambda deploy"
    ]


def test_a_function_that_is_too_small(aws: Place) -> None:
    make_function(aws, MemorySize=512, Timeout=60)
    assert lines(Target(place=aws, memory=1769, timeout=900)) == [
        "function excamera has 512 MB of memory, this job needs 1769: "
        "run excamera lambda deploy --memory 1769",
        "function excamera has 60 s, this job needs 900: run excamera lambda deploy --timeout 900",
    ]


def limits(account: int, unreserved: int, reserved: int | None) -> quotas.Limits:
    """What Lambda's own answers, in the shapes that botocore knows, are read as."""
    client = boto3.client("lambda", REGION, aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as stub:
        answer = {
            "ConcurrentExecutions": account,
            "UnreservedConcurrentExecutions": unreserved,
            "TotalCodeSize": 1,
            "CodeSizeUnzipped": 1,
            "CodeSizeZipped": 1,
        }
        stub.add_response("get_account_settings", {"AccountLimit": answer}, {})
        concurrency = {} if reserved is None else {"ReservedConcurrentExecutions": reserved}
        stub.add_response("get_function_concurrency", concurrency, {"FunctionName": "excamera"})
        return quotas.read_limits(client, "excamera")


def test_a_quota_that_is_too_small(monkeypatch: pytest.MonkeyPatch, aws: Place) -> None:
    make_function(aws)
    found = limits(10, 10, None)
    monkeypatch.setattr(quotas, "read_limits", lambda *_: found)
    assert lines(Target(place=aws, workers=10)) == []
    assert lines(Target(place=aws, workers=1000)) == [
        "1000 workers are more than the 10 concurrent invocations that this account has in eu-west-1: "
        "ask for more with excamera lambda quotas -w 1000 --raise, or take -w 10"
    ]


def test_a_reservation_that_is_too_small(monkeypatch: pytest.MonkeyPatch, aws: Place) -> None:
    make_function(aws)
    found = limits(3000, 2950, 50)
    monkeypatch.setattr(quotas, "read_limits", lambda *_: found)
    assert lines(Target(place=aws, workers=50)) == []
    assert lines(Target(place=aws, workers=51)) == [
        "51 workers are more than the 50 that function excamera reserves: "
        "run excamera lambda deploy --reserved-concurrency 51, or take -w 50"
    ]


def test_storage_is_tried_and_left_as_it_was(aws: Place) -> None:
    make_function(aws)
    s3 = client_at(aws, "s3")
    s3.create_bucket(Bucket="films", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket="films", Key="in/film.mkv", Body=b"film")
    good = Target(
        place=aws, inputs=("s3://films/in/film.mkv",), outputs=("s3://films/out/film.webm",)
    )
    assert lines(good) == []
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="films")
    bad = Target(
        place=aws, inputs=("s3://films/in/flim.mkv",), outputs=("s3://flims/out/film.webm",)
    )
    assert sorted(lines(bad)) == [
        "s3://films/in/flim.mkv does not exist: check its name",
        "there is no bucket flims: check its name",
    ]


# What the function's own role may do

FILM, OUT = "s3://films/in/film.mkv", "s3://films/out/film.webm"


def films(aws: Place, *statements: dict[str, Any]) -> Target:
    """A job on a bucket of films, for a function whose role has these statements."""
    make_function(aws)
    s3 = client_at(aws, "s3")
    s3.create_bucket(Bucket="films", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket="films", Key="in/film.mkv", Body=b"film")
    for number, statement in enumerate(statements):
        client_at(aws, "iam").put_role_policy(
            RoleName="excamera-role",
            PolicyName=str(number),
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
        )
    return Target(place=aws, worker_inputs=(FILM,), worker_outputs=(OUT,))


def test_a_role_with_the_workers_rights_may_do_all(aws: Place) -> None:
    names = Names("excamera", REGION, ACCOUNT, input="s3://films/in/", output="s3://films/out/")
    target = films(aws, *worker_policy(names)["Statement"])
    told = {finding.check: finding for finding in examine(target)}
    assert told["role"].ok
    assert told["role"].text == "the function's role may read and write what it must"


def test_a_role_without_rights_is_refused_before_anything_is_spent(aws: Place) -> None:
    assert lines(films(aws, allow("s3:GetObject", "arn:aws:s3:::films/elsewhere/*"))) == [
        "function excamera may not read s3://films/in/film.mkv (its role excamera-role lacks s3:GetObject): "
        "run excamera lambda deploy --input s3://films/in/",
        "function excamera may not write s3://films/out/film.webm (its role excamera-role lacks s3:PutObject): "
        "run excamera lambda deploy --output s3://films/out/",
    ]


def test_a_role_that_is_denied_what_it_has(aws: Place) -> None:
    everything = allow("s3:*", "*")
    denied = {**allow("s3:GetObject", "arn:aws:s3:::films/in/*"), "Effect": "Deny"}
    assert lines(films(aws, everything, denied)) == [
        "function excamera may not read s3://films/in/film.mkv (a policy denies s3:GetObject to its role "
        "excamera-role): change that policy",
    ]


def test_what_a_buckets_own_policy_may_grant_is_not_held_against_the_role(aws: Place) -> None:
    target = films(aws)
    grant = {**allow("s3:*", "arn:aws:s3:::films/*"), "Principal": {"AWS": "*"}}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [grant]})
    client_at(aws, "s3").put_bucket_policy(Bucket="films", Policy=policy)
    assert lines(target) == []


def test_a_role_that_cannot_be_asked_about_is_let_pass(
    aws: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = films(aws)
    monkeypatch.setattr(IamResponse, "simulate_principal_policy", refuse)
    told = {finding.check: finding for finding in examine(target)}
    assert told["role"].ok and "unknown" in told["role"].text


def test_a_role_is_not_asked_about_a_store_of_somebody_elses(
    aws: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = films(aws)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    assert lines(target) == []


def test_a_cluster_asks_for_its_functions_role(aws: Place) -> None:
    films(aws)
    function = FunctionSpec(region=REGION, inputs=(FILM,))
    with pytest.raises(NotDeployed, match=r"may not read s3://films/in/film\.mkv"):
        open_backend(str(aws.endpoint_url), function, 1, {})


def test_an_encode_asks_for_its_functions_role(
    aws: Place, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_function(
        aws, Environment={"Variables": {versions.VARIABLE: versions.to_text(image_versions())}}
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", str(aws.endpoint_url))
    s3 = client_at(aws, "s3")
    s3.create_bucket(Bucket="films", CreateBucketConfiguration={"LocationConstraint": REGION})
    grey = b"YUV4MPEG2 W16 H16 F25:1\n" + 2 * (b"FRAME\n" + bytes(384))
    s3.put_object(Bucket="films", Key="in/grey.y4m", Body=grey)
    code, _, err = run(
        "encode", "s3://films/in/grey.y4m", "-o", OUT, "-x", 1, "--first-pass", "libvpx",
        "--executor", "lambda", "-w", 1, "--region", REGION, "--backend", aws.endpoint_url,
    )  # fmt: skip
    assert code != 0
    assert err.splitlines()[-1] == (
        "excamera: function excamera may not read s3://films/in/grey.y4m (its role excamera-role lacks s3:GetObject): "
        "run excamera lambda deploy --input s3://films/in/"
    )


def allow(action: str, resource: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource}


def refuse(response: Any) -> Any:
    """IAM's answer to a caller without the right to ask."""
    raise AccessDeniedError("arn:aws:iam::1:user/a", "iam:SimulatePrincipalPolicy")


def test_the_relay_is_tried(aws: Place) -> None:
    make_function(aws)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert lines(Target(place=aws, relay=address)) == []
    assert lines(Target(place=aws, relay=address)) == [
        f"the relay at {address} does not answer (connection refused): "
        "start it (excamera rendezvous), and open its port in the security group"
    ]


def test_a_clock_that_is_wrong(aws: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    make_function(aws)
    monkeypatch.setattr(module, "now", lambda: time.time() + 300)
    (line,) = lines(Target(place=aws))
    assert line in (
        f"the clock of this machine is {seconds} s ahead of AWS's: set it (timedatectl set-ntp true)"
        for seconds in (299, 300, 301)
    )


@pytest.mark.parametrize(
    ("code", "message", "line"),
    [
        (
            "AccessDeniedException",
            "User: arn:aws:iam::1:user/a is not authorized to perform: lambda:GetFunction",
            "AWS does not allow GetFunction to this user: give it the rights of excamera lambda policy",
        ),
        (
            "ExpiredTokenException",
            "The security token included in the request is expired",
            "the AWS credentials have expired: run aws configure, or set AWS_PROFILE, "
            "or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        (
            "InvalidSignatureException",
            "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z",
            "the clock of this machine is wrong, AWS takes no requests from it: set it (timedatectl set-ntp true)",
        ),
        (
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
            "AWS does not know these credentials (UnrecognizedClientException): run aws configure, or set "
            "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        ("ServiceException", "try\nagain", "AWS refuses GetFunction: try again (ServiceException)"),
    ],
)
def test_what_aws_refuses_is_told_in_one_line(code: str, message: str, line: str) -> None:
    answer = {"Error": {"Code": code, "Message": message}}
    error = botocore.exceptions.ClientError(answer, "GetFunction")  # type: ignore[arg-type]
    assert explain(error, Place()) == line
