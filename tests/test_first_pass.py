"""The first pass: chunks of any size through vpxenc and through libvpx in PyAV, the same bytes at every run."""

import dataclasses
import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import codec
from codec.frame import Image
from excamera_dask import first_pass
from excamera_dask.errors import FirstPassError, FirstPassUnavailable
from excamera_dask.first_pass import FirstPassSettings, encode_chunk, encoder_version
from excamera_dask.formats.containers import Writer
from excamera_dask.formats.ivf import is_key_frame, is_shown
from excamera_dask.settings import Settings

needs_vpxenc = pytest.mark.skipif(shutil.which("vpxenc") is None, reason="needs vpxenc")
needs_vpxdec = pytest.mark.skipif(shutil.which("vpxdec") is None, reason="needs vpxdec")
LIBVPX = FirstPassSettings(encoder="libvpx", passes=1)
VPXENC = FirstPassSettings()
ENCODERS = [
    pytest.param(dataclasses.replace(VPXENC, passes=2), marks=needs_vpxenc, id="vpxenc-2"),
    pytest.param(VPXENC, marks=needs_vpxenc, id="vpxenc-1"),
    pytest.param(LIBVPX, id="libvpx"),
]


def moving(count: int, width: int = 64, height: int = 48, cut_at: int = 10**9) -> list[Image]:
    """Smooth noise that moves by a pixel a frame, and is replaced by other noise at a scene cut."""
    scenes = [
        np.random.default_rng(seed).integers(40, 200, (height, width), np.uint8) for seed in (1, 2)
    ]
    half = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    return [Image(np.roll(scenes[int(n >= cut_at)], n, 1), half, half) for n in range(count)]


@pytest.mark.parametrize("settings", ENCODERS)
@pytest.mark.parametrize("deadline", ["best", "good", "realtime"])
def test_every_deadline(settings: FirstPassSettings, deadline: str) -> None:
    hasty = dataclasses.replace(settings, deadline=deadline, cpu_used=4)
    assert sum(map(is_shown, encode_chunk(moving(3), hasty))) == 3


@pytest.mark.parametrize("settings", ENCODERS)
@pytest.mark.parametrize("size", [(64, 48), (1, 1), (17, 35)])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_any_size(settings: FirstPassSettings, size: tuple[int, int], count: int) -> None:
    frames = encode_chunk(moving(count, *size), settings)
    assert sum(map(is_shown, frames)) == count
    assert [is_key_frame(f) for f in frames] == [True] + [False] * (len(frames) - 1)
    width, height = (int.from_bytes(frames[0][at : at + 2], "little") & 0x3FFF for at in (6, 8))
    assert (width, height) == size


@pytest.mark.parametrize("settings", ENCODERS)
def test_a_scene_cut_makes_no_key_frame(settings: FirstPassSettings) -> None:
    frames = encode_chunk(moving(12, cut_at=6), settings)
    assert sum(map(is_key_frame, frames)) == 1


@pytest.mark.parametrize("settings", ENCODERS)
def test_same_bytes_every_time(settings: FirstPassSettings) -> None:
    images = moving(6, 96, 80)
    first = encode_chunk(images, settings)
    assert all(encode_chunk(images, settings) == first for _ in range(3))


@needs_vpxenc
def test_both_encoders_agree() -> None:
    """One pass of vpxenc and of the libvpx inside PyAV decide alike, whatever their versions."""
    images = moving(6, 96, 80)
    ours = encode_chunk(images, LIBVPX)
    theirs = encode_chunk(images, dataclasses.replace(VPXENC, passes=1))
    assert sum(map(len, ours)) == pytest.approx(sum(map(len, theirs)), rel=0.02)


@pytest.mark.parametrize("settings", ENCODERS)
def test_quantizer_is_obeyed(settings: FirstPassSettings) -> None:
    images = moving(4, 96, 80)
    fine, coarse = (
        encode_chunk(images, dataclasses.replace(settings, cq_level=q, min_q=q, max_q=q))
        for q in (10, 50)
    )
    assert sum(map(len, fine)) > 1.5 * sum(map(len, coarse))


@needs_vpxdec
@pytest.mark.parametrize("settings", ENCODERS)
def test_hidden_frames_are_given(tmp_path: Path, settings: FirstPassSettings) -> None:
    lagging = dataclasses.replace(settings, lag_in_frames=16, auto_alt_ref=1, arnr_maxframes=5)
    frames = encode_chunk(moving(40), lagging)
    path = tmp_path / "chunk.ivf"
    with Writer(path, 64, 48, Fraction(1, 30), expected_frames=40) as writer:
        shown = 0
        for frame in frames:
            writer.write(frame, shown)
            shown += is_shown(frame)
    out = subprocess.run(
        ["vpxdec", "--i420", "--rawvideo", "-o", "-", path], capture_output=True, check=True
    )
    assert len(out.stdout) == 40 * 64 * 48 * 3 // 2


@pytest.mark.parametrize("cq_level", [0, 20, 32, 42, 52, 63])
@needs_vpxenc
def test_one_pass_gives_key_frames_what_two_would(cq_level: int) -> None:
    """Not finer, but for the margin that two passes leave to films that move."""
    one = FirstPassSettings(cq_level=cq_level)
    two = dataclasses.replace(one, passes=2)
    images = moving(3, 96, 80)
    coarse, fine = (key_frame_quantizer(encode_chunk(images, s)[0]) for s in (two, one))
    assert fine <= coarse <= fine + 12
    assert key_frame_quantizer(encode_chunk(images, dataclasses.replace(one, min_q=0))[0]) == 0


def key_frame_quantizer(frame: bytes) -> int:
    return codec.parse(None, frame).header.quantizer.y_ac


def test_lowest_quantizer() -> None:
    assert FirstPassSettings(cq_level=60, min_q=7).lowest_q == 7
    assert FirstPassSettings(cq_level=60, passes=2).lowest_q == 0
    assert FirstPassSettings(cq_level=60, end_usage="vbr").lowest_q == 0
    assert FirstPassSettings(cq_level=60, max_q=60).lowest_q == 13


def test_full_effort_is_the_original_tools() -> None:
    full = FirstPassSettings(cq_level=45).full_effort()
    assert (full.passes, full.deadline, full.cpu_used, full.lowest_q) == (2, "good", 0, 0)
    assert dataclasses.replace(full, encoder="libvpx").full_effort().passes == 1


@pytest.mark.parametrize(
    ("settings", "repeatable"),
    [
        ({}, True),
        ({"cpu_used": 0}, False),
        ({"cpu_used": 0, "tune": "psnr"}, True),
        ({"cpu_used": 3, "deadline": "best"}, False),
        ({"cpu_used": -4, "deadline": "realtime"}, True),
        ({"deadline": "realtime"}, True),
        ({"cpu_used": 4, "deadline": "realtime", "tune": "psnr"}, False),
        ({"passes": 2}, True),
    ],
)
def test_settings_under_which_libvpx_repeats_itself(
    settings: dict[str, Any], repeatable: bool
) -> None:
    assert (FirstPassSettings(**settings).unrepeatable is None) == repeatable


@pytest.mark.parametrize(
    ("settings", "pace"),
    [
        ({}, ("realtime", -1)),
        ({"passes": 2}, ("good", 2)),
        ({"cpu_used": 4}, ("good", 4)),
        ({"deadline": "good"}, ("good", 2)),
        ({"deadline": "realtime", "passes": 2}, ("realtime", -1)),
        ({"deadline": "best", "cpu_used": 0}, ("best", 0)),
    ],
)
def test_the_pace_is_what_was_asked_for(settings: dict[str, Any], pace: tuple[str, int]) -> None:
    """A speed alone is one of vpxenc's default deadline, as vpxenc's users know it."""
    given = FirstPassSettings(**settings)
    assert given.pace == pace
    paced = given.paced(chained=True)
    assert (paced.deadline, paced.cpu_used) == pace


def test_key_frames_that_stay_get_more_time() -> None:
    alone = Settings(preset="paper", batch_chunks=1).chosen().first_pass
    assert (alone.deadline, alone.cpu_used) == ("good", 2)
    chosen = Settings(preset="paper").chosen().first_pass
    assert (chosen.deadline, chosen.cpu_used) == ("realtime", -1)
    asked = Settings.of(batch_chunks=1, deadline="realtime", cpu_used=-3).chosen().first_pass
    assert (asked.deadline, asked.cpu_used) == ("realtime", -3)


@needs_vpxenc
def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    encode_chunk(moving(2), VPXENC)
    with pytest.raises(FirstPassError, match=r"vpxenc failed.*Unrecognized option --no-such"):
        encode_chunk(moving(2), dataclasses.replace(VPXENC, extra=("--no-such-option",)))
    assert os.listdir(tmp_path) == []


def test_missing_vpxenc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    first_pass._vpxenc_version.cache_clear()
    try:
        chosen = VPXENC.choose()
        assert (chosen.encoder, chosen.passes) == ("libvpx", 1)
        for attempt in (lambda: VPXENC.choose("vpxenc"), lambda: encode_chunk(moving(1), VPXENC)):
            with pytest.raises(
                FirstPassUnavailable, match=r"vpxenc.*--first-pass libvpx"
            ) as caught:
                attempt()
            assert "\n" not in str(caught.value)
    finally:
        first_pass._vpxenc_version.cache_clear()


def test_two_passes_are_not_quietly_one() -> None:
    with pytest.raises(FirstPassUnavailable, match="two passes need vpxenc"):
        FirstPassSettings(passes=2).choose("libvpx")


@needs_vpxenc
def test_vpxenc_is_preferred() -> None:
    assert VPXENC.choose() == VPXENC
    assert encoder_version("vpxenc").startswith("vpxenc ")
    assert "PyAV" in encoder_version("libvpx")


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder": "x264"},
        {"cq_level": 64},
        {"min_q": 40},
        {"min_q": 9, "max_q": 8},
        {"passes": 3},
        {"deadline": "rt"},
    ],
)
def test_wrong_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        FirstPassSettings(**wrong)  # type: ignore[arg-type]


def test_wrong_chunks() -> None:
    with pytest.raises(ValueError, match="at least one"):
        encode_chunk([], LIBVPX)
    with pytest.raises(ValueError, match="one size"):
        encode_chunk(moving(1) + moving(1, 32, 32), LIBVPX)
