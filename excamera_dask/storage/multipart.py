"""An object that is written from front to back, except for its first bytes, which may change until the end.

That is what a container needs whose header tells of its end. The first part stays in memory and is
sent last; parts of an upload may come in any order. The object appears when all is there.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from excamera_dask.storage import background
from excamera_dask.storage.bucket import Bucket, open_bucket
from excamera_dask.storage.errors import NoSuchUpload, StorageError
from excamera_dask.storage.failures import failure_of
from excamera_dask.storage.locations import S3Url
from excamera_dask.storage.stream_output import Tell

PART_BYTES = 8 << 20
PARTS_A_STEP = 1000
"""After so many parts they get twice as large, so that 10,000 are enough for any object."""
PARTS_AT_ONCE = 4
ABORT_SECONDS = 5
"""What parts on their way are given to end when an upload is given up."""


class MultipartObject(io.RawIOBase):
    """A binary file that becomes the object `url` on `commit`; `discard`, or anything else, leaves nothing.

    Bytes of the first part can be read and overwritten, all others only appended. An object that
    fits into the first part is written in one request. What killed writers of the same object have left goes when it appears;
    `tell` is called with a line where that cannot be seen to.
    """

    def __init__(self, url: S3Url, tell: Tell = warnings.warn) -> None:
        super().__init__()
        self._tell = tell
        self.url = url
        self.name = str(url)
        self._head = bytearray()
        self._tail = bytearray()
        self._at = 0
        self._sent = 0  # bytes of full parts after the first
        self._upload: _Upload | None = None
        self._bucket: Bucket = open_bucket(url.bucket)

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    @property
    def _size(self) -> int:
        return len(self._head) + self._sent + len(self._tail)

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        part = self._head[self._at : self._at + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        if self._at < len(self._head):  # overwrites
            done = min(len(view), len(self._head) - self._at)
            self._head[self._at : self._at + done] = view[:done]
            self._at += done
        if done < len(view):
            self._append(view[done:])
        return len(view)

    def _append(self, view: memoryview) -> None:
        if self._at != self._size:
            raise OSError(f"{self.url}: bytes that were sent cannot be written again")
        room = PART_BYTES - len(self._head) if not self._sent and not self._tail else 0
        self._head += view[:room]
        self._tail += view[room:]
        self._at += len(view)
        while len(self._tail) >= (size := self._part_bytes()):
            self._send(bytes(self._tail[:size]))
            del self._tail[:size]

    def _part_bytes(self) -> int:
        parts = 0 if self._upload is None else self._upload.parts
        return PART_BYTES << (parts // PARTS_A_STEP)

    def _send(self, part: bytes) -> None:
        if self._upload is None:
            self._upload = _Upload(self._bucket, self.url.key)
        self._upload.send(part)
        self._sent += len(part)

    def commit(self) -> None:
        """Make the object appear with all bytes."""
        if self._upload is None and not self._tail:
            background.run(self._bucket.put(self.url.key, bytes(self._head)))
        else:
            if self._tail:
                self._send(bytes(self._tail))
                self._tail.clear()
            assert self._upload is not None
            self._upload.complete(bytes(self._head))
            self._upload.end_others(self._tell)
            self._upload = None

    def discard(self) -> None:
        """Leave no trace; nothing to do after `commit`."""
        if self._upload is not None:
            self._upload.abort()
            self._upload = None

    def close(self) -> None:
        if not self.closed:
            self.discard()
        super().close()


class _Upload:
    """A multipart upload under way: part 1 comes last, some parts are on their way at once."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket, self._key = bucket, key
        self._client = bucket.access.client()
        self.parts = 1
        self._etags: dict[int, str] = {}
        self._room = threading.BoundedSemaphore(PARTS_AT_ONCE)
        self._pool = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="excamera-upload")
        self._under_way: list[Future[None]] = []
        created = self._call("create_multipart_upload")
        self._id = {"UploadId": created["UploadId"]}

    def send(self, data: bytes) -> None:
        """Send the next part; waits while PARTS_AT_ONCE are on their way, raises what one before failed with."""
        self._check()
        self.parts += 1
        self._room.acquire()
        self._under_way.append(self._pool.submit(self._send, self.parts, data))

    def _send(self, number: int, data: bytes) -> None:
        try:
            answer = self._call("upload_part", PartNumber=number, Body=data, **self._id)
            self._etags[number] = answer["ETag"]
        finally:
            self._room.release()

    def _check(self) -> None:
        for future in [future for future in self._under_way if future.done()]:
            self._under_way.remove(future)
            future.result()

    def complete(self, first: bytes) -> None:
        """Send part 1 and join all."""
        for future in self._under_way:
            future.result()
        self._room.acquire()
        self._send(1, first)
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in sorted(self._etags.items())]
        self._call("complete_multipart_upload", MultipartUpload={"Parts": parts}, **self._id)
        self._pool.shutdown()

    def end_others(self, tell: Tell) -> None:
        """End what others have begun of the object: writers that were killed, or given up for lost."""
        end_uploads(self._bucket, self._client, self._key, tell)

    def abort(self) -> None:
        """Give the upload up; a store that does not answer keeps it until the next job removes it."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait(self._under_way, ABORT_SECONDS)
        with contextlib.suppress(StorageError):
            self._call("abort_multipart_upload", **self._id)

    def _call(self, operation: str, **arguments: Any) -> Any:
        return call(self._bucket, self._client, operation, self._key, **arguments)


def end_uploads(bucket: Bucket, client: Any, key: str, tell: Tell) -> None:
    """End all uploads of exactly this object that were begun and neither completed nor given up: they cost, and nobody sees them.

    Where the store does not let us look for them, or end them, `tell` is called with a line, once for a bucket.
    """
    if bucket.keeps_uploads:
        return
    right = "s3:ListBucketMultipartUploads on the bucket"
    try:
        found = _uploads(bucket, client, key)
        right = "s3:AbortMultipartUpload on it"
        for upload in found:
            with contextlib.suppress(NoSuchUpload):
                call(bucket, client, "abort_multipart_upload", key, UploadId=upload)
    except StorageError as error:
        bucket.keeps_uploads = True
        tell(
            f"{error}; what killed jobs have left of this output stays, and costs: "
            f"the right {right} is needed to remove it"
        )


def _uploads(bucket: Bucket, client: Any, key: str) -> list[str]:
    from botocore.exceptions import BotoCoreError, ClientError

    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket.name, Prefix=key)
    bucket.requests += 1
    try:
        uploads = [upload for page in pages for upload in page.get("Uploads", ())]
    except (BotoCoreError, ClientError) as error:
        raise bucket.explain(failure_of(error), key) from None
    return [str(upload["UploadId"]) for upload in uploads if upload["Key"] == key]


def call(bucket: Bucket, client: Any, operation: str, key: str, **arguments: Any) -> Any:
    """One operation of boto3's client, with our errors; boto3 repeats what may pass."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket.requests += 1
    try:
        return getattr(client, operation)(Bucket=bucket.name, Key=key, **arguments)
    except (BotoCoreError, ClientError) as error:
        raise bucket.explain(failure_of(error), key) from None
