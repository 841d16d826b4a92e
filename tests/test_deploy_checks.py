"""`excamera lambda policy|quotas|cost|doctor`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from aws import REGION, Run, at, make_function
from botocore.stub import Stubber

from excamera_dask.lambda_image import versions
from executors.aws_lambda.deploy import pricing, quotas
from executors.aws_lambda.deploy.cost import Usage, cost
from executors.aws_lambda.deploy.errors import DeploymentError
from executors.aws_lambda.deploy.session import Place
from executors.aws_lambda.deploy.versions import VARIABLE, to_text
from executors.aws_lambda.fleet.pricing import prices

# Rights


@pytest.mark.parametrize("whose", ["deployer", "client", "function", "boundary"])
def test_policies_are_printed_for_just_these_names(run: Run, no_aws: None, whose: str) -> None:
    code, out, _ = run(
        "lambda", "policy", whose, "--name", "film", "--region", REGION, "--account", "123456789012",
        "--input", "s3://films/in/",
    )  # fmt: skip
    assert code == 0
    policy = json.loads(out)
    assert policy["Version"] == "2012-10-17"
    text = json.dumps(policy)
    assert "excamera:" not in text and ":function:excamera" not in text
    resources = [
        resource
        for statement in policy["Statement"]
        for resource in (
            [statement["Resource"]]
            if isinstance(statement["Resource"], str)
            else statement["Resource"]
        )
    ]
    assert all(resource == "*" or resource.startswith("arn:aws:") for resource in resources)
    assert ("arn:aws:s3:::films/in/*" in resources) is (whose != "deployer")


# Limits, asked of the local Lambda, which knows them


@pytest.fixture(scope="module")
def ten_at_once() -> Iterator[Any]:
    """A Lambda that runs 10 invocations at once."""
    from executors.local_lambda import LocalLambda

    with LocalLambda(concurrency=10) as local:
        yield local


@pytest.fixture
def small(ten_at_once: Any, credentials: None, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Where it is, with its keys in the environment."""
    for name, value in ten_at_once.keys.variables().items():
        monkeypatch.setenv(name, value)
    return Place(REGION, endpoint_url=ten_at_once.endpoint_url)


def test_quotas_that_are_enough(run: Run, small: Place) -> None:
    code, out, _ = run("lambda", "quotas", "-w", 10, "--json", *at(small))
    assert code == 0
    told = json.loads(out)
    assert (told["account"], told["available"], told["enough"]) == (10, 10, True)
    assert told["problem"] is None and told["request"] is None


def test_quotas_that_are_not_enough(run: Run, small: Place) -> None:
    code, out, err = run("lambda", "quotas", "-w", 1000, *at(small))
    assert code == 1
    assert out.splitlines()[0].endswith("10 concurrent invocations, 10 unreserved")
    assert err == (
        f"excamera: 1000 workers are more than the 10 concurrent invocations that this account has in {small.region}: "
        "ask for more with excamera lambda quotas -w 1000 --raise, or take -w 10\n"
    )


def test_more_is_asked_for_by_the_quotas_own_code() -> None:
    client = boto3.client(
        "service-quotas", REGION, aws_access_key_id="a", aws_secret_access_key="b"
    )
    wanted = {"ServiceCode": "lambda", "QuotaCode": "L-B99A9384", "DesiredValue": 1000.0}
    with Stubber(client) as stub:
        answer = {"RequestedQuota": {"Id": "request-1"}}
        stub.add_response("request_service_quota_increase", answer, wanted)
        assert quotas.request_raise(client, 1000) == "request-1"


@pytest.mark.parametrize(
    ("workers", "seconds"), [(1, 0.0), (1000, 0.0), (1001, 10.0), (2000, 10.0), (4000, 30.0)]
)
def test_the_ramp_adds_a_thousand_every_ten_seconds(workers: int, seconds: float) -> None:
    assert quotas.ramp_seconds(workers) == seconds


# Dollars


def test_a_job_is_priced_line_by_line() -> None:
    usage = Usage(
        workers=1000, seconds=60, memory=2048, storage=1536, reads=3600, writes=7200,
        downloaded=5 * 10**9, relayed=10**9, log=10**8, instance="c7i.large", instance_seconds=1800,
    )  # fmt: skip
    found = {line.what: line.dollars for line in cost(usage).lines}
    lambda_prices = prices("us-east-1")
    expected = {
        "Lambda memory": 120_000 * lambda_prices.gb_second,
        "Lambda requests": 1000 * lambda_prices.request,
        "Lambda storage": 60_000 * lambda_prices.storage_gb_second,
        "S3 reads": 3600 * 0.0000004,
        "S3 writes": 7200 * 0.000005,
        "out of AWS": 0.45,
        "through the relay": 0.02,
        "log": 0.05,
        "EC2 c7i.large": pricing.INSTANCE_HOUR["c7i.large"] / 2,
        "public address": 0.0025,
    }
    assert found == pytest.approx(expected)
    assert cost(usage).dollars == pytest.approx(sum(expected.values()))


def test_what_is_not_used_is_not_listed() -> None:
    assert [line.what for line in cost(Usage(10, 5.0)).lines] == [
        "Lambda memory",
        "Lambda requests",
    ]


def test_an_unknown_instance_has_no_price() -> None:
    with pytest.raises(DeploymentError, match=r"no price known for x9\.mega: known are c7g\."):
        cost(Usage(1, 1.0, instance="x9.mega", instance_seconds=1.0))


def test_cost_tells_dollars_and_where_prices_are_from(run: Run) -> None:
    code, out, err = run("lambda", "cost", "-w", 1000, "--seconds", 60, "--memory", 1024)
    assert code == 0
    assert re.search(r"^together +\$1\.0002$", out, re.M)
    assert re.search(r"prices: .*us-east-1, \d{4}-\d\d", err)
    code, out, _ = run("lambda", "cost", "-w", 1000, "--seconds", 60, "--memory", 1024, "--json")
    told = json.loads(out)
    assert told["dollars"] == pytest.approx(1.0002, abs=1e-4)
    assert len(told["prices"]) == 2


def test_a_region_without_prices_is_told(run: Run) -> None:
    code, _, err = run("lambda", "cost", "-w", 1, "--seconds", 1, "--region", "mars-north-1")
    assert code == 1
    assert err.startswith("excamera: no prices known for the region 'mars-north-1'")
    assert err.count("\n") == 1


# The doctor


def test_the_doctor_finds_all_well(run: Run, aws: Place) -> None:
    make_function(aws, Environment={"Variables": {VARIABLE: to_text(versions())}})
    code, out, err = run("lambda", "doctor", *at(aws))
    assert (code, err) == (0, "")
    assert all(line.startswith("ok    ") for line in out.splitlines())
    assert "the function has the versions of this client" in out


def test_the_doctor_names_each_fault_with_its_fix(run: Run, aws: Place) -> None:
    make_function(aws, MemorySize=512, Environment={"Variables": {VARIABLE: "excamera-dask=0.0.1"}})
    code, out, err = run("lambda", "doctor", "--memory", 1769, "--relay", "127.0.0.1:9", *at(aws))
    assert (code, err) == (1, "excamera: 3 of 6 checks failed\n")
    failed = [line for line in out.splitlines() if line.startswith("FAIL  ")]
    assert len(failed) == 3
    assert failed[0] == (
        "FAIL  function excamera has 512 MB of memory, this job needs 1769: run excamera lambda deploy --memory 1769"
    )
    assert failed[1].endswith(": run excamera lambda build && excamera lambda deploy")
    assert failed[2].startswith(
        "FAIL  the relay at 127.0.0.1:9 does not answer (connection refused): "
    )


def test_the_doctor_speaks_json(run: Run, aws: Place) -> None:
    code, out, _ = run("lambda", "doctor", "--json", *at(aws))
    assert code == 1
    findings = {finding["check"]: finding for finding in json.loads(out)}
    assert findings["credentials"]["ok"] and not findings["function"]["ok"]
    assert findings["function"]["fix"].startswith("run excamera lambda deploy --region eu-west-1")


def test_without_credentials_the_doctor_says_so_and_no_more(run: Run, no_aws: None) -> None:
    code, out, err = run("lambda", "doctor", "--region", REGION)
    assert (code, err) == (1, "excamera: 1 of 1 checks failed\n")
    assert out.startswith("FAIL  no AWS credentials found: run aws configure")
