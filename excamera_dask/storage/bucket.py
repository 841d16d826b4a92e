"""A bucket: whole objects, ranges, listings, removal, each repeated for a bounded time when the store falters."""

from __future__ import annotations

import asyncio
import random
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from excamera_dask.storage.access import Access, environment_key, find_access
from excamera_dask.storage.errors import StorageError, WrongRegion
from excamera_dask.storage.failures import Failure, explain, failure_of
from executors.loopback import reach_loopback_directly

T = TypeVar("T")


class Patience(NamedTuple):
    """How often a request is made at most, and for how many seconds."""

    attempts: int
    seconds: float


FIRST_CONTACT = Patience(3, 8.0)
"""A wrong configuration must be told soon."""
AT_WORK = Patience(8, 180.0)
"""A job that runs should live through what a store does now and then."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 8.0
LARGEST_GET = 2 << 20
"""Bytes of one request; longer ranges are several at once, since stores are faster so."""


class ObjectInfo(NamedTuple):
    """An object as a store describes it; etag names this version of its bytes."""

    key: str
    size: int
    etag: str


class Piece(NamedTuple):
    """Bytes of an object from `start` on, and the object they are of."""

    info: ObjectInfo
    start: int
    data: memoryview


class CutShort(Exception):
    """An answer has fewer bytes than it announced."""


class Bucket:
    """One bucket of a store, asynchronously; `requests` and `fetched` (bytes) count what was asked of it."""

    def __init__(self, name: str, access: Access) -> None:
        self.name = name
        self.patience = AT_WORK
        self.requests = 0
        self.fetched = 0
        self.keeps_uploads = False
        """It was found out that we may not list, or not end, what was begun and not ended."""
        self._use(access)

    def _use(self, access: Access) -> None:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        reach_loopback_directly(access.endpoint)
        self.access = access
        try:
            self._store: Any = S3Store(self.name, **access.options(self.name))
        except BaseError as error:  # it reads more of the environment than anybody else
            reason = str(error).partition("\n")[0].rpartition("error: ")[2]
            raise StorageError(
                f"an AWS_ variable of the environment cannot be used: {reason}"
            ) from None

    async def read(
        self,
        key: str,
        start: int,
        stop: int,
        etag: str | None = None,
        patience: Patience | None = None,
    ) -> Piece:
        """Bytes start .. stop - 1, or up to the object's end; `etag` refuses other versions (ObjectChanged)."""
        begins = range(start, stop, LARGEST_GET)
        pieces = await asyncio.gather(
            *(self._get(key, at, min(at + LARGEST_GET, stop), etag, patience) for at in begins)
        )
        if len(pieces) == 1:
            return pieces[0]
        data = memoryview(b"".join(piece.data for piece in pieces))
        return Piece(pieces[0].info, start, data)

    async def _get(
        self, key: str, start: int, stop: int, etag: str | None, patience: Patience | None
    ) -> Piece:
        async def fetch() -> Piece:
            import obstore

            options: Any = {"range": (start, stop)}
            if etag is not None:
                options["if_match"] = etag
            result = await obstore.get_async(self._store, key, options=options)
            data = memoryview(await result.bytes_async())
            first, end = result.range
            if len(data) != end - first or first != start:
                raise CutShort(f"{len(data)} bytes of {end - first}")
            self.fetched += len(data)
            return Piece(_info(result.meta), first, data)

        return await self._repeat(key, fetch, patience)

    async def info(self, key: str, patience: Patience | None = None) -> ObjectInfo:
        """What the store says of an object."""

        async def ask() -> ObjectInfo:
            import obstore

            return _info(await obstore.head_async(self._store, key))

        return await self._repeat(key, ask, patience)

    async def get(self, key: str) -> bytes:
        """A whole object."""

        async def fetch() -> bytes:
            import obstore

            result = await obstore.get_async(self._store, key)
            data = bytes(await result.bytes_async())
            if len(data) != result.meta["size"]:
                raise CutShort(f"{len(data)} bytes of {result.meta['size']}")
            self.fetched += len(data)
            return data

        return await self._repeat(key, fetch)

    async def put(self, key: str, data: bytes, patience: Patience | None = None) -> None:
        """Write an object in one request, whole or not at all."""

        async def send() -> None:
            import obstore

            await obstore.put_async(self._store, key, data, use_multipart=False)

        await self._repeat(key, send, patience)

    async def below(self, prefix: str, patience: Patience | None = None) -> list[ObjectInfo]:
        """The objects below `prefix/`, a thousand a request."""

        async def ask() -> list[ObjectInfo]:
            import obstore

            stream = obstore.list(self._store, prefix, chunk_size=1000)
            return [_info(meta) async for batch in stream for meta in batch]

        return await self._repeat(prefix, ask, patience)

    async def delete(self, keys: list[str]) -> None:
        """Remove objects, a thousand a request; those that do not exist are no error."""

        async def ask() -> None:
            import obstore

            await obstore.delete_async(self._store, keys)

        if keys:
            await self._repeat(keys[0], ask)

    def explain(self, failure: Failure, key: str) -> StorageError:
        """Our error for a failed request about a key."""
        access = self.access
        return explain(failure, f"s3://{self.name}/{key}", self.name, access.name(), access.region)

    async def _repeat(
        self, key: str, ask: Callable[[], Awaitable[T]], patience: Patience | None = None
    ) -> T:
        """Ask until an answer comes, an error that will stay, or patience ends (None: the bucket's)."""
        from obstore.exceptions import BaseError

        patience = patience or self.patience
        deadline = time.monotonic() + patience.seconds
        for attempt in range(1, patience.attempts + 1):
            self.requests += 1
            try:
                async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                    return await ask()
            except CutShort as error:
                failure = Failure(0, "", f"an answer was cut short: {error}")
            except (BaseError, OSError, ValueError) as error:
                failure = failure_of(error)
                explained = self.explain(failure, key)
                if isinstance(explained, WrongRegion) and await self._follow():
                    continue
                if not failure.is_passing:
                    raise explained from None
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
            if attempt == patience.attempts or time.monotonic() + pause >= deadline:
                break
            await asyncio.sleep(pause)
        raise self.explain(failure, key)

    async def _follow(self) -> bool:
        """Turn to the region that the bucket is in; False where that is not found out, or is no news."""
        region = await asyncio.to_thread(self._find_region)
        if region in (None, self.access.region):
            return False
        self._use(replace(self.access, region=str(region)))
        return True

    def _find_region(self) -> str | None:
        """What the store tells anybody of the bucket's region."""
        request = urllib.request.Request(f"{self.access.address}/{self.name}", method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=FIRST_CONTACT.seconds / 2) as answer:
                headers = answer.headers
        except urllib.error.HTTPError as error:
            headers = error.headers
        except OSError:
            return None
        region: str | None = headers.get("x-amz-bucket-region")
        return region


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta["e_tag"] or "")


_buckets: dict[Any, Bucket] = {}


def open_bucket(name: str) -> Bucket:
    """The bucket as this process's environment says to reach it; raises NoCredentials, StorageError."""
    key = (name, environment_key())
    if key not in _buckets:
        _buckets[key] = Bucket(name, find_access())
    return _buckets[key]
