"""The index pass: which frames a source has, when they are shown, and where decoding may begin."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from excamera_dask.ebml import segment_stop
from excamera_dask.errors import SourceError
from excamera_dask.overrides import Reading
from excamera_dask.sources import packets as packet_checks
from excamera_dask.sources.choice import choice_told
from excamera_dask.sources.corrections import corrected
from excamera_dask.sources.demuxing import Demuxed, open_container, walk_packets
from excamera_dask.sources.description import (
    NO_TIME,
    UNSPECIFIED,
    VP8_DECODERS,
    Anchors,
    SourceInfo,
    stated_range,
)
from excamera_dask.sources.pixels import colour_of, is_converted, orientation_of
from excamera_dask.sources.side_data import picture_tags
from excamera_dask.sources.y4m_walk import walk_places
from excamera_dask.storage import full_name

ANCHOR_SPACING = 12
Y4M, MATROSKA = "yuv4mpegpipe", "matroska,webm"
HEADER_BYTES = 4096
LARGEST_SIDE = 16383
USUAL_RATE = Fraction(25)

SOON_RIGHT = 3
"""Frames within which times that fell back catch up, if only some frames were out of place."""


class PacketTable(NamedTuple):
    """One entry a packet, in decoding order: pts and positions int64, flags bool.

    doubts say why the packets alone cannot be trusted to tell the frames; end is the byte after the last packet.
    """

    pts: NDArray[np.int64]
    positions: NDArray[np.int64]
    keys: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    doubts: tuple[str, ...]
    warnings: tuple[str, ...]
    end: int


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
        first, table = _scan(name, demuxed)
        order, counted, warnings = _presentation_order(name, demuxed, table)
        described = _describe(name, demuxed, first, table, order, counted, warnings, reading)
        return corrected(_with_stated_matrix(described, matrix))
    finally:
        demuxed.close()


def _scan(path: str, demuxed: Demuxed) -> tuple[av.VideoFrame, PacketTable]:
    """Walk over all packets; decode only up to the first frame."""
    stream, object_ = demuxed.stream, demuxed.object
    check = packet_checks.checker(stream)
    skimmed = None if object_ is None or check.needs_data or not object_.can_skim else object_
    pts, positions, keys, shown = [], [], [], []
    doubts: set[str] = set(check.doubts)
    warnings: list[str] = []
    first: av.VideoFrame | None = None
    sync: set[int] = set()
    end = 0
    try:
        for packet in _packets(path, demuxed):
            pts.append(NO_TIME if packet.pts is None else packet.pts)
            positions.append(-1 if packet.pos is None else packet.pos)
            end = positions[-1] + packet.size
            if skimmed is not None and skimmed.skims:  # the packet is zeros
                keys.append(packet.pos in sync)
                sound, visible = True, True
            else:
                keys.append(packet.is_keyframe)
                sound, visible = check(packet)
            shown.append(visible and not packet.is_discard)
            if packet.is_corrupt or not sound:
                doubts.add("damaged packets")
            if first is None:
                first = _first_frame(stream.codec_context, packet)
                if skimmed is not None and first is not None:
                    skimmed.skims = True
                    sync = {entry.pos for entry in stream.index_entries if entry.is_keyframe}
    except av.FFmpegError:
        warnings.append("the file breaks off; what can be read of it is used")
        doubts.add("breaks off")
    if first is None:
        first = _first_frame(stream.codec_context, None)
    if first is None:
        raise SourceError(f"{path}: no video frame can be decoded ({len(pts)} packets in it)")
    table = PacketTable(
        np.array(pts, np.int64),
        np.array(positions, np.int64),
        np.array(keys, np.bool_),
        np.array(shown, np.bool_),
        tuple(sorted(doubts | _time_doubts(np.array(pts, np.int64), keys))),
        tuple(warnings),
        end,
    )
    return first, table


def _packets(path: str, demuxed: Demuxed) -> Iterator[Any]:
    packets = walk_packets(demuxed.container, demuxed.stream)
    if demuxed.container.format.name != Y4M:
        return packets
    return walk_places(path, demuxed.object, packets)


def _first_frame(context: Any, packet: Any) -> av.VideoFrame | None:
    try:
        frames = context.decode(packet)
    except (av.FFmpegError, EOFError):
        return None
    return frames[0] if frames else None


def _time_doubts(pts: NDArray[np.int64], keys: list[bool]) -> set[str]:
    doubts = set()
    if np.any(pts == NO_TIME):
        doubts.add("packets without time")
    elif np.unique(pts).size != pts.size:
        doubts.add("packets of the same time")
    if keys and not keys[0]:
        doubts.add("no key frame at the start")
    return doubts


def _presentation_order(
    path: str, demuxed: Demuxed, table: PacketTable
) -> tuple[NDArray[np.int64], str, list[str]]:
    """Ordinals of the packets that give frames, in presentation order, and how they were found."""
    stream = demuxed.stream
    warnings = list(table.warnings)
    if not table.doubts:
        shown = np.flatnonzero(table.shown)
        order = shown[np.argsort(table.pts[shown], kind="stable")]
        counted = "packets"
    else:
        order, failures = _decode_order(path, stream.index, demuxed.version)
        counted = "decoded"
        if failures:
            warnings.append(f"damaged packets: {failures} could not be decoded")
        if "damaged packets" in table.doubts and not failures:
            warnings.append("damaged packets; some pictures may show errors")
    announced = stream.frames
    if announced > len(table.pts):
        warnings.append(f"truncated: {len(order)} of {announced} frames can be read")
    elif demuxed.container.format.name == Y4M and table.end < demuxed.version[1]:
        warnings.append(f"truncated: the file breaks off within frame {len(order)}")
    elif demuxed.container.format.name == MATROSKA and _is_cut_short(demuxed):
        warnings.append(f"truncated: the file breaks off after frame {len(order) - 1}")
    if order.size == 0:
        raise SourceError(f"{path}: no video frame can be decoded")
    return order.astype(np.int64), counted, warnings


def _is_cut_short(demuxed: Demuxed) -> bool:
    """Whether a Matroska file is shorter than it says."""
    told = segment_stop(demuxed.read_start(HEADER_BYTES))
    return told is not None and told > demuxed.version[1]


def _decode_order(path: str, index: int, version: tuple[str, int]) -> tuple[NDArray[np.int64], int]:
    """Decode the whole film once; ordinals of the packets that gave frames, as the decoder emits them, and failures."""
    demuxed = open_container(path, index, version)
    container, stream = demuxed.container, demuxed.stream
    context = stream.codec_context
    emitted: list[int] = []
    failures = 0
    try:
        for ordinal, packet in enumerate(walk_packets(container, stream)):
            packet.pts = ordinal
            try:
                emitted += [f.pts for f in context.decode(packet) if f.pts is not None]
            except av.FFmpegError:
                failures += 1
    except av.FFmpegError:
        pass
    with contextlib.suppress(av.FFmpegError, EOFError):
        emitted += [f.pts for f in context.decode(None) if f.pts is not None]
    demuxed.close()
    unique = dict.fromkeys(emitted)
    return np.fromiter(unique, np.int64, len(unique)), failures


def _times(
    stream: Any, table: PacketTable, order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Fraction]:
    """Strictly rising presentation times from 0, and their unit; an even rate where packets carry no times."""
    pts = table.pts[order]
    if np.any(pts == NO_TIME):
        rate = stream.guessed_rate or stream.average_rate or USUAL_RATE
        return np.arange(order.size, dtype=np.int64), 1 / Fraction(rate)
    if np.any(np.diff(pts) <= 0):
        if np.all(np.diff(table.pts) > 0):  # times of decoding, as AVI has them
            pts = np.sort(pts)
        return _repaired_times(pts), Fraction(stream.time_base)
    return pts - pts[0], Fraction(stream.time_base)


def _rate(stream: Any, times: NDArray[np.int64], time_base: Fraction) -> Fraction:
    """Mean frames a second: of even times themselves, else as the file states it, where two frames are ever so near."""
    stated = Fraction(stream.average_rate or stream.guessed_rate or USUAL_RATE)
    steps = np.unique(np.diff(times))
    if steps.size == 0:
        return stated
    fastest = 1 / (int(steps[0]) * time_base)
    return fastest if steps.size == 1 and len(times) > 2 else min(stated, fastest)


def _repaired_times(pts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rising times: where they begin anew, as in files put one behind another, the film goes on at its usual pace;
    frames that are out of place for a moment come right after the one before.
    """
    changes = np.diff(pts)
    usual = int(np.median(changes[changes > 0])) if np.any(changes > 0) else 1
    moved = pts.copy()
    for before in np.flatnonzero(changes < 0).tolist():
        after = pts[before + 2 : before + 2 + SOON_RIGHT]
        if not np.any(after > pts[before]):
            moved[before + 1 :] += usual - changes[before]
    steps = np.arange(pts.size)
    return np.maximum.accumulate(moved - steps) + steps - pts[0]


def _anchors(table: PacketTable, order: NDArray[np.int64]) -> Anchors:
    """Key packets from which all later frames can be decoded, at least ANCHOR_SPACING frames apart.

    A key packet a shown as frame p qualifies when every frame from p on comes from a packet not before a (open groups
    of pictures do too: their leading pictures belong to the anchor before).
    """
    frame_of = np.full(table.pts.size, -1, np.int64)
    frame_of[order] = np.arange(order.size)
    earliest_after = np.minimum.accumulate(order[::-1])[::-1]
    chosen = [(0, 0)]
    for packet in np.flatnonzero(table.keys):
        frame = int(frame_of[packet])
        if frame >= chosen[-1][0] + ANCHOR_SPACING and earliest_after[frame] == packet:
            chosen.append((frame, int(packet)))
    frames, packets = (np.array(column, np.int64) for column in zip(*chosen, strict=True))
    return Anchors(frames, packets, table.positions[packets], table.pts[packets])


def _describe(
    path: str,
    demuxed: Demuxed,
    first: av.VideoFrame,
    table: PacketTable,
    order: NDArray[np.int64],
    counted: str,
    warnings: list[str],
    reading: Reading,
) -> SourceInfo:
    container, stream = demuxed.container, demuxed.stream
    codec = stream.codec_context.codec.name
    stated = stated_range(codec, reading)
    choice = choice_told(stream, container.streams.video) if reading.stream is None else None
    version, size = demuxed.version
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
    times, time_base = _times(stream, table, order)
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
        time_base=time_base,
        average_rate=_rate(stream, times, time_base),
        colour=colour_of(first, stated),
        sample_aspect=1 / aspect if orientation.transpose else aspect,
        orientation=orientation,
        rotation=rotation,
        interlaced=bool(first.interlaced_frame),
        all_times=times,
        order=order,
        anchors=_anchors(table, order),
        counted=counted,
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


def _sample_aspect(stream: Any) -> Fraction:
    aspect = stream.sample_aspect_ratio
    return Fraction(aspect) if aspect else Fraction(1)
