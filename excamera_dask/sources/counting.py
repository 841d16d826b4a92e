"""How many frames a source has, and which packets give them: by the packets, or by decoding all where they do not tell."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from excamera_dask.errors import SourceError
from excamera_dask.formats.ebml import segment_stop
from excamera_dask.sources.demuxing import Demuxed, open_container, walk_packets
from excamera_dask.sources.encryption import MP4
from excamera_dask.sources.scan import DAMAGED, MARKED, PacketTable
from excamera_dask.sources.y4m_walk import Y4M

AVI = "avi"
MATROSKA = "matroska,webm"
RIFF_HEADER = 8
HEADER_BYTES = 4096


class Counted(NamedTuple):
    """The frames: order (T,) int64 ordinals of the packets that give them, in presentation order; how they were counted;
    fed (T,) int64 ordinals of the packets upon which the decoder gave them, -1 at its end; spoilt int64, rising, ordinals
    of packets that it complained of, where it decoded the whole film.
    """

    order: NDArray[np.int64]
    fed: NDArray[np.int64]
    how: str
    spoilt: NDArray[np.int64]
    warnings: list[str]


def counted_frames(path: str, demuxed: Demuxed, table: PacketTable) -> Counted:
    """Count the frames by their packets, or by decoding them where packets do not tell."""
    if table.doubts:
        counted = _decode_order(path, demuxed.stream.index, demuxed.version)
        told = counted.spoilt.size or (MARKED in table.doubts and not table.marks_damage)
        if (told or DAMAGED in table.doubts) and not counted.warnings:
            counted.warnings.append("damaged packets; some pictures may show errors")
    else:
        shown = np.flatnonzero(table.shown)
        order = shown[np.argsort(table.times.pts[shown], kind="stable")].astype(np.int64)
        counted = Counted(order, order, "packets", np.zeros(0, np.int64), [])
    frames = len(counted.order)
    if frames == 0:
        raise SourceError(f"{path}: no video frame can be decoded")
    counted.warnings[:0] = [*table.warnings, *_cut_short(demuxed, table, frames)]
    return counted


def _cut_short(demuxed: Demuxed, table: PacketTable, frames: int) -> list[str]:
    """What the file says of frames that are not in it."""
    announced, format_ = demuxed.stream.frames, demuxed.container.format.name
    if format_ == MP4:  # an edit list may leave frames out, or show them twice
        announced = len(demuxed.stream.index_entries)
    if format_ == AVI and is_whole_avi(demuxed):  # a chunk without a byte holds the picture before
        announced = 0
    if announced > len(table.positions):
        return [f"truncated: {frames} of {announced} frames can be read"]
    if format_ == Y4M and table.end < demuxed.version[1]:
        return [f"truncated: the file breaks off within frame {frames}"]
    if format_ == MATROSKA and is_whole_matroska(demuxed) is False:
        return [f"truncated: the file breaks off after frame {frames - 1}"]
    return []


def is_whole_avi(demuxed: Demuxed) -> bool:
    """Whether an AVI file is as long as its RIFF chunks say, of which there may be several."""
    at, size = 0, demuxed.version[1]
    while at < size:
        header = demuxed.read_at(at, RIFF_HEADER)
        length = int.from_bytes(header[4:], "little")
        if header[:4] != b"RIFF" or not length:
            return at > 0
        at += RIFF_HEADER + length + length % 2
    return at <= size + 1  # the last may lack what pads it


def is_whole_matroska(demuxed: Demuxed) -> bool | None:
    """Whether a Matroska file is as long as it says; None where it does not, as one that is written while it is sent."""
    told = segment_stop(demuxed.read_at(0, HEADER_BYTES))
    return None if told is None else told <= demuxed.version[1]


def _decode_order(path: str, index: int, version: tuple[str, int]) -> Counted:
    """Decode the whole film once: packets that give frames as the decoder emits them, packets that it complains of."""
    demuxed = open_container(path, index, version)
    container, stream = demuxed.container, demuxed.stream
    context = stream.codec_context
    emitted: dict[int, int] = {}
    spoilt: set[int] = set()
    failures = 0

    def take(frames: list[Any], fed: int) -> None:
        known = [frame for frame in frames if frame.pts is not None]
        for frame in known:
            emitted.setdefault(frame.pts, fed)
        spoilt.update(frame.pts for frame in known if frame.is_corrupt)

    try:
        for ordinal, packet in enumerate(walk_packets(container, stream)):
            packet.pts = ordinal
            try:
                take(context.decode(packet), ordinal)
            except av.FFmpegError:
                failures += 1
                spoilt.add(ordinal)
    except av.FFmpegError:
        pass
    with contextlib.suppress(av.FFmpegError, EOFError):
        take(context.decode(None), -1)
    demuxed.close()
    warnings = [f"damaged packets: {failures} could not be decoded"] if failures else []
    order, fed = (np.fromiter(each, np.int64, len(emitted)) for each in (emitted, emitted.values()))
    return Counted(order, fed, "decoded", np.array(sorted(spoilt), np.int64), warnings)
