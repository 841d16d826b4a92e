"""When frames are shown: joined captures, held last frames, late pictures, packed pictures, edit lists, equal times.

What is right is known by how each film is made; `watching`, which reads on its own, has to agree.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from excamera_dask.api import encode
from excamera_dask.errors import SourceError
from excamera_dask.sources import SourceInfo, iter_frames, open_source
from excamera_dask.sources.description import NO_TIME
from excamera_dask.sources.times import PacketTimes, as_given, frame_times, joined, spread
from excamera_dask.watching import watch

WIDTH, HEIGHT, RATE = 96, 64, 25
FRAME = Fraction(1, RATE)
OPTIONS: dict[str, Any] = {"chunk_frames": 6, "batch_chunks": 2, "cpu_used": 8, "executor": "sync"}


def frames(count: int) -> Iterator[av.VideoFrame]:
    rng = np.random.default_rng(2)
    still = rng.integers(40, 210, (HEIGHT // 8, WIDTH // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    for number in range(count):
        pixels = np.ascontiguousarray(np.roll(still, 3 * number, 1))
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = number, FRAME
        yield frame


def write(
    path: Path, codec: str = "libx264", count: int = 24, *, after: Fraction = Fraction(0),
    hold: Fraction | None = None, sound: float = 0, options: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    """A film whose pictures begin `after` seconds, whose last packet is `hold` seconds long; with `sound` from 0 s on."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            codec, rate=RATE, options=options or {"bf": "0", "g": "12"}
        )
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        voice = (
            container.add_stream("pcm_s16le" if path.suffix == ".mkv" else "mp2", rate=48000)
            if sound
            else None
        )
        if voice is not None:
            blocks = range(0, int(sound * 48000), 1152)
            for start in blocks:
                block = av.AudioFrame.from_ndarray(
                    np.zeros((1, 2 * 1152), np.int16), layout="stereo"
                )
                block.sample_rate, block.pts, block.time_base = 48000, start, Fraction(1, 48000)
                container.mux(voice.encode(block))
            container.mux(voice.encode(None))
        packets = []
        for frame in frames(count):
            packets += stream.encode(
                frame.reformat(format=stream.pix_fmt) if codec == "gif" else frame
            )
        packets += stream.encode(None)
        for number, packet in enumerate(packets):
            delay = round(after / packet.time_base)
            packet.pts += delay
            packet.dts += delay
            if hold is not None and number == len(packets) - 1:
                packet.duration = round(hold / packet.time_base)
            container.mux(packet)
    return path


def seconds(source: SourceInfo) -> list[Fraction]:
    return [time * source.time_base for time in source.times.tolist()]


def agrees(source: SourceInfo, tick: Fraction = Fraction(1, 1000)) -> None:
    """The independent way of reading has the same times, start and duration."""
    with watch(source.path) as film:
        shown = list(film.frames())
    starts = [frame.time - shown[0].time for frame in shown]
    assert len(starts) == source.frame_count
    assert all(abs(a - b) <= 2 * tick for a, b in zip(starts, seconds(source), strict=True))
    assert abs(shown[0].time - source.start) <= 2 * tick
    assert abs(film.end - shown[0].time - source.length * source.time_base) <= 2 * tick


def written_times(path: Path) -> tuple[list[float], float]:
    """Times of the packets of an output, and its duration, as libavformat reads them."""
    with av.open(str(path)) as container:
        times = [float(p.pts * p.time_base) for p in container.demux(video=0) if p.size]
        return times, container.duration / 1e6


@pytest.mark.parametrize("first_is_later", [False, True])
@pytest.mark.parametrize("sound", [0, 1.0])
@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", "ts"), ("mpeg2video", "ts"), ("mpeg2video", "mpg")]
)
def test_captures_joined_end_to_end_go_on(
    tmp_path: Path, codec: str, suffix: str, first_is_later: bool, sound: float
) -> None:
    if suffix == "mpg" and first_is_later and sound:
        pytest.skip("libavformat itself corrects the wrap of these")
    options = {"bf": "2", "g": "12"}
    early = write(tmp_path / f"a.{suffix}", codec, sound=sound, options=options)
    late = write(
        tmp_path / f"b.{suffix}", codec, sound=sound, options=options, after=Fraction(36000)
    )
    both = tmp_path / f"both.{suffix}"
    parts = (late, early) if first_is_later else (early, late)
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    source = open_source(both)
    assert source.frame_count in (47, 48)  # libavformat may lose what lies at the joint
    steps = np.diff([float(time) for time in seconds(source)])
    assert steps.min() > 0.01 and steps.max() < 0.2
    assert 1.8 < source.duration < 2.2
    assert len(list(iter_frames(source))) == source.frame_count


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "nut", "ts", "avi"])
@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "2"}], ids=["p", "b"])
def test_the_last_frame_is_shown_as_long_as_its_packet_says(
    tmp_path: Path, suffix: str, options: dict[str, str]
) -> None:
    source = open_source(write(tmp_path / f"a.{suffix}", hold=Fraction(5), options=options))
    holds = suffix in ("mp4", "mov", "mkv")
    assert source.duration == pytest.approx(24 / 25 + (4.96 if holds else 0), abs=0.05)
    if options["bf"] == "0":
        agrees(source)


@pytest.mark.parametrize("suffix", ["mkv", "webm", "avi", "ts", "flv"])
def test_a_film_that_breaks_off_does_not_hold_its_last_frame(tmp_path: Path, suffix: str) -> None:
    codec = "libvpx" if suffix == "webm" else "libx264"
    options = {"g": "12"} if suffix == "webm" else {"g": "12", "bf": "0"}
    whole = write(tmp_path / f"a.{suffix}", codec, 100, options=options).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    source = open_source(path)
    assert 20 < source.frame_count < 90
    assert source.duration == pytest.approx(source.frame_count / 25, abs=0.05)
    agrees(source, Fraction(1, 50))


def test_a_gap_before_the_last_frame_is_not_its_duration(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame, time in zip(frames(3), (0, 25, 1000), strict=True):
            frame.pts = time
            for packet in stream.encode(frame):
                container.mux(packet)
    source = open_source(path)
    assert source.duration == pytest.approx(40.04, abs=0.03)
    out = tmp_path / "out.webm"
    encode(path, out, **OPTIONS)
    times, duration = written_times(out)
    assert times == [0, 1, 40] and duration == pytest.approx(40.04, abs=0.03)


def test_a_gif_holds_its_last_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gif", "gif", 4, options={}, hold=Fraction(3))
    source = open_source(path)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    expected = sum(float(packet.duration * packet.time_base) for packet in packets)
    assert source.duration == pytest.approx(expected) and expected > 0.5


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_pictures_that_come_late_stay_late(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", after=Fraction(3, 2), sound=3)
    source = open_source(path)
    assert float(source.start) == pytest.approx(1.5, abs=0.1)
    agrees(source)
    out = tmp_path / "out.webm"
    encode(path, out, **OPTIONS)
    times, duration = written_times(out)
    assert times[0] == pytest.approx(float(source.start), abs=0.002)
    assert times[-1] - times[0] == pytest.approx(23 / 25, abs=0.002)
    assert duration == pytest.approx(times[0] + 24 / 25, abs=0.01)
    encode(path, out, skip=5, **OPTIONS)
    assert written_times(out)[0][0] == 0


def test_ivf_says_that_it_drops_how_long_the_last_frame_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", hold=Fraction(5))
    assert not encode(path, tmp_path / "out.webm", **OPTIONS).warnings
    (warning,) = encode(path, tmp_path / "out.ivf", **OPTIONS).warnings
    assert "IVF" in warning and "last frame" in warning


def packed(path: Path) -> Path:
    """An AVI of MPEG-4 with packed B-frames: two pictures in a packet, then one that says "not coded"."""
    plain = write(
        path.with_name("plain.avi"), "mpeg4", 48, options={"bf": "1", "b_strategy": "0", "g": "12"}
    )
    with av.open(str(plain)) as film, av.open(str(path), "w") as out:
        source = film.streams.video[0]
        stream = out.add_stream_from_template(source)
        chunks, waiting = [], list(film.demux(source))
        data = [bytes(packet) for packet in waiting if packet.size]
        kinds = [one[one.find(b"\0\0\1\xb6") + 4] >> 6 for one in data]
        number = 0
        while number < len(data):
            if number + 1 < len(data) and kinds[number + 1] == 2 and number:
                chunks += [data[number] + data[number + 1], not_coded()]
                number += 2
            else:
                chunks.append(data[number])
                number += 1
        for place, chunk in enumerate(chunks):
            packet = av.Packet(chunk)
            packet.stream, packet.time_base = stream, FRAME
            packet.pts = packet.dts = place
            packet.is_keyframe = place == 0
            out.mux_one(packet)
    return path


def not_coded() -> bytes:
    """A VOP of MPEG-4 that repeats (ISO/IEC 14496-2 6.2.5): type P, a time of five bits, vop_coded 0."""
    bits = "01" + "0" + "1" + "00000" + "1" + "0" + "1"
    bits += "1" * (-len(bits) % 8)
    return b"\0\0\1\xb6" + int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_packed_pictures_are_unpacked(tmp_path: Path, suffix: str) -> None:
    path = packed(tmp_path / f"packed.{suffix}")
    source = open_source(path)
    plain = open_source(tmp_path / "plain.avi")
    assert not source.warnings
    assert source.frame_count == plain.frame_count == 48
    gaps = np.diff([float(time) for time in seconds(source)])
    assert gaps == pytest.approx(np.full(47, 1 / 25), abs=0.001)
    ours, theirs = ([i.to_bytes() for i in iter_frames(s)] for s in (source, plain))
    assert ours == theirs


def test_times_that_are_guessed_for_packed_pictures_are_even(tmp_path: Path, ffmpeg: str) -> None:
    """libxvid's stream tells of B-frames in its packets, and AVI has no times of presentation: libavformat guesses."""
    path = tmp_path / "xvid.avi"
    film = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=1.6", "-c:v", "libxvid", "-bf", "2"]
    made = subprocess.run([ffmpeg, "-v", "error", *film, "-g", "12", str(path)], check=False)
    if made.returncode:
        pytest.skip("this ffmpeg has no libxvid")
    source = open_source(path)
    assert not source.warnings
    assert set(np.diff(source.all_times).tolist()) == {1} and source.end == source.frame_count
    agrees(source)


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4", "libx264"])
def test_chunks_without_a_byte_hold_the_picture_before(tmp_path: Path, codec: str) -> None:
    """So AVI has frames that were dropped in a capture: they are no sign of a file that breaks off."""
    path = tmp_path / "gap.avi"
    with av.open(str(path), "w") as container:
        options = {"b:v": "200k"} if codec == "mjpeg" else {"bf": "0", "g": "12"}
        stream: Any = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number, frame in enumerate(frames(24)):
            shown = frame.reformat(format=stream.pix_fmt)
            shown.pts, shown.time_base = number + 8 * (number >= 10), FRAME
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))
    source = open_source(path)
    assert not source.warnings
    assert source.times.tolist() == [*range(10), *range(18, 32)]
    agrees(source)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert any("truncated" in warning for warning in open_source(path).warnings)


@pytest.mark.parametrize("codec, suffix", [("libx264", "h264"), ("libx265", "hevc")])
@pytest.mark.parametrize("rate", ["6", "12", "25/2", "13", "30000/1001", "120"])
def test_bare_streams_play_at_the_rate_that_they_state(
    tmp_path: Path, codec: str, suffix: str, rate: str
) -> None:
    path = tmp_path / f"bare.{suffix}"
    with av.open(str(path), "w") as container:
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream: Any = container.add_stream(codec, rate=Fraction(rate), options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, frame in enumerate(frames(8)):
            frame.pts, frame.time_base = number, 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = open_source(path)
    assert seconds(source) == [number / Fraction(rate) for number in range(8)]
    assert source.end * source.time_base == 8 / Fraction(rate)
    agrees(source)


def edited(path: Path, target: Path, edits: list[tuple[int, int]]) -> Path:
    """An MP4 with another edit list: (duration in ms, media time) each (ISO/IEC 14496-12 8.6.6)."""

    def boxes(start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
        while start + 8 <= stop:
            size = int.from_bytes(data[start : start + 4], "big")
            yield bytes(data[start + 4 : start + 8]), start, start + size
            start += size

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content) + 8) + kind + content

    def find(kind: bytes, start: int, stop: int) -> tuple[int, int]:
        return next((a, b) for name, a, b in boxes(start, stop) if name == kind)

    data = bytearray(path.read_bytes())
    moov = find(b"moov", 0, len(data))
    trak = find(b"trak", moov[0] + 8, moov[1])
    old = next((a, b) for name, a, b in boxes(trak[0] + 8, trak[1]) if name in (b"edts", b"mdia"))
    entries = b"".join(struct.pack(">IiI", *edit, 1 << 16) for edit in edits)
    edts = box(b"edts", box(b"elst", struct.pack(">II", 0, len(edits)) + entries))
    stop = old[1] if data[old[0] + 4 : old[0] + 8] == b"edts" else old[0]
    grown = len(edts) - (stop - old[0])
    data[old[0] : stop] = edts
    for start, end in (moov, trak):
        data[start : start + 4] = struct.pack(">I", end - start + grown)
    target.write_bytes(data)
    return target


def test_repeated_edits_are_shown_one_after_another(tmp_path: Path) -> None:
    film = write(tmp_path / "a.mp4", count=50)
    with av.open(str(film)) as container:
        ticks = container.streams.video[0].time_base.denominator
    source = open_source(edited(film, tmp_path / "twice.mp4", [(1000, 0), (1000, 0)]))
    assert seconds(source) == [n * FRAME for n in range(50)] and source.duration == 2
    assert not source.warnings
    pictures = [image.to_bytes() for image in iter_frames(source)]
    assert pictures[:25] == pictures[25:]
    middle = open_source(edited(film, tmp_path / "middle.mp4", [(1000, ticks // 2)]))
    assert middle.frame_count == 25 and not middle.warnings


def test_frames_that_share_a_time_are_spread() -> None:
    assert spread(np.array([0, 0, 10, 10, 20]), 5).tolist() == [0, 5, 10, 15, 20]
    assert spread(np.array([0, 0, 0, 3, 4]), 5).tolist() == [0, 1, 2, 3, 4]
    assert spread(np.array([0, 0, 0, 1]), 5).tolist() == [0, 1, 2, 3]
    assert spread(np.array([0, 7, 7]), 5).tolist() == [0, 7, 12]


def packet_times(pts: list[int], dts: list[int] | None = None, duration: int = 10) -> PacketTimes:
    durations = np.full(len(pts), duration)
    return PacketTimes(np.array(pts), np.array(pts if dts is None else dts), durations)


def test_jumps_of_less_than_ten_seconds_are_gaps() -> None:
    unit, rate = Fraction(1, 100), Fraction(10)
    for gap, joint in ((990, False), (1200, True), (-5, False), (-30, True), (360000, True)):
        pts = [0, 10, 20, 30 + gap, 40 + gap]
        told = joined(packet_times(pts), unit, rate).pts.tolist()
        assert told == ([0, 10, 20, 30, 40] if joint else pts), gap


def test_times_of_decoding_are_those_at_which_frames_are_given() -> None:
    packets = packet_times([30, 50, 40, 60, 80, 70], [0, 30, 40, 50, 60, 70])
    order, fed = np.array([0, 2, 3, 1, 5, 4]), np.array([1, 2, 3, 4, 5, -1])
    given = as_given(packets, order, fed)
    times = frame_times(given, order, Fraction(1, 250), Fraction(25), 0)
    assert times.times.tolist() == list(range(0, 60, 10)) and times.end == 60
    assert times.start == Fraction(30, 250)


def test_single_packets_without_a_time_lie_between_the_others() -> None:
    unit, order = Fraction(1, 10), np.arange(5)
    times = frame_times(packet_times([10, NO_TIME, 30, NO_TIME, 50]), order, unit, Fraction(1), 0)
    assert times.times.tolist() == [0, 10, 20, 30, 40] and times.start == 1
    none = frame_times(packet_times([NO_TIME] * 5), order, unit, Fraction(4), None)
    assert none.times.tolist() == [0, 1, 2, 3, 4] and none.unit == Fraction(1, 4)


@pytest.mark.parametrize("tag", [b"encv", b"drmi"])
def test_encrypted_films_are_refused_by_name(tmp_path: Path, tag: bytes) -> None:
    """Sample entries as encrypted films have them; without a key their packets are noise."""
    data = write(tmp_path / "a.mp4").read_bytes()
    at = data.index(b"stsd")
    path = tmp_path / "encrypted.mp4"
    path.write_bytes(data[:at] + data[at:].replace(b"avc1", tag, 1))
    with pytest.raises(SourceError, match=f"encrypted.*{tag.decode()}|no decoder"):
        open_source(path)


@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov"])
def test_films_under_common_encryption_are_refused(tmp_path: Path, flags: str) -> None:
    """Also those that libavformat cannot open."""
    plain, path = write(tmp_path / "a.mp4"), tmp_path / "encrypted.mp4"
    options = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "00112233445566778899aabbccddeeff",
        "encryption_kid": "ffeeddccbbaa99887766554433221100",
        "movflags": flags,
    }
    with av.open(str(plain)) as film, av.open(str(path), "w", options=options) as out:
        stream = out.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(film.streams.video[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    with pytest.raises(SourceError, match="stream 0 is encrypted"):
        open_source(path)
    if flags == "faststart":
        with pytest.raises(SourceError, match="stream 0 is encrypted"), watch(path):
            pass
