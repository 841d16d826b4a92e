"""The frames of a YUV4MPEG2 file, found without reading their pixels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

LONGEST_FRAME_HEADER = 80


class Place(NamedTuple):
    """Where a raw frame lies; the same attributes as a demuxed packet's."""

    pts: int
    pos: int
    size: int
    is_keyframe: bool = True
    is_discard: bool = False
    is_corrupt: bool = False


def walk_places(path: str, packets: Iterator[Any]) -> Iterator[Any]:
    """The first packet as demuxed, then the places of the frames after it; a partial frame ends the walk."""
    first = next(packets, None)
    if first is None:
        return
    yield first
    place = Place(first.pts, first.pos, first.size)
    length = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        while True:
            header_at = place.pos + place.size
            header = os.pread(file.fileno(), LONGEST_FRAME_HEADER, header_at)
            data_at = header_at + header.find(b"\n") + 1
            if not header.startswith(b"FRAME") or data_at == header_at:
                return
            if data_at + place.size > length:
                return
            place = Place(place.pts + 1, data_at, place.size)
            yield place
