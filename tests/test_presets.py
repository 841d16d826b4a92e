"""Which preset an encode gets, by what was named of its options."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from streams import moving_images

from excamera_dask.errors import InvalidSetting
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.presets import DEFAULT, PAPER, PRESETS
from excamera_dask.settings import Settings

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    "named",
    [
        {"batch_chunks": 16},
        {"batch_chunks": None},
        {"kf_q_weight": 0.5},
        {"encoder": "libvpx"},
        {"end_usage": "vbr"},
        {"min_q": 4},
        {"first_pass": FirstPassSettings(passes=2)},
    ],
)
def test_what_only_the_paper_looks_at_chooses_it(named: dict[str, Any]) -> None:
    assert Settings.of(**named).preset == PAPER
    assert not Settings.of(**named).unused


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"cq_level": 20},
        {"chunk_frames": 6},
        {"key_distance": 100, "scene_cuts": False},
        {"encoder": None, "min_q": None, "preset": None},
        {"first_pass": FirstPassSettings(cq_level=20)},
        {"first_pass": FirstPassSettings(encoder="libvpx")},  # what is here is no choice
        {"first_pass": None},
    ],
)
def test_nothing_else_does(named: dict[str, Any]) -> None:
    assert Settings.of(**named).preset == DEFAULT


def test_a_preset_that_is_named_is_taken() -> None:
    chosen = Settings.of(preset=DEFAULT, batch_chunks=4, tune="psnr")
    assert (chosen.preset, chosen.unused) == (DEFAULT, ("batch_chunks", "tune"))
    assert Settings.of(preset=PAPER).preset == PAPER
    with pytest.raises(InvalidSetting, match="must be paper, "):
        Settings.of(preset="best")
    with pytest.raises(InvalidSetting, match="for preset 'paper'"):
        Settings.of(preset=DEFAULT, end_usage="vbr")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.y4m"
    with Y4mWriter(path, 64, 48, Fraction(25)) as writer:
        for image in moving_images(64, 48, 6):
            writer.write(image)
    return path


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        ((), DEFAULT),
        (("-N", 3), DEFAULT),
        (("-x", 16), PAPER),  # its usual value, but named
        (("-x", "unlimited"), PAPER),
        (("--kf-q-weight", 0.75), PAPER),
        (("--first-pass", "libvpx"), PAPER),
        (("--tune", "ssim"), PAPER),
        *((("--preset", name), name) for name in PRESETS),
    ],
)
def test_the_command_knows_what_was_named(
    run: Run, clip: Path, tmp_path: Path, arguments: tuple[Any, ...], preset: str
) -> None:
    out = tmp_path / "out.webm"
    code, told, err = run("encode", clip, "-o", out, "--executor", "sync", "--json", *arguments)
    assert code == 0
    assert json.loads(told)["settings"]["preset"] == preset
    assert "without effect" not in err


def test_nothing_that_was_named_is_lost(run: Run, clip: Path, tmp_path: Path) -> None:
    named = ("--preset", DEFAULT, "-x", 4, "--crf", 22, "-N", 3, "--key-distance", 5, "--skip", 1)
    reading = ("--limit", 4, "--no-scene-cuts", "--colorspace", "bt709", "--sar", "4:3", "-r", 24)
    out = tmp_path / "out.webm"
    where = ("-o", out, "--executor", "sync", "--json", "--force-key-frames", "0.1")
    code, told, err = run("encode", clip, *where, *named, *reading)
    assert code == 0
    assert "without effect with preset 'balanced': batch_chunks" in err
    settings = json.loads(told)["settings"]
    found = {name: settings[name] for name in ("chunk_frames", "key_distance", "skip", "limit")}
    assert found == {"chunk_frames": 3, "key_distance": 5, "skip": 1, "limit": 4}
    assert (settings["scene_cuts"], settings["key_frame_times"]) == (False, [0.1])
    assert settings["first_pass"]["cq_level"] == 22
    assert settings["reading"]["colorspace"] == "bt709"
    assert settings["reading"]["sample_aspect"] == "4/3"


def test_plans_and_demos_know_it_too(run: Run, clip: Path) -> None:
    code, told, _ = run("plan", clip, "-N", 3, "-x", 2)
    assert (code, json.loads(told)["batch_chunks"], json.loads(told)["longest_chain"]) == (0, 2, 2)
    code, told, _ = run("plan", clip, "-N", 3)
    assert (code, json.loads(told)["batch_chunks"]) == (0, None)
    code, told, _ = run("demo", clip, "--executor", "sync", "--json", "-x", 2, "-N", 3)
    assert (code, json.loads(told)["excamera"]["method"]) == (0, "[3,2]")
    code, told, _ = run("demo", clip, "--executor", "sync", "--json", "-N", 3)
    assert (code, json.loads(told)["excamera"]["method"]) == (0, "balanced:3")
