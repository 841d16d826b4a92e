"""Small films for tests: made through PyAV with times, durations and sound as wanted, and played by others than us."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from codec.frame import Image
from excamera_dask.first_pass import video_frame

MILLISECONDS = Fraction(1, 1000)
FLAGS = "bicubic+accurate_rnd+bitexact"


def write_lossless(
    path: Path,
    images: Sequence[Image],
    times: Sequence[int] | None = None,
    last: int = 40,
    sound: bool = False,
) -> Path:
    """Pictures as they are (FFV1, in Matroska), at these times in ms (every 40), the last for `last` ms.

    sound: a second of silence from 0 on beside them.
    """
    times = times if times is not None else [40 * number for number in range(len(images))]
    with av.open(str(path), "w", format="matroska") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = images[0].width, images[0].height, "yuv420p"
        stream.codec_context.time_base = MILLISECONDS
        if sound:
            add_silence(container)
        ends = [*times[1:], times[-1] + last]
        for image, time, end in zip(images, times, ends, strict=True):
            frame = video_frame(image, time)
            frame.time_base = MILLISECONDS
            for packet in stream.encode(frame):
                packet.duration = end - time
                container.mux(packet)
    return path


def add_silence(container: Any, seconds: int = 1) -> None:
    """A stream of silence from 0 on."""
    stream = container.add_stream("pcm_s16le", rate=8000)
    stream.layout = "mono"
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * seconds), np.int16), layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_film(
    path: Path,
    images: Iterable[Image],
    codec: str = "libx264",
    format: str = "yuv420p",
    offset: int = 0,
    tags: dict[str, int] | None = None,
    rotation: tuple[float, bool] | None = None,
    sound: bool = False,
    **options: str,
) -> Path:
    """Pictures by any encoder that PyAV has, 25 a second, the first at frame number `offset`."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.codec_context.time_base = Fraction(1, 25)
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1])
        for number, image in enumerate(images):
            if number == 0:
                stream.width, stream.height, stream.pix_fmt = image.width, image.height, format
                if sound:
                    add_silence(container)
            frame = video_frame(image, number + offset)
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame.reformat(format=format)))
        container.mux(stream.encode(None))
    return path


class Played(NamedTuple):
    """Frames as another player shows them: times and durations in seconds, pictures as MD5 of I420."""

    times: list[Fraction]
    durations: list[Fraction]
    pictures: list[str]


def played_by_ffmpeg(ffmpeg: str, path: Path) -> Played:
    """What the command ffmpeg shows, in one thread, in limited range."""
    done = subprocess.run(
        [ffmpeg, "-v", "quiet", "-threads", "1", "-i", path, "-an", "-sn", "-dn",
         "-vf", "scale=out_range=tv,format=yuv420p", "-sws_flags", FLAGS,
         "-fps_mode", "passthrough", "-enc_time_base", "-1", "-f", "framemd5", "-"],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    (base,) = (Fraction(line.split(":")[1].strip()) for line in lines if line.startswith("#tb"))
    rows = [line.split(",") for line in lines if not line.startswith("#")]
    times, durations = ([int(row[column]) * base for row in rows] for column in (2, 3))
    return Played(times, durations, [row[5].strip() for row in rows])


def pictures_by_ffmpeg(ffmpeg: str, path: Path, width: int, height: int) -> np.ndarray:
    """What the command ffmpeg shows: (frames, bytes of I420) uint8."""
    done = subprocess.run(
        [ffmpeg, "-v", "quiet", "-threads", "1", "-i", path, "-an", "-sn", "-dn",
         "-vf", "scale=out_range=tv,format=yuv420p", "-sws_flags", FLAGS,
         "-fps_mode", "passthrough", "-f", "rawvideo", "-"],
        capture_output=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    bytes_ = width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, bytes_)


def md5(image: Image) -> str:
    return hashlib.md5(image.to_bytes()).hexdigest()


def image_of(frame: av.VideoFrame) -> Image:
    """The planes of a decoded 4:2:0 frame, untouched."""
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
        planes.append(rows[: plane.height, : plane.width].copy())
    return Image(*planes)


def decoded_from(path: Path, first_packet: int = 0) -> list[Image]:
    """What a fresh decoder, one thread of it, makes of the packets from `first_packet` on, in order of display."""
    images = []
    with av.open(str(path)) as container:
        context: Any = container.streams.video[0].codec_context
        context.thread_type, context.thread_count = "NONE", 1
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for packet in [*packets[first_packet:], None]:
            try:
                images += [image_of(frame) for frame in context.decode(packet)]
            except av.FFmpegError:
                continue
    return images


def damage_key_frame(path: Path, number: int) -> int:
    """Change 8 bytes of the slice of the key frame of that number; the ordinal of its packet."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]
    ordinal = [n for n, packet in enumerate(packets) if packet[2]][number]
    position, size, _ = packets[ordinal]
    data = bytearray(path.read_bytes())
    for place in range(8):
        data[position + size // 3 + 7 * place] ^= 0x55
    path.write_bytes(data)
    return ordinal
