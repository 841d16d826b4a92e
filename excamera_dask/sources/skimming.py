"""MP4 and QuickTime objects: their index is fetched in one go, and media data need not be fetched to be walked over.

libavformat then finds every packet's place, size and times in the index, and reads zeros for its
bytes.
"""

from __future__ import annotations

import io
import os
from typing import Any, NamedTuple

from excamera_dask.storage.object_file import ObjectFile

MOST_BOXES = 64
LONGEST_INDEX = 12 << 20
FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


class Box(NamedTuple):
    """A top-level box (ISO/IEC 14496-12 section 4.2): its type, and bytes start .. stop - 1 of the file."""

    kind: bytes
    start: int
    stop: int


def top_level_boxes(file: ObjectFile) -> list[Box]:
    """The boxes of a file; none if it is of another kind, or has too many of them (fragments)."""
    boxes: list[Box] = []
    at = 0
    while at < file.size:
        file.seek(at)
        header = file.read(16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        elif size == 0:
            size = file.size - at
        if (not boxes and kind not in FIRST_BOXES) or size < 8 or len(boxes) == MOST_BOXES:
            boxes = []
            break
        boxes.append(Box(kind, at, min(at + size, file.size)))
        at += size
    file.seek(0)
    return boxes


def fetch_index(file: ObjectFile, boxes: list[Box]) -> None:
    """Bring the index into the file's cache with as few requests as can be."""
    for box in boxes:
        if box.kind == b"moov" and box.stop - box.start <= LONGEST_INDEX:
            file.seek(box.start)
            file.read(box.stop - box.start)
    file.seek(0)


class SkimmedFile(io.RawIOBase):
    """A file that, once `skims` is set, reads zeros where its media data are."""

    def __init__(self, file: ObjectFile, boxes: list[Box]) -> None:
        super().__init__()
        self.file = file
        self.name = file.name
        self.size = file.size
        self.info = file.info
        self.can_skim = any(box.kind == b"moov" for box in boxes) and not any(
            box.kind == b"moof" for box in boxes
        )
        self.skims = False
        self._media = [box for box in boxes if box.kind == b"mdat"]
        self._at = 0

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
        target = target[: max(0, self.size - self._at)]
        if self.skims:
            for box in self._media:
                if box.start + 16 <= self._at < box.stop:
                    target = target[: box.stop - self._at]
                    target[:] = bytes(len(target))
                    self._at += len(target)
                    return len(target)
                if self._at < box.start + 16 < self._at + len(target):
                    target = target[: box.start + 16 - self._at]
        self.file.seek(self._at)
        count = self.file.readinto(target)
        self._at += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()
