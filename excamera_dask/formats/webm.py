"""WebM through libavformat's muxer, with what it needs to be told about a track."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import IO, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from excamera_dask.formats.ebml import written, written_float, written_integer
from excamera_dask.formats.ivf import IVF_FRAME_HEADER, is_key_frame, ivf_header
from excamera_dask.formats.video_element import complete_video, placeholder
from excamera_dask.sources.description import UNSPECIFIED, Colour, PictureTags

WEBM_TIME_BASE = Fraction(1, 1000)

STEREO_MODE, DISPLAY_WIDTH, DISPLAY_HEIGHT = 0x53B8, 0x54B0, 0x54BA
COLOUR, MATRIX, RANGE, TRANSFER, PRIMARIES = 0x55B0, 0x55B1, 0x55B9, 0x55BA, 0x55BB
LIGHT = (0x55BC, 0x55BD)
MASTERING, CHROMATICITIES, LUMINANCE = 0x55D0, range(0x55D1, 0x55D9), (0x55D9, 0x55DA)
PROJECTION, PROJECTION_TYPE, PROJECTION_PRIVATE, POSE = (
    0x7670,
    0x7671,
    0x7672,
    (0x7673, 0x7674, 0x7675),
)
SIDE_BY_SIDE, TOP_BOTTOM = (1, 11), (2, 3)
"""Matroska's elements (RFC 9559 section 5.1.4.1.28), and the values of StereoMode that WebM allows."""


class Track(NamedTuple):
    """A video track: size in pixels, unit of its times, frames a second to be stated (None: not told), tags."""

    width: int
    height: int
    time_base: Fraction
    average_rate: Fraction | None
    colour: Colour = Colour()
    sample_aspect: Fraction = Fraction(1)
    tags: PictureTags = PictureTags()


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
        context.color_range, context.colorspace = 0, UNSPECIFIED
        context.color_primaries, context.color_trc = UNSPECIFIED, UNSPECIFIED
        self.described = video_elements(track)
        if self.described:
            stream.metadata["title"] = placeholder(self.described)
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
        if self.described:
            complete_video(self.file, self.described)


def video_elements(track: Track) -> bytes:
    """What a Video element holds beside the size in pixels; nothing where nothing is to be told."""
    return b"".join((_stereo_and_size(track), _colour(track), _projection(track)))


def _stereo_and_size(track: Track) -> bytes:
    """The eyes' arrangement, and the size at which one eye's picture is displayed."""
    mode = track.tags.stereo_mode
    found = written_integer(STEREO_MODE, mode) if mode else b""
    if track.sample_aspect != 1 or mode:
        width = round(track.width * track.sample_aspect) // (2 if mode in SIDE_BY_SIDE else 1)
        height = track.height // (2 if mode in TOP_BOTTOM else 1)
        found += written_integer(DISPLAY_WIDTH, max(1, width))
        found += written_integer(DISPLAY_HEIGHT, max(1, height))
    return found


def _colour(track: Track) -> bytes:
    colour, tags = track.colour, track.tags
    codes = ((MATRIX, colour.matrix), (TRANSFER, colour.transfer), (PRIMARIES, colour.primaries))
    found = [written_integer(id_, code) for id_, code in codes if code != UNSPECIFIED]
    if colour.range:
        found.append(written_integer(RANGE, colour.range))
    found += [written_integer(id_, value) for id_, value in zip(LIGHT, tags.light, strict=False)]
    display = [*zip(CHROMATICITIES, tags.chromaticities, strict=False)]
    display += zip(LUMINANCE, tags.luminance, strict=False)
    if display:
        found.append(written(MASTERING, b"".join(written_float(*one) for one in display)))
    return written(COLOUR, b"".join(found)) if found else b""


def _projection(track: Track) -> bytes:
    projection = track.tags.projection
    if projection is None:
        return b""
    found = written_integer(PROJECTION_TYPE, projection.kind)
    if projection.private:
        found += written(PROJECTION_PRIVATE, projection.private)
    pose = (projection.yaw, projection.pitch, projection.roll)
    found += b"".join(written_float(*one) for one in zip(POSE, pose, strict=True) if one[1])
    return written(PROJECTION, found)


def _tiny_ivf(track: Track, first: bytes) -> bytes:
    """An IVF file of one frame, from which libavformat learns the stream's parameters."""
    header = ivf_header(track.width, track.height, WEBM_TIME_BASE, 1)
    return header + IVF_FRAME_HEADER.pack(len(first), 0) + first
