"""What is found out about an object's place before any work is paid for."""

from __future__ import annotations

import warnings

from excamera_dask.storage import background
from excamera_dask.storage.bucket import FIRST_CONTACT, open_bucket
from excamera_dask.storage.errors import NoSuchObject
from excamera_dask.storage.locations import S3Url
from excamera_dask.storage.multipart import call, end_uploads
from excamera_dask.storage.stream_output import Tell


def object_exists(url: S3Url) -> bool:
    """Whether there is an object; raises StorageError where that cannot be found out."""
    bucket = open_bucket(url.bucket)
    try:
        background.run(bucket.info(url.key, FIRST_CONTACT))
    except NoSuchObject:
        return False
    return True


def claim_object(url: S3Url, tell: Tell = warnings.warn) -> None:
    """Find out that an object can be written, and remove what killed jobs left of it, or `tell` that it cannot be.

    Begins an upload and gives it up, which leaves nothing. Raises StorageError.
    """
    bucket = open_bucket(url.bucket)
    background.run(bucket.below(url.key, FIRST_CONTACT))
    client = bucket.access.client()
    upload = call(bucket, client, "create_multipart_upload", url.key)["UploadId"]
    call(bucket, client, "abort_multipart_upload", url.key, UploadId=upload)
    end_uploads(bucket, client, url.key, tell)


def end_begun(url: S3Url, tell: Tell = warnings.warn) -> None:
    """Remove what killed writers left of an object, or `tell` that it stays. Raises StorageError."""
    bucket = open_bucket(url.bucket)
    end_uploads(bucket, bucket.access.client(), url.key, tell)
