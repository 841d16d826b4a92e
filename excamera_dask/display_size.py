"""The display size of a WebM track, written over a placeholder: PyAV has no way to tell it to the muxer."""

from __future__ import annotations

import os
from typing import IO

from excamera_dask.ebml import SEGMENT, Element, elements

TRACKS, TRACK_ENTRY, NAME, VIDEO = 0x1654AE6B, 0xAE, 0x536E, 0xE0
DISPLAY_WIDTH, DISPLAY_HEIGHT = b"\x54\xb0\x84", b"\x54\xba\x84"
DISPLAY_PLACEHOLDER = (
    "display_sz."  # as a Name element, 14 bytes: what the two display elements take
)
HEADER_BYTES = 65536


def write_display_size(file: IO[bytes], width: int, height: int) -> None:
    """Move DisplayWidth and DisplayHeight into the one track's Video element, in place of its placeholder name.

    file: a WebM file, open for reading and writing, made with DISPLAY_PLACEHOLDER as the track's title; no byte after
    the track's header moves.
    """
    file.seek(0)
    header = bytearray(file.read(HEADER_BYTES))
    track = _find(header, _find(header, _find(header, None, SEGMENT), TRACKS), TRACK_ENTRY)
    name, video = _find(header, track, NAME), _find(header, track, VIDEO)
    size = video.stop - video.payload
    added = DISPLAY_WIDTH + width.to_bytes(4, "big") + DISPLAY_HEIGHT + height.to_bytes(4, "big")
    if (
        video.payload - video.start != 2
        or size + len(added) > 126
        or name.stop - name.start != len(added)
    ):
        raise AssertionError("the WebM muxer lays out its track otherwise than expected")
    content = header[video.payload : video.stop] + added
    element = bytes([VIDEO, 0x80 | len(content)]) + content
    entry = (
        header[name.stop : video.start] + element
        if name.start < video.start
        else element + header[video.stop : name.start]
    )
    start, stop = min(name.start, video.start), max(name.stop, video.stop)
    file.seek(start)
    file.write(entry)
    file.seek(0, os.SEEK_END)
    assert len(entry) == stop - start


def _find(data: bytearray, parent: Element | None, wanted: int) -> Element:
    start, stop = (
        (0, len(data)) if parent is None else (parent.payload, min(parent.stop, len(data)))
    )
    for element in elements(data, start, stop):
        if element.id == wanted:
            return element
    raise AssertionError(f"the WebM muxer wrote no element {wanted:x}")
