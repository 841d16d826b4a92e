"""Playing a film: pictures, times and length as other players have them, whatever the file is like."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import reels
import stores
import streams
from av.stream import Disposition

from codec.frame import Image
from excamera_dask.errors import SourceError
from excamera_dask.first_pass import video_frame
from excamera_dask.formats.containers import Writer
from excamera_dask.formats.ivf import is_shown
from excamera_dask.storage import StorageError
from excamera_dask.watching import Hints, ShownFrame, watch
from excamera_dask.watching.projector import upright

WIDTH, HEIGHT = 96, 64
FRAME = Fraction(1, 25)


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return streams.moving_images(WIDTH, HEIGHT, 60)


def played(path: Path | str, stream: int | str | None = None) -> tuple[reels.Played, Any]:
    """All that `watch` shows, and the film when it is over."""
    with watch(path, stream) as film:
        shown = [(f.time, f.duration, reels.md5(f.picture())) for f in film.frames()]
    times, durations, pictures = (list(column) for column in zip(*shown, strict=True))
    assert film.frames_shown == len(times)
    return reels.Played(times, durations, pictures), film


def hidden_frames(path: Path, images: list[Image]) -> Path:
    """VP8 with frames that are decoded and not shown, as is each tenth here before it is decoded again and shown."""
    packets = []
    for number, packet in enumerate(streams.encode_with_libvpx(images)):
        if number % 10 == 5:
            packets.append(bytes([packet[0] & ~0x10]) + packet[1:])
        packets.append(packet)
    assert not all(map(is_shown, packets))
    with Writer(path, WIDTH, HEIGHT, FRAME) as writer:
        shown = 0
        for packet in packets:
            writer.write(packet, shown)
            shown += is_shown(packet)
    return path


def other_sizes(path: Path, images: list[Image]) -> Path:
    """VP8 whose key frames change the size of the picture."""
    packets = streams.encode_with_libvpx(images[:5])
    packets += streams.encode_with_libvpx(streams.moving_images(48, 80, 5))
    packets += streams.encode_with_libvpx(streams.moving_images(130, 70, 5))
    streams.write_ivf(path, packets, WIDTH, HEIGHT)
    return path


FILMS: dict[str, dict[str, Any]] = {
    "long_gop.mp4": {"g": "250", "bf": "3"},
    "open_gop.mkv": {"x264-params": "keyint=15:open-gop=1:bframes=3:scenecut=0"},
    "intra_refresh.mp4": {"x264-params": "intra-refresh=1:keyint=20:bframes=0"},
    "stream.ts": {"g": "20", "bf": "2"},
    "b.avi": {"codec": "mpeg4", "bf": "2"},
    "raw.264": {"bf": "2"},
    "raw.hevc": {"codec": "libx265", "x265-params": "log-level=none"},
    "program.mpg": {"codec": "mpeg2video", "bf": "2"},
    "vp9.webm": {"codec": "libvpx-vp9", "auto-alt-ref": "1", "lag-in-frames": "10", "cpu-used": "8"},
    "vp8.webm": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "10"},
    "hidden.webm": {"make": hidden_frames},
    "hidden.ivf": {"make": hidden_frames},
    "ffv1.mkv": {"codec": "ffv1"},
    "raw.y4m": {"codec": "rawvideo"},
    "late.mkv": {"offset": 38, "sound": True, "bf": "2"},
}  # fmt: skip
CONVERTED: dict[str, dict[str, Any]] = {
    "sizes.ivf": {"make": other_sizes},
    "422.mkv": {"codec": "ffv1", "format": "yuv422p"},
    "444_10.mkv": {"codec": "ffv1", "format": "yuv444p10le"},
    "rgb.mkv": {"codec": "ffv1", "format": "bgr0"},
    "alpha.mov": {"codec": "qtrle", "format": "argb"},
    "palette.gif": {"codec": "gif", "format": "rgb8"},
    "picture.png": {"codec": "png", "format": "rgb24", "count": 1},
    "mjpeg.avi": {"codec": "mjpeg", "format": "yuvj420p"},
    "full.mp4": {"format": "yuv420p", "tags": {"color_range": 2}, "qp": "0"},
    "full_422.mkv": {"codec": "ffv1", "format": "yuv422p", "tags": {"color_range": 2}},
    "gray.mkv": {"codec": "ffv1", "format": "gray"},
    "gray_limited.mkv": {"codec": "ffv1", "format": "gray", "tags": {"color_range": 1}},
    "gray10_limited.mkv": {"codec": "ffv1", "format": "gray10le", "tags": {"color_range": 1}},
    "turned.mp4": {"rotation": (90, False)},
    "mirrored.mp4": {"rotation": (-90, True)},
}

ROUNDED = ("gray10_limited.mkv", "gray.mkv", "mjpeg.avi", "full.mp4", "full_422.mkv")
"""Films where versions of libswscale round otherwise."""


def make(folder: Path, name: str, images: list[Image], how: dict[str, Any]) -> Path:
    how = dict(how)
    maker: Callable[..., Path] = how.pop("make", reels.write_film)
    count = how.pop("count", 40)
    return maker(folder / name, images[:count], **how)


@pytest.mark.parametrize("name", FILMS)
def test_a_film_is_what_decoding_it_from_its_start_gives(
    name: str, images: list[Image], tmp_path: Path
) -> None:
    path = make(tmp_path, name, images, FILMS[name])
    ours, film = played(path)
    assert ours.pictures == [reels.md5(image) for image in reels.decoded_from(path)]
    assert len(ours.pictures) == 40 and (film.width, film.height) == (WIDTH, HEIGHT)
    assert all(abs(b - a - FRAME) <= Fraction(1, 1000) for a, b in pairwise(ours.times))
    assert abs(film.end - ours.times[0] - 40 * FRAME) <= Fraction(2, 1000)
    assert not film.warnings


@pytest.mark.ffmpeg
@pytest.mark.parametrize("name", [*FILMS, *CONVERTED])
def test_a_film_is_what_ffmpeg_shows(
    name: str, images: list[Image], tmp_path: Path, ffmpeg: str
) -> None:
    path = make(tmp_path, name, images, (FILMS | CONVERTED)[name])
    theirs = reels.played_by_ffmpeg(ffmpeg, path)
    with watch(path) as film:
        shown = list(film.frames())
        assert len(shown) == len(theirs.times)
        for ours, time in zip(shown, theirs.times, strict=True):
            assert abs(ours.time - time) <= film.time_base
        pictures = reels.pictures_by_ffmpeg(ffmpeg, path, film.width, film.height)
        for frame, picture in zip(shown, pictures, strict=True):
            mine = np.frombuffer(frame.picture().to_bytes(), np.uint8)
            assert np.abs(mine.astype(int) - picture).max() <= (name in ROUNDED)


@pytest.mark.slow
@pytest.mark.ffmpeg
@pytest.mark.shared
def test_the_footage_is_what_ffmpeg_shows(shared: Path, ffmpeg: str) -> None:
    """Of films that are odd, and small enough."""
    seen = 0
    for path in sorted((shared / "footage").glob("*/*")):
        if path.suffix == ".csv" or not 0 < path.stat().st_size < 700_000:
            continue
        try:
            ours, film = played(path)
        except SourceError as error:
            assert len(str(error).splitlines()) == 1
            continue
        theirs = reels.played_by_ffmpeg(ffmpeg, path)
        assert len(ours.times) == len(theirs.times), path
        differences = [abs(a - b) for a, b in zip(ours.times, theirs.times, strict=True)]
        assert max(differences) <= film.time_base, path
        if film.tags.range != 2:
            assert ours.pictures == theirs.pictures, path
        seen += 1
    assert seen > 10


def test_a_damaged_key_frame_is_concealed_with_the_frames_before(
    images: list[Image], tmp_path: Path
) -> None:
    path = reels.write_film(
        tmp_path / "a.mp4", images, g="20", bf="0", sc_threshold="0", preset="veryfast"
    )
    whole, _ = played(path)
    ordinal = reels.damage_key_frame(path, 1)
    assert ordinal == 20
    ours, _ = played(path)
    assert ours.pictures == [reels.md5(image) for image in reels.decoded_from(path)]
    assert ours.pictures[:20] == whole.pictures[:20] and ours.pictures[40:] == whole.pictures[40:]
    alone = [reels.md5(image) for image in reels.decoded_from(path, ordinal)]
    assert ours.pictures[20:] != alone  # which has nothing to conceal with


def joined(folder: Path, images: list[Image], offsets: list[int], suffix: str) -> Path:
    """Recordings of 20 frames, one behind another in a file, each beginning at a frame number of its own."""
    parts = []
    for number, offset in enumerate(offsets):
        part = folder / f"part{number}{suffix}"
        codec = "libx264" if suffix == ".ts" else "mpeg2video"
        reels.write_film(part, images[20 * number :][:20], codec, offset=offset, bf="2")
        parts.append(part.read_bytes())
    path = folder / f"joined{suffix}"
    path.write_bytes(b"".join(parts))
    return path


JOINS = {
    "forward": [0, 25 * 36000],
    "backward": [25 * 36000, 0],
    "a little backward": [100, 90],
    "the same again": [0, 0, 0],
    "to and fro": [0, 25 * 3600, 25 * 20],
    "a pause": [0, 20 + 25 * 5],
}


@pytest.mark.parametrize("offsets", JOINS.values(), ids=JOINS)
def test_recordings_behind_one_another_play_on(
    offsets: list[int], images: list[Image], tmp_path: Path
) -> None:
    path = joined(tmp_path, images, offsets, ".ts")
    ours, film = played(path)
    count = 20 * len(offsets)
    assert len(ours.times) == count and ours.times[0] == 0
    steps = {float(b - a) for a, b in pairwise(ours.times)}
    if offsets == JOINS["a pause"]:  # which nobody takes for another recording
        assert len(steps) == 2 and 4.9 < max(steps) < 5.1
    else:
        assert max(steps) <= 0.08 and min(steps) > 0
        assert abs(float(film.end) - count / 25) < 0.1


@pytest.mark.ffmpeg
@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
@pytest.mark.parametrize("offsets", JOINS.values(), ids=JOINS)
def test_recordings_behind_one_another_play_on_as_in_ffmpeg(
    offsets: list[int], suffix: str, images: list[Image], tmp_path: Path, ffmpeg: str
) -> None:
    path = joined(tmp_path, images, offsets, suffix)
    theirs = reels.played_by_ffmpeg(ffmpeg, path)
    ours, film = played(path)
    assert ours.pictures == theirs.pictures
    differences = [abs(a - b) for a, b in zip(ours.times, theirs.times, strict=True)]
    assert max(differences) <= film.time_base


def test_the_last_picture_is_held_as_long_as_its_packet_says(
    images: list[Image], tmp_path: Path
) -> None:
    held = reels.write_lossless(tmp_path / "a.mkv", images[:10], last=5000)
    assert played(held)[1].end == Fraction("5.36")
    with_sound = reels.write_lossless(tmp_path / "b.mkv", images[:30], sound=True)
    assert played(with_sound)[1].end == Fraction("1.2")
    gif = tmp_path / "a.gif"
    with av.open(str(gif), "w", options={"final_delay": "300"}) as container:
        stream: Any = container.add_stream("gif", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb8"
        for number in range(3):
            frame = video_frame(images[20 * number], 10 * number).reformat(format="rgb8")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    ours, film = played(gif)
    assert len(ours.times) == 3 and film.end == ours.times[-1] + 3


def test_pictures_may_begin_after_the_sound(images: list[Image], tmp_path: Path) -> None:
    times = [1500 + 40 * number for number in range(10)]
    with_sound, film = played(
        reels.write_lossless(tmp_path / "a.mkv", images[:10], times, sound=True)
    )
    assert with_sound.times[0] == Fraction("1.5") and not film.alone
    without, film = played(reels.write_lossless(tmp_path / "b.mkv", images[:10], times))
    assert without.times[0] == 0 and film.start == Fraction("1.5") and film.alone


def test_full_range_becomes_limited(tmp_path: Path) -> None:
    values = np.array([0, 10, 55, 129, 204, 249, 255], np.uint8)
    right = np.array([16, 25, 63, 127, 191, 230, 235])
    luma = np.repeat(np.repeat(values, 16)[None], 16, 0)
    chroma = np.full((8, 56), 128, np.uint8)
    image = Image(luma, chroma, chroma)
    for name, how in {
        "h264.mp4": {"tags": {"color_range": 2}, "qp": "0"},
        "ffv1.mkv": {"codec": "ffv1", "tags": {"color_range": 2}},
        "gray.mkv": {"codec": "ffv1", "format": "gray"},
    }.items():
        path = tmp_path / name
        frames = [image] * 2
        if "gray" in name:
            write_gray(path, luma, range_=0)
        else:
            reels.write_film(path, frames, **how)  # type: ignore[arg-type]
        with watch(path) as film:
            picture = next(film.frames()).picture()
        assert np.abs(picture.y[8, 8::16].astype(int) - right).max() <= 1, name
        assert np.abs(picture.u.astype(int) - 128).max() <= 1
    write_gray(tmp_path / "limited.mkv", luma, range_=1)
    reels.write_film(tmp_path / "untagged.mkv", [image], "ffv1")
    for name in ("limited.mkv", "untagged.mkv"):
        with watch(tmp_path / name) as film:
            assert np.array_equal(next(film.frames()).picture().y, luma)


def write_gray(path: Path, luma: np.ndarray, range_: int) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = luma.shape
        stream.pix_fmt = "gray"
        stream.codec_context.color_range = range_
        container.mux(stream.encode(av.VideoFrame.from_ndarray(luma, format="gray")))
        container.mux(stream.encode(None))


TURNS: list[tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = [
    ((1, 0, 0, 1), lambda p: p),
    ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    ((-1, 0, 0, 1), np.fliplr),
    ((1, 0, 0, -1), np.flipud),
    ((0, 1, 1, 0), np.transpose),
    ((0, -1, -1, 0), lambda p: np.rot90(p, 2).T),
]


@pytest.mark.parametrize(("matrix", "turn"), TURNS)
def test_pictures_are_set_upright(
    matrix: tuple[int, int, int, int], turn: Callable, images: list[Image], tmp_path: Path
) -> None:
    """The matrix of the track's header says where a pixel of column x, row y goes: to (a x + c y, b x + d y)."""
    path = reels.write_film(tmp_path / "a.mp4", images[:3], qp="0")
    stored = reels.decoded_from(path)
    set_matrix(path, matrix)
    with watch(path) as film:
        shown = [frame.picture() for frame in film.frames()]
    for picture, before in zip(shown, stored, strict=True):
        for ours, plane in zip(picture, before, strict=True):
            assert np.array_equal(ours, turn(plane))
    assert (film.height, film.width) == shown[0].y.shape


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Change the display matrix in the track's header (tkhd) of an MP4 file."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 65536 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def test_a_slant_is_left_alone() -> None:
    assert upright(struct.pack("=9i", 46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)) == ()
    assert upright(bytes(36)) == ()


def test_what_is_known_better_counts(images: list[Image], tmp_path: Path) -> None:
    """Range, matrix of RGB and rate, where a file is silent or lies."""
    lying = {
        "untagged.mkv": reels.write_film(tmp_path / "u.mkv", images[:2], "ffv1"),
        "full.mkv": reels.write_film(
            tmp_path / "f.mkv", images[:2], "ffv1", tags={"color_range": 2}
        ),
        "jpeg.avi": reels.write_film(tmp_path / "j.avi", images[:2], "mjpeg", "yuvj420p"),
    }
    for path in lying.values():
        stored = reels.decoded_from(path)[0].y
        limited = np.round(16 + stored * (219 / 255))
        assert np.array_equal(first_picture(path, Hints(range=1)).y, stored)
        assert np.abs(first_picture(path, Hints(range=2)).y - limited).max() <= 1
    rgb = reels.write_film(tmp_path / "rgb.mkv", images[:2], "ffv1", "bgr0")
    with av.open(str(rgb)) as container:
        colours = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(float)
    for matrix, (red, blue) in {0: (0.299, 0.114), 1: (0.2126, 0.0722)}.items():
        luma = colours @ [red, 1 - red - blue, blue]
        ours = first_picture(rgb, Hints(matrix=matrix))
        assert np.abs(ours.y - (16 + luma * (219 / 255))).max() <= 1.5
    with watch(lying["untagged.mkv"], hints=Hints(rate=Fraction(10))) as film:
        assert [frame.time for frame in film.frames()] == [0, Fraction("0.1")]
        assert film.end == Fraction("0.2")


def first_picture(path: Path, hints: Hints) -> Image:
    with watch(path, hints=hints) as film:
        return next(film.frames()).picture()


def several_streams(path: Path, images: list[Image], flags: dict[int, Any]) -> Path:
    """Three tracks, of which the first is larger than the others; their pictures begin at other numbers."""
    with av.open(str(path), "w") as container:
        tracks: list[Any] = []
        for number, (width, height) in enumerate([(96, 64), (64, 48), (64, 48)]):
            track: Any = container.add_stream("libx264", rate=25, options={"qp": "0"})
            track.width, track.height, track.pix_fmt = width, height, "yuv420p"
            track.disposition = flags.get(number, Disposition(0))
            tracks.append(track)
        for number in range(4):
            for index, track in enumerate(tracks):
                frame = video_frame(images[number + 10 * index], number)
                container.mux(track.encode(frame.reformat(track.width, track.height)))
        for track in tracks:
            container.mux(track.encode(None))
    return path


def test_the_default_stream_is_watched_or_the_largest_or_the_one_asked_for(
    images: list[Image], tmp_path: Path
) -> None:
    chosen = {"default": 2, "largest": 0, "both": 1}
    flags = {
        "default": {2: Disposition.default},
        "largest": {},
        "both": {1: Disposition.default, 2: Disposition.default},
    }
    for name, expected in chosen.items():
        path = several_streams(tmp_path / f"{name}.mkv", images, flags[name])
        assert played(path)[1].stream == expected
        assert played(path, stream=1)[1].stream == played(path, "v:1")[1].stream == 1
        assert played(path)[0].pictures == played(path, expected)[0].pictures
    assert played(path, 1)[0].pictures != played(path, 2)[0].pictures
    with pytest.raises(SourceError, match=r"stream 7 is no video stream \(those are: 0, 1, 2\)"):
        played(path, 7)
    with pytest.raises(SourceError, match="stream v:3 is no video stream"):
        played(path, "v:3")


@pytest.mark.ffmpeg
@pytest.mark.parametrize("flags", [{2: Disposition.default}, {}, {1: Disposition.default}])
def test_the_stream_is_that_of_ffmpeg(
    flags: dict[int, Any], images: list[Image], tmp_path: Path, ffmpeg: str
) -> None:
    path = several_streams(tmp_path / "a.mkv", images, flags)
    assert played(path)[0].pictures == reels.played_by_ffmpeg(ffmpeg, path).pictures


def with_cover(path: Path, images: list[Image], film: bool) -> Path:
    """An MP4 file with a large cover picture as its first track, then sound or a film."""
    with av.open(str(path), "w") as container:
        cover: Any = container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 4 * WIDTH, 4 * HEIGHT, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        track: Any = None
        if film:
            track = container.add_stream("libx264", rate=25)
            track.width, track.height, track.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        else:
            sound = container.add_stream("aac", rate=8000)
            sound.layout = "mono"
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
            frame.sample_rate = 8000
        large = video_frame(images[0], 0).reformat(4 * WIDTH, 4 * HEIGHT, "yuvj420p")
        container.mux(cover.encode(large))
        if film:
            for number in range(4):
                container.mux(track.encode(video_frame(images[number], number)))
            container.mux(track.encode(None))
        else:
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
        container.mux(cover.encode(None))
    return path


def test_a_cover_is_no_film(images: list[Image], tmp_path: Path) -> None:
    _, film = played(with_cover(tmp_path / "film.mp4", images, film=True))
    assert (film.width, film.frames_shown) == (WIDTH, 4)
    with pytest.raises(SourceError, match="only a cover picture"):
        played(with_cover(tmp_path / "song.mp4", images, film=False))


def test_what_cannot_be_watched_is_told_in_a_line(tmp_path: Path, images: list[Image]) -> None:
    empty, text, noise, sound = (tmp_path / name for name in ("e.mp4", "t.txt", "n.mp4", "s.wav"))
    empty.touch()
    text.write_text("not a film\n" * 100)
    noise.write_bytes(np.random.default_rng(1).bytes(5000))
    with av.open(str(sound), "w") as container:
        reels.add_silence(container)
    for path, says in {
        tmp_path / "missing.mp4": "no such file",
        tmp_path: "is a directory",
        empty: "the file is empty",
        text: "not a video",
        noise: "not a video",
        sound: "no video stream",
    }.items():
        with pytest.raises(SourceError, match=says) as raised:
            played(path)
        assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_a_film_that_breaks_off_is_shown_as_far_as_it_goes(
    images: list[Image], tmp_path: Path
) -> None:
    path = reels.write_film(tmp_path / "a.mkv", images, "ffv1")
    whole, _ = played(path)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
    cut, _ = played(path)
    assert 20 < len(cut.pictures) < 60
    assert cut.pictures[:-1] == whole.pictures[: len(cut.pictures) - 1]


def test_one_frame_at_a_time_is_held(images: list[Image], tmp_path: Path) -> None:
    path = reels.write_film(tmp_path / "a.mp4", images, bf="0", tune="zerolatency")
    with watch(path) as film:
        frames = film.frames()
        first: ShownFrame = next(frames)
        assert film.frames_shown == 1 and film.end == first.time + first.duration == FRAME
        assert len(list(frames)) == 59


def test_objects_are_watched_like_files(
    s3: stores.Store, images: list[Image], tmp_path: Path
) -> None:
    path = reels.write_film(tmp_path / "a.mp4", images, bf="2")
    assert played(s3.put("a.mp4", path.read_bytes()))[0] == played(path)[0]
    with pytest.raises(StorageError, match="no such object"):
        played(s3.url("absent.mp4"))


def test_a_store_that_fails_on_the_way_is_told(
    s3: stores.Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (3, 240, 320), np.uint8)
    images = [Image(plane, plane[::2, ::2], plane[1::2, 1::2]) for plane in noise] * 20
    large = reels.write_lossless(tmp_path / "a.mkv", images)
    assert large.stat().st_size > 3 << 20
    url = s3.put("a.mkv", large.read_bytes())
    with stores.Proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with watch(url) as film:
            frames = film.frames()
            next(frames)
            proxy.fault = lambda request: stores.s3_error(403, "AccessDenied")
            with pytest.raises(StorageError, match="access denied"):
                list(frames)
