"""Which of a file's video streams is meant."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import av
from av.stream import Disposition

from excamera_dask.errors import SourceError

DEFAULT_WEIGHT = 5_000_000
PROBED_BYTES, PROBED_SECONDS = 5_000_000, 5
"""How far ffmpeg looks for the packets of all streams; it takes none that begins later, where another begins sooner."""
TEXT_DECODERS = ("ansi", "bintext", "xbin", "idf")


def choose_stream(container: Any, path: str, wanted: int | str | None = None) -> Any:
    """The stream that is `wanted`, an index in the file or "v:N", or else the best that can be decoded.

    Raises SourceError, which says what streams there are.
    """
    if wanted is not None:
        return _named(container, path, wanted)
    candidates = [s for s in container.streams.video if s.codec_context is not None]
    if not candidates:
        if container.streams.video:
            raise SourceError(f"{path}: no decoder for its video stream")
        kinds = sorted({stream.type for stream in container.streams})
        found = f"only {', '.join(kinds)}" if kinds else "no streams at all"
        raise SourceError(f"{path}: no video stream ({found})")
    pictures = [s for s in candidates if not is_cover(s)]
    if not pictures:
        raise SourceError(f"{path}: no video stream (only a cover picture)")
    chosen = best(pictures)
    if chosen.codec_context.name in TEXT_DECODERS:
        raise SourceError(f"{path}: a text file, not a video")
    return chosen


def begun_stream(container: Any) -> int | None:
    """The index of the best of several streams that begin where a film does; None, and no packet read, without several."""
    streams = [
        s for s in container.streams.video if s.codec_context is not None and not is_cover(s)
    ]
    if len(streams) < 2:
        return None
    begun = _that_begin(container, streams)
    return int(best([s for s in streams if s.index in begun] or streams).index)


def best(streams: Sequence[Any]) -> Any:
    """The stream that ffmpeg takes by itself: the default one, else the largest, the first of equals."""
    return max(streams, key=_score)


def choice_told(chosen: Any, streams: Sequence[Any], option: str = "--stream") -> str | None:
    """One line that names the choice, where there was one; covers are no alternative."""
    others = [s for s in streams if s.index != chosen.index and not is_cover(s)]
    if not others:
        return None
    left = ", ".join(described(stream) for stream in others)
    return f"has {len(others) + 1} video streams: {described(chosen)} is taken, not {left}; {option} chooses"


def described(stream: Any) -> str:
    """A stream in words: its index in the file, its codec and its size."""
    context = stream.codec_context
    if context is None:
        return f"{stream.index} ({stream.type}, no decoder)"
    codec = context.codec.canonical_name
    if stream.type != "video":
        return f"{stream.index} ({stream.type}, {codec})"
    return f"{stream.index} ({codec}, {context.width}x{context.height})"


def is_cover(stream: Any) -> bool:
    """Whether a stream is a picture that goes with the film."""
    return bool(stream.disposition & Disposition.attached_pic)


def _that_begin(container: Any, streams: Sequence[Any]) -> set[int]:
    found: set[int] = set()
    size, first = 0, None
    with contextlib.suppress(av.FFmpegError):
        for packet in container.demux(*streams):
            if packet.size:
                found.add(packet.stream_index)
            size += packet.size
            if packet.dts is not None:
                seconds = packet.dts * packet.time_base
                first = seconds if first is None else first
                if seconds - first > PROBED_SECONDS:
                    break
            if size > PROBED_BYTES or len(found) == len(streams):
                break
    return found


def _score(stream: Any) -> int:
    context = stream.codec_context
    default = bool(stream.disposition & Disposition.default)
    return int(context.width * context.height + DEFAULT_WEIGHT * default)


def _named(container: Any, path: str, wanted: int | str) -> Any:
    streams = list(container.streams)
    if isinstance(wanted, str):
        streams, place = list(container.streams.video), int(wanted.partition(":")[2])
    else:
        place = wanted
    if place < len(streams) and streams[place].type == "video":
        if streams[place].codec_context is None:
            raise SourceError(f"{path}: no decoder for video stream {wanted}")
        return streams[place]
    there = ", ".join(map(described, container.streams))
    raise SourceError(f"{path}: no video stream {wanted}; there are {there}")
