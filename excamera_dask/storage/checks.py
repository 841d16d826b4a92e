"""What is found out about an object's place before any work is paid for."""

from __future__ import annotations

from excamera_dask.storage import background
from excamera_dask.storage.bucket import FIRST_CONTACT, open_bucket
from excamera_dask.storage.errors import NoSuchObject
from excamera_dask.storage.locations import S3Url
from excamera_dask.storage.multipart import call


def object_exists(url: S3Url) -> bool:
    """Whether there is an object; raises StorageError where that cannot be found out."""
    bucket = open_bucket(url.bucket)
    try:
        background.run(bucket.info(url.key, FIRST_CONTACT))
    except NoSuchObject:
        return False
    return True


def claim_object(url: S3Url) -> None:
    """Find out that an object can be written, and remove what killed jobs left of it.

    Begins an upload and gives it up, which leaves nothing. Raises StorageError.
    """
    bucket = open_bucket(url.bucket)
    background.run(bucket.below(url.key, FIRST_CONTACT))
    client = bucket.access.client()
    upload = call(bucket, client, "create_multipart_upload", url.key)["UploadId"]
    for leftover in {upload, *_uploads(url)}:
        call(bucket, client, "abort_multipart_upload", url.key, UploadId=leftover)


def _uploads(url: S3Url) -> list[str]:
    """Uploads of exactly this object that were begun and neither completed nor given up."""
    bucket = open_bucket(url.bucket)
    client = bucket.access.client()
    pages = client.get_paginator("list_multipart_uploads").paginate(
        Bucket=bucket.name, Prefix=url.key
    )
    try:
        return [
            str(upload["UploadId"])
            for page in pages
            for upload in page.get("Uploads", ())
            if upload["Key"] == url.key
        ]
    except client.exceptions.ClientError:  # no right to list: then nothing is removed
        return []
