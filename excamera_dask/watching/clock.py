"""When frames are shown: the times of a container made into one timeline, by the rules of the command ffmpeg."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

LONGEST_GAP = 10
"""Seconds by which a packet may be early or late before it belongs to another recording."""
LARGEST_STEP_BACK = Fraction(1, 10)
"""Seconds by which decoding times may fall back within one recording."""


class Clock:
    """Times in ticks of `time_base` from the start of the container.

    start: the tick at which the container starts. joined: whether recordings may lie one behind another in it, each
    with its own timeline; then a time that jumps goes on where the one before ended. guessed: whether the container has
    times of decoding only. step: ticks of a frame of which nothing else is known.
    """

    def __init__(
        self, time_base: Fraction, start: int, joined: bool, guessed: bool, step: int
    ) -> None:
        self.step = step
        self._guessed = guessed
        self._delay: int | None = None
        self._joined = joined
        self._longest_gap = LONGEST_GAP / time_base
        self._largest_step_back = LARGEST_STEP_BACK / time_base
        self._shift = -start
        self._decoded: int | None = None
        self._expected = 0
        self._shown: int | None = None
        self._following = 0
        self._pts, self._dts = _Monotony(), _Monotony()

    def stamp(self, packet: Any) -> None:
        """Move the times of a packet, the next in order of decoding, onto the film's timeline."""
        if packet.dts is not None:
            dts = packet.dts + self._shift
            if self._joined and self._decoded is not None and self._jumps(dts):
                self._shift += self._expected - dts
                dts = self._expected
            self._decoded, self._expected = dts, dts + (packet.duration or self.step)
            packet.dts = dts
        if packet.pts is not None:
            pts = packet.pts + self._shift
            foreign = self._joined and packet.dts is not None
            foreign = foreign and abs(pts - packet.dts) > self._longest_gap
            packet.pts = None if foreign else pts

    def _jumps(self, dts: int) -> bool:
        latest = max(self._decoded or 0, self._shown or 0)
        gap = abs(dts - self._expected)
        return gap > self._longest_gap or dts + self._largest_step_back < latest

    def time(self, frame: Any) -> tuple[int, int]:
        """When a frame, the next in order of display, is shown, and for how long.

        Its own time counts, or that of its packet where presentation times are missing, guessed, or fall back more often
        than those of decoding; a frame without any comes after the one before.
        """
        time = self._time_of_decoding(frame) if self._guessed else self._sounder_time(frame)
        duration = (frame.duration if time is not None else 0) or self.step
        time = self._following if time is None else time
        self._shown, self._following = time, time + duration
        return time, duration

    def _sounder_time(self, frame: Any) -> int | None:
        self._pts.hear(frame.pts, frame.dts)
        self._dts.hear(frame.dts, frame.pts)
        sound = self._pts.faults <= self._dts.faults or frame.dts is None
        time: int | None = frame.pts if sound and frame.pts is not None else frame.dts
        return time

    def _time_of_decoding(self, frame: Any) -> int | None:
        """Presentation begins when the container says, and goes on as decoding does."""
        if self._delay is None:
            known = frame.pts is not None and frame.dts is not None
            self._delay = frame.dts - frame.pts if known else 0
            first: int | None = frame.dts if frame.pts is None else frame.pts
            return first
        return None if frame.dts is None else int(frame.dts) - self._delay


class _Monotony:
    """How often times of one kind did not rise; where one is missing, the other kind's stands in."""

    def __init__(self) -> None:
        self.faults = 0
        self._last: int | None = None

    def hear(self, time: int | None, substitute: int | None) -> None:
        if time is not None and self._last is not None:
            self.faults += time <= self._last
        self._last = time if time is not None else substitute or self._last
