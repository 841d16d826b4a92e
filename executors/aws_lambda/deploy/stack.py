"""The function and what belongs to it as one CloudFormation stack: made, changed, listed and deleted as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import botocore.exceptions as failures
import yaml

from executors.aws_lambda.deploy.errors import DeploymentError
from executors.aws_lambda.deploy.registry import MARK
from executors.aws_lambda.deploy.storage_access import split_url
from executors.aws_lambda.deploy.versions import to_text

POLL = 3.0  # seconds between two looks at a stack
LONGEST = 900.0  # seconds that a stack may take
INSTANCE_IMAGES = {
    "x86_64": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
    "arm64": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
}
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Instance:
    """The optional EC2 instance for coordinator and rendezvous. cidr: whence its relay's port can be reached."""

    type: str
    cidr: str
    port: int = 8785
    vpc: str = ""
    subnet: str = ""


EMPTIED = {
    "input": {"InputBucket": "", "InputPrefix": ""},
    "output": {"OutputBucket": "", "OutputPrefix": ""},
    "reservation": {"ReservedConcurrency": "-1"},
    "instance": {"InstanceType": ""},
}
"""What a stack can be deployed without, and the parameters that say so."""


@dataclass(frozen=True)
class Deployment:
    """What a stack is made from; None leaves it as it is, or as the template has it in a new stack.

    memory, storage: MB; timeout, event_age: seconds; retention: days; input, output: s3://bucket/prefix, all that the
    function may read, and read and write; boundary: ARN of the policy that no role goes beyond; without: keys of EMPTIED.
    """

    function_name: str
    image: str
    versions: Mapping[str, str]
    architecture: str | None = None
    repository: str | None = None
    memory: int | None = None
    timeout: int | None = None
    storage: int | None = None
    reserved_concurrency: int | None = None
    event_age: int | None = None
    retention: int | None = None
    input: str | None = None
    output: str | None = None
    instance: Instance | None = None
    boundary: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    without: frozenset[str] = frozenset()

    def parameters(self) -> dict[str, str]:
        """The template's parameters that are given. Raises: DeploymentError for an address that is not s3://."""
        found: dict[str, Any] = {
            "FunctionName": self.function_name,
            "ImageUri": self.image,
            "Repository": self.repository,
            "Versions": to_text(self.versions),
            "Architecture": self.architecture,
            "MemorySize": self.memory,
            "Timeout": self.timeout,
            "EphemeralStorage": self.storage,
            "ReservedConcurrency": self.reserved_concurrency,
            "MaximumEventAge": self.event_age,
            "LogRetention": self.retention,
            "PermissionsBoundary": self.boundary,
        }
        for name, url in (("Input", self.input), ("Output", self.output)):
            if url:
                found[f"{name}Bucket"], found[f"{name}Prefix"] = split_url(url)
        if self.instance:
            found |= {
                "InstanceType": self.instance.type,
                "RelayCidr": self.instance.cidr,
                "RelayPort": self.instance.port,
                "VpcId": self.instance.vpc,
                "SubnetId": self.instance.subnet,
            }
        for part in self.without:
            found |= EMPTIED[part]
        return {name: str(value) for name, value in found.items() if value is not None}


def template() -> str:
    """The CloudFormation template."""
    return (resources.files(__package__) / "template.yaml").read_text()


def defaults() -> dict[str, str]:
    """The template's parameters that have a value of their own."""

    class Loader(yaml.SafeLoader):
        """Knows nothing of CloudFormation's own tags, which parameters do not use."""

    Loader.add_multi_constructor("!", lambda loader, tag, node: None)
    parameters = yaml.load(template(), Loader)["Parameters"]
    return {name: str(one["Default"]) for name, one in parameters.items() if "Default" in one}


def deploy(cloudformation: Any, deployment: Deployment, tell: Tell) -> dict[str, str]:
    """Make the stack, or change what is given of it, and wait; returns its outputs, "Status" among them.

    The stack has the function's name. `tell` hears of each resource. Raises: DeploymentError with the first reason of a
    failure, after which AWS takes everything back; what boto3 raises.
    """
    name = deployment.function_name
    arguments = {
        "StackName": name,
        "TemplateBody": template(),
        "Parameters": _parameters(deployment, None),
        "Capabilities": ["CAPABILITY_IAM"],
    }
    present = describe(cloudformation, name)
    if present is None:
        tags = _pairs({**deployment.tags, **MARK})
        made = cloudformation.create_stack(**arguments, Tags=tags, OnFailure="DELETE")
        status = _wait(cloudformation, made["StackId"], "CREATE_COMPLETE", set(), tell)
        return {**_outputs(cloudformation, name), "Status": status}
    _require_ours(present)
    seen = {event["EventId"] for event in _events(cloudformation, present["StackId"])}
    arguments["Parameters"] = _parameters(deployment, present)
    arguments["Tags"] = _pairs({**tags_of(present), **deployment.tags})
    try:
        cloudformation.update_stack(**arguments)
    except failures.ClientError as error:
        if "No updates are to be performed" in str(error):
            return {**_outputs(cloudformation, name), "Status": "UNCHANGED"}
        raise
    status = _wait(cloudformation, present["StackId"], "UPDATE_COMPLETE", seen, tell)
    return {**_outputs(cloudformation, name), "Status": status}


def delete(cloudformation: Any, name: str, tell: Tell) -> None:
    """Delete a stack that was made here, and wait. Raises: DeploymentError; what boto3 raises."""
    present = describe(cloudformation, name)
    if present is None:
        raise DeploymentError(f"there is no stack {name} here: excamera lambda list shows them")
    _require_ours(present)
    seen = {event["EventId"] for event in _events(cloudformation, present["StackId"])}
    cloudformation.delete_stack(StackName=present["StackId"])
    _wait(cloudformation, present["StackId"], "DELETE_COMPLETE", seen, tell)


def list_stacks(cloudformation: Any) -> Iterator[dict[str, Any]]:
    """The stacks that were made here, as boto3 describes them. Raises what boto3 raises."""
    for page in cloudformation.get_paginator("describe_stacks").paginate():
        for stack in page["Stacks"]:
            if _is_ours(stack):
                yield stack


def describe(cloudformation: Any, name: str) -> dict[str, Any] | None:
    """A stack as boto3 describes it, or None."""
    try:
        return dict(cloudformation.describe_stacks(StackName=name)["Stacks"][0])
    except failures.ClientError as error:
        if "does not exist" in str(error):
            return None
        raise


def outputs_of(stack: Mapping[str, Any]) -> dict[str, str]:
    """A described stack's outputs by name."""
    return {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", ())}


def parameters_of(stack: Mapping[str, Any]) -> dict[str, str]:
    """A described stack's parameters by name."""
    return {item["ParameterKey"]: item["ParameterValue"] for item in stack.get("Parameters", ())}


def tags_of(stack: Mapping[str, Any]) -> dict[str, str]:
    """A described stack's tags by name."""
    return {tag["Key"]: tag["Value"] for tag in stack.get("Tags", ())}


def _pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _parameters(deployment: Deployment, present: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """The given parameters, and the present stack's where they are not the template's own."""
    usual = defaults()
    before = parameters_of(present or {}).items()
    kept = {name: value for name, value in before if value != usual.get(name)}
    values = {**kept, **deployment.parameters()}
    values["InstanceImage"] = INSTANCE_IMAGES[values.get("Architecture", "x86_64")]
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]


def _outputs(cloudformation: Any, name: str) -> dict[str, str]:
    stack = describe(cloudformation, name)
    return outputs_of(stack or {})


def _is_ours(stack: Mapping[str, Any]) -> bool:
    return MARK.items() <= tags_of(stack).items()


def _require_ours(stack: Mapping[str, Any]) -> None:
    if not _is_ours(stack):
        raise DeploymentError(
            f"the stack {stack['StackName']} was not made by excamera lambda deploy: give the function another --name"
        )


def _events(cloudformation: Any, stack: str) -> list[dict[str, Any]]:
    """All that has happened to a stack, the oldest first."""
    pages = cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack)
    return [event for page in pages for event in page["StackEvents"]][::-1]


def _wait(cloudformation: Any, stack: str, wanted: str, seen: set[str], tell: Tell) -> str:
    """Wait for a stack's end state, and tell what happens meanwhile."""
    reason = ""
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        present = describe(cloudformation, stack)
        status = "DELETE_COMPLETE" if present is None else present["StackStatus"]
        for event in [] if present is None else _events(cloudformation, stack):
            if event["EventId"] in seen:
                continue
            seen.add(event["EventId"])
            tell(f"{event['ResourceStatus']:<18} {event['LogicalResourceId']}")
            if not reason and event["ResourceStatus"].endswith("_FAILED"):
                reason = _reason(event)
        if not status.endswith("_IN_PROGRESS"):
            if status == wanted:
                return status
            raise DeploymentError(
                f"the stack ended as {status}: {reason or 'see its events in CloudFormation'}"
            )
        time.sleep(POLL)
    raise DeploymentError(f"the stack takes more than {LONGEST:.0f} s: see its events in AWS")


def _reason(event: Mapping[str, Any]) -> str:
    text = " ".join(str(event.get("ResourceStatusReason", "")).split())
    return f"{event['LogicalResourceId']} ({text})"
