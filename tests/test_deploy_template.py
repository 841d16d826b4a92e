"""The template: sound CloudFormation by its own tools, least rights, a closed instance; and what is made from it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aws import ACCOUNT, REGION, Run, at, client_at
from samtranslator.yaml_helper import yaml_parse

from executors.aws_lambda.deploy import stack as stacks
from executors.aws_lambda.deploy.errors import DeploymentError
from executors.aws_lambda.deploy.policies import (
    Names,
    boundary_policy,
    client_policy,
    deployer_policy,
    worker_policy,
)
from executors.aws_lambda.deploy.session import Place
from executors.aws_lambda.deploy.stack import Deployment, Instance
from executors.aws_lambda.deploy.versions import VARIABLE, from_text

IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/excamera@sha256:{'0' * 64}"
VERSIONS = {"python": "3.11.7", "excamera-dask": "0.1.0"}
INPUT, OUTPUT = "s3://films/in/", "s3://cuts/out/"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at stacks often: here they are ready at once."""
    monkeypatch.setattr(stacks, "POLL", 0.05)


def written(tmp_path: Path) -> Path:
    """The template as a file."""
    path = tmp_path / "template.yaml"
    path.write_text(stacks.template())
    return path


def test_cfn_lint_finds_nothing(tmp_path: Path) -> None:
    from cfnlint.api import lint_file

    assert [str(match) for match in lint_file(written(tmp_path))] == []


def test_sam_takes_it_and_cfn_lint_finds_nothing_in_what_sam_makes(
    tmp_path: Path, credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cfnlint.api import lint
    from samtranslator.translator.managed_policy_translator import ManagedPolicyLoader
    from samtranslator.translator.transform import transform
    from samtranslator.yaml_helper import yaml_parse

    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    given = yaml_parse(stacks.template())
    made = transform(given, {}, ManagedPolicyLoader(None))
    assert set(made["Resources"]) == set(given["Resources"])
    assert [str(match) for match in lint(json.dumps(made))] == []


def deploy(place: Place, **changes: Any) -> dict[str, str]:
    """Deploy with the defaults and these changes; returns the outputs."""
    deployment = Deployment("excamera", IMAGE, VERSIONS, **changes)
    return stacks.deploy(client_at(place, "cloudformation"), deployment, lambda _: None)


def statements(place: Place, resource: str) -> list[dict[str, Any]]:
    """All inline statements of the role that a stack made."""
    iam = client_at(place, "iam")
    names = [role["RoleName"] for role in iam.list_roles()["Roles"]]
    (role,) = (name for name in names if name.startswith(f"excamera-{resource}-"))
    documents = [
        iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
    ]
    # the stand-in gives some of them back as Python writes them
    read = (ast.literal_eval(one) if isinstance(one, str) else one for one in documents)
    return [statement for document in read for statement in document["Statement"]]


def plain(policy: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """Statements in a form that can be compared, whatever their order and whether lists of one are lists."""

    def listed(value: Any) -> tuple[str, ...]:
        return tuple(sorted([value] if isinstance(value, str) else value))

    return {
        (s["Effect"], listed(s["Action"]), listed(s["Resource"]), json.dumps(s.get("Condition")))
        for s in policy
    }


def test_a_function_is_made_as_it_was_asked_for(aws: Place) -> None:
    outputs = deploy(
        aws, memory=3008, timeout=600, reserved_concurrency=50, retention=30, tags={"project": "film"},
    )  # fmt: skip
    assert outputs["Status"] == "CREATE_COMPLETE"
    functions = client_at(aws, "lambda")
    found = functions.get_function(FunctionName="excamera")
    configuration = found["Configuration"]
    assert (configuration["MemorySize"], configuration["Timeout"]) == (3008, 600)
    assert found["Code"]["ImageUri"] == IMAGE
    assert from_text(configuration["Environment"]["Variables"][VARIABLE]) == VERSIONS
    reserved = functions.get_function_concurrency(FunctionName="excamera")
    assert reserved["ReservedConcurrentExecutions"] == 50
    (group,) = client_at(aws, "logs").describe_log_groups()["logGroups"]
    assert (group["logGroupName"], group["retentionInDays"]) == ("/aws/lambda/excamera", 30)
    (found,) = client_at(aws, "cloudformation").describe_stacks()["Stacks"]
    tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
    assert tags == {"project": "film", "excamera:made-by": "excamera lambda"}


def test_what_stacks_of_the_stand_in_leave_out() -> None:
    """Failed invocations are left to the coordinator; more room in /tmp."""
    resources = yaml_parse(stacks.template())["Resources"]
    assert resources["Invocations"]["Properties"] == {
        "FunctionName": {"Ref": "Function"},
        "Qualifier": "$LATEST",
        "MaximumRetryAttempts": 0,
        "MaximumEventAgeInSeconds": {"Ref": "MaximumEventAge"},
    }
    assert resources["Function"]["Properties"]["EphemeralStorage"] == {
        "Size": {"Ref": "EphemeralStorage"}
    }
    given = Deployment("excamera", IMAGE, VERSIONS, event_age=120, storage=1024).parameters()
    assert "MemorySize" not in given
    assert (given["MaximumEventAge"], given["EphemeralStorage"]) == ("120", "1024")


def test_without_a_reservation_there_is_none(aws: Place) -> None:
    deploy(aws)
    answer = client_at(aws, "lambda").get_function_concurrency(FunctionName="excamera")
    assert "ReservedConcurrentExecutions" not in answer


@pytest.mark.parametrize(
    ("input_url", "output_url"), [(None, None), (INPUT, None), (None, OUTPUT), (INPUT, OUTPUT)]
)
def test_the_role_has_exactly_the_rights_that_policy_prints(
    aws: Place, input_url: str | None, output_url: str | None
) -> None:
    deploy(aws, input=input_url, output=output_url)
    names = Names("excamera", REGION, ACCOUNT, input=input_url, output=output_url)
    assert plain(statements(aws, "WorkerRole")) == plain(worker_policy(names)["Statement"])


def test_the_instance_is_closed_but_for_the_relay(aws: Place) -> None:
    outputs = deploy(
        aws,
        input=INPUT,
        output=OUTPUT,
        instance=Instance("c7i.large", "10.1.0.0/16", port=9000),
    )
    ec2 = client_at(aws, "ec2")
    (machine,) = ec2.describe_instances()["Reservations"][0]["Instances"]
    assert machine["InstanceType"] == "c7i.large"
    (group,) = (
        found
        for found in ec2.describe_security_groups()["SecurityGroups"]
        if found["Description"].startswith("The port of the relay")
    )
    (rule,) = group["IpPermissions"]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 9000, 9000)
    assert [found["CidrIp"] for found in rule["IpRanges"]] == ["10.1.0.0/16"]
    assert outputs["RelayAddress"].endswith(":9000")
    instance = yaml_parse(stacks.template())["Resources"]["Instance"]["Properties"]
    assert instance["NetworkInterfaces"][0]["GroupSet"] == [
        {"Fn::GetAtt": ["InstanceSecurity", "GroupId"]}
    ]
    assert "KeyName" not in instance  # nobody logs in by ssh
    names = Names("excamera", REGION, ACCOUNT, input=INPUT, output=OUTPUT)
    own = plain(statements(aws, "InstanceRole"))
    assert plain(client_policy(names)["Statement"]) <= own
    beyond = {statement[1] for statement in own - plain(client_policy(names)["Statement"])}
    assert beyond == {
        ("ecr:GetAuthorizationToken",),
        ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"),
    }


def test_no_right_covers_everything_without_need() -> None:
    names = Names("excamera", REGION, ACCOUNT, input=INPUT, output=OUTPUT)
    unlimited = {
        action
        for policy in (worker_policy(names), client_policy(names), deployer_policy(names))
        for statement in policy["Statement"]
        for action in statement["Action"]
        if statement["Resource"] == "*"
    }
    # what IAM cannot tie to a resource, and the list of stacks
    assert unlimited == {
        "cloudformation:DescribeStacks",
        "ecr:GetAuthorizationToken",
        "lambda:GetAccountSettings",
        "logs:DescribeLogGroups",
        "servicequotas:GetServiceQuota",
        "servicequotas:RequestServiceQuotaIncrease",
    }
    every = [worker_policy(names), client_policy(names), deployer_policy(names, instance=True)]
    assert not [
        action
        for policy in every
        for statement in policy["Statement"]
        for action in statement["Action"]
        if "*" in action
    ]


GIVES_RIGHTS = {
    "iam:CreateRole", "iam:PutRolePolicy", "iam:DeleteRolePolicy", "iam:AttachRolePolicy", "iam:DetachRolePolicy",
    "iam:PutRolePermissionsBoundary",
}  # fmt: skip
NEVER = {
    "iam:DeleteRolePermissionsBoundary", "iam:CreatePolicy", "iam:CreatePolicyVersion", "iam:SetDefaultPolicyVersion",
    "iam:CreateUser", "iam:CreateAccessKey", "iam:PutUserPolicy", "iam:AttachUserPolicy", "sts:AssumeRole",
}  # fmt: skip


@pytest.mark.parametrize("instance", [False, True])
@pytest.mark.parametrize("account", [ACCOUNT, "*"])
def test_a_deployer_cannot_become_an_administrator(account: str, instance: bool) -> None:
    """What gives rights is tied to the boundary, what passes roles on to services, what changes machines to our tag."""
    policy = deployer_policy(Names("film", REGION, account), instance)
    boundary = f"arn:aws:iam::{account}:policy/film-boundary"
    for statement in policy["Statement"]:
        actions, condition = set(statement["Action"]), statement.get("Condition", {})
        equal = condition.get("StringEquals", {}) | condition.get("StringLike", {})
        assert not actions & NEVER
        if actions & GIVES_RIGHTS:
            assert equal["iam:PermissionsBoundary"] == boundary
            assert all(":role/film-" in resource for resource in statement["Resource"])
        if actions & {"iam:AttachRolePolicy", "iam:DetachRolePolicy"}:
            assert condition["ArnEquals"]["iam:PolicyARN"].endswith("AmazonSSMManagedInstanceCore")
        if "iam:PassRole" in actions:
            assert "lambda.amazonaws.com" in equal["iam:PassedToService"]
        resources = statement["Resource"]
        resources = {resources} if isinstance(resources, str) else set(resources)
        if any(action.startswith("ec2:") for action in actions):
            looks = all(action.startswith("ec2:Describe") for action in actions)
            assert looks or "*" not in resources
            changes = {action for action in actions if not action.startswith("ec2:Describe")}
            lasting = any(":instance/" in r or ":security-group/" in r for r in resources)
            if changes - {"ec2:RunInstances"} and lasting:
                assert any("excamera:made-by" in key or "CreateAction" in key for key in equal)
    started = [s for s in policy["Statement"] if "ec2:RunInstances" in s["Action"]]
    assert bool(started) is instance
    assert all("Condition" in s for s in started if any(":instance/" in r for r in [s["Resource"]]))


def test_the_boundary_covers_what_the_roles_have_and_gives_no_rights(aws: Place) -> None:
    """IAM lets a role do what both allow: nothing that it needs may be missing."""
    deploy(
        aws, input=INPUT, output=OUTPUT, instance=Instance("c7i.large", "10.1.0.0/16"),
        boundary="arn:aws:iam::123456789012:policy/excamera-boundary",
    )  # fmt: skip
    names = Names("excamera", REGION, ACCOUNT, input=INPUT, output=OUTPUT)
    bounds = {(a, r) for a, r in rights(boundary_policy(names, instance=True)["Statement"])}
    for role in ("WorkerRole", "InstanceRole"):
        assert set(rights(statements(aws, role))) <= bounds
    assert not {action for action, _ in bounds} & (GIVES_RIGHTS | NEVER | {"iam:PassRole"})
    resources = yaml_parse(stacks.template())["Resources"]
    for role in ("WorkerRole", "InstanceRole"):
        given = resources[role]["Properties"]["PermissionsBoundary"]
        assert given == {
            "Fn::If": ["HasBoundary", {"Ref": "PermissionsBoundary"}, {"Ref": "AWS::NoValue"}]
        }


def rights(policy: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Each action with each resource."""

    def listed(value: Any) -> list[str]:
        return [value] if isinstance(value, str) else list(value)

    return [(a, r) for s in policy for a in listed(s["Action"]) for r in listed(s["Resource"])]


def test_an_instances_credentials_stay_on_it() -> None:
    options = yaml_parse(stacks.template())["Resources"]["Instance"]["Properties"][
        "MetadataOptions"
    ]
    assert options == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}


@pytest.mark.parametrize("policy", [worker_policy, client_policy, boundary_policy])
def test_who_writes_outputs_may_look_for_what_was_left_of_them(policy: Any) -> None:
    names = Names("excamera", REGION, ACCOUNT, output=OUTPUT)
    assert ("s3:ListBucketMultipartUploads", "arn:aws:s3:::cuts") in rights(
        policy(names)["Statement"]
    )


def test_what_is_not_given_stays_when_a_function_is_changed(aws: Place) -> None:
    deploy(aws, memory=3008, input=INPUT, output=OUTPUT, tags={"project": "film"})
    before = plain(statements(aws, "WorkerRole"))
    assert deploy(aws, timeout=300)["Status"] == "UPDATE_COMPLETE"
    function = client_at(aws, "lambda").get_function_configuration(FunctionName="excamera")
    assert (function["MemorySize"], function["Timeout"]) == (3008, 300)
    assert plain(statements(aws, "WorkerRole")) == before
    (found,) = stacks.list_stacks(client_at(aws, "cloudformation"))
    assert stacks.tags_of(found)["project"] == "film"
    assert stacks.parameters_of(found)["InputBucket"] == "films"


def test_what_is_taken_away_is_given_up() -> None:
    given = Deployment("excamera", IMAGE, VERSIONS, without=frozenset(stacks.EMPTIED)).parameters()
    defaults = yaml_parse(stacks.template())["Parameters"]
    emptied = {name: value for part in stacks.EMPTIED.values() for name, value in part.items()}
    assert emptied.items() <= given.items()
    assert all(str(defaults[name]["Default"]) == value for name, value in emptied.items())


def test_a_stack_of_somebody_else_is_neither_changed_nor_deleted(aws: Place) -> None:
    cloudformation = client_at(aws, "cloudformation")
    other = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}
    cloudformation.create_stack(StackName="excamera", TemplateBody=json.dumps(other))
    line = "the stack excamera was not made by excamera lambda deploy: give the function another --name"
    with pytest.raises(DeploymentError) as refused:
        deploy(aws)
    assert str(refused.value) == line
    with pytest.raises(DeploymentError) as refused:
        stacks.delete(cloudformation, "excamera", lambda _: None)
    assert str(refused.value) == line
    assert list(stacks.list_stacks(cloudformation)) == []


def test_the_first_reason_of_a_failure_is_told() -> None:
    """Against answers in AWS's own shapes: the stand-in never fails a stack half-way."""
    import boto3
    from botocore.stub import Stubber

    cloudformation = boto3.client(
        "cloudformation", REGION, aws_access_key_id="a", aws_secret_access_key="b"
    )
    failed = [
        ("ROLLBACK_IN_PROGRESS", "excamera", "The following resource(s) failed"),
        ("CREATE_FAILED", "Logs", "Resource creation cancelled"),
        ("CREATE_FAILED", "Function", "The image manifest is not supported.\n(Service: Lambda)"),
    ]
    moment = "2026-01-01T00:00:00Z"
    stack = {"StackName": "excamera", "CreationTime": moment, "StackStatus": "DELETE_COMPLETE"}
    events = [
        {
            "StackId": "arn:stack", "EventId": str(number), "StackName": "excamera", "Timestamp": moment,
            "ResourceStatus": status, "LogicalResourceId": name, "ResourceStatusReason": reason,
        }
        for number, (status, name, reason) in enumerate(failed)
    ]  # fmt: skip
    told: list[str] = []
    with Stubber(cloudformation) as stub:
        stub.add_client_error(
            "describe_stacks", "ValidationError", "Stack with id excamera does not exist"
        )
        stub.add_response("create_stack", {"StackId": "arn:stack"})
        stub.add_response("describe_stacks", {"Stacks": [stack]}, {"StackName": "arn:stack"})
        stub.add_response("describe_stack_events", {"StackEvents": events})
        with pytest.raises(DeploymentError) as failure:
            stacks.deploy(cloudformation, Deployment("excamera", IMAGE, VERSIONS), told.append)
    assert str(failure.value) == (
        "the stack ended as DELETE_COMPLETE: Function (The image manifest is not supported. (Service: Lambda))"
    )
    assert [line.split()[0] for line in told] == [
        "CREATE_FAILED",
        "CREATE_FAILED",
        "ROLLBACK_IN_PROGRESS",
    ]


# The command.


def options(*more: str) -> tuple[str, ...]:
    return ("--image", IMAGE, *more)


def test_deploy_list_and_delete(run: Run, aws: Place) -> None:
    code, out, err = run("lambda", "deploy", *options("--memory", "2048", "--json"), *at(aws))
    assert code == 0, err
    told = json.loads(out)
    assert (told["function"], told["image"], told["Status"]) == (
        "excamera",
        IMAGE,
        "CREATE_COMPLETE",
    )
    code, out, _ = run("lambda", "list", "--json", *at(aws))
    (row,) = json.loads(out)
    assert (row["name"], row["memory"], row["image"]) == ("excamera", 2048, IMAGE)
    assert row["versions"]["sources"]
    code, out, _ = run("lambda", "list", *at(aws))
    assert out.split()[:4] == ["excamera", "CREATE_COMPLETE", "2048", "MB,"]
    code, _, err = run("lambda", "delete", "excamera", *at(aws))
    assert (code, err.splitlines()[-1]) == (
        1,
        "excamera: function excamera: kept as it was; -y deletes without asking",
    )
    code, _, err = run("lambda", "delete", "excamera", "-y", *at(aws))
    assert (code, err.splitlines()[-1]) == (0, "function excamera is gone")
    assert run("lambda", "list", "--json", *at(aws))[1].strip() == "[]"
    assert run("lambda", "delete", "excamera", "-y", *at(aws)) == (
        1, "", "excamera: there is no stack excamera here: excamera lambda list shows them\n",
    )  # fmt: skip


def test_images_are_deleted_only_if_they_were_made_here(run: Run, aws: Place) -> None:
    ecr = client_at(aws, "ecr")
    ecr.create_repository(repositoryName="excamera")
    run("lambda", "deploy", *options(), *at(aws))
    _, _, err = run("lambda", "delete", "excamera", "-y", "--images", "excamera", *at(aws))
    assert err.splitlines()[-1] == "repository excamera was not made by excamera: kept"
    assert len(ecr.describe_repositories()["repositories"]) == 1


def test_without_an_image_there_is_no_function(run: Run, aws: Place) -> None:
    code, _, err = run("lambda", "deploy", *at(aws))
    assert code == 1
    assert err.startswith("excamera: there is no image excamera:0.")
    assert err.endswith("of this installation in eu-west-1: run excamera lambda build\n")


def test_a_dry_run_needs_nothing_and_changes_nothing(run: Run, no_aws: None) -> None:
    code, out, _ = run("lambda", "deploy", "--dry-run", "--input", INPUT, "--output", "s3://cuts")
    assert code == 0
    told = json.loads(out)
    assert told["template"] == stacks.template()
    assert told["parameters"]["InputBucket"] == "films"
    assert told["parameters"]["InputPrefix"] == "in/"
    assert (told["parameters"]["OutputBucket"], told["parameters"]["OutputPrefix"]) == ("cuts", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--name", "two words"],
            "Invalid value for '--name': 'two words' is no name of a function: a letter, then letters, digits and "
            "hyphens, 40 at most",
        ),
        (["--input", "films/in"], "Invalid value for '--input': 'films/in' is not an address such as s3://bucket/name"),
        (["--tag", "film"], "Invalid value for '--tag': 'film' is not a tag such as project=film"),
        (
            ["--instance", "c7i.large"],
            "--instance needs --relay-cidr: the addresses from which workers reach its relay (functions outside a VPC: "
            "0.0.0.0/0, TLS with certificates on both sides guards the port)",
        ),
    ],
)  # fmt: skip
def test_wrong_usage_is_told_in_one_line(
    run: Run, no_aws: None, arguments: list[str], line: str
) -> None:
    code, _, err = run("lambda", "deploy", "--dry-run", *arguments)
    assert (code, err) == (2, f"excamera: {line} (see: excamera lambda deploy --help)\n")


def test_the_instance_begins_with_a_sound_script(tmp_path: Path) -> None:
    data = yaml_parse(stacks.template())["Resources"]["Instance"]["Properties"]["UserData"]
    text = data["Fn::Base64"]["Fn::Sub"]
    known = {**Deployment("excamera", IMAGE, VERSIONS).parameters(), "RelayPort": "8785"}
    assert set(known) <= set(yaml_parse(stacks.template())["Parameters"])
    known["AWS::Region"] = REGION
    script = re.sub(r"\$\{([A-Za-z:]+)\}", lambda match: known[match[1]], text)
    script = script.replace("${!", "${")
    command = re.search(r"<<'END'\n(.*?)\nEND\n", script, re.S)
    assert command
    for shell, content in (("bash", script), ("sh", command[1])):
        path = tmp_path / shell
        path.write_text(content)
        done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    assert f'"{IMAGE}" "$@"' in command[1]
