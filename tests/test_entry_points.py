"""Any frame is what one pass of the decoder gives: for every inter-frame encoder that PyAV has, read in a shuffled order,
whole and damaged. The oracle is libavcodec alone, which decodes each file from its start to its end."""

from __future__ import annotations

import hashlib
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from streams import moving_images

from excamera_dask.errors import SourceError
from excamera_dask.first_pass import video_frame
from excamera_dask.sources import SourceInfo, iter_frames, open_source, reading
from excamera_dask.sources.entries import _bits_of_pixel, _pixels
from excamera_dask.sources.nal_units import _described_units
from excamera_dask.sources.pixels import to_image

FRAMES = 72
FORMATS = (
    "mkv",
    "avi",
    "mov",
    "nut",
    "flv",
    "gif",
    "apng",
    "rm",
    "roq",
    "ivf",
    "mpg",
    "swf",
    "dirac",
    "h261",
    "h263",
)
HARDWARE = ("_qsv", "_amf", "_nvenc", "_v4l2m2m", "_vaapi", "_mf", "_omx", "_d3d12va", "_vulkan")
INTRA_ONLY = 1
OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"g": "24", "bf": "2"},
    "libx264rgb": {"g": "24"},
    "libx265": {"x265-params": "log-level=none:keyint=24:min-keyint=24"},
    "libvpx": {"g": "24", "b": "1M", "auto-alt-ref": "1", "lag-in-frames": "12"},
    "libvpx-vp9": {"g": "24", "b": "1M", "cpu-used": "8"},
    "libsvtav1": {"g": "24", "preset": "12"},
    "libaom-av1": {"g": "24", "cpu-used": "8"},
    "ffv1": {"g": "24", "level": "3"},
    "mjpeg": {},
    "dirac": {},
    "vc2": {},
}  # fmt: skip
SIZES = {"h261": (176, 144), "h263": (176, 144), "roqvideo": (128, 128)}
RATES = {"roqvideo": 30, "h261": 30, "h263": 30}


def encoders() -> list[str]:
    """Names of the encoders whose frames may lean on others, and which need no hardware."""
    names = []
    for name in sorted(av.codecs_available):
        try:
            codec = av.Codec(name, "w")
        except Exception:  # a decoder alone
            continue
        hardware = name.endswith(HARDWARE) or name in ("wrapped_avframe", "vnull")
        if codec.type == "video" and not int(codec.properties) & INTRA_ONLY and not hardware:
            names.append(name)
    return names


def picture(number: int, width: int, height: int) -> np.ndarray:
    """Coloured blocks that move; every 30 frames they have other colours, of which there are few."""
    rng = np.random.default_rng(number // 30)
    blocks = rng.integers(0, 4, (height // 8, width // 8, 3), np.uint8) * 80
    still = blocks.repeat(8, 0).repeat(8, 1)
    return np.ascontiguousarray(np.roll(still, (number, 2 * number), (0, 1)))


def film(
    folder: Path, codec: str, suffix: str | None = None, options: dict[str, str] | None = None
) -> Path:
    """A film by this encoder, in the first format that takes it; the test skips where none does."""
    reasons = []
    for ending in FORMATS if suffix is None else (suffix,):
        path = folder / f"{codec}.{ending}"
        try:
            write(path, codec, OPTIONS.get(codec, {"g": "12"}) | (options or {}))
            with av.open(str(path)) as made:
                decoded = sum(1 for _ in made.decode(video=0))
            if decoded >= FRAMES // 2:
                return path
            reasons.append(f"{ending}: {decoded} frames")
        except (av.FFmpegError, ValueError, OSError, IndexError) as error:
            reasons.append(f"{ending}: {error}")
    pytest.skip(f"no container for {codec}: {reasons[0]}")


def write(path: Path, codec: str, options: dict[str, str]) -> None:
    width, height = SIZES.get(codec, (192, 128))
    rate = RATES.get(codec, 25)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = width, height
        formats = stream.codec_context.codec.video_formats
        names = [format.name for format in formats or ()]
        usual = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        wanted = [usual] if usual in names or not names else []
        stream.pix_fmt = [*wanted, *names][0]
        for number in range(FRAMES):
            frame = frame_of(picture(number, width, height), stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def frame_of(pixels: np.ndarray, format: str) -> av.VideoFrame:
    """A picture of few colours in any format."""
    if format == "pal8":
        indices = (pixels // 80 @ np.array([16, 4, 1])).astype(np.uint8)
        levels = (np.arange(256)[:, None] // np.array([16, 4, 1]) % 4 * 80).astype(np.uint8)
        palette = np.column_stack([np.full(256, 255, np.uint8), levels])
        return av.VideoFrame.from_ndarray((indices, palette), format="pal8")
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=format)


def one_pass(source: SourceInfo) -> list[str]:
    """Digests of the pictures that libavcodec gives from the start on, in one thread, brought into our format."""
    found = []
    with av.open(source.path) as container:
        stream = container.streams[source.stream_index]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                found += [digest(frame, source) for frame in packet.decode()]
            except av.FFmpegError:
                continue
    return found


def digest(frame: Any, source: SourceInfo) -> str:
    return hashlib.md5(to_image(frame, source).to_bytes()).hexdigest()


def read_shuffled(source: SourceInfo, seed: int, fresh: bool) -> tuple[list[str], set[int]]:
    """The same of our reader, six frames at a time in a shuffled order, and the frames that it had to make up.

    fresh: by another reader each time.
    """
    starts = list(range(0, source.frame_count, 6))
    random.Random(seed).shuffle(starts)
    found = [""] * source.frame_count
    missing: list[int] = []
    for start in starts:
        if fresh:
            reading._idle.clear()
        count = min(6, source.frame_count - start)
        for number, image in enumerate(iter_frames(source, start, count, missing), start):
            found[number] = hashlib.md5(image.to_bytes()).hexdigest()
    return found, set(missing)


def check(path: Path) -> SourceInfo:
    source = open_source(path)
    expected = one_pass(source)
    ours = [read_shuffled(source, 1, True), read_shuffled(source, 2, False)]
    assert ours[0] == ours[1]
    found, missing = ours[0]
    decoded = [picture for number, picture in enumerate(found) if number not in missing]
    assert len(decoded) == len(expected)
    wrong = [  # pictures out of order are put in order
        n for n, one in enumerate(decoded) if one not in expected[max(0, n - 3) : n + 4]
    ]
    assert not wrong, (source.counted, wrong[:9])
    return source


@pytest.mark.parametrize("codec", encoders())
def test_every_inter_frame_encoder_in_a_shuffled_order(tmp_path: Path, codec: str) -> None:
    check(film(tmp_path, codec))


def damaged(path: Path, ordinal: int, how: str, seed: int) -> Path:
    """The same file with one packet spoilt: some bits turned, its end zeroed, or all of it."""
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    position, size = places[ordinal]
    data, rng = bytearray(path.read_bytes()), random.Random(seed)
    if how == "bits":
        for _ in range(8):
            data[position + rng.randrange(size // 4, size)] ^= 1 << rng.randrange(8)
    else:
        start = position + (size // 2 if how == "end" else 0)
        data[start : position + size] = bytes(position + size - start)
    target = path.with_name(f"damaged{path.suffix}")
    target.write_bytes(data)
    return target


DAMAGED = [
    ("libx264", "mp4", {"bf": "0", "x264-params": "slices=1"}),
    ("libx264", "mkv", {"x264-params": "slices=4:cabac=0:open-gop=1"}),
    ("libx264", "ts", {}),
    ("libx265", "mp4", {}),
    ("mpeg2video", "mkv", {"bf": "2"}),
    ("mpeg1video", "mpg", {}),
    ("mpeg4", "avi", {"bf": "0"}),
    ("libvpx", "webm", {"auto-alt-ref": "0", "lag-in-frames": "0"}),
    ("libvpx-vp9", "webm", {}),
    ("libsvtav1", "mp4", {}),
    ("ffv1", "mkv", {"slicecrc": "1"}),
    ("ffv1", "avi", {"level": "1"}),
    ("mjpeg", "avi", {}),
    ("prores_ks", "mov", {}),
    ("utvideo", "avi", {}),
    ("msmpeg4", "avi", {}),
]


@pytest.mark.parametrize("how", ["bits", "end", "all"])
@pytest.mark.parametrize(("codec", "suffix", "options"), DAMAGED, ids=lambda value: str(value))
def test_damage_is_concealed_as_in_one_pass(
    tmp_path: Path, codec: str, suffix: str, options: dict[str, str], how: str
) -> None:
    """A key frame in the middle, and a frame right behind it."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = film(tmp_path, codec, suffix, options)
    with av.open(str(path)) as container:
        keys = [
            n for n, p in enumerate(p for p in container.demux(video=0) if p.size) if p.is_keyframe
        ]
    key = next((number for number in keys if number >= 24), 24)
    for ordinal in (key, key + 1):
        try:
            check(damaged(path, ordinal, how, ordinal))
        except SourceError as error:
            pytest.fail(str(error))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_periodic_intra_refresh_has_one_entry(tmp_path: Path, suffix: str) -> None:
    parameters = {"x264-params": "intra-refresh=1:keyint=15:bframes=0"}
    source = check(film(tmp_path, "libx264", suffix, parameters))
    assert source.keyframes.tolist() == [0]


def test_open_groups_of_pictures_are_entered(tmp_path: Path) -> None:
    parameters = {"x264-params": "open-gop=1:keyint=15:bframes=2:scenecut=0"}
    source = check(film(tmp_path, "libx264", "mkv", parameters))
    assert len(source.keyframes) > 3


def test_an_entry_needs_all_parameter_sets_that_are_in_force(tmp_path: Path) -> None:
    """Two films behind one another in a track, the second's parameter sets in its first packet alone."""
    parts = []
    for number, parameters in enumerate(("cabac=1:ref=1", "cabac=0:ref=2:bframes=0")):
        path = tmp_path / f"{number}.mp4"
        write(path, "libx264", {"g": "12", "bf": "0", "x264-params": parameters})
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            extra = bytes(stream.codec_context.extradata or b"")
            parts.append((extra, [bytes(p) for p in container.demux(stream) if p.size]))
    (_, first), (extra, second) = parts
    sets = b"".join(len(unit).to_bytes(4, "big") + unit for unit in _described_units("h264", extra))
    joined = tmp_path / "joined.mkv"
    with av.open(str(tmp_path / "0.mp4")) as film, av.open(str(joined), "w") as out:
        stream = out.add_stream_from_template(film.streams.video[0])
        for number, data in enumerate([*first, sets + second[0], *second[1:]]):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = number % 12 == 0
            out.mux_one(packet)
    source = check(joined)
    assert source.keyframes.tolist()[-1] == FRAMES and len(source.keyframes) > 3


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libvpx", "webm"), ("libvpx-vp9", "webm"), ("libx264", "mkv"), ("libsvtav1", "mkv")],
)
def test_films_that_begin_in_the_middle_of_a_group(tmp_path: Path, codec: str, suffix: str) -> None:
    """Packets that nothing can be decoded from come first."""
    whole = film(tmp_path, codec, suffix, {"auto-alt-ref": "0"} if codec == "libvpx" else None)
    cut = tmp_path / f"cut.{suffix}"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size and number >= 10:
                packet.stream = stream
                out.mux(packet)
    described = check(cut)
    assert FRAMES // 2 < described.frame_count < FRAMES


def test_what_lies_behind_the_rows_of_a_picture_does_not_count() -> None:
    """Decoders leave anything there; it must not make two pictures of one."""
    for name in (
        "yuv420p",
        "yuv420p10le",
        "nv12",
        "gray",
        "rgb24",
        "pal8",
        "rgb565le",
        "monob",
        "yuyv422",
    ):
        kinds = set()
        for filling in (0, 255):
            frame = av.VideoFrame(20, 16, name)
            seen = []
            for number, plane in enumerate(frame.planes):
                stored = np.frombuffer(plane, np.uint8)
                stored[:] = filling
                bits = _bits_of_pixel(frame.format, number)
                if plane.line_size:
                    rows = stored[: plane.height * plane.line_size].reshape(plane.height, -1)
                    rows[:, : -(-plane.width * bits // 8)] = 7
                else:
                    stored[:] = 7
                seen.append(_pixels(plane, bits))
            assert all(seen), name
            kinds.add(b"".join(seen))
        assert len(kinds) == 1, name


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_open_groups_of_hevc_are_not_called_damaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"open.{suffix}"
    parameters = "log-level=none:keyint=12:min-keyint=12:open-gop=1:bframes=3:scenecut=0:b-adapt=0"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx265", rate=25, options={"x265-params": parameters})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number, image in enumerate(moving_images(160, 96, 40)):
            container.mux(stream.encode(video_frame(image, number)))
        container.mux(stream.encode(None))
    source = open_source(path)
    assert not source.warnings and source.frame_count == 40
    assert len(source.anchors.frames) > 2
