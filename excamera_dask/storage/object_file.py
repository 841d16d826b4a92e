"""An object as a file that can be read at random: ranges as they are needed, read-ahead, a bounded cache.

A miss fetches a block; reading on from there fetches twice as much each time, up to LARGEST_RUN, and
half-way through a run the next one is asked for. So a jump costs little, and a walk few requests.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

from excamera_dask.storage import background
from excamera_dask.storage.bucket import FIRST_CONTACT, Bucket, ObjectInfo, Piece, open_bucket
from excamera_dask.storage.errors import NoSuchRange, StorageError
from excamera_dask.storage.locations import S3Url

BLOCK = 64 << 10
LARGEST_RUN = 8 << 20
CACHE_BYTES = 24 << 20


class ObjectFile(io.RawIOBase):
    """A seekable binary file over ranges of an object; `read` is short at the end only.

    info: of the version that is read; another version raises ObjectChanged. After an error, which `error`
    keeps, the file is at its end for those who read on.
    """

    def __init__(self, url: S3Url, info: ObjectInfo | None = None) -> None:
        super().__init__()
        self.url = url
        self.name = url.name
        self.error: StorageError | None = None
        self.horizon: int | None = None
        self._at = 0
        self._blocks: OrderedDict[int, memoryview] = OrderedDict()
        self._run_ending: dict[int, int] = {}  # blocks of the run, by its last block
        self._half_way: dict[int, tuple[int, int]] = {}  # (last block, blocks), by the middle block
        self._coming: dict[int, tuple[int, Future[Piece]]] = {}
        self.bucket: Bucket = open_bucket(url.bucket)
        self.info = info or self._first_contact()
        self.size = self.info.size

    def _first_contact(self) -> ObjectInfo:
        """One request that brings the description and the first block."""
        begin = self.bucket.read(self.url.key, 0, BLOCK, patience=FIRST_CONTACT)
        try:
            piece = background.run(begin)
        except NoSuchRange:  # an empty object has none
            return background.run(self.bucket.info(self.url.key, FIRST_CONTACT))
        self._keep(0, 1, piece.data)
        return piece.info

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        stop = min(self._at + len(target), self.size) if self.error is None else self._at
        begin = self._at
        try:
            while self._at < stop:
                number = self._at // BLOCK
                block = self._block(number, -(-stop // BLOCK))
                offset = self._at - number * BLOCK
                part = block[offset : offset + stop - self._at]
                target[self._at - begin : self._at - begin + len(part)] = part
                self._at += len(part)
        except StorageError as error:
            self.error = error
            raise
        return self._at - begin

    def expect(self, stop: int | None) -> None:
        """Read ahead up to byte `stop` at most (None: the object's end)."""
        self.horizon = stop

    def close(self) -> None:
        for _, future in self._coming.values():
            future.cancel()
        self._coming.clear()
        self._blocks.clear()
        super().close()

    def _block(self, number: int, wanted: int) -> memoryview:
        """A block of the object; where it has to be fetched, with those up to `wanted` that come after it."""
        if number not in self._blocks:
            if number not in self._coming:
                self._fetch(number, wanted)
            self._receive(number)
        block = self._blocks[number]
        self._blocks.move_to_end(number)
        if number in self._half_way:
            self._read_ahead(*self._half_way.pop(number))
        return block

    def _fetch(self, first: int, wanted: int) -> None:
        """Ask for a run of blocks that begins with `first`."""
        known = self._run_ending.get(first - 1, 0)
        longest = LARGEST_RUN // BLOCK
        stop = max(first + 1, min(wanted, first + longest))
        if known:
            ahead = first + min(2 * known, longest)
            stop = max(
                stop, ahead if self.horizon is None else min(ahead, -(-self.horizon // BLOCK))
            )
        stop = min(stop, -(-self.size // BLOCK))
        for number in range(first + 1, stop):
            if number in self._blocks or number in self._coming:
                stop = number
                break
        end = min(stop * BLOCK, self.size)
        work = self.bucket.read(self.url.key, first * BLOCK, end, self.info.etag or None)
        run = (first, background.start(work))
        for number in range(first, stop):
            self._coming[number] = run

    def _receive(self, number: int) -> None:
        """Wait for a run that was asked for."""
        first, future = self._coming[number]
        count = sum(run[0] == first for run in self._coming.values())
        try:
            piece = future.result()
        finally:
            for block in range(first, first + count):
                del self._coming[block]
        self._keep(first, count, piece.data)

    def _keep(self, first: int, count: int, data: memoryview) -> None:
        for place in range(count):
            self._blocks[first + place] = data[place * BLOCK : (place + 1) * BLOCK]
        last = first + count - 1
        self._run_ending[last] = count
        if count > 1:
            self._half_way[first + count // 2] = (last, count)
        while len(self._blocks) > CACHE_BYTES // BLOCK:
            gone, _ = self._blocks.popitem(last=False)
            self._run_ending.pop(gone, None)
            self._half_way.pop(gone, None)

    def _read_ahead(self, last: int, count: int) -> None:
        """Ask for the run that follows one of `count` blocks, unless nobody expects to read that far."""
        following = last + 1
        horizon = self.size if self.horizon is None else min(self.horizon, self.size)
        known = following in self._blocks or following in self._coming
        if following * BLOCK < horizon and not known:
            self._run_ending[last] = count
            self._fetch(following, following + 1)
