"""Sources: what a file is said to be, exact random access whatever was read before, conversions, and refusals."""

import csv
import hashlib
import os
import pickle
import random
import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from codec.frame import Image
from excamera_dask.errors import SourceChanged, SourceError
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.sources import SourceInfo, index, iter_frames, open_source, read_frames, reading
from excamera_dask.sources.times import repaired, spread

SHARED = Path(os.environ.get("EXCAMERA_SHARED", Path(__file__).parents[1].parent / "shared"))
FOOTAGE = SHARED / "footage"
needs_footage = pytest.mark.skipif(not FOOTAGE.exists(), reason="needs ../shared/footage")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")


def digest(image: Image) -> str:
    return hashlib.md5(image.to_bytes()).hexdigest()


def manifest() -> list[dict[str, str]]:
    if not FOOTAGE.exists():
        return []
    with open(FOOTAGE / "MANIFEST.csv", newline="") as table:
        return list(csv.DictReader(table))


def make_clip(
    path: Path,
    codec: str = "libx264",
    *,
    frames: int = 60,
    size: tuple[int, int] = (64, 48),
    format: str = "yuv420p",
    options: dict[str, str] | None = None,
    times: Callable[[int], int] = lambda n: n,
    rotation: tuple[float, bool] | None = None,
    tags: dict[str, int] | None = None,
) -> Path:
    """A clip of moving noise, one tick of 1/25 s a frame unless `times` says otherwise."""
    rng = np.random.default_rng(3)
    still = rng.integers(30, 220, (size[1], size[0], 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = size[0], size[1], format
        stream.codec_context.time_base = Fraction(1, 25)
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1])
        for number in range(frames):
            shifted = np.ascontiguousarray(np.roll(still, number, 1))
            frame = av.VideoFrame.from_ndarray(shifted, format="rgb24").reformat(format=format)
            frame.pts = times(number)
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decoded_plainly(path: Path) -> list[str]:
    """What PyAV gives when it simply decodes a 4:2:0 file from its start to its end."""
    with av.open(str(path)) as container:
        return [
            hashlib.md5(b"".join(map(plane_bytes, frame.planes))).hexdigest()
            for frame in container.decode(video=0)
        ]


def plane_bytes(plane: av.video.plane.VideoPlane) -> bytes:
    data, step = bytes(plane), plane.line_size
    return b"".join(data[row * step : row * step + plane.width] for row in range(plane.height))


def check_random_access(source: SourceInfo) -> list[str]:
    """Random reads, with and without an open decoder, against one linear read; returns the linear read's digests."""
    linear = [digest(image) for image in iter_frames(source)]
    assert len(linear) == source.frame_count
    order = random.Random(5)
    for turn in range(8 if source.frame_bytes < 2_000_000 else 2):
        start = order.randrange(source.frame_count)
        count = min(order.randrange(1, 8), source.frame_count - start)
        if turn % 2:
            reading._idle.clear()
        assert [digest(i) for i in read_frames(source, start, count)] == linear[start:][:count]
    return linear


CLIPS: dict[str, dict[str, Any]] = {
    "h264_long_gop.mp4": {"options": {"g": "250", "bf": "3"}},
    "h264_open_gop.mkv": {"options": {"x264-params": "keyint=15:open-gop=1:bframes=3:scenecut=0"}},
    "h264.ts": {"options": {"g": "20", "bf": "2"}},
    "h264.avi": {"options": {"g": "20", "bf": "0"}},
    "h264_raw.264": {"options": {"g": "20", "bf": "2"}},
    "mpeg4_b.mp4": {"codec": "mpeg4", "options": {"g": "30", "bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "15", "bf": "2"}},
    "ffv1.mkv": {"codec": "ffv1"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "30", "b": "100k", "lag-in-frames": "12"}},
    "vp8_altref.webm": {
        "codec": "libvpx",
        "options": {"g": "30", "b": "100k", "auto-alt-ref": "1", "lag-in-frames": "12"},
    },
    "odd.mp4": {"size": (37, 23), "format": "yuv444p"},
    "odd.mkv": {"codec": "ffv1", "size": (33, 19)},
    "tiny.mkv": {"codec": "ffv1", "size": (1, 1)},
    "deep.mkv": {"codec": "ffv1", "format": "yuv444p10le"},
}


@pytest.mark.parametrize("name", CLIPS)
def test_made_clips(tmp_path: Path, name: str) -> None:
    made = CLIPS[name]
    path = make_clip(tmp_path / name, **made)
    source = open_source(path)
    assert source.frame_count == 60
    assert (source.width, source.height) == made.get("size", (64, 48))
    assert np.all(np.diff(source.times) > 0) and source.times[0] == 0
    linear = check_random_access(source)
    if not source.converted:
        assert linear == decoded_plainly(path)


def test_even_times(tmp_path: Path) -> None:
    source = open_source(make_clip(tmp_path / "a.mp4"))
    assert [t * source.time_base for t in source.times.tolist()] == [
        Fraction(n, 25) for n in range(60)
    ]
    assert source.average_rate == 25
    assert source.duration == pytest.approx(60 / 25)
    assert source.counted == "packets"


def test_variable_times(tmp_path: Path) -> None:
    def uneven(number: int) -> int:
        return number + 5 * (number > 10) + 100 * (number > 30)

    path = make_clip(tmp_path / "a.mkv", times=uneven)
    source = open_source(path)
    seconds = [float(t * source.time_base) for t in source.times.tolist()]
    assert seconds == pytest.approx([uneven(n) / 25 for n in range(60)], abs=0.001)


def test_pickle_is_small_and_whole(tmp_path: Path) -> None:
    source = open_source(make_clip(tmp_path / "a.mp4", frames=300))
    data = pickle.dumps(source)
    assert len(data) < 3000
    again = pickle.loads(data)
    assert np.array_equal(again.times, source.times) and np.array_equal(again.order, source.order)
    assert digest(read_frames(again, 20, 1)[0]) == digest(read_frames(source, 20, 1)[0])


def test_select(tmp_path: Path) -> None:
    source = open_source(make_clip(tmp_path / "a.mp4", options={"g": "20"}))
    part = source.select(skip=7, limit=40)
    assert part.frame_count == 40 and part.times[0] == 0
    assert [digest(i) for i in read_frames(part, 3, 5)] == [
        digest(i) for i in read_frames(source, 10, 5)
    ]
    assert source.select(skip=59).frame_count == 1
    assert source.select(skip=99).frame_count == 0
    assert source.select(limit=10).select(skip=4, limit=99).frame_count == 6
    with pytest.raises(SourceError, match="asked for"):
        read_frames(part, 38, 3)


def test_streams_put_one_behind_another_go_on(tmp_path: Path) -> None:
    part = make_clip(tmp_path / "part.ts", frames=30).read_bytes()
    both = tmp_path / "both.ts"
    both.write_bytes(part + part)
    source = open_source(both)
    seconds = [t * source.time_base for t in source.times.tolist()]
    assert seconds == [Fraction(n, 25) for n in range(source.frame_count)]
    assert source.frame_count > 50


def test_times_out_of_place_for_a_moment_are_moved() -> None:
    times = np.array([10, 20, 30, 29, 50, 60, 60, 80])
    assert spread(repaired(times), 10).tolist() == [0, 10, 20, 30, 40, 50, 60, 70]


@needs_ffmpeg
def test_side_data_of_unknown_types(tmp_path: Path) -> None:
    """A TIFF file's frames carry its tags, which PyAV has no name for."""
    path = tmp_path / "one.tiff"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=32x16",
        "-frames:v",
        "1",
        path,
    ]
    subprocess.run(command, check=True)
    source = open_source(path)
    assert (source.width, source.height, source.frame_count) == (32, 16, 1)
    assert len(read_frames(source, 0, 1)) == 1


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", [False, True])
def test_rotation(tmp_path: Path, angle: int, flip: bool) -> None:
    """Rotation is counter-clockwise by `angle`, and the mirror image comes after it."""
    plain = read_frames(open_source(make_clip(tmp_path / "plain.mp4", frames=2)), 0, 1)[0]
    source = open_source(make_clip(tmp_path / "turned.mp4", frames=2, rotation=(angle, flip)))
    turned = read_frames(source, 0, 1)[0]
    assert (source.width, source.height) == ((48, 64) if angle % 180 else (64, 48))
    for a, b in zip(plain, turned, strict=True):
        expected = np.rot90(a, angle // 90)
        assert np.array_equal(b, expected[:, ::-1] if flip else expected)


def test_full_range_is_converted_wherever_reading_begins(tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "a.mp4", format="yuvj420p", tags={"color_range": 2, "colorspace": 1}
    )
    source = open_source(path)
    assert source.colour.range == 1 and source.colour.matrix == 1 and source.converted
    assert check_random_access(source) != decoded_plainly(path)


def test_rgb_becomes_limited_range(tmp_path: Path) -> None:
    source = open_source(make_clip(tmp_path / "a.mkv", "ffv1", format="bgr0", frames=3))
    image = read_frames(source, 0, 1)[0]
    assert source.colour.range == 1 and source.colour.matrix == 6
    assert image.y.min() >= 16 and image.y.max() <= 235


def test_reading_on_decodes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(make_clip(tmp_path / "a.mp4", frames=120, options={"g": "250"}))
    fed: list[object] = []
    decode = reading.Reader._decode

    def counting(self: Any, context: Any, packet: Any, ordinal: int) -> Any:
        fed.append(packet)
        return decode(self, context, packet, ordinal)

    monkeypatch.setattr(reading.Reader, "_decode", counting)
    for start in range(0, 120, 6):
        read_frames(source, start, 6)
    assert len(fed) == 121


def damage(path: Path, packets: list[int], keep: int) -> None:
    """Overwrite some packets of a file in place, all but their first `keep` bytes."""
    with av.open(str(path)) as container:
        places = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for number in packets:
        position, size = places[number]
        data[position + keep : position + size] = b"\xff" * (size - keep)
    path.write_bytes(data)


@pytest.mark.parametrize("keep", [0, 4])
def test_damaged_frames_do_not_shift_the_others(tmp_path: Path, keep: int) -> None:
    options = {"g": "20", "bf": "0"}
    whole = open_source(make_clip(tmp_path / "a.mp4", options=options))
    clean = [digest(i) for i in iter_frames(whole)]
    path = make_clip(tmp_path / "b.mp4", options=options)
    damage(path, [25, 26], keep)
    source = open_source(path)
    # lengths inside the packet are broken, so the index pass sees it and decodes the film
    if keep == 0:
        assert source.warnings and source.counted == "decoded"
    linear = check_random_access(source)
    assert linear[:20] == clean[:20] and linear[-20:] == clean[40:]


def test_truncated(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", frames=60, options={"g": "20"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    source = open_source(path)
    assert 10 < source.frame_count < 60
    check_random_access(source)


def test_a_truncated_matroska_file_says_so(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", frames=60, options={"g": "20"})
    assert not open_source(path).warnings
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    source = open_source(path)
    assert source.warnings == (
        f"truncated: the file breaks off after frame {source.frame_count - 1}",
    )


def test_a_stream_without_times_has_the_rate_that_its_codec_states(tmp_path: Path) -> None:
    timed = make_clip(tmp_path / "a.mp4", options={"x264-params": "fps=30000/1001:force-cfr=1"})
    with av.open(str(timed)) as film, av.open(str(tmp_path / "a.h264"), "w") as bare:
        stream = bare.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(film.streams.video[0]):
            if packet.size:
                packet.stream = stream
                bare.mux(packet)
    source = open_source(tmp_path / "a.h264")
    assert source.average_rate == Fraction(30000, 1001)
    assert source.duration == pytest.approx(60 * 1001 / 30000)


def test_times_of_decoding_are_put_in_order(tmp_path: Path) -> None:
    source = open_source(make_clip(tmp_path / "a.avi", options={"bf": "2"}))
    assert source.frame_count == 60
    assert set(np.diff(source.times).tolist()) == {1}


def test_a_cover_picture_is_no_film(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        stream.disposition = Disposition.attached_pic
        frame = av.VideoFrame(64, 48, "yuvj420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(SourceError, match="only a cover picture"):
        open_source(path)


def test_a_container_knows_the_matrix_of_vp8_better(tmp_path: Path) -> None:
    bt709 = {"colorspace": 1, "color_primaries": 1, "color_trc": 1}
    path = make_clip(tmp_path / "a.webm", "libvpx", frames=5, tags=bt709)
    assert open_source(path).colour.matrix == 1


@pytest.mark.parametrize("parameters", [b"", b" Ip"])
def test_y4m_is_indexed_without_its_pixels(tmp_path: Path, parameters: bytes) -> None:
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 255, 9 * 7 + 2 * 5 * 4, np.uint8).tobytes() for _ in range(50)]
    header = b"YUV4MPEG2 W9 H7 F30000:1001 C420mpeg2 XCOLORRANGE=LIMITED\n"
    body = b"".join(b"FRAME" + parameters + b"\n" + frame for frame in frames)
    path = tmp_path / "a.y4m"
    path.write_bytes(header + body)
    source = open_source(path)
    assert source.frame_count == 50 and source.average_rate == Fraction(30000, 1001)
    assert not source.warnings and source.colour.range == 1
    assert check_random_access(source) == [hashlib.md5(frame).hexdigest() for frame in frames]
    path.write_bytes((header + body)[:-1])
    source = open_source(path)
    assert source.frame_count == 49 and "truncated" in source.warnings[0]


def test_changed_file_is_refused(tmp_path: Path) -> None:
    source = open_source(make_clip(tmp_path / "a.mp4"))
    make_clip(tmp_path / "a.mp4", frames=30)
    with pytest.raises(SourceError, match="changed since"):
        read_frames(source, 0, 1)
    os.unlink(tmp_path / "a.mp4")
    with pytest.raises(SourceError, match="not found on this machine"):
        read_frames(source, 0, 1)


@pytest.mark.parametrize("how", ["the same size", "shorter", "longer", "another file"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, how: str) -> None:
    """At the next frame, in the middle of a span as well as between two, and whatever its decoder makes of it."""
    path = make_clip(tmp_path / "a.mp4")
    film = path.read_bytes()
    for taken in (1, 30):
        path.write_bytes(film)
        source = open_source(path)
        frames = iter_frames(source)
        for _ in range(taken):
            next(frames)
        kept = bytearray(film)
        kept[200:-3000] = bytes(len(kept[200:-3000]))
        new = {"shorter": film[:-2500], "longer": film + b"more"}.get(how, bytes(kept))
        if how == "another file":
            path.with_suffix(".new").write_bytes(new)
            path.with_suffix(".new").replace(path)
        else:
            with path.open("r+b") as file:
                file.truncate(len(new))
                file.write(new)
        with pytest.raises(SourceChanged, match="changed since"):
            next(frames)
        with pytest.raises(SourceChanged, match="changed since"):
            read_frames(source, 40, 1)


def test_a_file_that_changes_while_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_clip(tmp_path / "a.mp4")

    def scan(*arguments: Any) -> Any:
        scanned = real(*arguments)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
        return scanned

    real = index.scan
    monkeypatch.setattr(index, "scan", scan)
    with pytest.raises(SourceChanged, match="changed since"):
        open_source(path)


def test_refusals(tmp_path: Path) -> None:
    def refuse(path: Path | str, pattern: str) -> None:
        with pytest.raises(SourceError, match=pattern) as caught:
            open_source(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)

    def written(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    refuse(tmp_path / "missing.mp4", "no such file")
    refuse(tmp_path, "directory")
    refuse(written("empty.mp4", b""), "empty")
    refuse(written("random.mp4", random.Random(1).randbytes(70000)), "not a video")
    refuse(
        written("notes.txt", b"This is a shopping list.\nApples\nPears\n" * 50), "text|not a video"
    )
    refuse(written("zero.y4m", b"YUV4MPEG2 W16 H16 F25:1 C420jpeg\n"), "no video frame")
    whole = make_clip(tmp_path / "whole.mp4").read_bytes()
    refuse(written("cut.mp4", whole[: whole.index(b"moov") - 8]), "not a video")
    with av.open(str(tmp_path / "sound.mka"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    refuse(tmp_path / "sound.mka", "no video stream")


@pytest.mark.parametrize("row", manifest(), ids=lambda row: row["path"])
def test_footage(row: dict[str, str]) -> None:
    path = FOOTAGE / row["path"]
    if not row["frames_decoded"]:
        with pytest.raises(SourceError):
            open_source(path)
        return
    source = open_source(path)
    assert source.frame_count == int(row["frames_decoded"])
    assert sorted((source.coded_width, source.coded_height)) == sorted(
        (int(row["w"]), int(row["h"]))
    )
    count = min(source.frame_count, max(8, 20_000_000 // source.frame_bytes))
    check_random_access(source.select(limit=count))
    last = source.frame_count - 1
    reading._idle.clear()
    alone = digest(read_frames(source, last, 1)[0])
    assert digest(list(iter_frames(source, max(0, last - 30)))[-1]) == alone


@needs_footage
@needs_ffmpeg
@pytest.mark.parametrize(
    "name", ["rotate_and_reflect.mp4", "rotated180_720p.mp4", "rotated90_small.mov",
             "size_change_400x300_to_200x150.webm", "odd_321x241_444_10bit.mp4", "422_vp9.webm",
             "10bit_av1_hdr_720x1280.mp4", "full_range_bt709_720p.mp4"],
)  # fmt: skip
def test_pictures_are_those_of_ffmpeg(name: str) -> None:
    """Rotation, scaling and conversion as the ffmpeg command does them, up to rounding."""
    path = FOOTAGE / "odd" / name
    source = open_source(path)
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", path, "-vf", "scale=out_range=tv,format=yuv420p",
         "-fps_mode", "passthrough", "-f", "rawvideo", "-"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert len(raw) == source.frame_bytes * source.frame_count
    for number in (0, source.frame_count - 1):
        ours = np.frombuffer(read_frames(source, number, 1)[0].to_bytes(), np.uint8).astype(int)
        theirs = np.frombuffer(raw, np.uint8)[number * ours.size :][: ours.size]
        luma = source.width * source.height
        assert np.mean((ours - theirs)[:luma] ** 2) < 0.5, number
        # Chroma of 4:4:4 is scaled down by another version of swscale's filters.
        assert np.mean((ours - theirs)[luma:] ** 2) < (50 if "444" in name else 1), number


def test_tasks_that_read_far_apart_do_not_send_each_other_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of a few goes on where it was, in a film that can be entered at its start alone."""
    path = tmp_path / "film.y4m"
    with Y4mWriter(path, 16, 16, Fraction(25)) as writer:
        for number in range(60):
            plane = np.full((16, 16), number, np.uint8)
            writer.write(Image(plane, plane[:8, :8].copy(), plane[:8, :8].copy()))
    source = open_source(path)
    monkeypatch.setattr(
        reading, "_idle", []
    )  # other films' would be closed, which is a way back too
    rewound: list[Any] = []
    rewind = reading.Reader.rewind
    monkeypatch.setattr(reading.Reader, "rewind", lambda self: (rewound.append(self), rewind(self)))
    for step in range(6):
        for first in (0, 20, 40):
            start = first + 3 * step
            frames = read_frames(source, start, 3)
            assert [int(frame.y[0, 0]) for frame in frames] == [start, start + 1, start + 2]
    assert len(rewound) <= 3  # each once, to its place
    for reader in reading._idle:
        reader.close()
