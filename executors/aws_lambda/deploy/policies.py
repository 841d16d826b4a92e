"""The rights of each part, exactly: who deploys, who runs a job (client and coordinator), and the workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from executors.aws_lambda.deploy.storage_access import split_url

Policy = dict[str, Any]
STACK_ACTIONS = (
    "CreateStack", "UpdateStack", "DeleteStack", "DescribeStacks", "DescribeStackEvents",
)  # fmt: skip
FUNCTION_ACTIONS = (
    "CreateFunction", "UpdateFunctionCode", "UpdateFunctionConfiguration", "DeleteFunction", "GetFunction",
    "GetFunctionConfiguration", "PutFunctionConcurrency", "DeleteFunctionConcurrency", "PutFunctionEventInvokeConfig",
    "UpdateFunctionEventInvokeConfig", "DeleteFunctionEventInvokeConfig", "GetFunctionEventInvokeConfig",
    "TagResource", "UntagResource", "ListTags",
)  # fmt: skip
ROLE_ACTIONS = (
    "CreateRole", "DeleteRole", "GetRole", "UpdateRole", "UpdateAssumeRolePolicy", "UpdateRoleDescription", "TagRole",
    "UntagRole", "PutRolePolicy", "DeleteRolePolicy", "GetRolePolicy", "ListRolePolicies", "ListAttachedRolePolicies",
)  # fmt: skip
PROFILE_ACTIONS = (
    "CreateInstanceProfile", "DeleteInstanceProfile", "GetInstanceProfile", "AddRoleToInstanceProfile",
    "RemoveRoleFromInstanceProfile", "AttachRolePolicy", "DetachRolePolicy",
)  # fmt: skip
IMAGE_ACTIONS = (
    "CreateRepository", "DeleteRepository", "DescribeRepositories", "DescribeImages", "TagResource", "ListTagsForResource",
    "BatchCheckLayerAvailability", "InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload", "PutImage",
    "BatchGetImage", "GetDownloadUrlForLayer", "GetRepositoryPolicy", "SetRepositoryPolicy",
)  # fmt: skip
LOG_ACTIONS = (
    "CreateLogGroup", "DeleteLogGroup", "PutRetentionPolicy", "DeleteRetentionPolicy", "TagResource", "UntagResource",
    "ListTagsForResource",
)  # fmt: skip
INSTANCE_ACTIONS = (
    "RunInstances", "TerminateInstances", "DescribeInstances", "CreateSecurityGroup", "DeleteSecurityGroup",
    "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress", "DescribeSecurityGroups", "DescribeVpcs",
    "DescribeSubnets", "DescribeImages", "DescribeInstanceStatus", "CreateTags", "DeleteTags",
)  # fmt: skip


@dataclass(frozen=True)
class Names:
    """What rights are about; the account "*" stands for any."""

    function: str = "excamera"
    region: str = "*"
    account: str = "*"
    repository: str = "excamera"
    input: str | None = None
    output: str | None = None
    partition: str = "aws"

    def arn(self, service: str, what: str, region: bool = True) -> str:
        """The ARN of something in this account."""
        where = self.region if region else ""
        return f"arn:{self.partition}:{service}:{where}:{self.account}:{what}"

    @property
    def function_arn(self) -> str:
        return self.arn("lambda", f"function:{self.function}")

    @property
    def logs_arn(self) -> str:
        return self.arn("logs", f"log-group:/aws/lambda/{self.function}:*")


def worker_policy(names: Names) -> Policy:
    """Of the function's role: its own log, the input to read, the output to read and write."""
    statements = [_allow(["logs:CreateLogStream", "logs:PutLogEvents"], names.logs_arn)]
    if names.input:
        statements.append(_allow(["s3:GetObject"], _objects(names, names.input)))
    if names.output:
        actions = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
        statements.append(_allow(actions, _objects(names, names.output)))
    return _policy(statements)


def client_policy(names: Names) -> Policy:
    """Of whoever runs jobs, and of the coordinator: invoke and look at the function, its log, and the videos."""
    invoke = [
        "lambda:InvokeFunction",
        "lambda:GetFunctionConfiguration",
        "lambda:GetFunctionConcurrency",
    ]
    statements = [
        _allow(invoke, names.function_arn),
        _allow(["lambda:GetAccountSettings"], "*"),
        _allow(["logs:FilterLogEvents", "logs:GetLogEvents"], names.logs_arn),
        _allow(["iam:SimulatePrincipalPolicy"], names.arn("iam", f"role/{names.function}-*", region=False)),
    ]  # fmt: skip
    for url, actions in (
        (names.input, ["s3:GetObject"]),
        (
            names.output,
            ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
        ),
    ):
        if url:
            statements.append(_allow(actions, _objects(names, url)))
            statements += [_listing(names, url), _bucket_policy(names, url)]
    return _policy(statements)


def deployer_policy(names: Names, instance: bool = False) -> Policy:
    """Of whoever builds and deploys; `instance`: also the coordinator's EC2 instance."""
    roles = names.arn("iam", f"role/{names.function}-*", region=False)
    repository = names.arn("ecr", f"repository/{names.repository}")
    log = [names.arn("logs", f"log-group:/aws/lambda/{names.function}"), names.logs_arn]
    systems = (
        f"arn:{names.partition}:ssm:{names.region}::parameter/aws/service/ami-amazon-linux-latest/*"
    )
    statements = [
        _allow([f"cloudformation:{name}" for name in STACK_ACTIONS], names.arn("cloudformation", f"stack/{names.function}/*")),
        _allow(["cloudformation:DescribeStacks"], "*"),
        _allow([f"lambda:{name}" for name in FUNCTION_ACTIONS], names.function_arn),
        _allow(["lambda:GetAccountSettings"], "*"),
        _allow([f"iam:{name}" for name in ROLE_ACTIONS], roles),
        _pass(roles, ["lambda.amazonaws.com", *(["ec2.amazonaws.com"] if instance else [])]),
        _allow([f"logs:{name}" for name in LOG_ACTIONS], log),
        _allow(["logs:DescribeLogGroups"], "*"),
        _allow(["ecr:GetAuthorizationToken"], "*"),
        _allow([f"ecr:{name}" for name in IMAGE_ACTIONS], repository),
        _allow(["ssm:GetParameters"], systems),
        _allow(["servicequotas:GetServiceQuota", "servicequotas:RequestServiceQuotaIncrease"], "*"),
    ]  # fmt: skip
    if instance:
        profiles = names.arn("iam", f"instance-profile/{names.function}-*", region=False)
        statements.append(_allow([f"iam:{name}" for name in PROFILE_ACTIONS], [profiles, roles]))
        statements.append(_allow([f"ec2:{name}" for name in INSTANCE_ACTIONS], "*"))
    return _policy(statements)


def _policy(statements: list[Policy]) -> Policy:
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(actions: list[str], resource: str | list[str]) -> Policy:
    return {"Effect": "Allow", "Action": actions, "Resource": resource}


def _pass(role: str, services: list[str]) -> Policy:
    condition = {"StringEquals": {"iam:PassedToService": services}}
    return {**_allow(["iam:PassRole"], role), "Condition": condition}


def _objects(names: Names, url: str) -> str:
    bucket, prefix = split_url(url)
    return f"arn:{names.partition}:s3:::{bucket}/{prefix}*"


def _bucket_policy(names: Names, url: str) -> Policy:
    return _allow(["s3:GetBucketPolicy"], f"arn:{names.partition}:s3:::{split_url(url)[0]}")


def _listing(names: Names, url: str) -> Policy:
    bucket, prefix = split_url(url)
    allowed = _allow(["s3:ListBucket"], f"arn:{names.partition}:s3:::{bucket}")
    return {**allowed, "Condition": {"StringLike": {"s3:prefix": f"{prefix}*"}}}
