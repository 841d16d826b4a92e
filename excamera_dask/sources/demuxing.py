"""Opening a file and walking over the packets of its video stream, the same way at every reading."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import av

from excamera_dask.errors import SourceError


def open_container(path: str, index: int | None = None) -> tuple[Any, Any]:
    """The container and its video stream, decoder set to one thread; SourceError says why when it cannot be."""
    _check_file(path)
    try:
        container = av.open(path, metadata_errors="ignore")
    except av.FFmpegError as error:
        raise SourceError(f"{path}: not a video that can be read ({_reason(error)})") from None
    try:
        stream = _pick_stream(container, path, index)
    except BaseException:
        container.close()
        raise
    stream.codec_context.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return container, stream


def walk_packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of the stream that hold data, in decoding order; av.FFmpegError where the file breaks off."""
    for packet in container.demux(stream):
        if packet.size:
            yield packet


def _check_file(path: str) -> None:
    if "://" in path:
        raise SourceError(f"{path}: only files can be read; download it first")
    if not os.path.exists(path):
        raise SourceError(f"{path}: no such file")
    if os.path.isdir(path):
        raise SourceError(f"{path}: is a directory; give a video file")
    if not os.path.isfile(path):
        raise SourceError(f"{path}: not a regular file, cannot be read at random")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: permission denied")
    if os.path.getsize(path) == 0:
        raise SourceError(f"{path}: the file is empty")


def _reason(error: av.FFmpegError) -> str:
    return str(error.strerror or error).lower()


def _pick_stream(container: Any, path: str, index: int | None) -> Any:
    if index is not None:
        return container.streams[index]
    kinds = sorted({stream.type for stream in container.streams})
    candidates = [s for s in container.streams.video if s.codec_context is not None]
    if not candidates:
        if container.streams.video:
            raise SourceError(f"{path}: no decoder for its video stream")
        found = f"only {', '.join(kinds)}" if kinds else "no streams at all"
        raise SourceError(f"{path}: no video stream ({found})")
    pictures = [s for s in candidates if not _is_cover(s)]
    if not pictures:
        raise SourceError(f"{path}: no video stream (only a cover picture)")
    chosen = pictures[0]
    if chosen.codec_context.name in ("ansi", "bintext", "xbin", "idf"):
        raise SourceError(f"{path}: a text file, not a video")
    return chosen


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in str(getattr(stream, "disposition", ""))
