"""Finished chunks of a job, so that an interrupted job goes on where it stopped.

`<out>.excamera/<fingerprint>/`, a folder beside the output or objects with that prefix, holds one
value a chunk (a name that would be too long is shortened); the fingerprint is a hash of the source's
identity, the settings and the versions, so other jobs' leftovers are never taken for this one's.
Values appear whole or not at all, and one that is damaged, or lies under another name than it was
written with, counts as missing. They go when the output is complete.
"""

from __future__ import annotations

import hashlib
import re
import struct
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from excamera_dask.storage import PathLike, Tell, beside
from excamera_dask.storage.folder import claimed, open_folder

SUFFIX = ".excamera"
_MAGIC = b"XCCH0002"
_SIZE = struct.Struct("<I")
_DIGEST_SIZE = 16
_HEADER_SIZE = len(_MAGIC) + _DIGEST_SIZE
_NAME = re.compile(r"(\d{8})\.chunk")
_FOLDER = re.compile(r"[0-9a-f]{32}")
_KEY_BYTES = len("/00000000.chunk") + 1 + 32


class Journal:
    """The results of one job by chunk."""

    def __init__(self, out: PathLike, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        self._folder = open_folder(_place(out), fingerprint)

    def __str__(self) -> str:
        return str(self._folder)

    @property
    def local(self) -> Path | None:
        """A folder on the output's disk where the output may grow; None for objects."""
        return self._folder.local

    def chunks(self) -> dict[int, int]:
        """Chunks that have a result, and its bytes.

        Those in a folder are checked here, those in objects when they are read.
        """
        matches = ((_NAME.fullmatch(name), size) for name, size in self._folder.names().items())
        present = {int(name[1]): size for name, size in matches if name and size >= _HEADER_SIZE}
        return {
            chunk: size - _HEADER_SIZE
            for chunk, size in present.items()
            if self.local is None or self.read(chunk) is not None
        }

    def write(self, chunk: int, packets: Sequence[bytes], again: bool = True) -> None:
        """Keep a chunk's final frames; `again` says whether this job will read them."""
        payload = b"".join(_SIZE.pack(len(packet)) + packet for packet in packets)
        self._folder.write(_name(chunk), self._header(chunk, payload) + payload, again)

    def read(self, chunk: int) -> tuple[bytes, ...] | None:
        """A chunk's final frames; None where they are missing or damaged."""
        data = self._folder.read(_name(chunk))
        if data is None:
            return None
        payload = data[_HEADER_SIZE:]
        if data[:_HEADER_SIZE] != self._header(chunk, payload):
            self._folder.drop(_name(chunk))
            return None
        return tuple(_split(payload))

    def _header(self, chunk: int, payload: bytes) -> bytes:
        """What stands before a chunk's frames: a digest of them, and of the job and the chunk that they belong to."""
        digest = hashlib.blake2b(f"{self._fingerprint} {chunk} ".encode(), digest_size=_DIGEST_SIZE)
        digest.update(payload)
        return _MAGIC + digest.digest()

    def remove(self, tell: Tell = warnings.warn) -> None:
        """Remove this journal and those of earlier jobs with the same output; `tell` is called with a line where they stay."""
        self._folder.remove_all(lambda name: _FOLDER.fullmatch(name) is not None, tell)

    def close(self) -> None:
        """Let what is being written end; leave no empty folder behind a job that failed before its first chunk."""
        self._folder.close()


def writing_alone(out: PathLike) -> AbstractContextManager[None]:
    """Keep other jobs of this machine from the same output; raises CannotKeep where one is at it."""
    return claimed(_place(out))


def fingerprint(*parts: object) -> str:
    """32 hexadecimal digits that stand for what determines a job's bytes."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _place(out: PathLike) -> str:
    return beside(out, SUFFIX, _KEY_BYTES)


def _name(chunk: int) -> str:
    return f"{chunk:08d}.chunk"


def _split(payload: bytes) -> list[bytes]:
    packets, at = [], 0
    while at < len(payload):
        (size,) = _SIZE.unpack_from(payload, at)
        packets.append(payload[at + _SIZE.size : at + _SIZE.size + size])
        at += _SIZE.size + size
    return packets
