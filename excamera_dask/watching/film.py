"""A video opened and played once, from its first frame to its last."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Any, NamedTuple

import av
from av.format import Flags
from av.stream import Disposition

from codec.frame import Image
from excamera_dask.errors import SourceError
from excamera_dask.formats.ebml import segment_stop
from excamera_dask.storage import (
    PathLike,
    StorageError,
    demuxable,
    full_name,
    is_remote,
    open_input,
)
from excamera_dask.storage.errors import reason_of
from excamera_dask.watching.clock import Clock
from excamera_dask.watching.projector import NO_HINTS, Hints, Projector

USUAL_RATE = Fraction(25)
MICROSECOND = Fraction(1, 10**6)
DEFAULT_WEIGHT = 5_000_000
"""How many pixels the default flag of a stream outweighs."""
AVI = "avi"
MATROSKA = "matroska,webm"
BARE = ("h264", "hevc")
"""Bitstreams without a container, whose rates libavformat does not take from them."""
HEADER_BYTES = 4096
ENCRYPTION = "encryption_info"
TEXT_FORMATS = ("tty", "bin", "xbin", "idf", "adf")


class Tags(NamedTuple):
    """What the first frame says of colour, as codes of ITU-T H.273 (range: 1 limited, 2 full), before it is converted."""

    range: int
    primaries: int
    transfer: int
    matrix: int


class ShownFrame(NamedTuple):
    """A frame at the time when it is shown; time and duration in seconds."""

    time: Fraction
    duration: Fraction
    decoded: av.VideoFrame
    projector: Projector

    def picture(self) -> Image:
        """The frame upright, in the size of the film, in limited range."""
        return self.projector.picture(self.decoded)


class Film:
    """An open video of at least one frame, which can be played once.

    path, container, codec, pixel_format: by name; stream: its number in the container; width, height: pixels when
    upright; rate: frames a second as the file states it; sample_aspect: of a pixel as coded; time_base: seconds that
    a tick lasts; start: seconds on the container's timeline that count as 0; alone: there are no other streams. While
    it is played, frames_shown and end (seconds) grow; warnings, one line each, are complete in the end.
    """

    def __init__(
        self, name: str, opened: Any, container: Any, stream: Any, hints: Hints = NO_HINTS
    ) -> None:
        self.path, self.container, self.stream = name, container.format.name, stream.index
        self.codec = stream.codec_context.name
        own = stream.codec_context.framerate if self.container in BARE else None
        self.rate = Fraction(own or stream.average_rate or stream.guessed_rate or USUAL_RATE)
        self.sample_aspect = Fraction(stream.sample_aspect_ratio or 1)
        self.time_base = Fraction(stream.time_base)
        self.start = (container.start_time or 0) * MICROSECOND
        self.alone = len(container.streams) == 1
        self.frames_shown = 0
        self.end = Fraction(0)
        self.warnings: list[str] = []
        self._opened, self._container, self._stream = opened, container, stream
        self._clock = Clock(
            self.time_base,
            start=round(self.start / self.time_base),
            joined=bool(container.format.flags & Flags.ts_discont.value),
            guessed=self.container == AVI,
            step=max(1, round(1 / (self.rate * self.time_base))),
        )
        self._hints, self._failures = hints, 0
        decoded = self._decode()
        first = next(decoded, None)
        if first is None:
            raise SourceError(f"{name}: no video frame can be decoded")
        self.pixel_format = first.format.name
        self.tags = Tags(
            int(first.color_range), int(first.color_primaries), int(first.color_trc), int(first.colorspace)
        )  # fmt: skip
        self._projector = Projector(first, hints)
        self.width, self.height = self._projector.width, self._projector.height
        self._decoded = chain([first], decoded)

    def frames(self) -> Iterator[ShownFrame]:
        """The frames in order of display, one by one; the first is at 0 unless other streams begin before it.

        Raises StorageError where an object cannot be read on; what else is wrong with a file is told by `warnings`.
        """
        for frame in self._decoded:
            time, duration = self._time(frame)
            self.frames_shown += 1
            self.end = max(self.end, time + duration)
            yield ShownFrame(time, duration, frame, self._projector)
        if self._hints.rate is None:
            self.end = max(self.end, self._stated_end())
        if self._failures:
            self.warnings.append(f"damaged packets: {self._failures} could not be decoded")

    def _time(self, frame: av.VideoFrame) -> tuple[Fraction, Fraction]:
        """When the next frame is shown and for how long, in seconds."""
        if self._hints.rate is not None:
            return self.frames_shown / self._hints.rate, 1 / self._hints.rate
        time, duration = self._clock.time(frame)
        return time * self.time_base, duration * self.time_base

    def _stated_end(self) -> Fraction:
        """Matroska has no duration for a last frame that is held, but one for all."""
        if self.container != MATROSKA or not self.alone or self._container.duration is None:
            return Fraction(0)
        if not _is_whole(self.path):
            return Fraction(0)
        return self._container.duration * MICROSECOND - self.start

    def _decode(self) -> Iterator[av.VideoFrame]:
        context = self._stream.codec_context
        context.thread_type, context.thread_count = "NONE", 1
        for packet in self._packets():
            self._clock.stamp(packet)
            try:
                yield from context.decode(packet)
            except av.FFmpegError:
                self._failures += 1
        try:
            yield from context.decode(None)
        except av.FFmpegError:
            self._failures += 1

    def _packets(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.has_sidedata(ENCRYPTION):
                    raise SourceError(
                        f"{self.path}: stream {self.stream} is encrypted: decrypt it first, with its key"
                    )
                if packet.size:
                    yield packet
        except av.FFmpegError:
            _raise_trouble(self._opened)
            self.warnings.append("the file breaks off; what can be read of it is shown")


@contextlib.contextmanager
def watch(
    path: PathLike, stream: int | str | None = None, hints: Hints = NO_HINTS
) -> Iterator[Film]:
    """Open a file or an object and decode up to its first frame.

    stream: its number in the container, or "v:N" for the N-th video stream; None takes the one that ffmpeg would. Raises
    SourceError, one line, where there is no video frame, StorageError for the troubles of a store.
    """
    name = full_name(path)
    _check_file(name)
    opened = demuxable(name)
    try:
        container: Any = av.open(opened, metadata_errors="ignore")
    except av.FFmpegError as error:
        _raise_trouble(opened)
        reason = str(error.strerror or error).lower()
        raise SourceError(f"{name}: not a video that can be read ({reason})") from None
    try:
        film = Film(name, opened, container, _choose(name, container, stream), hints)
        films = [s.index for s in container.streams.video if not _is_cover(s)]
        if stream is None and len(films) > 1:
            film.warnings.append(
                f"has {len(films)} video streams: {film.stream} is taken; --stream chooses"
            )
        yield film
    finally:
        container.close()
        if not isinstance(opened, str):
            opened.close()


def _check_file(name: str) -> None:
    if is_remote(name):
        return
    try:
        size = os.stat(name).st_size
    except OSError as error:
        raise SourceError(f"{name}: {reason_of(error)}") from None
    if os.path.isdir(name):
        raise SourceError(f"{name}: is a directory; give a video file")
    if not os.access(name, os.R_OK):
        raise SourceError(f"{name}: permission denied")
    if os.path.isfile(name) and size == 0:
        raise SourceError(f"{name}: the file is empty")


def _is_whole(name: str) -> bool:
    """Whether a Matroska file tells its length, and has it."""
    with open_input(name) as file:
        told = segment_stop(file.read(HEADER_BYTES))
        return told is not None and told <= file.seek(0, os.SEEK_END)


def _raise_trouble(opened: Any) -> None:
    """Raise what the store of an object said, if that was why."""
    trouble = getattr(opened, "error", None)
    if isinstance(trouble, StorageError):
        raise trouble


def _choose(name: str, container: Any, wanted: int | str | None) -> Any:
    streams = [s for s in container.streams.video if s.codec_context is not None]
    if wanted is not None:
        asked_for = [s for s in streams if wanted in (s.index, f"v:{_video_number(container, s)}")]
        if not asked_for:
            numbers = ", ".join(str(s.index) for s in streams) or "none"
            raise SourceError(f"{name}: stream {wanted} is no video stream (those are: {numbers})")
        return asked_for[0]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "no streams at all"
        raise SourceError(f"{name}: no video stream that can be decoded ({kinds})")
    chosen = max(streams, key=_weight)
    if _is_cover(chosen):
        raise SourceError(f"{name}: no video stream (only a cover picture)")
    if container.format.name in TEXT_FORMATS:
        raise SourceError(f"{name}: a text file, not a video")
    return chosen


def _video_number(container: Any, stream: Any) -> int:
    return [s.index for s in container.streams.video].index(stream.index)


def _weight(stream: Any) -> int:
    """By which ffmpeg chooses; the first of the heaviest."""
    if _is_cover(stream):
        return -1
    context = stream.codec_context
    is_default = bool(stream.disposition & Disposition.default)
    return int(context.width * context.height + DEFAULT_WEIGHT * is_default)


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)
