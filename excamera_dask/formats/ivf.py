"""IVF: a 32-byte header, then frames of VP8, each behind its size and time."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import IO, NamedTuple

from excamera_dask.errors import ContainerError

IVF_HEADER = struct.Struct("<4sHH4sHHIII4x")
IVF_FRAME_HEADER = struct.Struct("<IQ")
LARGEST_IVF_FRAME = 256 * 1024 * 1024


class Packet(NamedTuple):
    """One compressed frame and its presentation time in the stream's time base; hidden frames are packets too."""

    data: bytes
    pts: int


def is_key_frame(data: bytes) -> bool:
    """Whether a frame's tag says key frame (RFC 6386 section 9.1)."""
    return len(data) > 0 and not data[0] & 1


def is_shown(data: bytes) -> bool:
    """Whether a frame is shown; one of no bytes repeats the last, so it is (RFC 6386 section 9.1)."""
    return len(data) == 0 or bool(data[0] & 0x10)


def split_ivf(data: bytes) -> list[bytes]:
    """The frames of a whole IVF file held in memory."""
    file = io.BytesIO(data)
    read_ivf_header("IVF data", file)
    return [packet.data for packet in ivf_packets(file)]


def read_ivf_header(name: str, file: IO[bytes]) -> tuple[int, int, Fraction]:
    """Width, height and time base; ContainerError when it is cut short or of another codec."""
    header = file.read(IVF_HEADER.size)
    if len(header) < IVF_HEADER.size:
        raise ContainerError(f"{name}: the IVF header is cut short")
    _, _, length, fourcc, width, height, rate, scale, _ = IVF_HEADER.unpack(header)
    if fourcc != b"VP80":
        codec = fourcc.decode("ascii", "replace")
        raise ContainerError(f"{name}: not VP8 (codec {codec!r}); only VP8 streams can be read")
    if length > IVF_HEADER.size:
        file.seek(length)
    return width, height, Fraction(scale or 1, rate or 30)


def ivf_packets(file: IO[bytes]) -> Iterator[Packet]:
    """The whole frames from here on; a cut or absurd one ends the stream, as in vpxdec."""
    while True:
        header = file.read(IVF_FRAME_HEADER.size)
        if len(header) < IVF_FRAME_HEADER.size:
            return
        size, pts = IVF_FRAME_HEADER.unpack(header)
        if size > LARGEST_IVF_FRAME:
            return
        data = file.read(size)
        if len(data) < size:
            return
        yield Packet(data, pts)


class IvfFormat:
    """IVF, laid out as vpxenc does; the header's frame count is filled in at the end."""

    def __init__(self, file: IO[bytes], width: int, height: int, time_base: Fraction) -> None:
        self.file = file
        self.size, self.time_base = (width, height), time_base
        self.packets = 0
        file.write(self._header())

    def _header(self) -> bytes:
        return ivf_header(*self.size, self.time_base, self.packets)

    def write(self, data: bytes, pts: int) -> None:
        self.file.write(IVF_FRAME_HEADER.pack(len(data), pts))
        self.file.write(data)
        self.packets += 1

    def finish(self, end: int) -> None:
        self.file.seek(0)
        self.file.write(self._header())
        self.file.seek(0, os.SEEK_END)


def ivf_header(width: int, height: int, time_base: Fraction, packets: int) -> bytes:
    """The 32 bytes that begin an IVF file."""
    rate, scale = time_base.denominator, time_base.numerator
    return IVF_HEADER.pack(
        b"DKIF", 0, IVF_HEADER.size, b"VP80", width, height, rate, scale, packets
    )
