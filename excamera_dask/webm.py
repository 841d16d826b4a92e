"""WebM through libavformat's muxer, with what it needs to be told about a track."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import IO, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from excamera_dask.display_size import DISPLAY_PLACEHOLDER, write_display_size
from excamera_dask.ivf import IVF_FRAME_HEADER, is_key_frame, ivf_header
from excamera_dask.sources.description import Colour

WEBM_TIME_BASE = Fraction(1, 1000)


class Track(NamedTuple):
    """A video track: size in pixels, unit of its times, frames a second to be stated (None: not told), tags."""

    width: int
    height: int
    time_base: Fraction
    average_rate: Fraction | None
    colour: Colour
    sample_aspect: Fraction


def stated_rate(times: NDArray[np.int64], time_base: Fraction, average_rate: Fraction) -> Fraction:
    """Frames a second that a file states: the mean, or that of the shortest frame where times are so uneven that two
    frames would share a time at the mean rate, as ffmpeg counts (and complains).
    """
    moments = np.rint(times * float(time_base / WEBM_TIME_BASE))
    ticks = np.rint(moments * float(average_rate * WEBM_TIME_BASE))
    if len(times) < 2 or np.diff(ticks).min() > 0:
        return average_rate
    shortest = max(1, int(np.diff(moments).min()))
    return max(average_rate, 1 / (shortest * WEBM_TIME_BASE))


class WebmFormat:
    """WebM through libavformat's muxer, bit-exact (no random identifiers, no dates), times in milliseconds.

    One packet is held back, since a frame's duration is known when the next one comes.
    """

    def __init__(self, file: IO[bytes], track: Track, first: bytes) -> None:
        self.track = track
        self.template = av.open(io.BytesIO(_tiny_ivf(track, first)), format="ivf")
        self.container = av.open(
            file, "w", format="webm", container_options={"fflags": "+bitexact"}
        )
        stream = self.container.add_stream_from_template(
            self.template.streams.video[0], opaque=True
        )
        context = stream.codec_context
        stream.time_base = WEBM_TIME_BASE
        context.framerate = track.average_rate or Fraction(0, 1)
        colour = track.colour
        context.color_range = colour.range
        context.color_primaries = colour.primaries
        context.color_trc = colour.transfer
        context.colorspace = colour.matrix
        if track.sample_aspect != 1:
            stream.metadata["title"] = DISPLAY_PLACEHOLDER
        self.file = file
        self.stream = stream
        self.held: tuple[bytes, int] | None = None

    def write(self, data: bytes, pts: int) -> None:
        time = round(pts * self.track.time_base / WEBM_TIME_BASE)
        if self.held is not None:
            time = max(time, self.held[1])
            self._mux(*self.held, time - self.held[1])
        self.held = (data, time)

    def _mux(self, data: bytes, time: int, duration: int) -> None:
        packet = av.Packet(data)
        packet.stream = self.stream
        packet.time_base = WEBM_TIME_BASE
        packet.pts = packet.dts = time
        packet.duration = duration
        packet.is_keyframe = is_key_frame(data)
        self.container.mux_one(packet)

    def finish(self, end: int) -> None:
        if self.held is not None:
            time = round(end * self.track.time_base / WEBM_TIME_BASE)
            self._mux(*self.held, max(1, time - self.held[1]))
        self.container.close()
        self.template.close()
        if self.track.sample_aspect != 1:
            width = round(self.track.width * self.track.sample_aspect)
            write_display_size(self.file, max(1, width), self.track.height)


def _tiny_ivf(track: Track, first: bytes) -> bytes:
    """An IVF file of one frame, from which libavformat learns the stream's parameters."""
    header = ivf_header(track.width, track.height, WEBM_TIME_BASE, 1)
    return header + IVF_FRAME_HEADER.pack(len(first), 0) + first
