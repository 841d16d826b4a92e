"""What a film says of its pictures beside their size reaches the output; what an output cannot hold is named."""

from __future__ import annotations

import gc
import json
import struct
import subprocess
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from excamera_dask.api import encode
from excamera_dask.formats.containers import Writer, read_packets
from excamera_dask.formats.ebml import elements, written
from excamera_dask.formats.video_element import complete_video, placeholder
from excamera_dask.muxing import dropped
from excamera_dask.progress import Event, Notice
from excamera_dask.sources import open_source, read_frames
from excamera_dask.sources.description import Colour, PictureTags, Projection

WIDTH, HEIGHT = 64, 48
QUARTER = 1 << 30
DISPLAY = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329)
EQUIRECTANGULAR = Projection(1, struct.pack(">5I", 0, 0, 0, QUARTER, QUARTER), 10.0, -20.5, 30.0)
CUBEMAP = Projection(2, struct.pack(">3I", 0, 0, 4), 0.0, 0.0, 0.0)
WHOLE_SPHERE = Projection(1, bytes(20), 0.0, 0.0, 0.0)
ALL = PictureTags(3, EQUIRECTANGULAR, DISPLAY, (1000.0, 0.0001), (1000, 400))
TAGS = {
    "all": ALL,
    **{f"stereo {mode}": PictureTags(mode) for mode in (1, 2, 3, 11)},
    "cube": PictureTags(projection=CUBEMAP),
    "sphere": PictureTags(projection=WHOLE_SPHERE),
    "display": PictureTags(chromaticities=DISPLAY),
    "luminance": PictureTags(luminance=(4000.0, 0.005)),
    "light": PictureTags(light=(600, 200)),
}


def write_vp8(path: Path, **tags: Any) -> Path:
    """A film of three frames with the given tags."""
    encoder: Any = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    packets: list[Any] = []
    for number in range(3):
        rows = np.full((HEIGHT * 3 // 2, WIDTH), 60 + 20 * number, np.uint8)
        frame = av.VideoFrame.from_ndarray(rows, format="yuv420p")
        frame.pts = number
        packets += encoder.encode(frame)
    with Writer(path, WIDTH, HEIGHT, Fraction(1, 25), **tags) as writer:
        for number, packet in enumerate([*packets, *encoder.encode(None)]):
            writer.write(bytes(packet), number)
    return path


def write_film(
    path: Path, codec: str, options: dict[str, str], *, format: str = "yuv420p", rotation: int = 0,
    colour: Colour | None = None,
) -> Path:  # fmt: skip
    """A film of 24 frames by one of PyAV's encoders."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, format
        if colour is not None:
            context = stream.codec_context
            context.color_range, context.colorspace = colour.range, colour.matrix
            context.color_primaries, context.color_trc = colour.primaries, colour.transfer
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(24):
            rows = np.full((HEIGHT, WIDTH, 3), 60 + 5 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(rows, format="rgb24").reformat(format=format)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def said(path: Path) -> dict[str, Any]:
    """What libavformat and libavcodec read out of a film beside its pictures."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        context = stream.codec_context
        colour = (
            context.color_range,
            context.color_primaries,
            context.color_trc,
            context.colorspace,
        )
        frame: Any = next(container.decode(stream))
        found = {data.type.name: bytes(data) for data in iter(frame.side_data)}
        found.pop("SEI_UNREGISTERED", None)
        return {
            **found,
            "aspect": stream.sample_aspect_ratio,
            "colour": colour,
            "stereo": stream.metadata.get("stereo_mode"),
        }


def told(event_list: list[Event]) -> list[str]:
    return [event.text for event in event_list if isinstance(event, Notice) and event.is_warning]


def encoded(source: Path, out: Path) -> list[str]:
    """Encode with one worker; the warnings."""
    events: list[Event] = []
    report = encode(source, out, executor="sync", batch_chunks=1, on_event=events.append)
    assert len(report.warnings) == len(told(events))
    return told(events)


@pytest.mark.parametrize("name", TAGS)
def test_tags_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    path = write_vp8(tmp_path / "a.webm", tags=TAGS[name])
    assert open_source(path).tags == TAGS[name]
    assert write_vp8(tmp_path / "b.webm", tags=TAGS[name]).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", TAGS)
def test_tags_survive_an_encode(tmp_path: Path, name: str) -> None:
    source = write_vp8(
        tmp_path / "a.webm",
        tags=TAGS[name],
        colour=Colour(1, 9, 16, 9),
        sample_aspect=Fraction(3, 2),
    )
    out = tmp_path / "out.webm"
    assert encoded(source, out) == []
    assert said(out) == said(source)
    assert said(out)["aspect"] == Fraction(3, 2)


def test_an_encode_to_ivf_says_what_it_drops(tmp_path: Path) -> None:
    source = write_vp8(
        tmp_path / "a.webm", tags=ALL, colour=Colour(1, 9, 16, 9), sample_aspect=Fraction(3, 2)
    )
    (warning,) = encoded(source, tmp_path / "out.ivf")
    assert "\n" not in warning and warning.startswith(
        f"{tmp_path / 'out.ivf'}: not carried into IVF: "
    )
    for name in ("aspect", "colour", "stereo", "projection", "mastering display", "light level"):
        assert name in warning


@pytest.mark.parametrize("colour", [Colour(), Colour(1), Colour(1, 2, 2, 6), Colour(1, 2, 2, 5)])
def test_what_a_decoder_takes_for_granted_is_not_dropped(tmp_path: Path, colour: Colour) -> None:
    source = write_vp8(tmp_path / "a.webm", colour=colour)
    assert dropped(open_source(source), ".ivf") == ()
    assert dropped(open_source(write_vp8(tmp_path / "b.webm", colour=Colour(1, 1, 2, 2))), ".ivf")


PACKINGS = {"3": 1, "4": 3}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("rotation, turned", [(0, {1: 1, 3: 3}), (90, {1: 2, 3: 1}),
                                              (180, {1: 11, 3: 2}), (270, {1: 3, 3: 11})])  # fmt: skip
def test_two_views_in_an_h264_stream(
    tmp_path: Path, packing: str, rotation: int, turned: dict[int, int]
) -> None:
    """Where pictures are turned, the views are: counter-clockwise by 90 degrees the left one lies below."""
    options = {"x264-params": f"frame-packing={packing}"}
    source = write_film(tmp_path / "a.mp4", "libx264", options, rotation=rotation)
    assert open_source(source).tags == PictureTags(turned[PACKINGS[packing]])


@pytest.mark.parametrize("packing, name", [("0", "checkerboard"), ("1", "columns"), ("2", "lines"),
                                           ("5", "frame by frame")])  # fmt: skip
def test_views_that_webm_has_no_name_for(tmp_path: Path, packing: str, name: str) -> None:
    options = {"x264-params": f"frame-packing={packing}"}
    source = open_source(write_film(tmp_path / "a.mp4", "libx264", options))
    assert source.tags.stereo_mode == 0 and name in source.tags.lost[0]
    (warning,) = dropped(source, ".webm")
    assert name in warning and dropped(source, ".ivf") == (warning.replace("WebM", "IVF"),)


def test_the_display_that_a_film_was_made_on(tmp_path: Path) -> None:
    master = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    params = f"log-level=none:repeat-headers=1:hdr10=1:max-cll=1000,400:master-display={master}"
    source = write_film(
        tmp_path / "a.mp4", "libx265", {"x265-params": params}, format="yuv420p10le",
        colour=Colour(1, 9, 16, 9),
    )  # fmt: skip
    described = open_source(source)
    assert described.tags == PictureTags(0, None, DISPLAY, (1000.0, 0.0001), (1000, 400))
    encoded(source, tmp_path / "out.webm")
    found = said(tmp_path / "out.webm")
    assert {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"} <= set(found)
    assert found["colour"] == (1, 9, 16, 9)


def caption() -> bytes:
    """An SEI unit of one closed caption (ATSC A/53 part 4), with its start code."""
    triplets = bytes([0xFC, 0x80, 0x80]) * 2
    message = b"\xb5\x00\x31GA94\x03" + bytes([0xC2, 0xFF]) + triplets + b"\xff"
    return b"\0\0\0\1\x06\x04" + bytes([len(message)]) + message + b"\x80"


def test_captions_are_named_and_what_an_encoder_says_of_itself_is_not(tmp_path: Path) -> None:
    plain = write_film(tmp_path / "plain.h264", "libx264", {"g": "1"})
    assert open_source(plain).tags.lost == ()
    stream = plain.read_bytes()
    at = stream.index(b"\0\0\1\x65") - (stream[stream.index(b"\0\0\1\x65") - 1] == 0)
    path = tmp_path / "captions.h264"
    path.write_bytes(stream[:at] + caption() + stream[at:])
    assert open_source(path).tags.lost == ("closed captions",)
    (warning,) = encoded(path, tmp_path / "out.webm")
    assert "closed captions" in warning


def dynamic_metadata() -> bytes:
    """An HEVC SEI unit of HDR10+ (SMPTE ST 2094-40) for one window, with its start code."""
    fields = [
        (1, 2),
        (1000, 27),
        (0, 1),
        *[(5000, 17)] * 4,
        (0, 4),
        (77, 10),
        (0, 1),
        (0, 1),
        (0, 1),
    ]
    bits = "".join(f"{value:0{size}b}" for value, size in fields)
    bits += "0" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big")
    message = b"\xb5\x00\x3c\x00\x01\x04\x01" + body
    payload = bytes([4, len(message)]) + message
    for following in range(4):  # no start code may appear in it (ITU-T H.265 section 7.4.2)
        payload = payload.replace(bytes([0, 0, following]), bytes([0, 0, 3, following]))
    return b"\0\0\0\1\x4e\x01" + payload + b"\x80"


def test_changing_light_is_named(tmp_path: Path) -> None:
    params = {"x265-params": "log-level=none:repeat-headers=1:keyint=1"}
    plain = write_film(tmp_path / "plain.hevc", "libx265", params)
    assert open_source(plain).tags.lost == ()
    stream = plain.read_bytes()
    at = stream.index(b"\0\0\0\1\x44\x01")  # the picture parameter set, behind the others
    stop = stream.index(b"\0\0\1", at + 4)
    path = tmp_path / "hdr10plus.hevc"
    path.write_bytes(stream[:stop] + dynamic_metadata() + stream[stop:])
    assert open_source(path).tags.lost == ("HDR10+",)


def with_profile(png: bytes) -> bytes:
    """A PNG file with a colour profile in it, of which a decoder only looks at the header."""
    profile = struct.pack(">I", 132) + bytes(124) + bytes(4)
    content = b"p\0\0" + zlib.compress(profile)
    chunk = b"iCCP" + content
    block = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:33] + block + png[33:]


def test_a_colour_profile_is_named(tmp_path: Path) -> None:
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "rgb24"
    encoder.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8), format="rgb24")
    frame.pts = 0
    png = b"".join(map(bytes, [*encoder.encode(frame), *encoder.encode(None)]))
    path = tmp_path / "a.png"
    path.write_bytes(with_profile(png))
    for _ in range(5):  # PyAV frees its name twice
        assert open_source(path).tags.lost == ("ICC profile",)
        gc.collect()


@pytest.mark.parametrize("orientation, turned", [(1, False), (3, False), (6, True), (8, True)])
def test_side_data_without_a_name_hides_no_other(
    tmp_path: Path, orientation: int, turned: bool
) -> None:
    """A photograph's Exif data, which PyAV does not know, stand beside the way that it is turned."""
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    rows = np.tile(np.arange(WIDTH, dtype=np.uint8) * 3, (HEIGHT * 3 // 2, 1))
    frame = av.VideoFrame.from_ndarray(rows, format="yuvj420p")
    frame.pts = 0
    jpeg = b"".join(map(bytes, [*encoder.encode(frame), *encoder.encode(None)]))
    entry = struct.pack(">HHIHH", 0x112, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    source = open_source(path)
    assert (source.width, source.height) == ((HEIGHT, WIDTH) if turned else (WIDTH, HEIGHT))
    luma = read_frames(source, 0, 1)[0].y.astype(int)
    brighter = {1: (0, 1), 3: (0, -1), 6: (1, 0), 8: (-1, 0)}[orientation]
    assert np.sign(luma[-1, 8] - luma[0, 8]) == brighter[0]
    assert np.sign(luma[8, -1] - luma[8, 0]) == brighter[1]


def test_cropping_is_named(tmp_path: Path) -> None:
    """The columns that a container leaves out are kept, as ffmpeg did before version 7.1."""
    path = write_vp8(tmp_path / "a.webm", sample_aspect=Fraction(3, 2))
    data = bytearray(path.read_bytes())
    pixel_crop_left, display_width = b"\x54\xcc", b"\x54\xb0"
    at = data.index(display_width)
    data[at : at + 2] = pixel_crop_left
    data[at + 3] = 8
    path.write_bytes(data)
    assert "cropping" in open_source(path).tags.lost


def test_boxes_of_an_mp4_file(tmp_path: Path, ffmpeg: str) -> None:
    """st3d, sv3d, mdcv and clli, as ffmpeg writes them."""
    plain = write_vp8(tmp_path / "a.webm", tags=ALL, sample_aspect=Fraction(3, 2))
    path = tmp_path / "a.mp4"
    command = [ffmpeg, "-v", "error", "-i", plain, "-strict", "unofficial", "-c:v", "libx264"]
    subprocess.run([*command, path], check=True)
    source = open_source(path)
    assert source.tags == ALL and source.sample_aspect == Fraction(3, 2)


def test_a_spherical_picture_that_is_turned(tmp_path: Path, ffmpeg: str) -> None:
    plain = write_vp8(tmp_path / "a.webm", tags=PictureTags(projection=EQUIRECTANGULAR))
    turned = tmp_path / "turned.mp4"
    command = [ffmpeg, "-v", "error", "-i", plain, "-strict", "unofficial", "-c:v", "libx264"]
    subprocess.run([*command, tmp_path / "a.mp4"], check=True)
    assert open_source(tmp_path / "a.mp4").tags.projection == EQUIRECTANGULAR
    rotate = [
        ffmpeg,
        "-v",
        "error",
        "-i",
        tmp_path / "a.mp4",
        "-c",
        "copy",
        "-strict",
        "unofficial",
    ]
    subprocess.run([*rotate, "-metadata:s:v:0", "rotate=90", turned], check=True)
    source = open_source(turned)
    assert source.rotation != 0 and source.tags.projection is None
    assert "projection" in source.tags.lost[0]


@pytest.mark.parametrize("name", TAGS)
def test_ffprobe_reads_the_same(ffmpeg: str, tmp_path: Path, name: str) -> None:
    """What ffmpeg carries from one WebM file to another is what our reader and writer carry."""
    tags = TAGS[name]
    path = write_vp8(tmp_path / "a.webm", tags=tags)
    command = ["ffprobe", "-v", "warning", "-of", "json", "-show_streams", path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    stream = json.loads(done.stdout)["streams"][0]
    found = {data["side_data_type"]: data for data in stream.get("side_data_list", [])}
    assert done.stderr == "" and stream["sample_aspect_ratio"] == "1:1"
    assert "title" not in stream.get("tags", {})
    modes = {1: "left_right", 2: "bottom_top", 3: "top_bottom", 11: "right_left"}
    assert stream.get("tags", {}).get("stereo_mode") == modes.get(tags.stereo_mode)
    assert ("Spherical Mapping" in found) == (tags.projection is not None)
    if tags.projection is not None:
        pose = [found["Spherical Mapping"][angle] for angle in ("yaw", "pitch", "roll")]
        assert pose == [int(angle) for angle in tags.projection[2:]]
    if tags.light:
        light = found["Content light level metadata"]
        assert (light["max_content"], light["max_average"]) == tags.light
    if tags.chromaticities:
        display = found["Mastering display metadata"]
        corners = ("red", "green", "blue", "white_point")
        values = [
            float(Fraction(display[f"{corner}_{axis}"])) for corner in corners for axis in "xy"
        ]
        assert values == pytest.approx(tags.chromaticities)


@pytest.mark.parametrize("length", [1, 40, 100, *range(118, 134), 260, 5000])
def test_any_number_of_bytes_fits_over_the_placeholder(tmp_path: Path, length: int) -> None:
    """Whatever its length, what is added lies in the Video element, and nothing after the header moves."""
    added = written(0x7672, bytes(length))
    path = tmp_path / "a.webm"
    packets = [packet.data for packet in read_packets(write_vp8(tmp_path / "b.webm"))]
    with av.open(str(path), "w", format="webm") as container:
        with av.open(str(tmp_path / "b.webm")) as template:
            stream: Any = container.add_stream_from_template(template.streams.video[0])
        stream.metadata["title"] = placeholder(added)
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, 40 * number, 40 * number
            packet.time_base, packet.is_keyframe = Fraction(1, 1000), number == 0
            container.mux(packet)
    before = path.read_bytes()
    with path.open("r+b") as file:
        complete_video(file, added)
    after = path.read_bytes()
    assert len(after) == len(before) and added in after
    cluster = before.index(b"\x1f\x43\xb6\x75")
    assert after[cluster:] == before[cluster:]
    assert [packet.data for packet in read_packets(path)] == packets
    assert ids(after) - ids(before) == {0x7672} and ids(before) - ids(after) == {0x536E}


def ids(data: bytes) -> set[int]:
    """The identifiers of a file's elements down to those of its tracks' Video elements."""
    found: set[int] = set()

    def walk(start: int, stop: int) -> None:
        for element in elements(data, start, min(stop, len(data))):
            found.add(element.id)
            if element.id in (0x18538067, 0x1654AE6B, 0xAE, 0xE0):
                walk(element.payload, element.stop)

    walk(0, len(data))
    return found
