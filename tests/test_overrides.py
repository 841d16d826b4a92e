"""What the user says of a source holds against what its file says, and belongs to what determines the bytes."""

from __future__ import annotations

import pickle
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import click
import numpy as np
import pytest

from excamera_dask import api
from excamera_dask.cli import cli, main
from excamera_dask.cli.options.reading import FIELDS as CLI_FIELDS
from excamera_dask.errors import InvalidSetting
from excamera_dask.overrides import FIELDS, Reading
from excamera_dask.settings import Settings
from excamera_dask.sources import open_source, read_frames

FRAMES = 10


def write(path: Path, *, uneven: bool = False, rotation: int = 0) -> Path:
    """A film of ten frames of full range, 64 x 48, 25 a second, which its file calls limited."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(FRAMES):
            rows = np.full((72, 64), 128, np.uint8)
            rows[:48] = np.arange(64) * 4
            rows[0, 0] = 20 * number
            frame = av.VideoFrame.from_ndarray(rows, format="yuv420p")
            frame.pts = number + 7 * (uneven and number > 4)
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("film") / "film.mp4")


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"stream": "3"}, Reading(stream=3)),
        ({"stream": "V:1"}, Reading(stream="v:1")),
        ({"color_range": "PC"}, Reading(color_range="pc")),
        ({"aspect": "16:9"}, Reading(aspect=Fraction(16, 9))),
        ({"aspect": "2.39:1"}, Reading(aspect=Fraction(239, 100))),
        ({"sample_aspect": "4/3"}, Reading(sample_aspect=Fraction(4, 3))),
        ({"frame_rate": "30000/1001"}, Reading(frame_rate=Fraction(30000, 1001))),
        ({"frame_rate": 23.976}, Reading(frame_rate=Fraction(2997, 125))),
        ({"frame_rate": 24}, Reading(frame_rate=Fraction(24))),
    ],
)
def test_values_have_one_form(given: dict[str, Any], expected: Reading) -> None:
    assert Reading(**given) == expected == Settings.of(**given).reading
    assert pickle.loads(pickle.dumps(expected)) == expected


@pytest.mark.parametrize(
    "given",
    [
        {"stream": -1}, {"stream": "a:0"}, {"stream": "v:"}, {"stream": True}, {"stream": 1.5}, {"stream": ""},
        {"color_range": "wide"}, {"color_range": 2}, {"colorspace": "rgb"}, {"color_primaries": ""}, {"color_trc": "x"},
        {"aspect": "0:9"}, {"aspect": "16:0"}, {"aspect": "wide"}, {"aspect": -1}, {"aspect": "1000:1"},
        {"sample_aspect": "nan"}, {"frame_rate": 0}, {"frame_rate": "-24"}, {"frame_rate": "inf"},
        {"frame_rate": 5000}, {"frame_rate": "1/0"}, {"aspect": "4:3", "sample_aspect": "1:1"},
    ],
)  # fmt: skip
def test_values_that_nothing_can_have(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Settings.of(**given)
    assert "\n" not in str(caught.value)


def test_they_determine_the_bytes(film: Path) -> None:
    """Another reading is another job: chunks of an interrupted one are not taken for its own."""

    def name(**options: Any) -> str:
        settings = Settings.of(**options).chosen()
        return api._fingerprint(open_source(film, settings.reading), settings)

    names = {
        name(),
        name(color_range="pc"),
        name(frame_rate=24),
        name(aspect="4:3"),
        name(stream=0),
    }
    assert len(names) == 5 and name(color_range="pc") in names
    assert Settings.of(aspect="4:3").as_dict()["reading"]["aspect"] == "4/3"


def test_a_frame_rate(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", uneven=True)
    source = open_source(path, Reading(frame_rate="30000/1001"))
    seconds = [moment * source.time_base for moment in source.times.tolist()]
    assert seconds == [number * Fraction(1001, 30000) for number in range(FRAMES)]
    assert source.average_rate == Fraction(30000, 1001)
    assert source.duration == pytest.approx(FRAMES * 1001 / 30000)
    part = source.select(3, 4)
    assert part.times.tolist() == [0, 1, 2, 3]
    for one, other in zip(
        read_frames(part, 0, 4), read_frames(open_source(path), 3, 4), strict=True
    ):
        assert one.to_bytes() == other.to_bytes()


@pytest.mark.parametrize("rotation", [0, 90])
def test_aspects_are_those_of_the_picture_as_shown(tmp_path: Path, rotation: int) -> None:
    path = write(tmp_path / "a.mp4", rotation=rotation)
    source = open_source(path, Reading(aspect="16:9"))
    assert source.width * source.sample_aspect / source.height == Fraction(16, 9)
    assert open_source(path, Reading(sample_aspect="4:3")).sample_aspect == Fraction(4, 3)


def test_an_encode(film: Path, tmp_path: Path) -> None:
    """Everything reaches the output's header and its pictures."""
    out = tmp_path / "out.webm"
    api.encode(
        film, out, executor="sync", batch_chunks=1, cq_level=4, color_range="pc", colorspace="bt709",
        color_primaries="bt709", color_trc="iec61966-2-1", aspect="16:9", frame_rate=50,
    )  # fmt: skip
    source = open_source(out)
    assert source.colour == (1, 1, 13, 1)
    assert float(source.sample_aspect * 64 / 48) == pytest.approx(16 / 9, abs=0.02)
    assert source.duration == pytest.approx(FRAMES / 50, abs=0.002) and source.average_rate == 50
    luma = read_frames(source, 5, 1)[0].y.astype(float)
    expected = 16 + np.arange(64) * 4 * 219 / 255
    assert np.abs(np.median(luma, axis=0) - expected).max() < 8


def test_workers_are_told(film: Path, tmp_path: Path) -> None:
    """The same bytes in processes of their own."""
    options: dict[str, Any] = {"batch_chunks": 1, "color_range": "pc", "frame_rate": 30}
    api.encode(film, tmp_path / "a.webm", executor="sync", **options)
    api.encode(film, tmp_path / "b.webm", workers=2, **options)
    assert (tmp_path / "a.webm").read_bytes() == (tmp_path / "b.webm").read_bytes()


def test_a_rate_as_ffmpeg_takes_it(ffmpeg: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", uneven=True)
    command = [
        ffmpeg,
        "-v",
        "error",
        "-r",
        "12",
        "-i",
        path,
        "-fps_mode",
        "passthrough",
        "-f",
        "framemd5",
        "-",
    ]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    base = next(Fraction(line.split(": ")[1]) for line in lines if line.startswith("#tb 0"))
    theirs = [int(line.split(",")[2]) * base for line in lines if not line.startswith("#")]
    source = open_source(path, Reading(frame_rate=12))
    assert [moment * source.time_base for moment in source.times.tolist()] == theirs


READERS = (
    "encode",
    "plan",
    "compare",
    "bench rd",
    "bench where",
    "demo",
    "step first-pass",
    "step enc",
)


@pytest.mark.parametrize("name", READERS)
def test_every_command_that_reads_a_source_takes_them(name: str) -> None:
    assert CLI_FIELDS == FIELDS
    command: Any = cli
    for word in name.split():
        command = command.commands[word]
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert set(FIELDS) <= {option.name for option in options}
    names = [name for option in options for name in option.opts]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "arguments",
    [["--color-range", "wide"], ["--stream", "x"], ["--aspect", "4"+":"+"0"], ["-r", "fast"],
     ["--aspect", "4:3", "--sar", "1:1"], ["--sar", "1:1", "--aspect", "4:3"], ["--colorspace", "bt1886"]],
)  # fmt: skip
def test_wrong_values_are_wrong_usage(
    film: Path, tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.webm"
    assert main(["encode", str(film), "-o", str(out), *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not out.exists()


def test_the_commands(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.webm"
    reading = ["--color-range", "pc", "-r", "50"]
    encode = ["encode", str(film), "-o", str(out), "-x", "1", "--executor", "sync", "--crf", "4"]
    assert main([*encode, "--progress", "none", *reading]) == 0
    assert main(["compare", str(film), str(out), *reading, "--overall"]) == 0
    alike = capsys.readouterr().out
    assert main(["compare", str(film), str(out), "--overall"]) == 0
    unlike = capsys.readouterr().out
    assert _psnr(alike) > 35 > _psnr(unlike)
    assert main(["plan", str(film), *reading]) == 0
    ivf = tmp_path / "step.ivf"
    assert (
        main(["step", "first-pass", str(film), "-o", str(ivf), *reading[:2], "--frame-rate", "50"])
        == 0
    )
    assert open_source(ivf).average_rate == 50


def _psnr(told: str) -> float:
    import json

    return float(json.loads(told)["overall"]["psnr"]["y"])
