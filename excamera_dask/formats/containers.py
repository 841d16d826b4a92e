"""Compressed VP8 in files: packets out of IVF, WebM and whatever else PyAV demuxes; whole IVF and WebM files."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import TracebackType
from typing import IO, Any, NamedTuple, Protocol

import av

from excamera_dask.errors import ContainerError, SourceError
from excamera_dask.formats.ivf import (
    IvfFormat,
    Packet,
    is_key_frame,
    is_shown,
    ivf_packets,
    read_ivf_header,
)
from excamera_dask.formats.webm import Track, WebmFormat
from excamera_dask.sources.choice import best, choice_told, choose_stream, described
from excamera_dask.sources.description import Colour, PictureTags
from excamera_dask.storage import (
    Output,
    Tell,
    demuxable,
    full_name,
    is_remote,
    locate,
    open_input,
    open_output,
)
from excamera_dask.storage.errors import reason_of


class StreamInfo(NamedTuple):
    """What a container says of its VP8 stream; frame_count counts packets, hidden frames included."""

    container: str
    width: int
    height: int
    time_base: Fraction
    frame_count: int


def stream_info(
    path: str | os.PathLike[str],
    stream: int | str | None = None,
    on_choice: Callable[[str], None] | None = None,
) -> StreamInfo:
    """Size, time base and number of packets; walks over the whole file. Raises ContainerError.

    stream, on_choice: as for `read_packets`.
    """
    name = os.fspath(path)
    if _is_ivf(name):
        with open_input(name) as file:
            width, height, time_base = read_ivf_header(name, file)
            return StreamInfo("ivf", width, height, time_base, sum(1 for _ in ivf_packets(file)))
    with _demuxed(name, stream) as (container, chosen):
        _tell_choice(container, chosen, stream, on_choice)
        context = chosen.codec_context
        count = sum(1 for _ in _demuxed_packets(container, chosen))
        label = container.format.name.split(",")[-1]
        return StreamInfo(label, context.width, context.height, Fraction(chosen.time_base), count)


def read_packets(
    path: str | os.PathLike[str],
    stream: int | str | None = None,
    on_choice: Callable[[str], None] | None = None,
) -> Iterator[Packet]:
    """The compressed frames in file order, up to where a truncated file breaks off, as vpxdec reads them.

    stream: its index in the file or "v:N", by default the VP8 stream that ffmpeg would take; on_choice hears one line
    where there are several and none is named.

    Raises ContainerError for a file without a VP8 stream, or where `stream` is none.
    """
    name = os.fspath(path)
    if _is_ivf(name):
        with open_input(name) as file:
            read_ivf_header(name, file)
            yield from ivf_packets(file)
    else:
        with _demuxed(name, stream) as (container, chosen):
            _tell_choice(container, chosen, stream, on_choice)
            yield from _demuxed_packets(container, chosen)


def _is_ivf(name: str) -> bool:
    try:
        if not is_remote(name) and _is_stream(os.stat(locate(name)).st_mode):
            raise ContainerError(f"{name}: not a regular file, cannot be read at random")
        with open_input(name) as file:
            start = file.read(4)
    except IsADirectoryError:
        raise ContainerError(f"{name}: is a directory; give an IVF or WebM file") from None
    except OSError as error:
        raise ContainerError(f"{name}: {reason_of(error)}") from None
    if not start:
        raise ContainerError(f"{name}: the file is empty")
    return start == b"DKIF"


def _is_stream(mode: int) -> bool:
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def _demuxed(name: str, wanted: int | str | None) -> Iterator[tuple[Any, Any]]:
    try:
        container = av.open(demuxable(name), metadata_errors="ignore")
    except av.FFmpegError as error:
        reason = str(error.strerror or error).lower()
        raise ContainerError(f"{name}: not an IVF or WebM file ({reason})") from None
    try:
        yield container, _vp8_stream(name, container, wanted)
    finally:
        container.close()


def _vp8_stream(name: str, container: Any, wanted: int | str | None) -> Any:
    candidates = _vp8_streams(container)
    if wanted is None and candidates:
        return best(candidates)
    if wanted is not None:
        try:
            chosen = choose_stream(container, name, wanted)
        except SourceError as error:
            raise ContainerError(str(error)) from None
        if any(stream.index == chosen.index for stream in candidates):
            return chosen
        raise ContainerError(f"{name}: not VP8 (stream {described(chosen)})")
    codecs = [_codec(stream) for stream in container.streams]
    raise ContainerError(f"{name}: not VP8 (has {', '.join(codecs) or 'no streams'})")


def _tell_choice(
    container: Any, chosen: Any, wanted: int | str | None, tell: Callable[[str], None] | None
) -> None:
    told = choice_told(chosen, _vp8_streams(container)) if wanted is None else None
    if told is not None and tell is not None:
        tell(told)


def _vp8_streams(container: Any) -> list[Any]:
    return [stream for stream in container.streams if _codec(stream) == "vp8"]


def _codec(stream: Any) -> str:
    context = stream.codec_context
    return str(stream.type if context is None else context.codec.canonical_name)


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
    """Write VP8 frames to `path` as IVF or WebM by its suffix, or that given as `container`; it appears whole or not at all.

    A context manager: the file grows under a temporary name beside `path`, or in `folder` on the same disk, and an object
    (`path` a URL) as an upload; both get their name when the block ends without an exception and exactly
    `expected_frames` shown frames were written (None: any number); otherwise nothing is left, and ContainerError raised
    for a wrong number. A pipe gets the whole file at the end; `tell` is called with a line where we wait for its reader.
    `write` takes a frame and its time in time_base units; for
    a hidden frame the time is ignored: it is placed one tick after the frame before it, and so never after the next one.
    end: when the last frame ends, in the same units; by default it is shown as long as the one before.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        time_base: Fraction,
        *,
        expected_frames: int | None = None,
        end: int | None = None,
        average_rate: Fraction | None = None,
        colour: Colour | None = None,
        sample_aspect: Fraction = Fraction(1),
        tags: PictureTags | None = None,
        folder: str | os.PathLike[str] | None = None,
        container: str | None = None,
        tell: Tell = warnings.warn,
    ) -> None:
        self.path = full_name(path)
        self._tell = tell
        self.folder = folder
        self.suffix = container or output_suffix(self.path)
        self.width, self.height = width, height
        self.time_base = Fraction(time_base)
        self.expected_frames = expected_frames
        self.end = end
        self.track = Track(
            width,
            height,
            self.time_base,
            average_rate,
            colour or Colour(),
            Fraction(sample_aspect),
            tags or PictureTags(),
        )
        self.packets = 0
        self.frames = 0
        self.key_frames = 0
        self.bytes = 0
        self._last_shown: int | None = None
        self._step = 1 if not average_rate else max(1, round(1 / (average_rate * self.time_base)))
        self._output: Output | None = None
        self._file: IO[bytes] | None = None
        self._format: _Format | None = None

    def __enter__(self) -> Writer:
        self._output = open_output(self.path, self.folder, tell=self._tell)
        self._file = self._output.file
        if self.suffix == ".ivf":
            self._format = IvfFormat(self._file, self.width, self.height, self.time_base)
        return self

    def write(self, data: bytes, pts: int) -> None:
        """Append one frame, in decoding order."""
        assert self._file is not None, "use the writer as a context manager"
        if self._format is None:
            self._format = WebmFormat(self._file, self.track, data)
        shown = is_shown(data)
        if shown:
            if self._last_shown is not None:
                if pts <= self._last_shown:
                    raise ContainerError(
                        f"{self.path}: frame {self.frames} is not after the one before"
                    )
                self._step = pts - self._last_shown
            self._last_shown = pts
            self.frames += 1
        else:
            pts = 0 if self._last_shown is None else self._last_shown + 1
        self._format.write(data, pts)
        self.packets += 1
        self.key_frames += is_key_frame(data)
        self.bytes += len(data)

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
        assert self._output is not None
        if self.expected_frames is not None and self.frames != self.expected_frames:
            raise ContainerError(
                f"{self.path}: {self.frames} frames were made of {self.expected_frames}; nothing is written"
            )
        if self._format is None:
            raise ContainerError(f"{self.path}: no frames to write")
        last = self._last_shown or 0
        self._format.finish(last + self._step if self.end is None else max(self.end, last + 1))
        self._output.commit()

    def _clean_up(self) -> None:
        self._format = None
        if self._output is not None:
            self._output.discard()


def output_suffix(path: str | os.PathLike[str]) -> str:
    """ ".ivf" or ".webm"; ContainerError for any other suffix."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in (".ivf", ".webm"):
        raise ContainerError(f"{os.fspath(path)}: the output's name must end in .webm or .ivf")
    return suffix
