"""A stand-in for AWS's own API on loopback (moto's server), for unmodified boto3."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from excamera_dask.cli import main
from executors.aws_lambda.deploy.session import Place

REGION = "eu-west-1"
ACCOUNT = "123456789012"


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """An environment without anything of AWS: no credentials, no region, no instance that would tell some."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def credentials(no_aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that a stand-in takes, and no region."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


def simulate_principal_policy(response: Any) -> Any:
    """What the stand-in lacks of IAM: each action on each resource by all policies of a role, which it knows itself."""
    from moto.core.responses import ActionResult
    from moto.iam.access_control import IAMPolicy, PermissionResult

    role = response.backend.get_role_by_arn(response._get_param("PolicySourceArn"))
    policies = [IAMPolicy(document) for document in role.policies.values()]
    words = {PermissionResult.DENIED: "explicitDeny", PermissionResult.PERMITTED: "allowed"}
    found = []
    for action in response._get_param("ActionNames"):
        for resource in response._get_param("ResourceArns"):
            results = {policy.is_action_permitted(action, resource) for policy in policies}
            decision = next((words[one] for one in words if one in results), "implicitDeny")
            found.append(
                {
                    "EvalActionName": action,
                    "EvalResourceName": resource,
                    "EvalDecision": decision,
                }
            )
    return ActionResult({"EvaluationResults": found, "IsTruncated": False})


@pytest.fixture(scope="session")
def aws_server() -> Iterator[str]:
    """The address of the stand-in, which lasts as long as the tests."""
    from moto.iam.responses import IamResponse
    from moto.server import ThreadedMotoServer

    IamResponse.simulate_principal_policy = simulate_principal_policy
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(aws_server: str, credentials: None) -> Place:
    """Where an empty AWS answers."""
    reset = urllib.request.Request(f"{aws_server}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=10).close()
    return Place(REGION, endpoint_url=aws_server)


def client_at(place: Place, service: str) -> Any:
    """An unmodified boto3 client of the stand-in."""
    return boto3.client(service, region_name=place.region, endpoint_url=place.endpoint_url)


def make_function(place: Place, name: str = "excamera", **changes: Any) -> None:
    """A function from an image, with a role, as a deployment would leave it."""
    trust = '{"Version": "2012-10-17", "Statement": []}'
    iam = client_at(place, "iam")
    role = iam.create_role(RoleName=f"{name}-role", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    image = f"{ACCOUNT}.dkr.ecr.{place.region}.amazonaws.com/{name}:test"
    settings = {"MemorySize": 1769, "Timeout": 900, **changes}
    client_at(place, "lambda").create_function(
        FunctionName=name, PackageType="Image", Code={"ImageUri": image}, Role=role, **settings
    )


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """`excamera` in this process: its arguments to exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return call


def at(place: Place) -> list[str]:
    """The command's options for a place."""
    return ["--region", str(place.region), "--endpoint-url", str(place.endpoint_url)]
