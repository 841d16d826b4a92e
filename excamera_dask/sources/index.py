"""The description of a source: which frames it has, when they are shown, and where decoding may begin."""

from __future__ import annotations

import dataclasses
import os
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from excamera_dask.errors import SourceError
from excamera_dask.overrides import Reading
from excamera_dask.sources import packets as packet_checks
from excamera_dask.sources.choice import choice_told
from excamera_dask.sources.corrections import corrected
from excamera_dask.sources.counting import AVI, MATROSKA, Counted, counted_frames, is_whole_matroska
from excamera_dask.sources.demuxing import Demuxed, open_container
from excamera_dask.sources.description import (
    UNSPECIFIED,
    VP8_DECODERS,
    Anchors,
    SourceInfo,
    stated_range,
)
from excamera_dask.sources.identity import check_unchanged
from excamera_dask.sources.pixels import colour_of, is_converted, orientation_of
from excamera_dask.sources.scan import PacketTable, bare_rate, scan, stated_rate
from excamera_dask.sources.side_data import picture_tags
from excamera_dask.sources.times import USUAL_RATE, as_given, frame_times, mean_rate
from excamera_dask.storage import full_name

LARGEST_SIDE = 16383
LEAD_IN = {"av1": 0, "vp9": 0, "vp8": 2}
"""Anchors before the nearest at which to come in, where a decoder leaves what it cannot read as the buffer was; 1 with
most, 0 with those that tell of it or drop the whole picture."""


def open_source(path: str | os.PathLike[str], reading: Reading | None = None) -> SourceInfo:
    """Describe a video, a file or an object; one pass over its packets, and one over its frames where packets do not
    tell all. The media data of an MP4 object are not fetched where its index tells all; then nobody looks for damage.

    reading: which stream is meant, and what is true where the file says otherwise or nothing.

    Raises SourceError, one line, when there is no readable video frame; StorageError for the troubles of a store.
    """
    name = full_name(path)
    reading = reading or Reading()
    demuxed = open_container(name, reading.stream)
    matrix = int(demuxed.stream.codec_context.colorspace)
    try:
        first, table = scan(name, demuxed)
        counted = counted_frames(name, demuxed, table)
        described = _describe(name, demuxed, first, table, counted, reading)
    finally:
        demuxed.close()
    check_unchanged(described)
    return corrected(_with_stated_matrix(described, matrix))


def _anchors(table: PacketTable, order: NDArray[np.int64], spoilt: NDArray[np.int64]) -> Anchors:
    """Entries from which all later frames can be decoded.

    An entry a shown as frame p qualifies when every frame from p on comes from a packet not before a (open groups of
    pictures do too: their leading pictures belong to the anchor before), and when no packet from a to the next one is
    `spoilt`: what a decoder conceals right behind an entry may lean on what was before.
    """
    frame_of = np.full(table.positions.size, -1, np.int64)
    frame_of[order] = np.arange(order.size)
    earliest_after = np.minimum.accumulate(order[::-1])[::-1]
    spoilt_before = np.searchsorted(spoilt, [*table.entries, table.positions.size])
    chosen = [(0, 0)]
    for place, packet in enumerate(table.entries):
        frame = int(frame_of[packet])
        clean = spoilt_before[place] == spoilt_before[place + 1]
        if frame > chosen[-1][0] and earliest_after[frame] == packet and clean:
            chosen.append((frame, packet))
    frames, packets = (np.array(column, np.int64) for column in zip(*chosen, strict=True))
    return Anchors(frames, packets, table.positions[packets], table.stamps[packets])


def _describe(
    path: str,
    demuxed: Demuxed,
    first: av.VideoFrame,
    table: PacketTable,
    counted: Counted,
    reading: Reading,
) -> SourceInfo:
    container, stream = demuxed.container, demuxed.stream
    codec = stream.codec_context.codec.name
    stated = stated_range(codec, reading)
    choice = choice_told(stream, container.streams.video) if reading.stream is None else None
    version, size = demuxed.version
    order, warnings = counted.order, counted.warnings
    orientation, rotation, right_angled = orientation_of(first)
    if not right_angled:
        warnings.append(f"rotation by {rotation} degrees is not a right angle; ignored")
    width, height = first.width, first.height
    shown = (height, width) if orientation.transpose else (width, height)
    if max(shown) > LARGEST_SIDE:
        raise SourceError(
            f"{path}: {shown[0]}x{shown[1]} is too large for VP8 (at most {LARGEST_SIDE})"
        )
    aspect = _sample_aspect(stream)
    told_rate = stated_rate(demuxed)
    rate = Fraction(bare_rate(demuxed) or stream.guessed_rate or told_rate or USUAL_RATE)
    packet_times = table.times
    if container.format.name == AVI:
        packet_times = as_given(packet_times, order, counted.fed)
    times = frame_times(
        packet_times, order, Fraction(stream.time_base), rate, _origin(demuxed), _end(demuxed)
    )
    check = packet_checks.checker(stream)
    return SourceInfo(
        path=path,
        version=version,
        file_size=size,
        container=container.format.name,
        codec=codec,
        stream_index=stream.index,
        pixel_format=first.format.name,
        converted=is_converted(first, stated),
        coded_width=width,
        coded_height=height,
        width=shown[0],
        height=shown[1],
        time_base=times.unit,
        average_rate=mean_rate(times.times, times.unit, told_rate),
        colour=colour_of(first, stated),
        sample_aspect=1 / aspect if orientation.transpose else aspect,
        orientation=orientation,
        rotation=rotation,
        interlaced=bool(first.interlaced_frame),
        all_times=times.times,
        end=times.end,
        start=times.start,
        order=order,
        anchors=_anchors(table, order, counted.spoilt),
        lead_in=0 if check.marks_damage else LEAD_IN.get(packet_checks.codec_name(stream), 1),
        settled=counted.how == "decoded",
        proven=not _is_skimmed(demuxed),
        steady=table.steady and not (_is_skimmed(demuxed) and _may_tell_in_packets(stream)),
        counted=counted.how,
        warnings=tuple(warnings),
        notices=(choice,) if choice else (),
        tags=picture_tags(first, container, stream, orientation),
        reading=reading,
        skip=0,
        frame_count=int(order.size),
    )


def _with_stated_matrix(source: SourceInfo, matrix: int) -> SourceInfo:
    """VP8 frames say BT.601 of whatever they hold; what their container says counts for more."""
    if source.codec not in VP8_DECODERS or matrix == UNSPECIFIED:
        return source
    return dataclasses.replace(source, colour=source.colour._replace(matrix=matrix))


def _origin(demuxed: Demuxed) -> int | None:
    """When the file's earliest stream begins, in units of the video's time base."""
    start = demuxed.container.start_time
    return None if start is None else _in_ticks(demuxed, start)


def _end(demuxed: Demuxed) -> int | None:
    """When the file says that it ends: whole Matroska tells that, and not how long its last frame is shown."""
    container = demuxed.container
    alone = len(container.streams) == 1 and container.format.name == MATROSKA
    if not alone or not container.duration or not is_whole_matroska(demuxed):
        return None
    return _in_ticks(demuxed, container.duration)


def _in_ticks(demuxed: Demuxed, microseconds: int) -> int:
    return round(Fraction(microseconds, av.time_base) / demuxed.stream.time_base)


def _is_skimmed(demuxed: Demuxed) -> bool:
    return demuxed.object is not None and demuxed.object.skims


def _may_tell_in_packets(stream: Any) -> bool:
    """Whether parameter sets may lie in packets, by the sample entry (ISO/IEC 14496-15 5.4.2, 8.4.1)."""
    return stream.codec_context.codec_tag in ("avc3", "hev1")


def _sample_aspect(stream: Any) -> Fraction:
    aspect = stream.sample_aspect_ratio
    return Fraction(aspect) if aspect else Fraction(1)
