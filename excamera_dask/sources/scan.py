"""The walk over a stream's packets: their times and places, which are entries, and what makes them no proof of the frames."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.format import Flags
from numpy.typing import NDArray

from excamera_dask.errors import SourceError
from excamera_dask.sources import packets as packet_checks
from excamera_dask.sources.demuxing import Demuxed, open_container, walk_packets
from excamera_dask.sources.description import NO_TIME
from excamera_dask.sources.encryption import SIDE_DATA, encrypted, is_encrypted
from excamera_dask.sources.entries import Entries
from excamera_dask.sources.packets import Said
from excamera_dask.sources.times import USUAL_RATE, PacketTimes, joined
from excamera_dask.sources.y4m_walk import Y4M, Place, walk_places

ANCHOR_SPACING = 12
DAMAGED, MARKED = "damaged packets", "packets that the container marks as damaged"
BARE = ("h264", "hevc")
"""Formats that are nothing but the codec's bitstream; libavformat guesses at their rates."""
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


def scan(path: str, demuxed: Demuxed) -> tuple[av.VideoFrame, PacketTable]:
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
            times = joined(
                times, Fraction(stream.time_base), stated_rate(self.demuxed) or USUAL_RATE
            )
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


def bare_rate(demuxed: Demuxed) -> Fraction | None:
    """Frames a second of a bitstream without a container, as it states them itself; None of any other."""
    rate = demuxed.stream.codec_context.framerate
    return Fraction(rate) if rate and demuxed.container.format.name in BARE else None


def stated_rate(demuxed: Demuxed) -> Fraction | None:
    """Frames a second as the file states them."""
    stream = demuxed.stream
    rate = bare_rate(demuxed) or stream.average_rate or stream.guessed_rate
    return Fraction(rate) if rate else None
