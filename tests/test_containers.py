"""Packets in and out of IVF and WebM: whole, truncated and foreign files; output is playable and all or nothing."""

import csv
import os
import shutil
import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from codec.frame import Image
from excamera_dask.errors import ContainerError
from excamera_dask.formats.containers import Writer, read_packets, stream_info
from excamera_dask.formats.ivf import Packet, is_key_frame, is_shown, split_ivf
from excamera_dask.formats.webm import stated_rate
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.sources import Colour, open_source, read_frames

SHARED = Path(os.environ.get("EXCAMERA_SHARED", Path(__file__).parents[1].parent / "shared"))
needs_shared = pytest.mark.skipif(not (SHARED / "vp8").exists(), reason="needs ../shared/vp8")
needs_vpxdec = pytest.mark.skipif(shutil.which("vpxdec") is None, reason="needs vpxdec")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffmpeg")
TICK = Fraction(1, 24)
NTSC = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def packets() -> list[Packet]:
    """A stream of 24 frames of 80x48 with hidden frames, made by libvpx in PyAV."""
    context = av.CodecContext.create("libvpx", "w")
    context.width, context.height, context.pix_fmt = 80, 48, "yuv420p"
    context.time_base, context.framerate = TICK, 1 / TICK
    context.options = {"auto-alt-ref": "1", "lag-in-frames": "12", "b": "90k", "threads": "1"}
    rng = np.random.default_rng(1)
    still = rng.integers(0, 255, (72, 80), np.uint8)
    made = []
    for number in range(24):
        frame = av.VideoFrame.from_ndarray(np.roll(still, number, 1), format="yuv420p")
        frame.pts = number
        made += context.encode(frame)
    made += context.encode(None)
    return [Packet(bytes(p), p.pts or 0) for p in made]


def write_all(writer: Writer, packets: list[Packet]) -> None:
    for packet in packets:
        writer.write(packet.data, packet.pts)


def write(path: Path, packets: list[Packet], **options: object) -> Path:
    shown = sum(is_shown(p.data) for p in packets)
    with Writer(path, 80, 48, TICK, expected_frames=shown, **options) as writer:  # type: ignore[arg-type]
        write_all(writer, packets)
    return path


def with_hidden(packets: list[Packet]) -> list[Packet]:
    """The stream with its second frame hidden: it is decoded, and not shown."""
    tag = packets[1].data
    hidden = Packet(bytes([tag[0] & ~0x10]) + tag[1:], packets[1].pts)
    return [packets[0], hidden, *packets[2:]]


@pytest.mark.parametrize("suffix", ["ivf", "webm"])
def test_round_trip(tmp_path: Path, packets: list[Packet], suffix: str) -> None:
    path = write(tmp_path / f"out.{suffix}", packets)
    again = list(read_packets(path))
    assert [p.data for p in again] == [p.data for p in packets]
    info = stream_info(path)
    assert (info.width, info.height, info.frame_count) == (80, 48, len(packets))
    times = [p.pts * info.time_base for p in again if is_shown(p.data)]
    assert times == pytest.approx([n / 24 for n in range(24)], abs=0.0006)


@pytest.mark.parametrize("suffix", ["ivf", "webm"])
def test_same_bytes_twice(tmp_path: Path, packets: list[Packet], suffix: str) -> None:
    first = write(tmp_path / f"a.{suffix}", packets, colour=Colour(1, 1, 1, 1)).read_bytes()
    assert write(tmp_path / f"b.{suffix}", packets, colour=Colour(1, 1, 1, 1)).read_bytes() == first


@needs_vpxdec
@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["ivf", "webm"])
def test_hidden_frames_play_everywhere(tmp_path: Path, packets: list[Packet], suffix: str) -> None:
    path = write(tmp_path / f"out.{suffix}", with_hidden(packets))
    vpxdec = subprocess.run(
        ["vpxdec", "--i420", "--md5", path], capture_output=True, text=True, check=True
    )
    ffmpeg = subprocess.run(
        ["ffmpeg", "-v", "warning", "-i", path, "-fps_mode", "passthrough", "-f", "md5", "-"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ffmpeg.stderr == ""
    assert ffmpeg.stdout.strip().split("=")[1] == vpxdec.stdout.split()[0]


@needs_ffmpeg
def test_webm_tags(tmp_path: Path, packets: list[Packet]) -> None:
    path = write(
        tmp_path / "out.webm",
        packets,
        colour=Colour(2, 1, 1, 1),
        sample_aspect=Fraction(3, 2),
        average_rate=Fraction(24),
    )
    fields = (
        "color_range,color_space,color_primaries,color_transfer,sample_aspect_ratio,avg_frame_rate"
    )
    out = subprocess.run(
        ["ffprobe", "-v", "warning", "-of", "default=nk=0:nw=1",
         "-show_entries", f"stream={fields}:format=duration:format_tags=encoder", path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.stderr == ""
    got = dict(line.split("=", 1) for line in out.stdout.splitlines())
    assert got["color_range"] == "pc" and got["color_space"] == "bt709"
    assert got["sample_aspect_ratio"] == "3:2" and got["avg_frame_rate"] == "24/1"
    assert float(got["duration"]) == pytest.approx(1.0, abs=0.002)
    assert b"\x1c\x53\xbb\x6b" in path.read_bytes()  # Cues
    assert b"." * 10 not in path.read_bytes()  # the placeholder


def test_a_single_frame_lasts_as_long_as_the_rate_says(
    tmp_path: Path, packets: list[Packet]
) -> None:
    path = write(tmp_path / "out.webm", packets[:1], average_rate=Fraction(24))
    with av.open(str(path)) as container:
        assert container.duration == pytest.approx(1e6 / 24, abs=1000)


def test_webm_key_frame_flags(tmp_path: Path, packets: list[Packet]) -> None:
    path = write(tmp_path / "out.webm", packets)
    with av.open(str(path)) as container:
        flags = [p.is_keyframe for p in container.demux(video=0) if p.size]
    assert flags == [is_key_frame(p.data) for p in packets]


def test_variable_times(tmp_path: Path, packets: list[Packet]) -> None:
    shown = [p for p in packets if is_shown(p.data)][:3]
    uneven = [Packet(p.data, t) for p, t in zip(shown, (0, 7, 8), strict=True)]
    path = write(tmp_path / "out.webm", uneven)
    assert [p.pts for p in read_packets(path)] == [0, 292, 333]


@needs_ffmpeg
def test_ffmpeg_has_nothing_to_say_of_uneven_times(tmp_path: Path, packets: list[Packet]) -> None:
    shown = [p for p in packets if is_shown(p.data)][:8]
    times = np.array([0, 1400, 1415, 3600, 3615, 3630, 3644, 3660])
    uneven = [Packet(p.data, int(t)) for p, t in zip(shown, times, strict=True)]
    millisecond, mean = Fraction(1, 1000), Fraction(2)
    for rate, complains in (mean, True), (stated_rate(times, millisecond, mean), False):
        path = tmp_path / "out.webm"
        with Writer(path, 80, 48, millisecond, average_rate=rate) as writer:
            write_all(writer, uneven)
        command = ["ffmpeg", "-v", "error", "-i", path, "-f", "null", "-"]
        said = subprocess.run(command, capture_output=True, text=True).stderr
        assert ("non monotonically" in said) == complains


def test_even_times_state_the_mean_rate() -> None:
    assert stated_rate(np.arange(90), 1 / NTSC, NTSC) == NTSC
    assert stated_rate(np.array([0]), TICK, 1 / TICK) == 1 / TICK
    assert stated_rate(np.array([0, 1, 24, 25]), TICK, Fraction(2)) == Fraction(1000, 42)


@pytest.mark.parametrize("suffix", ["ivf", "webm"])
def test_wrong_count_leaves_nothing(tmp_path: Path, packets: list[Packet], suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    path.write_bytes(b"what was there before")
    with (
        pytest.raises(ContainerError, match="24 frames were made of 25"),
        Writer(path, 80, 48, TICK, expected_frames=25) as writer,
    ):
        write_all(writer, packets)
    assert path.read_bytes() == b"what was there before"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("suffix", ["ivf", "webm"])
def test_failure_leaves_nothing(
    tmp_path: Path, packets: list[Packet], suffix: str, error: type[BaseException]
) -> None:
    with pytest.raises(error), Writer(tmp_path / f"out.{suffix}", 80, 48, TICK) as writer:
        writer.write(*packets[0])
        raise error
    assert os.listdir(tmp_path) == []


def test_writer_refuses(tmp_path: Path, packets: list[Packet]) -> None:
    with pytest.raises(ContainerError, match=r"\.webm or \.ivf"):
        Writer(tmp_path / "out.mp4", 80, 48, TICK)
    with pytest.raises(ContainerError, match="cannot write there"):
        Writer(tmp_path / "missing" / "out.ivf", 80, 48, TICK).__enter__()
    with pytest.raises(ContainerError, match="no frames"), Writer(tmp_path / "o.webm", 8, 8, TICK):
        pass
    assert os.listdir(tmp_path) == []


def ivf(frames: list[bytes], fourcc: bytes = b"VP80") -> bytes:
    header = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, fourcc, 8, 8, 30, 1, len(frames), 0)
    return header + b"".join(struct.pack("<IQ", len(f), n) + f for n, f in enumerate(frames))


def test_broken_ivf(tmp_path: Path) -> None:
    path = tmp_path / "x.ivf"
    whole = ivf([b"\x10abc", b"", b"\x11de"])
    path.write_bytes(whole)
    assert [p.data for p in read_packets(path)] == [b"\x10abc", b"", b"\x11de"]
    path.write_bytes(whole[:-1])
    assert [p.data for p in read_packets(path)] == [b"\x10abc", b""]
    path.write_bytes(whole[: 32 + 16 + 5])
    assert [p.data for p in read_packets(path)] == [b"\x10abc"]
    path.write_bytes(whole + struct.pack("<IQ", 0xFFFFFFF0, 3) + b"x")
    assert len(list(read_packets(path))) == 3
    assert split_ivf(whole) == [b"\x10abc", b"", b"\x11de"]


def test_refused_files(tmp_path: Path) -> None:
    def refuse(data: bytes | None, pattern: str) -> None:
        path = tmp_path / "x"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(ContainerError, match=pattern) as caught:
            list(read_packets(path if data is not None else tmp_path / "none"))
        assert "\n" not in str(caught.value)

    refuse(None, "no such file")
    refuse(b"", "empty")
    refuse(ivf([], b"VP90"), "not VP8")
    refuse(b"DKIF\0\0", "cut short")
    refuse(bytes(range(256)) * 20, "not an IVF or WebM")
    with pytest.raises(ContainerError, match="directory"):
        list(read_packets(tmp_path))


@needs_shared
def test_expected_files() -> None:
    """Every file that vpxdec decodes gives as many packets as it decoded; VP9, Theora and audio are refused."""
    seen = 0
    with open(SHARED / "vp8" / "expected.csv", newline="") as table:
        for row in csv.DictReader(table):
            path = SHARED / "vp8" / row["file"]
            if not path.exists():
                continue
            seen += 1
            if row["vpxdec_rc"] == "0":
                assert len(list(read_packets(path))) == int(row["decoded"]), row["file"]
            elif not row["probe"].startswith("vp8"):
                with pytest.raises(ContainerError):
                    list(read_packets(path))
            else:
                list(read_packets(path))
    assert seen > 50


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 16)])
def test_y4m(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(2)
    half = ((height + 1) // 2, (width + 1) // 2)
    images = [
        Image(*(rng.integers(0, 255, shape, np.uint8) for shape in ((height, width), half, half)))
        for _ in range(3)
    ]
    path = tmp_path / "out.y4m"
    with Y4mWriter(path, width, height, Fraction(24), sample_aspect=Fraction(4, 3), range=1) as out:
        for image in images:
            out.write(image)
    source = open_source(path)
    assert source.frame_count == 3 and source.sample_aspect == Fraction(4, 3)
    assert source.colour.range == 1
    for a, b in zip(read_frames(source, 0, 3), images, strict=True):
        assert a.to_bytes() == b.to_bytes()
    with pytest.raises(RuntimeError), Y4mWriter(tmp_path / "p.y4m", 1, 1, Fraction(1)):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["out.y4m"]
