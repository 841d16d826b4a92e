"""Finished chunks of a job on disk, so that an interrupted job goes on where it stopped.

The folder `<out>.excamera/<fingerprint>/` beside the output holds one file a chunk; the fingerprint
is a hash of the source's identity, the settings and the versions, so other jobs' leftovers are
never taken for this one's. Files appear whole or not at all, and one that is damaged counts as
missing. The folder goes when the output is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

from excamera_dask.errors import ExcameraError


class JournalError(ExcameraError):
    """Finished chunks cannot be kept beside the output."""


SUFFIX = ".excamera"
_MAGIC = b"XCCH0001"
_SIZE = struct.Struct("<I")
_DIGEST_SIZE = 16
_NAME = re.compile(r"(\d{8})\.chunk")
_FOLDER = re.compile(r"[0-9a-f]{32}")


class Journal:
    """The results of one job by chunk."""

    def __init__(self, out: str | os.PathLike[str], fingerprint: str) -> None:
        self.parent = Path(f"{os.fspath(out)}{SUFFIX}")
        self.folder = self.parent / fingerprint
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JournalError(
                f"{self.parent}: cannot keep finished chunks there ({error.strerror})"
            ) from None

    def chunks(self) -> set[int]:
        """Chunks that have a sound result."""
        names = (_NAME.fullmatch(name) for name in os.listdir(self.folder))
        present = {int(name[1]) for name in names if name}
        return {chunk for chunk in present if self.read(chunk) is not None}

    def write(self, chunk: int, packets: Sequence[bytes]) -> None:
        """Keep a chunk's final frames."""
        path = self._path(chunk)
        temporary = path.with_suffix(f".{os.getpid()}.part")
        payload = b"".join(_SIZE.pack(len(packet)) + packet for packet in packets)
        try:
            temporary.write_bytes(_MAGIC + _digest(payload) + payload)
            os.replace(temporary, path)
        except OSError as error:
            raise JournalError(f"{path}: cannot write ({error.strerror})") from None

    def read(self, chunk: int) -> tuple[bytes, ...] | None:
        """A chunk's final frames; None where they are missing or damaged."""
        try:
            data = self._path(chunk).read_bytes()
        except OSError:
            return None
        start = len(_MAGIC) + _DIGEST_SIZE
        payload = data[start:]
        if data[:start] != _MAGIC + _digest(payload):
            return None
        return tuple(_split(payload))

    def remove(self) -> None:
        """Remove this journal and those of earlier jobs with the same output."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.parent):
                if _FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
            self.parent.rmdir()

    def remove_if_empty(self) -> None:
        """Leave no empty folder behind a job that failed before its first chunk."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()
            self.parent.rmdir()

    def _path(self, chunk: int) -> Path:
        return self.folder / f"{chunk:08d}.chunk"


def fingerprint(*parts: object) -> str:
    """32 hexadecimal digits that stand for what determines a job's bytes."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_DIGEST_SIZE).digest()


def _split(payload: bytes) -> list[bytes]:
    packets, at = [], 0
    while at < len(payload):
        (size,) = _SIZE.unpack_from(payload, at)
        packets.append(payload[at + _SIZE.size : at + _SIZE.size + size])
        at += _SIZE.size + size
    return packets
