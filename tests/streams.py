"""VP8 streams for tests: read from files, made by libvpx through PyAV, and decoded by it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from codec.frame import Image


def read_ivf(path: Path) -> Iterator[bytes]:
    """The frames of an IVF file; a truncated last one is left out."""
    data = path.read_bytes()
    (at,) = struct.unpack_from("<H", data, 6)
    while at + 12 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        if at + 12 + size > len(data):
            return
        yield data[at + 12 : at + 12 + size]
        at += 12 + size


def write_ivf(path: Path, packets: list[bytes], width: int, height: int) -> None:
    """Write frames as an IVF file of 25 frames a second."""
    header = struct.pack(
        "<4sHH4sHHIIII", b"DKIF", 0, 32, b"VP80", width, height, 25, 1, len(packets), 0
    )
    frames = [struct.pack("<IQ", len(data), index) + data for index, data in enumerate(packets)]
    path.write_bytes(header + b"".join(frames))


def moving_images(width: int, height: int, count: int, seed: int = 1) -> list[Image]:
    """Smooth random pictures under a pan of changing direction, with a patch that moves on its own, and noise."""
    random = np.random.default_rng(seed)
    texture = _smooth(random, height + 96, width + 96)
    patch = _smooth(random, height, width)
    images = []
    for index in range(count):
        dy, dx = 32 + int(20 * np.sin(index / 3)), 32 + 3 * index % 40
        luma = texture[dy : dy + height, dx : dx + width].copy()
        top, left = (5 * index) % max(height // 2, 1), (7 * index) % max(width // 2, 1)
        luma[top : top + height // 3, left : left + width // 3] = patch[: height // 3, : width // 3]
        luma += random.normal(0, 2, luma.shape)
        planes = [luma, 255 - luma[::2, ::2] * 0.8, luma[::2, ::2] * 0.5 + 60]
        images.append(Image(*(np.clip(plane, 0, 255).astype(np.uint8) for plane in planes)))
    return images


def _smooth(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = random.uniform(0, 255, (height // 6 + 3, width // 6 + 3))
    fine = np.kron(coarse, np.ones((6, 6)))
    for axis in (0, 1):
        fine = sum(np.roll(fine, shift, axis) for shift in range(5)) / 5
    return fine[:height, :width]


def encode_with_libvpx(
    images: Iterable[Image], *, profile: int = 0, slices: int = 1, **options: str
) -> list[bytes]:
    """Encode at a constant quality; options are those of ffmpeg's libvpx encoder."""
    images = list(images)
    encoder = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height = images[0].width, images[0].height
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.framerate = Fraction(25)
    encoder.thread_count = 1
    encoder.bit_rate = 10**7
    encoder.gop_size = 1000
    settings = {"crf": "20", "cpu-used": "4", "lag-in-frames": "0"}
    encoder.options = {**settings, "profile": str(profile), "slices": str(slices), **options}
    packets = []
    for index, image in enumerate(images):
        frame = av.VideoFrame(image.width, image.height, "yuv420p")
        for plane, pixels in zip(frame.planes, image, strict=True):
            padded = np.zeros((plane.height, plane.line_size), np.uint8)
            padded[:, : pixels.shape[1]] = pixels
            plane.update(padded.tobytes())
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return [bytes(packet) for packet in packets]


def decode_with_libvpx(packets: Iterable[bytes]) -> list[bytes]:
    """I420 of each frame that libvpx shows."""
    decoder = av.CodecContext.create("libvpx", "r")
    decoder.thread_count = 1
    return [i420(frame) for data in packets for frame in decoder.decode(av.Packet(data))]


def i420(frame: av.VideoFrame) -> bytes:
    """The planes of a frame without padding."""
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        planes.append(rows[:, : plane.width].tobytes())
    return b"".join(planes)


def md5(data: bytes) -> str:
    """MD5 as the test vectors write it."""
    return hashlib.md5(data).hexdigest()
