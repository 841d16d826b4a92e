"""Images in ECR: the repository, the way in for a container engine, and which image a tag stands for."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

import botocore.exceptions as failures

from executors.aws_lambda.deploy.session import code_of

MARK = {"excamera:made-by": "excamera lambda"}
"""The tag of everything that is made here; what does not carry it is never deleted."""


class Login(NamedTuple):
    """What a container engine needs to push, for twelve hours."""

    user: str
    password: str


class Image(NamedTuple):
    """An image in ECR: its address by digest, its size in bytes there (compressed), and when it was pushed."""

    uri: str
    size: int
    pushed: str


def ensure_repository(ecr: Any, name: str, tags: Mapping[str, str]) -> str:
    """Make the repository unless it is there; returns its address without a tag. Raises what boto3 raises."""
    try:
        found = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
    except failures.ClientError as error:
        if code_of(error) != "RepositoryNotFoundException":
            raise
        pairs = [{"Key": key, "Value": value} for key, value in {**tags, **MARK}.items()]
        found = ecr.create_repository(repositoryName=name, tags=pairs)["repository"]
    return str(found["repositoryUri"])


def login(ecr: Any) -> Login:
    """A user and a password for the registry. Raises what boto3 raises."""
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    return Login(user, password)


def find_image(ecr: Any, repository: str, tag: str) -> Image | None:
    """The image that a tag stands for, or None. Raises what boto3 raises."""
    try:
        found = ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])
        uri = ecr.describe_repositories(repositoryNames=[repository])["repositories"][0][
            "repositoryUri"
        ]
    except failures.ClientError as error:
        if code_of(error) in ("RepositoryNotFoundException", "ImageNotFoundException"):
            return None
        raise
    details = found["imageDetails"][0]
    pushed = str(details.get("imagePushedAt", ""))
    return Image(f"{uri}@{details['imageDigest']}", details.get("imageSizeInBytes", 0), pushed)


def delete_repository(ecr: Any, name: str) -> bool:
    """Delete a repository that was made here, with its images; False for one that is not there, or not ours."""
    try:
        found = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
        tags = ecr.list_tags_for_resource(resourceArn=found["repositoryArn"])["tags"]
    except failures.ClientError as error:
        if code_of(error) == "RepositoryNotFoundException":
            return False
        raise
    if not MARK.items() <= {tag["Key"]: tag["Value"] for tag in tags}.items():
        return False
    ecr.delete_repository(repositoryName=name, force=True)
    return True
