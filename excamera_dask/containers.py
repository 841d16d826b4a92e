"""Compressed VP8 in files: packets out of IVF, WebM and whatever else PyAV demuxes; IVF and WebM written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from types import TracebackType
from typing import IO, Any, NamedTuple, Protocol

import av
from codec.frame import Image

from excamera_dask.display_size import DISPLAY_PLACEHOLDER, write_display_size
from excamera_dask.errors import ContainerError
from excamera_dask.sources.description import Colour

IVF_HEADER = struct.Struct("<4sHH4sHHIII4x")
IVF_FRAME_HEADER = struct.Struct("<IQ")
LARGEST_IVF_FRAME = 256 * 1024 * 1024
WEBM_TIME_BASE = Fraction(1, 1000)
Y4M_RANGES = {1: "LIMITED", 2: "FULL"}


class Packet(NamedTuple):
    """One compressed frame and its presentation time in the stream's time base; hidden frames are packets too."""

    data: bytes
    pts: int


class StreamInfo(NamedTuple):
    """What a container says of its VP8 stream; frame_count counts packets, hidden frames included."""

    container: str
    width: int
    height: int
    time_base: Fraction
    frame_count: int


def is_key_frame(data: bytes) -> bool:
    """Whether a frame's tag says key frame (RFC 6386 section 9.1)."""
    return len(data) > 0 and not data[0] & 1


def is_shown(data: bytes) -> bool:
    """Whether a frame is shown; one of no bytes repeats the last, so it is (RFC 6386 section 9.1)."""
    return len(data) == 0 or bool(data[0] & 0x10)


# Reading


def split_ivf(data: bytes) -> list[bytes]:
    """The frames of a whole IVF file held in memory."""
    file = io.BytesIO(data)
    _read_ivf_header("IVF data", file)
    return [packet.data for packet in _ivf_packets(file)]


def stream_info(path: str | os.PathLike[str]) -> StreamInfo:
    """Size, time base and number of packets; walks over the whole file. Raises ContainerError."""
    name = os.fspath(path)
    if _is_ivf(name):
        with open(name, "rb") as file:
            width, height, time_base = _read_ivf_header(name, file)
            return StreamInfo("ivf", width, height, time_base, sum(1 for _ in _ivf_packets(file)))
    with _demuxed(name) as (container, stream):
        context = stream.codec_context
        count = sum(1 for _ in _demuxed_packets(container, stream))
        label = container.format.name.split(",")[-1]
        return StreamInfo(label, context.width, context.height, Fraction(stream.time_base), count)


def read_packets(path: str | os.PathLike[str]) -> Iterator[Packet]:
    """The compressed frames in file order, up to where a truncated file breaks off, as vpxdec reads them.

    Raises ContainerError for a file without a VP8 stream.
    """
    name = os.fspath(path)
    if _is_ivf(name):
        with open(name, "rb") as file:
            _read_ivf_header(name, file)
            yield from _ivf_packets(file)
    else:
        with _demuxed(name) as (container, stream):
            yield from _demuxed_packets(container, stream)


def _is_ivf(name: str) -> bool:
    try:
        with open(name, "rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise ContainerError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ContainerError(f"{name}: is a directory; give an IVF or WebM file") from None
    except OSError as error:
        raise ContainerError(f"{name}: {(error.strerror or str(error)).lower()}") from None
    if not start:
        raise ContainerError(f"{name}: the file is empty")
    return start == b"DKIF"


def _read_ivf_header(name: str, file: IO[bytes]) -> tuple[int, int, Fraction]:
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


def _ivf_packets(file: IO[bytes]) -> Iterator[Packet]:
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


@contextlib.contextmanager
def _demuxed(name: str) -> Iterator[tuple[Any, Any]]:
    try:
        container = av.open(name, metadata_errors="ignore")
    except av.FFmpegError as error:
        reason = str(error.strerror or error).lower()
        raise ContainerError(f"{name}: not an IVF or WebM file ({reason})") from None
    try:
        yield container, _vp8_stream(name, container)
    finally:
        container.close()


def _vp8_stream(name: str, container: Any) -> Any:
    codecs = []
    for stream in container.streams:
        context = stream.codec_context
        codec = context.codec.canonical_name if context is not None else stream.type
        if codec == "vp8":
            return stream
        codecs.append(codec)
    raise ContainerError(f"{name}: not VP8 (has {', '.join(codecs) or 'no streams'})")


def _demuxed_packets(container: Any, stream: Any) -> Iterator[Packet]:
    last = 0
    with contextlib.suppress(av.FFmpegError):
        for packet in container.demux(stream):
            if packet.size == 0 and packet.dts is None and packet.pts is None:
                continue
            last = packet.pts if packet.pts is not None else last
            yield Packet(bytes(packet), last)


# Writing


class _Format(Protocol):
    def write(self, data: bytes, pts: int) -> None: ...

    def finish(self, end: int) -> None: ...


class Writer:
    """Write VP8 frames to `path` as IVF or WebM by its suffix; the file appears whole or not at all.

    A context manager: the bytes go to a temporary name beside `path`, renamed when the block ends without an exception and
    exactly `expected_frames` shown frames were written (None: any number); otherwise it is removed, and ContainerError
    raised for a wrong number. `write` takes a frame and its presentation time in units of time_base; for a hidden frame
    the time is ignored: it is placed one tick after the frame before it, and so never after the next one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        time_base: Fraction,
        *,
        expected_frames: int | None = None,
        average_rate: Fraction | None = None,
        colour: Colour | None = None,
        sample_aspect: Fraction = Fraction(1),
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.suffix = output_suffix(self.path)
        self.width, self.height = width, height
        self.time_base = Fraction(time_base)
        self.expected_frames = expected_frames
        self.average_rate = average_rate
        self.colour = colour or Colour()
        self.sample_aspect = Fraction(sample_aspect)
        self.packets = 0
        self.frames = 0
        self.key_frames = 0
        self.bytes = 0
        self._last_shown: int | None = None
        self._step = 1
        self._temporary = ""
        self._file: IO[bytes] | None = None
        self._format: _Format | None = None

    def __enter__(self) -> Writer:
        self._temporary = _temporary_name(self.path)
        try:
            self._file = open(self._temporary, "xb")
        except OSError as error:
            where = os.path.dirname(self.path)
            raise ContainerError(f"{where}: cannot write there ({(error.strerror or '').lower()})") from None
        if self.suffix == ".ivf":
            self._format = _IvfFormat(self._file, self)
        return self

    def write(self, data: bytes, pts: int) -> None:
        """Append one frame, in decoding order."""
        assert self._file is not None, "use the writer as a context manager"
        if self._format is None:
            self._format = _WebmFormat(self._file, self, data)
        shown = is_shown(data)
        if shown:
            if self._last_shown is not None:
                if pts <= self._last_shown:
                    raise ContainerError(f"{self.path}: frame {self.frames} is not after the one before")
                self._step = pts - self._last_shown
            self._last_shown = pts
            self.frames += 1
        else:
            pts = 0 if self._last_shown is None else self._last_shown + 1
        self._format.write(data, pts)
        self.packets += 1
        self.key_frames += is_key_frame(data)
        self.bytes += len(data)

    def write_all(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            self.write(packet.data, packet.pts)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._clean_up()

    def _finish(self) -> None:
        assert self._file is not None
        if self.expected_frames is not None and self.frames != self.expected_frames:
            raise ContainerError(
                f"{self.path}: {self.frames} frames were made of {self.expected_frames}; nothing is written"
            )
        if self._format is None:
            raise ContainerError(f"{self.path}: no frames to write")
        self._format.finish((self._last_shown or 0) + self._step)
        self._file.flush()
        self._file.close()
        os.replace(self._temporary, self.path)

    def _clean_up(self) -> None:
        self._format = None
        if self._file is not None:
            self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)


def output_suffix(path: str | os.PathLike[str]) -> str:
    """".ivf" or ".webm"; ContainerError for any other suffix."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in (".ivf", ".webm"):
        raise ContainerError(f"{os.fspath(path)}: the output's name must end in .webm or .ivf")
    return suffix


def _temporary_name(path: str) -> str:
    folder, base = os.path.split(path)
    return os.path.join(folder, f".{base}.{secrets.token_hex(4)}.part")


class _IvfFormat:
    """IVF, laid out as vpxenc does; the header's frame count is filled in at the end."""

    def __init__(self, file: IO[bytes], writer: Writer) -> None:
        self.file, self.writer = file, writer
        file.write(self._header(0))

    def _header(self, packets: int) -> bytes:
        w = self.writer
        base = w.time_base
        return IVF_HEADER.pack(
            b"DKIF", 0, IVF_HEADER.size, b"VP80", w.width, w.height, base.denominator, base.numerator, packets
        )

    def write(self, data: bytes, pts: int) -> None:
        self.file.write(IVF_FRAME_HEADER.pack(len(data), pts))
        self.file.write(data)

    def finish(self, end: int) -> None:
        self.file.seek(0)
        self.file.write(self._header(self.writer.packets))
        self.file.seek(0, os.SEEK_END)


class _WebmFormat:
    """WebM through libavformat's muxer, bit-exact (no random identifiers, no dates), times in milliseconds.

    One packet is held back, since a frame's duration is known when the next one comes.
    """

    def __init__(self, file: IO[bytes], writer: Writer, first: bytes) -> None:
        self.writer = writer
        self.template = av.open(io.BytesIO(_tiny_ivf(writer, first)), format="ivf")
        self.container = av.open(file, "w", format="webm", container_options={"fflags": "+bitexact"})
        stream = self.container.add_stream_from_template(self.template.streams.video[0], opaque=True)
        context = stream.codec_context
        stream.time_base = WEBM_TIME_BASE
        context.framerate = writer.average_rate or Fraction(0, 1)
        colour = writer.colour
        context.color_range = colour.range
        context.color_primaries = colour.primaries
        context.color_trc = colour.transfer
        context.colorspace = colour.matrix
        if writer.sample_aspect != 1:
            stream.metadata["title"] = DISPLAY_PLACEHOLDER
        self.file = file
        self.stream = stream
        self.held: tuple[bytes, int] | None = None

    def write(self, data: bytes, pts: int) -> None:
        time = round(pts * self.writer.time_base / WEBM_TIME_BASE)
        if self.held is not None:
            time = max(time, self.held[1])
            self._mux(*self.held, time - self.held[1])
        self.held = (data, time)

    def _mux(self, data: bytes, time: int, duration: int) -> None:
        packet = av.Packet(data)
        packet.stream = self.stream
        packet.time_base = WEBM_TIME_BASE
        packet.pts = packet.dts = time
        packet.duration = duration
        packet.is_keyframe = is_key_frame(data)
        self.container.mux_one(packet)

    def finish(self, end: int) -> None:
        if self.held is not None:
            time = round(end * self.writer.time_base / WEBM_TIME_BASE)
            self._mux(*self.held, max(1, time - self.held[1]))
        self.container.close()
        self.template.close()
        if self.writer.sample_aspect != 1:
            width = round(self.writer.width * self.writer.sample_aspect)
            write_display_size(self.file, max(1, width), self.writer.height)


def _tiny_ivf(writer: Writer, first: bytes) -> bytes:
    """An IVF file of one frame, from which libavformat learns the stream's parameters."""
    header = IVF_HEADER.pack(
        b"DKIF", 0, IVF_HEADER.size, b"VP80", writer.width, writer.height, 1000, 1, 1
    )
    return header + IVF_FRAME_HEADER.pack(len(first), 0) + first


# Raw pictures


class Y4mWriter:
    """Write pictures as YUV4MPEG2 to a path, or to standard output for "-"; a file appears whole or not at all."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        rate: Fraction,
        *,
        sample_aspect: Fraction = Fraction(1),
        range: int = 0,
    ) -> None:
        self.path = os.fspath(path)
        self.header = y4m_header(width, height, rate, sample_aspect=sample_aspect, range=range)
        self._temporary = ""
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Y4mWriter:
        if self.path == "-":
            self._file = os.fdopen(os.dup(1), "wb")
        else:
            self._temporary = _temporary_name(os.path.abspath(self.path))
            try:
                self._file = open(self._temporary, "xb")
            except OSError as error:
                reason = (error.strerror or "").lower()
                raise ContainerError(f"{self.path}: cannot be written ({reason})") from None
        self._file.write(self.header)
        return self

    def write(self, image: Image) -> None:
        assert self._file is not None, "use the writer as a context manager"
        self._file.write(b"FRAME\n")
        for plane in image:
            self._file.write(plane.tobytes())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        try:
            self._file.close()
            if kind is None and self._temporary:
                os.replace(self._temporary, self.path)
        finally:
            if self._temporary:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._temporary)


def y4m_header(
    width: int,
    height: int,
    rate: Fraction,
    *,
    sample_aspect: Fraction = Fraction(1),
    range: int = 0,
) -> bytes:
    """The first line of a YUV4MPEG2 file of progressive 8-bit 4:2:0 pictures."""
    words = [
        "YUV4MPEG2",
        f"W{width}",
        f"H{height}",
        f"F{rate.numerator}:{rate.denominator}",
        "Ip",
        f"A{sample_aspect.numerator}:{sample_aspect.denominator}",
        "C420jpeg",
    ]
    if range in Y4M_RANGES:
        words.append(f"XCOLORRANGE={Y4M_RANGES[range]}")
    return " ".join(words).encode() + b"\n"
