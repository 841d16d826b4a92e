"""Whether the function's own role may read and write objects in S3, as IAM judges it; nothing where IAM cannot be asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import botocore.exceptions as failures

from executors.aws_lambda.deploy.session import code_of
from executors.aws_lambda.deploy.storage_access import split_url

READ: tuple[str, ...] = ("s3:GetObject",)
WRITE: tuple[str, ...] = ("s3:PutObject", "s3:AbortMultipartUpload")
DENIED = "explicitDeny"
ALLOWED = "allowed"


def role_refusals(
    clients: Mapping[str, Any], function_name: str, inputs: Sequence[str], outputs: Sequence[str]
) -> list[str] | None:
    """A line for each URL that the function may not read or write; None where that cannot be found out.

    clients: boto3's of lambda, iam and s3. What a bucket's own policy may grant is not held against the role.
    """
    if not _is_judged_by_iam(clients):
        return None
    wanted = [(url, "read", "--input", READ) for url in inputs]
    wanted += [(url, "write", "--output", WRITE) for url in outputs]
    try:
        role = clients["lambda"].get_function_configuration(FunctionName=function_name)["Role"]
        return [
            _line(function_name, role, url, verb, option, action, decision)
            for url, verb, option, actions in wanted
            for action, decision in _refused(clients, role, url, actions)
        ]
    except Exception:  # no right, no such API there, no answer: nothing is known then
        return None


def _is_judged_by_iam(clients: Mapping[str, Any]) -> bool:
    """Whether the store belongs to where the function is, and is no store of somebody else's."""
    store = clients["s3"].meta.endpoint_url
    return ".amazonaws.com" in store or store == clients["lambda"].meta.endpoint_url


def _refused(
    clients: Mapping[str, Any], role: str, url: str, actions: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """The first of the actions on an object that the role may surely not do, with IAM's decision."""
    bucket, key = split_url(url)
    partition = role.split(":")[1]
    answer = clients["iam"].simulate_principal_policy(
        PolicySourceArn=role,
        ActionNames=list(actions),
        ResourceArns=[f"arn:{partition}:s3:::{bucket}/{key}"],
    )
    for found in answer["EvaluationResults"]:
        decision = found["EvalDecision"]
        if decision == DENIED or (decision != ALLOWED and _has_no_policy(clients["s3"], bucket)):
            yield found["EvalActionName"], decision
            return


def _has_no_policy(s3: Any, bucket: str) -> bool:
    """Whether the bucket is known to grant nothing by itself."""
    try:
        s3.get_bucket_policy(Bucket=bucket)
    except failures.ClientError as error:
        return code_of(error) == "NoSuchBucketPolicy"
    return False


def _line(
    function: str, role: str, url: str, verb: str, option: str, action: str, decision: str
) -> str:
    name = role.rpartition("/")[2]
    if decision == DENIED:
        return (
            f"function {function} may not {verb} {url} (a policy denies {action} to its role {name}): "
            "change that policy"
        )
    return (
        f"function {function} may not {verb} {url} (its role {name} lacks {action}): "
        f"run excamera lambda deploy {option} {url.rpartition('/')[0]}/"
    )
