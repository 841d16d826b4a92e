"""Comparisons see what is wrong with a film: pictures, their order, times, lengths, starts and range."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import reels
import stores
import streams
from click.testing import CliRunner

from codec.frame import Image
from excamera_dask.cli import cli
from excamera_dask.errors import SourceError
from excamera_dask.formats.containers import Writer
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.measuring.rd_curves import measure
from excamera_dask.sources import open_source
from excamera_dask.watching.comparison import Comparison, Selection, compare_films
from excamera_dask.watching.slippage import Slip

WIDTH, HEIGHT = 96, 64
TIMES = [40 * number for number in range(40)]


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return streams.moving_images(WIDTH, HEIGHT, 60)


@pytest.fixture(scope="module")
def original(images: list[Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames, 25 a second."""
    return reels.write_lossless(tmp_path_factory.mktemp("original") / "a.mkv", images[:40])


def compare(reference: Path, distorted: Path, **selection: int) -> Comparison:
    return compare_films(Selection(reference, **selection), Selection(distorted))


def test_a_copy_is_equal_in_all(original: Path) -> None:
    compared = compare(original, original)
    assert compared.frames == 40 and not compared.warnings
    assert compared.overall()["psnr"] == {"y": None, "u": None, "v": None, "all": None}
    assert compared.times() == {
        "largest_error": 0,
        "largest_error_frame": 0,
        "start": {"reference": 0, "distorted": 0, "difference": 0},
        "duration": {"reference": 1.6, "distorted": 1.6, "difference": 0},
        "frames": {"reference": 40, "distorted": 40},
        "slip": None,
    }


@pytest.mark.parametrize("suffix", ["webm", "ivf", "mp4", "ts", "avi"])
def test_what_containers_make_of_times_is_no_fault(
    suffix: str, original: Path, images: list[Image], tmp_path: Path
) -> None:
    path = tmp_path / f"out.{suffix}"
    if suffix in ("webm", "ivf"):
        with Writer(path, WIDTH, HEIGHT, Fraction(1, 25), average_rate=Fraction(25)) as writer:
            for number, packet in enumerate(streams.encode_with_libvpx(images[:40])):
                writer.write(packet, number)
    else:
        reels.write_film(path, images[:40], codec="mpeg4" if suffix == "avi" else "libx264", bf="2")
    compared = compare(original, path)
    assert not compared.warnings
    assert compared.psnr.y > 25


def test_odd_rates_are_rounded_by_webm_and_nobody_complains(
    images: list[Image], tmp_path: Path
) -> None:
    times = [round(number * 1001 / 24) for number in range(40)]
    odd = reels.write_lossless(tmp_path / "a.mkv", images[:40], times, last=42)
    with Y4mWriter(tmp_path / "a.y4m", WIDTH, HEIGHT, Fraction(24000, 1001)) as writer:
        for image in images[:40]:
            writer.write(image)
    compared = compare(tmp_path / "a.y4m", odd)
    assert not compared.warnings and 0 < compared.timing.largest_error < Fraction(1, 1000)


def remade(
    folder: Path, images: list[Image], times: list[int] | None = None, last: int = 40
) -> Path:
    return reels.write_lossless(folder / "wrong.mkv", images, times, last)


FAULTS: dict[str, tuple[Callable[[list[Image], Path], Path], list[str], Slip | None]] = {
    "shifted by one": (
        lambda images, folder: remade(folder, images[1:41]),
        ["from frame 0 on the pictures are those of one frame after"],
        Slip(0, 1),
    ),
    "doubled": (
        lambda images, folder: remade(folder, [*images[:15], *images[14:40]]),
        ["40 frames against 41", "durations differ", "from frame 15 on"],
        Slip(15, -1),
    ),
    "doubled in the same time": (
        lambda images, folder: remade(folder, [*images[:15], *images[14:39]]),
        ["from frame 15 on the pictures are those of one frame before: a frame is doubled"],
        Slip(15, -1),
    ),
    "missing": (
        lambda images, folder: remade(folder, [*images[:20], *images[21:40]]),
        ["40 frames against 39", "durations differ", "from frame 20 on"],
        Slip(20, 1),
    ),
    "missing, and a gap": (
        lambda images, folder: remade(
            folder, [*images[:20], *images[21:40]], [*TIMES[:20], *TIMES[21:40]]
        ),
        ["40 frames against 39", "times differ by up to 0.040 s, at frame 20", "from frame 20 on"],
        Slip(20, 1),
    ),
    "stretched": (
        lambda images, folder: remade(folder, images[:40], [n * 80 for n in range(40)], 80),
        ["times differ by up to 1.560 s, at frame 39", "durations differ: 1.600 s against 3.200 s"],
        None,
    ),
    "a little slow": (
        lambda images, folder: remade(folder, images[:40], [round(n * 40.1) for n in range(40)]),
        ["times differ by up to 0.004 s, at frame"],
        None,
    ),
    "one frame late": (
        lambda images, folder: remade(folder, images[:40], [*TIMES[:9], 370, *TIMES[10:]]),
        ["times differ by up to 0.010 s, at frame 9"],
        None,
    ),
    "a gap of hours": (
        lambda images, folder: remade(
            folder, images[:40], [*TIMES[:20], *(time + 36_000_000 for time in TIMES[20:])]
        ),
        ["times differ by up to 36000.000 s, at frame 20", "durations differ"],
        None,
    ),
    "last held": (
        lambda images, folder: remade(folder, images[:40], last=5000),
        ["durations differ: 1.600 s against 6.560 s"],
        None,
    ),
    "cut short": (
        lambda images, folder: remade(folder, images[:30]),
        ["40 frames against 30; the first 30 are compared", "durations differ"],
        None,
    ),
}


@pytest.mark.parametrize(("make", "told", "slip"), FAULTS.values(), ids=FAULTS)
def test_faults_of_order_and_time_are_told(
    make: Callable[[list[Image], Path], Path],
    told: list[str],
    slip: Slip | None,
    original: Path,
    images: list[Image],
    tmp_path: Path,
) -> None:
    compared = compare(original, make(images, tmp_path))
    assert len(compared.warnings) == len(told), compared.warnings
    for warning, words in zip(compared.warnings, told, strict=True):
        assert words in warning
    assert compared.slip == slip
    if slip is None:
        assert compared.psnr.y == np.inf


def test_still_pictures_do_not_slip(images: list[Image], tmp_path: Path) -> None:
    """Neither those that stand still nor those shown twice each, however badly they are coded."""
    rng = np.random.default_rng(1)
    for name, pictures in {
        "still": [images[0]] * 12,
        "twos": [image for image in images[:12] for _ in range(2)],
    }.items():
        noisy = [
            Image(*(np.clip(p + rng.integers(-9, 9, p.shape), 0, 255).astype(np.uint8) for p in i))
            for i in pictures
        ]
        clean = reels.write_lossless(tmp_path / f"{name}.mkv", pictures)
        compared = compare(clean, reels.write_lossless(tmp_path / f"{name}_noisy.mkv", noisy))
        assert compared.slip is None and not compared.warnings


def test_a_start_that_is_dropped_is_told(images: list[Image], tmp_path: Path) -> None:
    late = [1500 + time for time in TIMES]
    reference = reels.write_lossless(tmp_path / "film.mkv", images[:40], late, sound=True)
    kept = reels.write_lossless(tmp_path / "kept.mkv", images[:40], late)
    dropped = reels.write_lossless(tmp_path / "dropped.mkv", images[:40])
    assert not compare(reference, kept).warnings
    assert not compare(reference, reference).warnings and not compare(kept, kept).warnings
    (warning,) = compare(reference, dropped).warnings
    assert warning == "starts differ: 1.500 s against 0.000 s"
    assert compare(reference, dropped).times()["start"]["difference"] == -1.5
    assert compare(reference, dropped, skip=3, limit=4).times()["start"] is None


def test_a_range_that_is_only_tagged_is_seen(images: list[Image], tmp_path: Path) -> None:
    """VP8 is played in limited range, whatever its container says."""
    full = reels.write_film(tmp_path / "full.mkv", images[:10], "ffv1", tags={"color_range": 2})
    stretched = [
        image._replace(y=np.round(16 + image.y * (219 / 255)).astype(np.uint8)) for image in images
    ]
    for name, pictures, good in (("kept", images, False), ("converted", stretched, True)):
        path = tmp_path / f"{name}.webm"
        with Writer(path, WIDTH, HEIGHT, Fraction(1, 25)) as writer:
            for number, packet in enumerate(streams.encode_with_libvpx(pictures[:10], crf="4")):
                writer.write(packet, number)
        assert (compare(full, path).psnr.y > 32) == good


def poor(compared: Comparison) -> list[int]:
    """Frames that are not those of the original."""
    return [n for n, frame in enumerate(compared.per_frame()) if frame["psnr"]["y"] is not None]


def test_a_reader_that_starts_at_recovery_points_is_seen_through(
    images: list[Image], tmp_path: Path
) -> None:
    """Periodic intra refresh: a decoder that begins at a recovery point has no whole picture for a while."""
    options = "intra-refresh=1:keyint=20:bframes=0:scenecut=0"
    path = reels.write_film(tmp_path / "film.mkv", images, **{"x264-params": options})
    serial = reels.decoded_from(path)
    late = reels.decoded_from(path, 30)
    filled = [late[0]] * (30 - len(late)) + late
    right = reels.write_lossless(tmp_path / "right.mkv", serial)
    wrong = reels.write_lossless(tmp_path / "wrong.mkv", serial[:30] + filled)
    assert not poor(compare(path, right)) and not compare(path, right).warnings
    found = poor(compare(path, wrong))
    assert found[0] == 30 and len(found) >= 10


def test_a_reader_that_starts_at_a_damaged_key_frame_is_seen_through(
    images: list[Image], tmp_path: Path
) -> None:
    path = reels.write_film(
        tmp_path / "film.mp4", images, g="20", bf="0", sc_threshold="0", preset="veryfast"
    )
    ordinal = reels.damage_key_frame(path, 1)
    serial, alone = reels.decoded_from(path), reels.decoded_from(path, ordinal)
    right = reels.write_lossless(tmp_path / "right.mkv", serial)
    wrong = reels.write_lossless(tmp_path / "wrong.mkv", serial[:ordinal] + alone)
    assert not poor(compare(path, right))
    assert poor(compare(path, wrong)) == list(range(20, 40))


def test_frames_are_left_out(original: Path, images: list[Image], tmp_path: Path) -> None:
    part = reels.write_lossless(tmp_path / "part.mkv", images[10:20])
    compared = compare(original, part, skip=10, limit=10)
    assert compared.frames == 10 and compared.psnr.y == np.inf and not compared.warnings
    assert compared.timing.duration == (Fraction("0.4"), Fraction("0.4"))
    for skip in (40, 41):
        with pytest.raises(SourceError, match=f"no frames to compare after the first {skip}"):
            compare(original, part, skip=skip)


def test_uneven_times_are_compared_where_a_part_ends(images: list[Image], tmp_path: Path) -> None:
    uneven = [0, 40, 500, 540, 1000, 1040]
    film = reels.write_lossless(tmp_path / "film.mkv", images[:6], uneven)
    part = reels.write_lossless(tmp_path / "part.mkv", images[:4], uneven[:4], last=460)
    compared = compare(film, part, limit=4)
    assert not compared.warnings and compared.timing.duration == (1, 1)


def test_the_stream_can_be_named(original: Path) -> None:
    with pytest.raises(SourceError, match="stream 1 is no video stream"):
        compare(original, original, stream=1)


def test_the_command_prints_times_and_warns(
    original: Path, images: list[Image], tmp_path: Path
) -> None:
    wrong = FAULTS["stretched"][0](images, tmp_path)
    done = CliRunner().invoke(cli, ["compare", str(original), str(wrong), "--limit", "5"])
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert list(result) == ["reference", "distorted", "overall", "times", "frames"]
    assert len(result["frames"]) == 5 and result["times"]["largest_error"] == 0.16
    assert result["times"]["duration"] == {"reference": 0.2, "distorted": 0.4, "difference": 0.2}
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["warning"] * 2


def test_objects_are_compared(s3: stores.Store, original: Path) -> None:
    url = s3.put("film.mkv", original.read_bytes())
    assert compare_films(Selection(url), Selection(original)).psnr.y == np.inf


def test_points_of_a_curve_are_measured_by_playing(
    original: Path, images: list[Image], tmp_path: Path
) -> None:
    path = tmp_path / "out.ivf"
    with Writer(path, WIDTH, HEIGHT, Fraction(1, 25)) as writer:
        for number, packet in enumerate(streams.encode_with_libvpx(images[5:15])):
            writer.write(packet, number)
    source = open_source(original).select(5, 10)
    point = measure("serial", 20, source, path, 1.0)
    assert (point.frames, point.key_frames) == (10, 1) and point.psnr > 28
    with pytest.raises(ValueError, match="10 frames came back of 11"):
        measure("serial", 20, dataclasses.replace(source, frame_count=11), path, 1.0)
