"""A VP8 file played by our own decoder: its pictures in the order of display."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction

import codec
from codec.errors import CodecError
from codec.frame import Image
from excamera_dask.errors import ContainerError
from excamera_dask.formats.containers import read_packets, stream_info
from excamera_dask.formats.ivf import is_shown

SNAP = Fraction(1, 1000)


def play(
    path: str | os.PathLike[str],
    stream: int | str | None = None,
    on_choice: Callable[[str], None] | None = None,
) -> Iterator[Image]:
    """The shown pictures of an IVF or WebM file; hidden frames are decoded and not given.

    stream, on_choice: as for `read_packets`.

    Raises ContainerError for a file without VP8, and, naming the frame, for data that is not VP8.
    """
    state = None
    for number, packet in enumerate(read_packets(path, stream, on_choice)):
        try:
            state, image = codec.decode(state, packet.data)
        except CodecError as error:
            raise ContainerError(f"{os.fspath(path)}: frame {number}: {error}") from error
        if image is not None:
            yield image


def frame_rate(path: str | os.PathLike[str], stream: int | str | None = None) -> Fraction:
    """Frames a second over the whole file, snapped to the usual k or 1000 k / 1001 within a thousandth."""
    times = [packet.pts for packet in read_packets(path, stream) if is_shown(packet.data)]
    time_base = stream_info(path, stream).time_base
    if len(times) < 2 or times[-1] <= times[0]:
        return (
            1 / time_base
            if time_base < Fraction(1, 5) and time_base > Fraction(1, 200)
            else Fraction(25)
        )
    return usual_rate((len(times) - 1) / ((times[-1] - times[0]) * time_base))


def usual_rate(rate: Fraction) -> Fraction:
    """The nearest rate that cameras have, where one lies within a thousandth, else `rate` made short."""
    usual = {
        Fraction(max(1, round(rate))),
        Fraction(max(1, round(rate * 1001 / 1000)) * 1000, 1001),
    }
    nearest = min(usual, key=lambda candidate: abs(candidate - rate))
    return nearest if abs(nearest - rate) <= SNAP * rate else rate.limit_denominator(1001)
