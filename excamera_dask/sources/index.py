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
from av.format import Flags
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
from excamera_dask.sources.encryption import MP4, SIDE_DATA, encrypted, is_encrypted
from excamera_dask.sources.entries import Entries
from excamera_dask.sources.packets import Said
from excamera_dask.sources.pixels import colour_of, is_converted, orientation_of
from excamera_dask.sources.side_data import picture_tags
from excamera_dask.sources.times import USUAL_RATE, PacketTimes, frame_times, joined, mean_rate
from excamera_dask.sources.y4m_walk import Place, walk_places
from excamera_dask.storage import full_name

ANCHOR_SPACING = 12
Y4M, MATROSKA = "yuv4mpegpipe", "matroska,webm"
HEADER_BYTES = 4096
LARGEST_SIDE = 16383
LEAD_IN = {"av1": 0, "vp9": 0, "vp8": 2}
"""Anchors before the nearest at which to come in, where a decoder leaves what it cannot read as the buffer was; 1 with
most, 0 with those that tell of it or drop the whole picture."""
DAMAGED, MARKED = "damaged packets", "packets that the container marks as damaged"
SAMPLES = 8
SAMPLE_BYTES = 16384


class PacketTable(NamedTuple):
    """One entry a packet, in decoding order: times, positions int64, shown bool; times go on where the file jumps.

    stamps (P,) int64 are the presentation times as the file has them. entries are the ordinals of packets at which
    decoding may begin. doubts say why the packets alone cannot be trusted to tell the frames; marks_damage and
    steady as a Checker has them; end is the byte after the last packet.
    """

    times: PacketTimes
    stamps: NDArray[np.int64]
    positions: NDArray[np.int64]
    shown: NDArray[np.bool_]
    entries: list[int]
    doubts: tuple[str, ...]
    marks_damage: bool
    steady: bool
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
        counted = _counted(name, demuxed, table)
        described = _describe(name, demuxed, first, table, counted, reading)
        return corrected(_with_stated_matrix(described, matrix))
    finally:
        demuxed.close()


def _scan(path: str, demuxed: Demuxed) -> tuple[av.VideoFrame, PacketTable]:
    """Walk over all packets; decode up to the first frame, and those at which decoding may begin."""
    check = packet_checks.checker(demuxed.stream)
    skimmed = demuxed.object if _can_skim(demuxed, check) else None
    with _prover(path, demuxed, check, skimmed) as context:
        walk = _Walk(demuxed, check, skimmed, Entries(context, check, ANCHOR_SPACING))
        warnings = []
        try:
            for packet in _packets(path, demuxed):
                walk.see(packet)
        except av.FFmpegError:
            warnings.append("the file breaks off; what can be read of it is used")
            walk.doubts.add("breaks off")
        first = walk.first or _first_frame(demuxed.stream.codec_context, None)
        if first is None:
            raise SourceError(
                f"{path}: no video frame can be decoded ({len(walk.rows)} packets in it)"
            )
        return first, walk.table(warnings)


def _can_skim(demuxed: Demuxed, check: packet_checks.Checker) -> bool:
    """Whether the index of an object tells all: not its bytes, of which those of some key packets are looked at."""
    object_ = demuxed.object
    if object_ is None or check.needs_data or not object_.can_skim:
        return False
    keys = [entry for entry in demuxed.stream.index_entries if entry.is_keyframe]
    for key in keys[:: max(1, len(keys) // SAMPLES)]:
        object_.file.seek(key.pos)
        if not check.is_entry(object_.file.read(min(key.size, SAMPLE_BYTES))):
            return False
    return True


@contextlib.contextmanager
def _prover(
    path: str, demuxed: Demuxed, check: packet_checks.Checker, skimmed: object
) -> Iterator[Any]:
    """A second decoder of the same stream; None where packets are not read, or no picture leans on another."""
    if skimmed is not None or check.look is None:
        yield None
        return
    second = open_container(path, demuxed.stream.index, demuxed.version)
    try:
        yield second.stream.codec_context
    finally:
        second.close()


class _Walk:
    """What is seen of the packets of a stream, one after another."""

    def __init__(
        self,
        demuxed: Demuxed,
        check: packet_checks.Checker,
        skimmed: Any,
        entries: Entries,
    ) -> None:
        self.demuxed, self.check, self.skimmed, self.entries = demuxed, check, skimmed, entries
        self.rows: list[tuple[int, int, int, int, bool]] = []
        self.doubts: set[str] = set(check.doubts)
        self.first: av.VideoFrame | None = None
        self.end = 0
        self._sync: set[int] = set()

    def see(self, packet: Any) -> None:
        position = -1 if packet.pos is None else packet.pos
        self.end = position + packet.size
        number = len(self.rows)
        if not isinstance(packet, Place) and is_encrypted(packet):
            raise encrypted(self.demuxed.container.name, self.demuxed.stream.index, SIDE_DATA)
        if self.skimmed is not None and self.skimmed.skims:  # the packet is zeros
            said = Said(True, True, position in self._sync)
        else:
            said = self.check(packet)
            if number == 0 and not (packet.is_keyframe and self.check.is_start(packet)):
                self.doubts.add("no key frame at the start")
        if packet.is_corrupt:
            self.doubts.add(MARKED)
        if not said.sound:
            self.doubts.add(DAMAGED)
        if said.resets:
            self.doubts.add("pictures that may be dropped")
        pts, dts = (NO_TIME if time is None else time for time in (packet.pts, packet.dts))
        shown = said.shown and not packet.is_discard
        self.rows.append((pts, dts, packet.duration or 0, position, shown))
        if self.first is None:
            self._look_for_first(packet)
        self.entries.see(number, packet, said.entry and not packet.is_discard)

    def _look_for_first(self, packet: Any) -> None:
        stream = self.demuxed.stream
        self.first = _first_frame(stream.codec_context, packet)
        if self.skimmed is not None and self.first is not None:
            self.skimmed.skims = True
            self._sync = {entry.pos for entry in stream.index_entries if entry.is_keyframe}

    def table(self, warnings: list[str]) -> PacketTable:
        entries = self.entries.finish()
        if self.entries.damaged:
            self.doubts.add(DAMAGED)
        pts, dts, durations, positions, shown = (
            np.array(column) for column in zip(*self.rows, strict=True)
        )
        times = PacketTimes(*(column.astype(np.int64) for column in (pts, dts, durations)))
        stream, format_ = self.demuxed.stream, self.demuxed.container.format
        if format_.flags & Flags.ts_discont.value:
            times = joined(times, Fraction(stream.time_base), _stated_rate(stream) or USUAL_RATE)
        return PacketTable(
            times,
            pts.astype(np.int64),
            positions.astype(np.int64),
            shown.astype(np.bool_),
            entries,
            tuple(sorted(self.doubts | _time_doubts(times.pts))),
            self.check.marks_damage,
            self.check.is_steady,
            tuple(warnings),
            self.end,
        )


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


def _time_doubts(pts: NDArray[np.int64]) -> set[str]:
    if np.any(pts == NO_TIME):
        return {"packets without time"}
    if np.unique(pts).size != pts.size:
        return {"packets of the same time"}
    return set()


class Counted(NamedTuple):
    """The frames: order (T,) int64 ordinals of the packets that give them, in presentation order; how they were counted;
    spoilt int64, rising, ordinals of packets that the decoder complained of, where it decoded the whole film.
    """

    order: NDArray[np.int64]
    how: str
    spoilt: NDArray[np.int64]
    warnings: list[str]


def _counted(path: str, demuxed: Demuxed, table: PacketTable) -> Counted:
    """Count the frames by their packets, or by decoding them where packets do not tell."""
    if table.doubts:
        counted = _decode_order(path, demuxed.stream.index, demuxed.version)
        told = counted.spoilt.size or (MARKED in table.doubts and not table.marks_damage)
        if (told or DAMAGED in table.doubts) and not counted.warnings:
            counted.warnings.append("damaged packets; some pictures may show errors")
    else:
        shown = np.flatnonzero(table.shown)
        order = shown[np.argsort(table.times.pts[shown], kind="stable")].astype(np.int64)
        counted = Counted(order, "packets", np.zeros(0, np.int64), [])
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
    if announced > len(table.positions):
        return [f"truncated: {frames} of {announced} frames can be read"]
    if format_ == Y4M and table.end < demuxed.version[1]:
        return [f"truncated: the file breaks off within frame {frames}"]
    if format_ == MATROSKA and _is_cut_short(demuxed):
        return [f"truncated: the file breaks off after frame {frames - 1}"]
    return []


def _is_cut_short(demuxed: Demuxed) -> bool:
    """Whether a Matroska file is shorter than it says."""
    told = segment_stop(demuxed.read_start(HEADER_BYTES))
    return told is not None and told > demuxed.version[1]


def _decode_order(path: str, index: int, version: tuple[str, int]) -> Counted:
    """Decode the whole film once: packets that give frames as the decoder emits them, packets that it complains of."""
    demuxed = open_container(path, index, version)
    container, stream = demuxed.container, demuxed.stream
    context = stream.codec_context
    emitted: list[int] = []
    spoilt: set[int] = set()
    failures = 0

    def take(frames: list[Any]) -> None:
        known = [frame for frame in frames if frame.pts is not None]
        emitted.extend(frame.pts for frame in known)
        spoilt.update(frame.pts for frame in known if frame.is_corrupt)

    try:
        for ordinal, packet in enumerate(walk_packets(container, stream)):
            packet.pts = ordinal
            try:
                take(context.decode(packet))
            except av.FFmpegError:
                failures += 1
                spoilt.add(ordinal)
    except av.FFmpegError:
        pass
    with contextlib.suppress(av.FFmpegError, EOFError):
        take(context.decode(None))
    demuxed.close()
    unique = dict.fromkeys(emitted)
    warnings = [f"damaged packets: {failures} could not be decoded"] if failures else []
    order = np.fromiter(unique, np.int64, len(unique))
    return Counted(order, "decoded", np.array(sorted(spoilt), np.int64), warnings)


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
    stated_rate = _stated_rate(stream)
    rate = Fraction(stream.guessed_rate or stated_rate or USUAL_RATE)
    times = frame_times(
        table.times, order, Fraction(stream.time_base), rate, _origin(demuxed), _end(demuxed)
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
        average_rate=mean_rate(times.times, times.unit, stated_rate),
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


def _stated_rate(stream: Any) -> Fraction | None:
    rate = stream.average_rate or stream.guessed_rate
    return Fraction(rate) if rate else None


def _origin(demuxed: Demuxed) -> int | None:
    """When the file's earliest stream begins, in units of the video's time base."""
    start = demuxed.container.start_time
    return None if start is None else _in_ticks(demuxed, start)


def _end(demuxed: Demuxed) -> int | None:
    """When the file says that it ends: Matroska tells that, and not how long its last frame is shown."""
    container = demuxed.container
    alone = len(container.streams) == 1 and container.format.name == MATROSKA
    return _in_ticks(demuxed, container.duration) if alone and container.duration else None


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
