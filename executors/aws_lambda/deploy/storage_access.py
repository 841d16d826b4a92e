"""Whether objects in S3 can be read and written, found out without reading or leaving anything."""

from __future__ import annotations

from typing import Any

import botocore.exceptions as failures

from executors.aws_lambda.deploy.errors import DeploymentError
from executors.aws_lambda.deploy.session import code_of


def split_url(url: str) -> tuple[str, str]:
    """(bucket, key) of an s3:// URL; raises DeploymentError for anything else."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise DeploymentError(f"{url}: not an address such as s3://bucket/name")
    return bucket, key


def check_input(s3: Any, url: str) -> str | None:
    """A line of what is wrong and what to do, or None: asks for the object's size. Raises what boto3 raises."""
    bucket, key = split_url(url)
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except failures.ClientError as error:
        return _judge(error, url, bucket, "read", missing=f"{url} does not exist: check its name")
    return None


def check_output(s3: Any, url: str) -> str | None:
    """A line of what is wrong and what to do, or None: begins an upload and takes it back, which leaves nothing."""
    bucket, key = split_url(url)
    name = f"{key or ''}{'' if not key or key.endswith('/') else '.'}excamera-check"
    try:
        upload = s3.create_multipart_upload(Bucket=bucket, Key=name)["UploadId"]
        s3.abort_multipart_upload(Bucket=bucket, Key=name, UploadId=upload)
    except failures.ClientError as error:
        return _judge(error, url, bucket, "write", missing=f"there is no bucket {bucket}: make it")
    return None


def _judge(
    error: failures.ClientError, url: str, bucket: str, action: str, missing: str
) -> str | None:
    code = code_of(error)
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket}: check its name"
    if code in ("404", "NoSuchKey", "NotFound"):
        return missing
    if code in (
        "301",
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
    ):
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region", "another region")
        return f"the bucket {bucket} is in {region}: run the function there, or copy the file"
    if code in ("403", "AccessDenied"):
        return (
            f"{url}: no right to {action} it: give this user the rights of excamera lambda policy"
        )
    raise error
