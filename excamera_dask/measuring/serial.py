"""The reference that everything is measured against: one serial encode of the whole source by libvpx itself."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av

from excamera_dask.errors import FirstPassError
from excamera_dask.first_pass import (
    LIBVPX,
    VPXENC,
    FirstPassSettings,
    pyav_options,
    video_frame,
    vpxenc_arguments,
    vpxenc_failure,
)
from excamera_dask.formats.containers import read_packets
from excamera_dask.formats.y4m import y4m_header
from excamera_dask.sources import SourceInfo, iter_frames

CHUNK_ONLY = ("--disable-kf", "--kf-max-dist", "--threads")
CHUNK_ONLY_PYAV = ("g", "keyint_min", "threads")


class SerialEncode(NamedTuple):
    """Frames in decoding order, hidden ones included, and the seconds that the encoder alone took."""

    frames: list[bytes]
    seconds: float

    @property
    def bytes(self) -> int:
        """Bytes of all frames, without a container."""
        return sum(map(len, self.frames))


def encode_serially(
    source: SourceInfo,
    settings: FirstPassSettings,
    threads: int = 1,
    on_frame: Callable[[int], None] | None = None,
    key_distance: int | None = None,
) -> SerialEncode:
    """Encode the whole source in one go, with the settings of the first pass but key frames as libvpx places them, at most
    `key_distance` apart (libvpx's default: 128).

    vpxenc gets the raw pictures as a temporary Y4M file, outside the seconds reported; libvpx in PyAV gets them one
    by one. Raises FirstPassError where the encoder fails.
    """
    if settings.encoder == VPXENC:
        return _with_vpxenc(source, settings, threads, on_frame, key_distance)
    return _with_pyav(source, settings, threads, on_frame, key_distance)


def _with_vpxenc(
    source: SourceInfo,
    settings: FirstPassSettings,
    threads: int,
    on_frame: Callable[[int], None] | None,
    key_distance: int | None,
) -> SerialEncode:
    options = [o for o in vpxenc_arguments(settings) if not o.startswith(CHUNK_ONLY)]
    if key_distance is not None:
        options.append(f"--kf-max-dist={key_distance}")
    with tempfile.TemporaryDirectory(prefix="excamera-serial-") as folder:
        raw, target = Path(folder) / "source.y4m", Path(folder) / "serial.ivf"
        with raw.open("wb") as file:
            rate = source.average_rate.limit_denominator(10000)
            file.write(y4m_header(source.width, source.height, rate))
            for number, image in enumerate(iter_frames(source)):
                file.write(b"FRAME\n" + image.to_bytes())
                if on_frame is not None:
                    on_frame(number + 1)
        command = [VPXENC, *options, f"--threads={threads}", "-o", str(target), str(raw)]
        begin = time.perf_counter()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        seconds = time.perf_counter() - begin
        if done.returncode != 0:
            raise FirstPassError(vpxenc_failure(done))
        return SerialEncode([packet.data for packet in read_packets(target)], seconds)


def _with_pyav(
    source: SourceInfo,
    settings: FirstPassSettings,
    threads: int,
    on_frame: Callable[[int], None] | None,
    key_distance: int | None,
) -> SerialEncode:
    context: Any = av.CodecContext.create(LIBVPX, "w")
    context.width, context.height, context.pix_fmt = source.width, source.height, "yuv420p"
    rate = source.average_rate.limit_denominator(10000)
    context.time_base, context.framerate = 1 / Fraction(rate), rate
    options = {k: v for k, v in pyav_options(settings).items() if k not in CHUNK_ONLY_PYAV}
    if key_distance is not None:
        options["g"] = str(key_distance)
    context.options = options | {"threads": str(threads)}
    frames: list[bytes] = []
    seconds = 0.0
    for number, image in enumerate(iter_frames(source)):
        frame = video_frame(image, number)
        begin = time.perf_counter()
        frames += [bytes(packet) for packet in context.encode(frame)]
        seconds += time.perf_counter() - begin
        if on_frame is not None:
            on_frame(number + 1)
    begin = time.perf_counter()
    frames += [bytes(packet) for packet in context.encode(None)]
    return SerialEncode(frames, seconds + time.perf_counter() - begin)
