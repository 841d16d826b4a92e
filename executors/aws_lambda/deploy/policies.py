"""The rights of each part, exactly: who deploys, who runs a job (client and coordinator), and the workers.

Who deploys makes roles and gives them rights, and so could give himself any. Therefore he makes such roles only as carry a
permissions boundary, a policy that somebody else has made and that no rights of a role go beyond (docs/aws.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from executors.aws_lambda.deploy.registry import MARK
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
    "DeleteRole", "GetRole", "UpdateRole", "UpdateAssumeRolePolicy", "UpdateRoleDescription", "TagRole", "UntagRole",
    "GetRolePolicy", "ListRolePolicies", "ListAttachedRolePolicies",
)  # fmt: skip
BOUNDED_ACTIONS = ("CreateRole", "PutRolePolicy", "DeleteRolePolicy", "PutRolePermissionsBoundary")
"""What gives rights: allowed on roles with the boundary alone."""
PROFILE_ACTIONS = (
    "CreateInstanceProfile", "DeleteInstanceProfile", "GetInstanceProfile", "AddRoleToInstanceProfile",
    "RemoveRoleFromInstanceProfile",
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
LOOKING_ACTIONS = (
    "DescribeInstances", "DescribeSecurityGroups", "DescribeVpcs", "DescribeSubnets", "DescribeImages",
    "DescribeInstanceStatus",
)  # fmt: skip
"""Of EC2, which IAM cannot tie to a resource."""
MADE_HERE_ACTIONS = (
    "TerminateInstances", "DeleteSecurityGroup", "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress", "CreateTags",
    "DeleteTags",
)  # fmt: skip
"""Of EC2, on what bears the mark of what is made here."""
SESSION_ACTIONS = (
    "ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel", "ec2messages:AcknowledgeMessage",
    "ec2messages:DeleteMessage", "ec2messages:FailMessage", "ec2messages:GetEndpoint", "ec2messages:GetMessages",
    "ec2messages:SendReply",
)  # fmt: skip
"""What Session Manager needs of the instance, by which people come in."""
SESSION_POLICY = "AmazonSSMManagedInstanceCore"


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
    def boundary_arn(self) -> str:
        """The policy that no role of the stack goes beyond."""
        return self.arn("iam", f"policy/{self.function}-boundary", region=False)

    @property
    def role_arns(self) -> list[str]:
        """The roles of the stack, by the names that CloudFormation gives them."""
        kinds = ("WorkerRole-*", "InstanceRole-*")
        return [self.arn("iam", f"role/{self.function}-{kind}", region=False) for kind in kinds]

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
        statements.append(_uploads(names, names.output))
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
    if names.output:
        statements.append(_uploads(names, names.output))
    return _policy(statements)


def boundary_policy(names: Names, instance: bool = False) -> Policy:
    """What the function's and the instance's roles have at most; of somebody who administers the account, not who deploys."""
    statements = [*worker_policy(names)["Statement"], *client_policy(names)["Statement"]]
    if instance:
        statements += [*_image_rights(names), _allow(list(SESSION_ACTIONS), "*")]
    return _policy(statements)


def deployer_policy(names: Names, instance: bool = False) -> Policy:
    """Of whoever builds and deploys; `instance`: also the coordinator's EC2 instance."""
    roles = names.role_arns
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
        _bounded(names, BOUNDED_ACTIONS),
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
        session = f"arn:{names.partition}:iam::aws:policy/{SESSION_POLICY}"
        attach = _bounded(names, ("AttachRolePolicy", "DetachRolePolicy"))
        attach["Condition"]["ArnEquals"] = {"iam:PolicyARN": session}
        statements.append(_allow([f"iam:{name}" for name in PROFILE_ACTIONS], [profiles, *roles]))
        statements += [attach, *_instance_rights(names)]
    return _policy(statements)


def _instance_rights(names: Names) -> list[Policy]:
    """Of EC2: one's own instances and security groups, known by their mark."""
    parts = {
        kind: names.arn("ec2", f"{kind}/*")
        for kind in ("instance", "security-group", "network-interface", "volume", "subnet", "vpc")
    }
    image = f"arn:{names.partition}:ec2:{names.region}::image/*"
    key, value = next(iter(MARK.items()))
    marked = [parts["instance"], parts["security-group"]]
    made = {"ec2:CreateAction": ["RunInstances", "CreateSecurityGroup"]}
    needed = [parts[kind] for kind in ("security-group", "network-interface", "volume", "subnet")]
    return [
        _allow([f"ec2:{name}" for name in LOOKING_ACTIONS], "*"),
        _when(_allow(["ec2:RunInstances"], parts["instance"]), {f"aws:RequestTag/{key}": value}),
        _allow(["ec2:RunInstances"], [*needed, image]),
        _when(
            _allow(["ec2:CreateSecurityGroup"], parts["security-group"]),
            {f"aws:RequestTag/{key}": value},
        ),
        _allow(["ec2:CreateSecurityGroup"], parts["vpc"]),
        _when(_allow(["ec2:CreateTags"], marked), made),
        _when(
            _allow([f"ec2:{name}" for name in MADE_HERE_ACTIONS], marked),
            {f"aws:ResourceTag/{key}": value},
        ),
    ]


def _image_rights(names: Names) -> list[Policy]:
    """To fetch the workers' image."""
    repository = names.arn("ecr", f"repository/{names.repository}")
    return [
        _allow(["ecr:GetAuthorizationToken"], "*"),
        _allow(["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], repository),
    ]


def _bounded(names: Names, actions: Sequence[str]) -> Policy:
    """Actions on roles that carry the boundary, or get it."""
    allowed = _allow([f"iam:{name}" for name in actions], names.role_arns)
    return _when(allowed, {"iam:PermissionsBoundary": names.boundary_arn})


def _when(allowed: Policy, equal: Mapping[str, str | list[str]]) -> Policy:
    any_account = any("*" in value for value in equal.values())
    return {**allowed, "Condition": {"StringLike" if any_account else "StringEquals": equal}}


def _policy(statements: list[Policy]) -> Policy:
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(actions: list[str], resource: str | list[str]) -> Policy:
    return {"Effect": "Allow", "Action": actions, "Resource": resource}


def _pass(roles: list[str], services: list[str]) -> Policy:
    return _when(_allow(["iam:PassRole"], roles), {"iam:PassedToService": services})


def _objects(names: Names, url: str) -> str:
    bucket, prefix = split_url(url)
    return f"arn:{names.partition}:s3:::{bucket}/{prefix}*"


def _bucket_policy(names: Names, url: str) -> Policy:
    return _allow(["s3:GetBucketPolicy"], f"arn:{names.partition}:s3:::{split_url(url)[0]}")


def _uploads(names: Names, url: str) -> Policy:
    """To find what killed writers have left of an output; IAM knows no prefix of these."""
    bucket = f"arn:{names.partition}:s3:::{split_url(url)[0]}"
    return _allow(["s3:ListBucketMultipartUploads"], bucket)


def _listing(names: Names, url: str) -> Policy:
    bucket, prefix = split_url(url)
    allowed = _allow(["s3:ListBucket"], f"arn:{names.partition}:s3:::{bucket}")
    return {**allowed, "Condition": {"StringLike": {"s3:prefix": f"{prefix}*"}}}
