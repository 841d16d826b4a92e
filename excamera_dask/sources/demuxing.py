"""Opening a file and walking over the packets of its video stream, the same way at every reading."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import av
from av.bitstream import BitStreamFilterContext

from excamera_dask.errors import SourceError
from excamera_dask.sources.choice import begun_stream, choose_stream
from excamera_dask.sources.encryption import check_clear, check_readable, opened_again
from excamera_dask.sources.skimming import SkimmedFile, fetch_index, top_level_boxes
from excamera_dask.storage import S3Url, locate
from excamera_dask.storage.bucket import ObjectInfo
from excamera_dask.storage.errors import reason_of
from excamera_dask.storage.object_file import ObjectFile

SAMPLES, SAMPLE_BYTES = 32, 4096
"""Of a file, by which its content is told from another's."""


class Demuxed(NamedTuple):
    """An open container, its video stream with the decoder set to one thread, and the object it is read from, if any.

    version: what tells these bytes from others (`file_version`, or an ETag), and their number, from before the first
    of them was read.
    """

    container: Any
    stream: Any
    object: SkimmedFile | None
    version: tuple[str, int]

    def read_at(self, position: int, count: int) -> bytes:
        """Bytes of the file; not to be asked for between packets."""
        with opened_again(self.container.name, self.object) as file:
            file.seek(position)
            return file.read(count)

    def close(self) -> None:
        self.container.close()
        if self.object is not None:
            self.object.close()


def open_container(
    path: str, wanted: int | str | None = None, version: tuple[str, int] | None = None
) -> Demuxed:
    """Open a file or an object; SourceError or StorageError say why when it cannot be.

    wanted: the stream, as `choice.choose_stream` takes it.
    version: of the object that is meant, as `Demuxed.version` told it; reading another raises ObjectChanged.
    """
    place = locate(path)
    opened = _open_object(place, version) if isinstance(place, S3Url) else None
    if opened is None:
        _check_file(path)
        found = file_version(path)
    else:
        found = (opened.info.etag, opened.size)
    try:
        container = av.open(opened or path, metadata_errors="ignore")
    except av.FFmpegError as error:
        with opened_again(path, opened) as file:
            check_readable(path, file)
        raise SourceError(f"{path}: not a video that can be read ({_reason(error)})") from None
    demuxed = Demuxed(container, None, opened, found)
    try:
        stream = choose_stream(container, path, wanted)
        begun = begun_stream(container) if wanted is None else None
        with opened_again(container.name, opened) as file:
            check_clear(container, stream, path, file)
    except BaseException:
        demuxed.close()
        raise
    if begun is not None:
        demuxed.close()
        return open_container(path, begun, version)
    stream.codec_context.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return demuxed._replace(stream=stream)


def file_version(path: str) -> tuple[str, int]:
    """What tells what a file holds from what it held: modification time (ns) and a digest of samples; and its bytes.

    Samples are taken again where anything about the file has changed, for its time can be set back. Raises OSError.
    """
    status = os.stat(path)
    digest = _sampled(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return f"{status.st_mtime_ns}-{digest}", status.st_size


@functools.lru_cache(maxsize=64)
def _sampled(path: str, size: int, *told: int) -> str:
    """A digest of SAMPLES blocks of a file, evenly spread from its first bytes to its last; anew for other arguments."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        for number in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _open_object(url: S3Url, version: tuple[str, int] | None) -> SkimmedFile:
    info = None if version is None else ObjectInfo(url.key, version[1], version[0])
    file = ObjectFile(url, info)
    if file.size == 0:
        raise SourceError(f"{url}: the object is empty")
    boxes = top_level_boxes(file)
    fetch_index(file, boxes)
    return SkimmedFile(file, boxes)


def walk_packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of the stream that hold data, in decoding order; av.FFmpegError where the file breaks off.

    Of MPEG-4 part 2, each holds one picture, also where the file packs two of them into one.
    """
    unpack = None
    if stream.codec_context.codec.name == "mpeg4":
        unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    for packet in container.demux(stream):
        if packet.size and unpack is not None:
            yield from unpack.filter(packet)
        elif packet.size:
            yield packet


def _check_file(path: str) -> None:
    try:
        os.stat(path)
    except OSError as error:
        raise SourceError(f"{path}: {reason_of(error)}") from None
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
