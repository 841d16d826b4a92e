"""When frames are shown: what packets say of it, mended where it cannot be true."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from excamera_dask.sources.description import NO_TIME

USUAL_RATE = Fraction(25)
LARGEST_JUMP = 10
"""Seconds beyond which a jump of times is a new beginning, in formats that are cut and joined (as ffmpeg takes it)."""
SMALLEST_RETURN = Fraction(1, 10)
"""Seconds by which times must fall back to be one."""
SOON_RIGHT = 3
"""Frames within which times that fell back catch up, if only some frames were out of place."""
REORDERED = 32
"""Frames at the end of a film among which the one decoded last is."""


class PacketTimes(NamedTuple):
    """One entry a packet, in decoding order, int64 in the stream's time base: NO_TIME where unknown, 0 for no duration."""

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    durations: NDArray[np.int64]


class FrameTimes(NamedTuple):
    """Strictly rising times from 0 of each frame, (T,) int64, and the end of the last, in units of `unit` seconds.

    start: seconds from the beginning of the file's earliest stream to the first frame.
    """

    times: NDArray[np.int64]
    end: int
    unit: Fraction
    start: Fraction


def joined(packets: PacketTimes, unit: Fraction, rate: Fraction) -> PacketTimes:
    """The same packets with times that go on where the file jumps: captures that were put one behind another.

    As ffmpeg does: what counts is the time of decoding that is to be expected after the packet before. A packet at a joint
    may carry the presentation time of the one after it, which is then unknown.
    """
    threshold, back = int(LARGEST_JUMP / unit), int(SMALLEST_RETURN / unit)
    usual = int(1 / (rate * unit))
    shifts = np.zeros(packets.dts.size, np.int64)
    shift, last, expected = 0, None, None
    for number, (dts, duration) in enumerate(
        zip(packets.dts.tolist(), packets.durations.tolist(), strict=True)
    ):
        if dts != NO_TIME:
            if expected is not None and last is not None:
                jump = dts + shift - expected
                if abs(jump) > threshold or dts + shift + back < last:
                    shift -= jump
            last = dts + shift
            expected = last
        if expected is not None:
            expected += duration or usual
        shifts[number] = shift
    pts, dts_ = (np.where(t == NO_TIME, NO_TIME, t + shifts) for t in (packets.pts, packets.dts))
    both = (pts != NO_TIME) & (dts_ != NO_TIME)
    foreign = both & (np.abs(np.where(both, pts - dts_, 0)) > threshold)
    return packets._replace(pts=np.where(foreign, NO_TIME, pts), dts=dts_)


def as_given(packets: PacketTimes, order: NDArray[np.int64], fed: NDArray[np.int64]) -> PacketTimes:
    """The same packets, of a container that has times of decoding only, with those at which a decoder gives the frames.

    order, fed: (T,) ordinals of the packets that give the frames, and of those upon which the decoder does, -1 at its end.
    The first frame stays where it is.
    """
    given = fed >= 0
    if not given[0] or np.any(packets.dts == NO_TIME) or packets.pts[order[0]] == NO_TIME:
        return packets
    delay = packets.dts[fed[0]] - packets.pts[order[0]]
    pts = np.full(packets.pts.size, NO_TIME)
    pts[order[given]] = packets.dts[fed[given]] - delay
    return packets._replace(pts=pts)


def frame_times(
    packets: PacketTimes,
    order: NDArray[np.int64],
    unit: Fraction,
    rate: Fraction,
    origin: int | None,
    stated_end: int | None = None,
) -> FrameTimes:
    """When the frames are shown that packets `order` give; even times at `rate` where packets carry none.

    origin: the time at which the file's earliest stream begins, stated_end: that at which the file says that it ends;
    None where that is not known.
    """
    pts = packets.pts[order]
    unknown = pts == NO_TIME
    if 2 * np.count_nonzero(unknown) > pts.size:
        return FrameTimes(np.arange(pts.size, dtype=np.int64), pts.size, 1 / rate, Fraction(0))
    if np.any(unknown):
        pts = _filled(pts, unknown)
    if np.any(np.diff(pts) <= 0) and _are_of_decoding(packets.pts):
        pts = np.sort(pts)
    start = Fraction(0) if origin is None else max(Fraction(0), (int(pts[0]) - origin) * unit)
    usual = max(1, round(1 / (rate * unit)))
    times = spread(repaired(pts), usual)
    last = int(packets.durations[order[-1]]) or usual
    ends = [int(times[-1]) + last, _held(packets, order, int(times[-1]) - int(pts[-1]))]
    if stated_end is not None:
        ends.append(stated_end - int(pts[0]))
    return FrameTimes(times, max(ends), unit, start)


def _held(packets: PacketTimes, order: NDArray[np.int64], moved: int) -> int:
    """When the last frames end, of which the one shown last need not be the one with the last duration."""
    late = order[-REORDERED:]
    late = late[packets.pts[late] != NO_TIME]
    ends = packets.pts[late] + packets.durations[late]
    return int(ends.max()) + moved if ends.size else 0


def _are_of_decoding(pts: NDArray[np.int64]) -> bool:
    """Whether packets carry times of decoding, as those that were taken from AVI do."""
    return bool(np.all(pts != NO_TIME) and np.all(np.diff(pts) > 0))


def _filled(pts: NDArray[np.int64], unknown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Times between, before and behind those that are known, evenly."""
    known = np.flatnonzero(~unknown)
    places = np.arange(pts.size)
    filled = np.rint(np.interp(places, known, pts[known].astype(np.float64))).astype(np.int64)
    steps = np.diff(pts[known]) / np.diff(known)
    step = float(np.median(steps)) if steps.size else 1.0
    before, behind = places < known[0], places > known[-1]
    filled[before] = pts[known[0]] + np.rint((places[before] - known[0]) * step).astype(np.int64)
    filled[behind] = pts[known[-1]] + np.rint((places[behind] - known[-1]) * step).astype(np.int64)
    filled[known] = pts[known]
    return filled


def repaired(pts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Times from 0 that do not fall: where they begin anew, as in files put one behind another, the film goes on at its
    usual pace; frames that are out of place for a moment are shown with the one before.
    """
    changes = np.diff(pts)
    usual = int(np.median(changes[changes > 0])) if np.any(changes > 0) else 1
    moved = pts.copy()
    for before in np.flatnonzero(changes < 0).tolist():
        after = pts[before + 2 : before + 2 + SOON_RIGHT]
        if not np.any(after > pts[before]):
            moved[before + 1 :] += usual - changes[before]
    return np.maximum.accumulate(moved) - pts[0]


def spread(times: NDArray[np.int64], usual: int) -> NDArray[np.int64]:
    """Rising times: frames that share one are spread evenly up to the next, or at the usual pace."""
    rising = times.copy()
    starts = np.flatnonzero(np.diff(times, prepend=times[0] - 1) > 0)
    stops = np.append(starts[1:], times.size)
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        count = stop - start
        if count > 1:
            room = int(times[stop] - times[start]) if stop < times.size else count * usual
            step = min(room / count, float(usual))
            rising[start:stop] += np.floor(np.arange(count) * step).astype(np.int64)
    ramp = np.arange(times.size)
    return np.maximum.accumulate(rising - ramp) + ramp


def mean_rate(times: NDArray[np.int64], unit: Fraction, stated: Fraction | None) -> Fraction:
    """Frames a second: of even times themselves, else as the file states it, where two frames are ever so near."""
    rate = stated or USUAL_RATE
    steps = np.unique(np.diff(times))
    if steps.size == 0:
        return rate
    fastest = 1 / (int(steps[0]) * unit)
    return fastest if steps.size == 1 and len(times) > 2 else min(rate, fastest)
