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
        (("--preset", DEFAULT, "-x", 4), DEFAULT),
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
    assert ("without effect" in err) == (len(arguments) == 4)
