"""Which of several video streams is read: the one that ffmpeg takes, or the one that is named."""

from __future__ import annotations

import json
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from av.stream import Disposition

from excamera_dask.api import encode
from excamera_dask.cli import main
from excamera_dask.errors import ContainerError, SourceError
from excamera_dask.formats.containers import read_packets, stream_info
from excamera_dask.overrides import Reading
from excamera_dask.progress import Event, Notice
from excamera_dask.sources import open_source, read_frames

FRAMES = 6


class Stream(NamedTuple):
    """A video stream of one shade."""

    luma: int
    size: tuple[int, int] = (64, 48)
    disposition: Disposition = Disposition(0)
    codec: str = "libx264"


DEFAULT, COVER = Disposition.default, Disposition.attached_pic
SMALL, LARGE = (32, 16), (96, 64)


def write(path: Path, *wanted: Stream | None) -> Path:
    """A film of these video streams, and of sound where None stands."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = []
        for one in wanted:
            if one is None:
                streams.append(container.add_stream("aac", rate=8000, layout="mono"))
                continue
            stream: Any = container.add_stream(one.codec, rate=25)
            stream.width, stream.height = one.size
            stream.pix_fmt = "yuvj420p" if one.codec == "mjpeg" else "yuv420p"
            stream.disposition = one.disposition
            streams.append(stream)
        for stream, one in zip(streams, wanted, strict=True):
            for number in range(1 if one is not None and one.disposition & COVER else FRAMES):
                container.mux(stream.encode(sound(number) if one is None else shade(one, number)))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def shade(stream: Stream, number: int) -> av.VideoFrame:
    width, height = stream.size
    rows = np.full((height * 3 // 2, width), 128, np.uint8)
    rows[:height] = stream.luma
    format_ = "yuvj420p" if stream.codec == "mjpeg" else "yuv420p"
    frame = av.VideoFrame.from_ndarray(rows, format=format_)
    frame.pts, frame.time_base = number, Fraction(1, 25)
    return frame


def sound(number: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = 8000, 1024 * number, Fraction(1, 8000)
    return frame


FILMS: dict[str, tuple[tuple[Stream | None, ...], int]] = {
    "the second is the default": ((Stream(60), Stream(160, disposition=DEFAULT)), 1),
    "the first is the default": ((Stream(60, disposition=DEFAULT), Stream(160)), 0),
    "none is": ((Stream(60), Stream(160)), 0),
    "both are": ((Stream(60, disposition=DEFAULT), Stream(160, disposition=DEFAULT)), 0),
    "the second is larger": ((Stream(60, SMALL), Stream(160, LARGE)), 1),
    "the first is larger": ((Stream(60, LARGE), Stream(160, SMALL)), 0),
    "the default one is smaller": ((Stream(60, LARGE), Stream(160, SMALL, DEFAULT)), 1),
    "both are default, the last is larger": (
        (Stream(60, SMALL, DEFAULT), Stream(160, SMALL, DEFAULT), Stream(200, LARGE, DEFAULT)), 2,
    ),
    "sound comes first": ((None, Stream(60), Stream(160, LARGE)), 2),
}  # fmt: skip


def luma(path: Path, reading: Reading | None = None) -> int:
    source = open_source(path, reading)
    return int(np.median(read_frames(source, 2, 1)[0].y))


@pytest.mark.parametrize("name", FILMS)
def test_the_stream_that_is_taken(tmp_path: Path, name: str) -> None:
    streams, taken = FILMS[name]
    path = write(tmp_path / "a.mkv", *streams)
    source = open_source(path)
    chosen = streams[taken]
    assert chosen is not None
    assert source.stream_index == taken and luma(path) == pytest.approx(chosen.luma, abs=3)
    assert (source.width, source.height) == chosen.size
    (notice,) = source.notices
    width, height = chosen.size
    assert f"{taken} (h264, {width}x{height}) is taken" in notice and "--stream" in notice
    assert not source.warnings


@pytest.mark.parametrize("name", FILMS)
def test_as_ffmpeg_takes(ffmpeg: str, tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.mkv", *FILMS[name][0])
    command = [ffmpeg, "-v", "error", "-i", path, "-frames:v", "1", "-pix_fmt", "yuv420p",
               "-f", "rawvideo", "-"]  # fmt: skip
    theirs = subprocess.run(command, check=True, capture_output=True).stdout
    assert theirs[0] == pytest.approx(luma(path), abs=1)


@pytest.mark.parametrize("begins, taken", [(None, 0), (10, 1), (200, 0)])
def test_a_stream_that_begins_late_or_never(
    ffmpeg: str, tmp_path: Path, begins: int | None, taken: int
) -> None:
    path = tmp_path / "a.mkv"
    both = (Stream(60), Stream(160, LARGE))
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("mpeg4", rate=25) for _ in both]
        for stream, one in zip(streams, both, strict=True):
            stream.width, stream.height, stream.pix_fmt = *one.size, "yuv420p"
        for number in range(220):
            container.mux(streams[0].encode(shade(both[0], number)))
            if begins is not None and number >= begins:
                container.mux(streams[1].encode(shade(both[1], number)))
        for stream in streams[: 1 if begins is None else 2]:
            container.mux(stream.encode(None))
    assert open_source(path).stream_index == taken
    command = [ffmpeg, "-i", path, "-frames:v", "1", "-f", "null", "-"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert f"Stream #0:{taken} -> #0:0" in told


@pytest.mark.parametrize(
    "wanted, index", [(0, 0), (2, 2), ("v:0", 0), ("v:1", 2), ("V:1", 2), ("2", 2)]
)
def test_the_stream_that_is_named(tmp_path: Path, wanted: int | str, index: int) -> None:
    path = write(tmp_path / "a.mkv", Stream(60), None, Stream(160))
    source = open_source(path, Reading(stream=wanted))
    assert source.stream_index == index and source.notices == ()
    assert luma(path, Reading(stream=wanted)) == pytest.approx({0: 60, 2: 160}[index], abs=3)


def test_streams_of_one_file_are_read_in_turn(tmp_path: Path) -> None:
    """Open readers are kept, each for its own stream."""
    path = write(tmp_path / "a.mkv", Stream(60), Stream(160, LARGE))
    first, second = (open_source(path, Reading(stream=n)) for n in range(2))
    for number in range(FRAMES):
        one, other = (read_frames(source, number, 1)[0] for source in (first, second))
        assert (one.width, other.width) == (64, 96)
        assert abs(int(one.y[0, 0]) - 60) <= 3 and abs(int(other.y[0, 0]) - 160) <= 3


@pytest.mark.parametrize("wanted", [1, 3, "v:2", 99])
def test_a_stream_that_is_not_there(tmp_path: Path, wanted: int | str) -> None:
    path = write(tmp_path / "a.mkv", Stream(60), None, Stream(160, LARGE))
    with pytest.raises(SourceError) as caught:
        open_source(path, Reading(stream=wanted))
    told = str(caught.value)
    assert f"no video stream {wanted}" in told and "\n" not in told
    assert "0 (h264, 64x48), 1 (audio, aac), 2 (h264, 96x64)" in told


def test_a_cover_is_no_choice(tmp_path: Path) -> None:
    """Not even a large one; but whoever asks for it gets it."""
    cover = Stream(200, (128, 96), COVER, "mjpeg")
    path = write(tmp_path / "a.mp4", cover, Stream(60))
    source = open_source(path)
    film = next(n for n in range(2) if n == source.stream_index)
    assert source.notices == () and source.frame_count == FRAMES and source.width == 64
    assert open_source(path, Reading(stream=1 - film)).width == 128


def test_the_choice_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", Stream(60), Stream(160, disposition=DEFAULT))
    events: list[Event] = []
    out = tmp_path / "out.ivf"
    encode(path, out, executor="sync", batch_chunks=1, on_event=events.append)
    told = [event.text for event in events if isinstance(event, Notice)]
    assert any("1 (h264, 64x48) is taken, not 0 (h264, 64x48)" in text for text in told)
    assert luma(out) == pytest.approx(160, abs=3)
    encode(path, out, executor="sync", batch_chunks=1, stream=0)
    assert luma(out) == pytest.approx(60, abs=3)


@pytest.fixture(scope="module")
def two_of_vp8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    streams = [Stream(60, codec="libvpx"), Stream(160, LARGE, codec="libvpx")]
    return write(tmp_path_factory.mktemp("vp8") / "a.webm", *streams)


def test_packets_of_several_vp8_streams(two_of_vp8: Path) -> None:
    heard: list[str] = []
    assert stream_info(two_of_vp8, on_choice=heard.append).width == 96
    assert "1 (vp8, 96x64) is taken, not 0 (vp8, 64x48)" in heard[0]
    assert stream_info(two_of_vp8, "v:0", heard.append).width == 64 and len(heard) == 1
    taken, other = list(read_packets(two_of_vp8)), list(read_packets(two_of_vp8, 0))
    assert len(taken) == len(other) == FRAMES and taken != other
    assert list(read_packets(two_of_vp8, 1)) == taken
    with pytest.raises(ContainerError, match=r"no video stream 2; there are 0 \(vp8, 64x48\)"):
        list(read_packets(two_of_vp8, 2))


def test_a_stream_that_is_not_vp8(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", Stream(60, codec="libvpx"), Stream(160))
    assert stream_info(path).width == 64
    with pytest.raises(ContainerError, match=r"not VP8 \(stream 1 \(h264, 64x48\)\)"):
        stream_info(path, 1)


def test_the_commands_for_vp8_files(two_of_vp8: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[str, str]:
        assert main([*arguments]) == 0
        told = capsys.readouterr()
        return told.out, told.err

    plain, notice = run("decode", str(two_of_vp8), "--md5")
    assert "is taken, not" in notice
    named, silence = run("decode", str(two_of_vp8), "--md5", "--stream", "v:1")
    assert named == plain and silence == ""
    assert run("decode", str(two_of_vp8), "--md5", "--stream", "0")[0] != plain
    described = json.loads(run("info", str(two_of_vp8), "--stream", "0")[0])
    assert described["width"] == 64 and len(described["frames"]) == FRAMES
