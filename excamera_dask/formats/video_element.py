"""The Video element of a WebM track, completed over a placeholder: PyAV has no way to tell the muxer all of it."""

from __future__ import annotations

import os
from typing import IO

from excamera_dask.formats.ebml import SEGMENT, Element, elements, written

TRACKS, TRACK_ENTRY, NAME, VIDEO = 0x1654AE6B, 0xAE, 0x536E, 0xE0
HEADER_BYTES = 65536
LONGEST_SHORT = 126
"""Bytes of a payload whose size fits in one byte."""


def placeholder(added: bytes) -> str:
    """A title for the track that takes as many bytes as completing its Video element by `added` will."""
    name_header = 3
    room = len(added) + 1 - name_header  # a byte more: the Video element's size gets longer
    if room > LONGEST_SHORT:
        room = max(room - 1, LONGEST_SHORT + 1)
    return "." * room


def complete_video(file: IO[bytes], added: bytes) -> None:
    """Append elements to the one track's Video element, in place of its title.

    file: a WebM file, open for reading and writing, made with `placeholder(added)` as the track's title; no byte after
    the track's header moves.
    """
    file.seek(0)
    header = bytearray(file.read(HEADER_BYTES))
    track = _find(header, _find(header, _find(header, None, SEGMENT), TRACKS), TRACK_ENTRY)
    name, video = _find(header, track, NAME), _find(header, track, VIDEO)
    content = bytes(header[video.payload : video.stop]) + added
    start, stop = min(name.start, video.start), max(name.stop, video.stop)
    if name.start < video.start:
        before, after = bytes(header[name.stop : video.start]), b""
    else:
        before, after = b"", bytes(header[video.stop : name.start])
    size_bytes = stop - start - len(before) - len(after) - len(content) - 1
    file.seek(start)
    file.write(before + written(VIDEO, content, size_bytes) + after)
    assert file.tell() == stop
    file.seek(0, os.SEEK_END)


def _find(data: bytearray, parent: Element | None, wanted: int) -> Element:
    start, stop = (
        (0, len(data)) if parent is None else (parent.payload, min(parent.stop, len(data)))
    )
    for element in elements(data, start, stop):
        if element.id == wanted:
            return element
    raise AssertionError(f"the WebM muxer wrote no element {wanted:x}")
