"""The frames of a YUV4MPEG2 file, found without reading their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from excamera_dask.storage.locations import locate

Y4M = "yuv4mpegpipe"
LONGEST_FRAME_HEADER = 80
USUAL_FRAME_HEADER = b"FRAME\n"
SAMPLES = 3


class Place(NamedTuple):
    """Where a raw frame lies; the same attributes as a demuxed packet's."""

    pts: int
    pos: int
    size: int
    duration: int = 1
    is_keyframe: bool = True
    is_discard: bool = False
    is_corrupt: bool = False

    @property
    def dts(self) -> int:
        return self.pts


def walk_places(path: str, object_: Any, packets: Iterator[Any]) -> Iterator[Any]:
    """The first packet as demuxed, then the places of the frames after it; a partial frame ends the walk.

    object_: the open object, where `path` is the URL of one.
    """
    first = next(packets, None)
    if first is None:
        return
    yield first
    place = Place(first.pts, first.pos, first.size)
    if object_ is not None:
        yield from _evenly_spaced(object_, place) or _walk(object_, place)
        return
    with open(str(locate(path)), "rb", buffering=0) as file:
        yield from _walk(file, place)


def _walk(file: IO[bytes], place: Place) -> Iterator[Place]:
    length = file.seek(0, 2)
    while True:
        header_at = place.pos + place.size
        file.seek(header_at)
        header = file.read(LONGEST_FRAME_HEADER)
        data_at = header_at + header.find(b"\n") + 1
        if not header.startswith(b"FRAME") or data_at == header_at:
            return
        if data_at + place.size > length:
            return
        place = Place(place.pts + 1, data_at, place.size)
        yield place


def _evenly_spaced(file: IO[bytes], first: Place) -> list[Place]:
    """The frames after the first if they lie evenly, as samples show: no request a frame; else none."""
    length = file.seek(0, 2)
    step = len(USUAL_FRAME_HEADER) + first.size
    count = (length - first.pos - first.size) // step
    for sample in {count * part // SAMPLES for part in range(1, SAMPLES + 1)} if count else ():
        file.seek(first.pos + sample * step - len(USUAL_FRAME_HEADER))
        if file.read(len(USUAL_FRAME_HEADER)) != USUAL_FRAME_HEADER:
            return []
    numbers = range(1, count + 1)
    return [Place(first.pts + n, first.pos + n * step, first.size) for n in numbers]
