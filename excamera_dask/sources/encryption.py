"""Encrypted streams, which libavformat hands over as they are, and which would be decoded to noise."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import IO, Any

from excamera_dask.errors import SourceError

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
ENCRYPTED_ENTRIES = ("encv", "drmi")
"""Sample entries of MP4: common encryption (ISO/IEC 23001-7), FairPlay."""
ENCRYPTED_NAMES = ("enc_key_id", "ASF_Protection_Type")
"""What libavformat calls the key of an encrypted track of Matroska, and the protection of an ASF file."""
SIDE_DATA = "encryption_info"
TO_STREAM = (b"mdia", b"minf", b"stbl", b"stsd")
STSD_HEADER = 8


def check_clear(container: Any, stream: Any, name: str, file: IO[bytes]) -> None:
    """Raise SourceError where a stream is encrypted by what the file says of it; `file` is left where it was."""
    signs = [key for key in ENCRYPTED_NAMES if key in stream.metadata or key in container.metadata]
    if container.format.name == MP4:
        before = file.tell()
        entries = list(_sample_entries(file))
        file.seek(before)
        if stream.index < len(entries) and entries[stream.index] in ENCRYPTED_ENTRIES:
            signs.append(entries[stream.index])
    if signs:
        raise encrypted(name, stream.index, signs[0])


def check_readable(name: str, file: IO[bytes]) -> None:
    """Raise SourceError where a file that libavformat cannot open is an MP4 with an encrypted stream."""
    for number, entry in enumerate(_sample_entries(file)):
        if entry in ENCRYPTED_ENTRIES:
            raise encrypted(name, number, entry)


def encrypted(name: str, stream: int, sign: str) -> SourceError:
    """The error for a stream that is encrypted; `sign` is what tells it."""
    return SourceError(
        f"{name}: stream {stream} is encrypted ({sign}), its pictures would be noise: decrypt it first, with its key"
    )


def is_encrypted(packet: Any) -> bool:
    """Whether a packet says that it is."""
    return bool(packet.has_sidedata(SIDE_DATA))


def _sample_entries(file: IO[bytes]) -> Iterator[str]:
    """The type of each track's first sample entry (ISO/IEC 14496-12 8.5.2), in the order of tracks."""
    size = file.seek(0, io.SEEK_END)
    for kind, start, stop in _boxes(file, 0, size):
        if kind == b"moov":
            file.seek(start)
            index = io.BytesIO(file.read(stop - start))
            for child, begin, end in _boxes(index, 0, stop - start):
                if child == b"trak":
                    yield _entry(index, begin, end)
            return


def _entry(index: IO[bytes], start: int, stop: int) -> str:
    for wanted in TO_STREAM:
        found = [(b, e) for kind, b, e in _boxes(index, start, stop) if kind == wanted]
        if not found:
            return ""
        start, stop = found[0]
    entries = list(_boxes(index, start + STSD_HEADER, stop))
    return entries[0][0].decode("latin-1") if entries else ""


def _boxes(file: IO[bytes], start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Types of the boxes in a range of a file, and where their content starts and stops."""
    at = start
    while at + 8 <= stop:
        file.seek(at)
        header = file.read(16)
        size, kind, length = int.from_bytes(header[:4], "big"), header[4:8], 8
        if size == 1:
            size, length = int.from_bytes(header[8:16], "big"), 16
        if size == 0:
            size = stop - at
        if size < length:
            return
        yield kind, at + length, min(at + size, stop)
        at += size


@contextlib.contextmanager
def opened_again(name: str, file: Any) -> Iterator[IO[bytes]]:
    """The bytes of a container: of the object that it is read from, or of the file by its name."""
    if file is not None:
        yield file
        return
    with open(name, "rb") as local:
        yield local
