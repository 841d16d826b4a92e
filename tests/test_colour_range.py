"""Pictures of full range become limited, as every player of VP8 takes them to be; others stay as they are."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import codec
from codec.frame import Image
from excamera_dask.formats.containers import Writer, read_packets
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.overrides import Reading
from excamera_dask.sources import SourceInfo, open_source, read_frames
from excamera_dask.watching import watch
from excamera_dask.watching.comparison import Selection, compare_films

WIDTH, HEIGHT = 256, 16
U, V = 90, 170
LIMITED, FULL = 1, 2
LOSSLESS: dict[str, dict[str, Any]] = {
    "ffv1": {"codec": "ffv1", "suffix": ".mkv"},
    "x264": {"codec": "libx264", "suffix": ".mp4", "options": {"qp": "0"}},
    "raw": {"codec": "rawvideo", "suffix": ".nut"},
    "png": {"codec": "png", "suffix": ".mov"},
    "utvideo": {"codec": "utvideo", "suffix": ".avi"},
}
FORMATS = {
    "yuv420p": "ffv1", "yuv422p": "ffv1", "yuv444p": "ffv1", "yuv411p": "ffv1", "yuv410p": "ffv1",
    "yuva420p": "ffv1", "yuv420p10le": "ffv1", "yuv422p10le": "ffv1", "yuv444p10le": "ffv1",
    "yuv444p12le": "ffv1", "yuv420p16le": "ffv1", "gray": "ffv1", "gray10le": "ffv1", "gray16le": "ffv1",
    "ya8": "ffv1", "yuvj420p": "x264", "yuvj422p": "x264", "yuvj444p": "x264", "nv12": "raw", "nv21": "raw",
    "yuyv422": "raw", "uyvy422": "raw", "yuv440p": "raw",
}  # fmt: skip
RGB_FORMATS = {
    "bgr0": "ffv1", "gbrp10le": "ffv1", "gbrp": "utvideo", "rgb24": "png", "rgba": "png", "rgb48be": "png",
}  # fmt: skip


def widened(values: Any, bits: int) -> NDArray[Any]:
    """8-bit values on the scale of `bits`."""
    scaled = np.rint(np.asarray(values) * ((1 << bits) - 1) / 255)
    return scaled.astype(np.uint8 if bits == 8 else "<u2")


def fill(plane: Any, rows: NDArray[Any]) -> None:
    target = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    data = np.ascontiguousarray(rows).view(np.uint8)
    target[: data.shape[0], : data.shape[1]] = data


def ramp(name: str) -> av.VideoFrame:
    """All 256 values of luma from left to right, one colour."""
    frame = av.VideoFrame(WIDTH, HEIGHT, name)
    bits = frame.format.components[0].bits
    luma = np.tile(widened(np.arange(WIDTH), bits), (HEIGHT, 1))
    u, v = widened([U, V], bits)
    if name in ("nv12", "nv21"):
        fill(frame.planes[0], luma)
        fill(
            frame.planes[1],
            np.tile((u, v) if name == "nv12" else (v, u), (HEIGHT // 2, WIDTH // 2)).astype(
                np.uint8
            ),
        )
    elif name in ("yuyv422", "uyvy422"):
        packed = np.stack([luma, np.tile([u, v], (HEIGHT, WIDTH // 2)).astype(np.uint8)], 2)
        fill(frame.planes[0], packed[:, :, :: 1 if name == "yuyv422" else -1].reshape(HEIGHT, -1))
    elif name == "ya8":
        fill(frame.planes[0], np.stack([luma, np.full_like(luma, 255)], 2).reshape(HEIGHT, -1))
    else:
        fill(frame.planes[0], luma)
        for plane, value in zip(frame.planes[1:], (u, v, luma.max()), strict=False):
            fill(plane, np.full((plane.height, plane.width), value, luma.dtype))
    return frame


def gray_rgb(name: str) -> av.VideoFrame:
    """All shades of gray."""
    rows = np.tile(np.arange(WIDTH, dtype=np.uint8)[None, :, None], (HEIGHT, 1, 3))
    return av.VideoFrame.from_ndarray(rows, format="rgb24").reformat(format=name)


def write(path: Path, frame: av.VideoFrame, how: dict[str, Any], range_: int = 0) -> Path:
    """A film of two equal frames."""
    path = path.with_suffix(how["suffix"])
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(how["codec"], rate=25, options=how.get("options", {}))
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        stream.codec_context.color_range = range_
        frame.color_range = range_
        for number in range(2):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def check(image: Image, full: bool, gray: bool = False, tolerance: float = 1) -> None:
    """Whether a picture is the ramp, squeezed into limited range if it was of full range."""
    values = np.arange(WIDTH)
    luma = 16 + values * 219 / 255 if full else values
    scale = 224 / 255 if full else 1.0
    assert np.abs(image.y - luma.astype(float)).max() <= tolerance
    for plane, value in ((image.u, U), (image.v, V)):
        assert np.abs(plane - (128.0 + (0 if gray else (value - 128) * scale))).max() <= 1.5


@pytest.mark.parametrize("range_", [0, LIMITED, FULL])
@pytest.mark.parametrize("name", FORMATS)
def test_a_ramp(tmp_path: Path, name: str, range_: int) -> None:
    """Each frame's own tag counts; without one, gray and the formats of JPEG are of full range."""
    how = LOSSLESS[FORMATS[name]]
    by_name = name.startswith(("yuvj", "gray", "ya8"))
    if name.startswith("yuvj") and range_ == LIMITED:
        pytest.skip("says two things at once")
    path = write(tmp_path / "film", ramp(name), how, range_)
    said = {LIMITED: "tv", FULL: "pc"}.get(range_) if FORMATS[name] == "raw" else None
    source = open_source(path, Reading(color_range=said))
    full = range_ == FULL or (range_ == 0 and by_name)
    assert source.pixel_format == name
    assert source.colour.range == (LIMITED if full else range_)
    for image in read_frames(source, 0, 2):
        check(image, full, name.startswith(("gray", "ya")), 2 if name.endswith("le") else 0.51)


@pytest.mark.parametrize("name", RGB_FORMATS)
def test_shades_of_gray_in_rgb(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "film", gray_rgb(name), LOSSLESS[RGB_FORMATS[name]])
    source = open_source(path)
    assert source.colour.range == LIMITED and source.colour.matrix == 6
    check(read_frames(source, 1, 1)[0], True, True, 1 if "10" in name or "48" in name else 0.51)


def test_the_ramp_of_the_documentation(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "film", ramp("yuvj420p"), LOSSLESS["x264"], FULL))
    luma = read_frames(source, 0, 1)[0].y[0]
    assert luma[[0, 10, 55, 129, 204, 249, 255]].tolist() == [16, 25, 63, 127, 191, 230, 235]


def test_black_and_white_pixels(tmp_path: Path) -> None:
    frame = ramp("gray").reformat(format="monob")
    source = open_source(write(tmp_path / "film", frame, LOSSLESS["png"]))
    assert source.pixel_format == "monob"
    image = read_frames(source, 0, 1)[0]
    assert image.y.min() <= 16 and image.y.max() >= 235 and source.colour.range == LIMITED


def test_motion_jpeg(tmp_path: Path) -> None:
    how = {"codec": "mjpeg", "suffix": ".mkv", "options": {"qmin": "1", "qmax": "1"}}
    source = open_source(write(tmp_path / "film", ramp("yuvj420p"), how, FULL))
    image = read_frames(source, 0, 1)[0]
    assert np.abs(image.y - (16 + np.arange(WIDTH) * 219 / 255)).max() <= 4
    assert source.colour.range == LIMITED


@pytest.mark.parametrize("told, full", [("FULL", True), ("LIMITED", False), ("", False)])
def test_y4m(tmp_path: Path, told: str, full: bool) -> None:
    planes = [ramp("yuv420p").to_ndarray().tobytes()] * 2
    word = f" XCOLORRANGE={told}" if told else ""
    path = tmp_path / "film.y4m"
    path.write_bytes(
        f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F25:1 C420jpeg{word}\n".encode()
        + b"".join(b"FRAME\n" + plane for plane in planes)
    )
    source = open_source(path)
    assert source.colour.range == (LIMITED if told else 0)
    check(read_frames(source, 1, 1)[0], full)


def test_what_our_writer_calls_full_is_read_as_full(tmp_path: Path) -> None:
    half = (HEIGHT // 2, WIDTH // 2)
    luma = np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))
    image = Image(luma, np.full(half, U, np.uint8), np.full(half, V, np.uint8))
    with Y4mWriter(tmp_path / "a.y4m", WIDTH, HEIGHT, Fraction(25), range=FULL) as writer:
        writer.write(image)
    check(read_frames(open_source(tmp_path / "a.y4m"), 0, 1)[0], True)


@pytest.mark.parametrize("parts", [(LIMITED, FULL), (FULL, LIMITED)])
@pytest.mark.parametrize("second", ["yuv420p", "yuv422p"])
def test_frames_of_another_range_and_format_in_midstream(
    tmp_path: Path, parts: tuple[int, int], second: str
) -> None:
    """Two streams put one behind another: each part is converted by its own tags."""
    options = {"qp": "0", "x264-params": "colorprim=bt709"}  # so that both ranges are written
    film = b""
    for number, (range_, name) in enumerate(zip(parts, ("yuv420p", second), strict=True)):
        name = name.replace("yuv", "yuvj") if range_ == FULL else name
        how = {**LOSSLESS["x264"], "suffix": ".h264", "options": options}
        film += write(tmp_path / f"{number}", ramp(name), how, range_).read_bytes()
    path = tmp_path / "film.h264"
    path.write_bytes(film)
    source = open_source(path)
    assert source.frame_count == 4
    images = read_frames(source, 0, 4)
    for image, range_ in zip(images, (parts[0], parts[0], parts[1], parts[1]), strict=True):
        check(image, range_ == FULL)
    assert [a.to_bytes() for a in images[2:]] == [a.to_bytes() for a in read_frames(source, 2, 2)]


@pytest.mark.parametrize("name, how", [("yuvj420p", "x264"), ("yuvj422p", "x264"), ("gray", "ffv1"),
                                       ("yuv444p10le", "ffv1")])  # fmt: skip
def test_where_a_file_lies_of_its_range(tmp_path: Path, name: str, how: str) -> None:
    """What is said to be limited stays as it is, what is said to be full is squeezed, whatever the file says."""
    for range_ in (0, FULL):
        path = write(tmp_path / f"film{range_}", ramp(name), LOSSLESS[how], range_)
        limited = open_source(path, Reading(color_range="tv"))
        tolerance = 2 if name.endswith("le") else 1
        check(read_frames(limited, 0, 1)[0], False, name == "gray", tolerance)
        assert limited.colour.range == LIMITED
        full = open_source(path, Reading(color_range="pc"))
        check(read_frames(full, 0, 1)[0], True, name == "gray", tolerance)
        check(read_frames(limited, 1, 1)[0], False, name == "gray", tolerance)


@pytest.mark.parametrize("matrix, weights", [("bt709", (0.2126, 0.0722)), ("bt601", (0.299, 0.114)),
                                             ("bt2020nc", (0.2627, 0.0593))])  # fmt: skip
def test_the_matrix_that_rgb_is_converted_by(
    tmp_path: Path, matrix: str, weights: tuple[float, float]
) -> None:
    rows = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rows[:] = (200, 40, 90)
    frame = av.VideoFrame.from_ndarray(rows, format="rgb24").reformat(format="bgr0")
    source = open_source(
        write(tmp_path / "film", frame, LOSSLESS["ffv1"]), Reading(colorspace=matrix)
    )
    image = read_frames(source, 0, 1)[0]
    kr, kb = weights
    luma = (kr * 200 + (1 - kr - kb) * 40 + kb * 90) / 255
    u, v = (90 / 255 - luma) / (2 - 2 * kb), (200 / 255 - luma) / (2 - 2 * kr)
    for plane, value in zip(image, (16 + 219 * luma, 128 + 224 * u, 128 + 224 * v), strict=True):
        assert np.abs(plane - value).max() <= 1.5
    assert source.colour.matrix == {"bt709": 1, "bt601": 6, "bt2020nc": 9}[matrix]


def test_the_matrix_of_luma_and_chroma_is_only_told(tmp_path: Path) -> None:
    path = write(tmp_path / "film", ramp("yuv444p"), LOSSLESS["ffv1"])
    told = open_source(
        path, Reading(colorspace="bt709", color_primaries="bt2020", color_trc="smpte2084")
    )
    assert told.colour == (0, 9, 16, 1)
    plain = open_source(path)
    for a, b in zip(read_frames(told, 0, 2), read_frames(plain, 0, 2), strict=True):
        assert a.to_bytes() == b.to_bytes()


def vp8_packets(clamping_type: int) -> list[bytes]:
    """Two frames of VP8, whose header says whether values need clamping."""
    encoder: Any = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    packets = []
    for number in range(2):
        frame = ramp("yuv420p")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    first, second = map(bytes, packets)
    parsed = codec.parse(None, first)
    header = parsed.header._replace(clamping_type=clamping_type)
    return [codec.serialize(None, parsed._replace(header=header)), second]


def decoded(packets: list[bytes]) -> Iterator[bytes]:
    state = None
    for packet in packets:
        state, image = codec.decode(state, packet)
        assert image is not None
        yield image.to_bytes()


@pytest.mark.parametrize("clamping_type", [0, 1])
def test_vp8_has_one_range(tmp_path: Path, clamping_type: int) -> None:
    """libavcodec takes the flag that values need no clamping for the full range; our decoder shows what is coded."""
    path = tmp_path / "a.webm"
    packets = vp8_packets(clamping_type)
    with Writer(path, WIDTH, HEIGHT, Fraction(1, 25)) as writer:
        for number, packet in enumerate(packets):
            writer.write(packet, number)
    source = open_source(path)
    assert source.colour.range == LIMITED
    assert [image.to_bytes() for image in read_frames(source, 0, 2)] == list(decoded(packets))
    assert [packet.data for packet in read_packets(path)] == packets


def test_a_full_range_film_and_its_limited_twin_compare_as_equal(tmp_path: Path) -> None:
    full = open_source(write(tmp_path / "full", ramp("yuvj420p"), LOSSLESS["x264"], FULL))
    with Y4mWriter(tmp_path / "twin.y4m", WIDTH, HEIGHT, Fraction(25), range=LIMITED) as writer:
        for image in read_frames(full, 0, 2):
            writer.write(image)
    compared = compare_films(Selection(full.path), Selection(tmp_path / "twin.y4m"))
    assert compared.frames == 2 and compared.psnr.y > 50  # libavfilter's rounding, once


@pytest.mark.parametrize(
    "codec, name",
    [("libx264", "yuv444p"), ("libx264", "yuv422p"), ("libx264", "yuv420p10le"), ("libx264rgb", "rgb24"),
     ("mpeg2video", "yuv422p"), ("libx264", "yuv444p10le"), ("libx265", "yuv444p"), ("ffv1", "yuv444p")],
)  # fmt: skip
def test_chroma_stays_where_it_is(tmp_path: Path, codec: str, name: str) -> None:
    """Of 4:4:4, 4:2:2 and RGB too, whose decoders say where samples of 4:2:0 would lie: as libavfilter converts them."""
    path = tmp_path / "film.mkv"
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {"b:v": "4M"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, name
        blocks = np.random.default_rng(3).integers(0, 256, (HEIGHT // 2, WIDTH // 2, 3), np.uint8)
        noise = np.ascontiguousarray(blocks.repeat(2, 0).repeat(2, 1))
        container.mux(
            stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=name))
        )
        container.mux(stream.encode(None))
    with watch(path) as film:
        reference = next(film.frames()).picture()
    assert read_frames(open_source(path), 0, 1)[0].to_bytes() == reference.to_bytes()


def theirs(ffmpeg: str, path: Path, source: SourceInfo, *options: str) -> list[NDArray[np.int64]]:
    """The planes of the first frame as ffmpeg converts it."""
    scale = "scale=out_range=tv:flags=bicubic+accurate_rnd+bitexact,format=yuv420p"
    command = [ffmpeg, "-v", "error", *options, "-i", str(path), "-vf", scale, "-frames:v", "1",
               "-f", "rawvideo", "-"]  # fmt: skip
    raw = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.uint8)
    assert raw.size == source.frame_bytes
    luma = WIDTH * HEIGHT
    return [part.astype(np.int64) for part in np.split(raw, [luma, luma + luma // 4])]


@pytest.mark.parametrize("range_", [0, LIMITED, FULL])
@pytest.mark.parametrize("name", {**FORMATS, **RGB_FORMATS})
def test_as_ffmpeg_converts(ffmpeg: str, tmp_path: Path, name: str, range_: int) -> None:
    if name.startswith("yuvj") and range_ == LIMITED:
        pytest.skip("says two things at once")
    rgb = name in RGB_FORMATS
    if rgb:
        noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=name)
    else:
        frame = ramp(name)
    how = LOSSLESS[{**FORMATS, **RGB_FORMATS}[name]]
    path = write(tmp_path / "film", frame, how, range_)
    said = {LIMITED: "tv", FULL: "pc"}.get(range_) if how is LOSSLESS["raw"] else None
    source = open_source(path, Reading(color_range=said))
    options = ["-color_range", said] if said else []
    for ours, reference in zip(
        read_frames(source, 0, 1)[0], theirs(ffmpeg, path, source, *options), strict=True
    ):
        assert np.abs(ours.ravel() - reference).max() <= 1
