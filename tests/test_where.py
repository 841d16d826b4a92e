"""Where bits go: sums against bytes and against the boolean decoder, places in groups, mechanisms, the command."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streams import encode_with_libvpx, moving_images, read_ivf, write_ivf

import codec
from codec.bitstream import open_frame, read_frame_modes
from codec.element_bits import ELEMENTS, element_bits
from codec.encoding.quality import ssim_db
from codec.encoding.rate_distortion import LEVELS
from codec.frame import Image, new_macroblocks
from codec.kernel_cache import INTERPRETED
from codec.modes import SKIP, VECTORS, count_modes, mode_probabilities
from codec.tokens import count_tokens, read_tokens
from codec.transition import segment_map_before
from excamera_dask import encode, plan
from excamera_dask.cli import main
from excamera_dask.errors import ExcameraError
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.formats.containers import read_packets
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.measuring import coded_frames, where
from excamera_dask.measuring.coded_frames import CodedFrame, frames_of_job, places_of
from excamera_dask.measuring.methods import Method, parse_method
from excamera_dask.mechanisms import ALL_ON, NAMES
from excamera_dask.settings import Settings
from excamera_dask.sources import open_source

SLOW = pytest.mark.skipif(INTERPRETED, reason="too slow without compiled kernels")
WIDTH, HEIGHT, FRAMES = 96, 80, 40
TAG, KEY_TAG = 3, 10
FLUSH = 4
"""Bytes that libvpx and we write after a partition's last boolean, at most."""


def write(path: Path, images: Iterable[Image]) -> Path:
    with Y4mWriter(path, WIDTH, HEIGHT, Fraction(25)) as writer:
        for image in images:
            writer.write(image)
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.y4m"
    return write(path, moving_images(WIDTH, HEIGHT, FRAMES))


@pytest.fixture(scope="module")
def ours(film: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A stream of ours with hidden frames, segments and joints."""
    out = tmp_path_factory.mktemp("ours") / "out.ivf"
    encode(film, out, executor="sync", preset="balanced", chunk_frames=6, cq_level=24)
    return [packet.data for packet in read_packets(out)]


@pytest.fixture(scope="module")
def of_vpxenc(film: Path, vpxenc: str, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A stream of vpxenc's with hidden frames, in four token partitions."""
    out = tmp_path_factory.mktemp("vpxenc") / "out.ivf"
    subprocess.run(
        [vpxenc, "--codec=vp8", "--ivf", "--good", "--cpu-used=2", "--passes=2", "--auto-alt-ref=1",
         "--lag-in-frames=16", "--end-usage=cq", "--cq-level=20", "--target-bitrate=100000",
         "--token-parts=2", "-o", out, film],
        check=True, capture_output=True,
    )  # fmt: skip
    return list(read_ivf(out))


def of_libvpx(count: int = 12, slices: int = 2) -> list[bytes]:
    return encode_with_libvpx(moving_images(WIDTH, HEIGHT, count), slices=slices)


# Syntax elements ----------------------------------------------------------------------------------------------------


def check_sums(frames: list[bytes]) -> np.ndarray:
    """Sums are a frame's bytes, of which the ends of partitions are a few; all that is read is weighed. Gives the bits."""
    state, total = None, np.zeros(len(ELEMENTS))
    for data in frames:
        bits = element_bits(state, data)
        assert list(bits) == list(ELEMENTS)
        assert sum(bits.values()) == pytest.approx(8 * len(data))
        assert min(bits.values()) >= 0
        opened = open_frame(state, data)
        partitions = len(opened.windows)
        least = (KEY_TAG if opened.header.key_frame else TAG) + 3 * (partitions - 1)
        assert 8 * least <= bits["framing"] <= 8 * (least + FLUSH * (partitions + 1))
        read = read_by_the_decoder(state, data)
        assert sum(bits.values()) - bits["framing"] == pytest.approx(read, abs=1e-6)
        total += list(bits.values())
        state, _ = codec.decode(state, data)
    return total


def read_by_the_decoder(state: Any, data: bytes) -> float:
    """Bits that the boolean decoder has shifted out, and the part of one that its range stands for, in all partitions."""
    opened = open_frame(state, data)
    header = opened.header
    macroblocks = new_macroblocks((header.height + 15) // 16, (header.width + 15) // 16)
    macroblocks.segment[:] = segment_map_before(state, header)
    fresh = open_frame(state, data).windows  # which hold 8 + bits bits each
    read_frame_modes(opened, macroblocks)
    coefficients = opened.probabilities.coefficients.reshape(-1)
    read_tokens(opened.data, opened.windows, coefficients, macroblocks)
    start = KEY_TAG if header.key_frame else TAG
    starts = [start, *(position - (8 + bits) // 8 for _, _, bits, position, _ in fresh)]
    total = 0.0
    for begin, window in zip(starts, [opened.reader.window, *opened.windows], strict=True):
        _, range_, bits, position, _ = map(int, window)
        total += 8 * (position - begin) - (8 + bits) + np.log2(255 / range_)
    return total


def test_sums_are_bytes_in_streams_of_libvpx() -> None:
    check_sums(of_libvpx())


@pytest.mark.vpx
@SLOW
def test_sums_are_bytes_in_streams_of_vpxenc(of_vpxenc: list[bytes]) -> None:
    check_sums(of_vpxenc)


@SLOW
def test_sums_are_bytes_in_streams_of_ours(ours: list[bytes]) -> None:
    total = dict(zip(ELEMENTS, check_sums(ours), strict=True))
    assert min(total.values()) > 0


def entropy(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Bits of so many zeros and ones."""
    p = probabilities.astype(float) / 256
    return float(-(counts[:, 0] * np.log2(p) + counts[:, 1] * np.log2(1 - p)).sum())


def test_each_element_is_what_its_booleans_are_worth() -> None:
    """Counted by place, weighed by probability: the coder's own arithmetic differs from that by its rounding alone."""
    state = None
    for data in of_libvpx():
        bits, frame = element_bits(state, data), codec.parse(state, data)
        macroblocks = frame.macroblocks
        modes = count_modes(frame.header, macroblocks)
        tables = mode_probabilities(frame.header, frame.probabilities)
        tokens = count_tokens(macroblocks).reshape(4, 264, 2)
        weights = frame.probabilities.coefficients.reshape(4, 264)
        level_bits = LEVELS.rate[np.abs(macroblocks.coefficients)].sum(axis=(2, 3)) / 256
        by_block = LEVELS.rate[np.abs(macroblocks.coefficients)].sum(axis=(0, 1, 3)) / 256
        with_y2 = ~np.isin(macroblocks.y_mode, (4, 9))
        luma = (LEVELS.rate[np.abs(macroblocks.coefficients[:, :, :16])] / 256).sum(axis=(2, 3))
        extra = {
            "y_after_y2": luma[with_y2].sum(),
            "y2": by_block[24],
            "chroma": by_block[16:24].sum(),
            "y_with_dc": luma[~with_y2].sum(),
        }
        assert sum(extra.values()) == pytest.approx(level_bits.sum())
        for kind, (name, signs) in enumerate(extra.items()):
            expected = entropy(tokens[kind], weights[kind]) + signs
            assert bits[name] == pytest.approx(expected, rel=0.02, abs=4)
        skips, vectors = slice(SKIP, SKIP + 1), slice(VECTORS, SKIP)
        assert bits["skip"] == pytest.approx(entropy(modes[skips], tables[skips]), rel=0.03, abs=2)
        expected = entropy(modes[vectors], tables[vectors])
        assert bits["vectors"] == pytest.approx(expected, rel=0.03, abs=2)
        state, _ = codec.decode(state, data)


# Places -------------------------------------------------------------------------------------------------------------


@SLOW
def test_every_frame_has_its_place(film: Path, ours: list[bytes]) -> None:
    made = plan(film, preset="balanced", chunk_frames=6, cq_level=24)
    places = places_of(made)
    assert len(places) == FRAMES
    assert [n for n, place in enumerate(places) if place.type == "key"] == made.key_frames
    assert [n for n, place in enumerate(places) if place.type == "end"] == [
        g.end for g in made.groups
    ]
    last = {chunk.start + chunk.frames - 1 for chunk in made.chunks}
    ends = {n for n, place in enumerate(places) if place.type in ("joint", "end")}
    assert ends == last
    for group in made.groups:
        own = places[group.start : group.end + 1]
        assert [place.position for place in own] == list(range(1, len(own) + 1))


@pytest.fixture(scope="module")
def looked(film: Path) -> list[CodedFrame]:
    source = open_source(film)
    settings = FirstPassSettings(cq_level=24)
    return frames_of_job(source, settings, Method("balanced", 6), 240, executor="sync")


@SLOW
def test_parts_are_the_whole(looked: list[CodedFrame], ours: list[bytes]) -> None:
    assert [frame.bytes for frame in looked] == [len(data) for data in ours]
    told = where.summary(looked)
    size = sum(map(len, ours))
    assert told["total"]["bytes"] == size
    for parts in (told["by_type"], told["by_position"], told["by_stage"]):
        assert sum(part["bytes"] for part in parts.values()) == size
        assert sum(part["frames"] for part in parts.values()) == len(ours)
    kinds = told["by_type"]
    assert kinds["hidden"]["mse"] is None and kinds["hidden"]["ssim_db"] is None
    error = sum(p["frames"] * p["mse"] for p in kinds.values() if p["mse"] is not None) / FRAMES
    assert told["total"]["mse"] == pytest.approx(error)
    elements = told["by_element"]
    assert sum(parts["all"] for parts in elements.values()) == pytest.approx(size)
    for kind, part in kinds.items():
        assert sum(parts[kind] for parts in elements.values()) == pytest.approx(part["bytes"])
    first, second, *plain, joint, end = told["by_position"]
    assert (first, second, joint, end) == ("key", "hidden", "joint", "end")
    assert plain == [str(n) for n in sorted(map(int, plain))]


@SLOW
@pytest.mark.ffmpeg
def test_errors_are_those_of_ffmpeg(
    film: Path, looked: list[CodedFrame], ours: list[bytes], ffmpeg: str, tmp_path: Path
) -> None:
    path = tmp_path / "out.ivf"
    write_ivf(path, ours, WIDTH, HEIGHT)
    done = subprocess.run(
        [ffmpeg, "-v", "error", "-i", path, "-i", film,
         "-lavfi", "[0]setpts=N[a];[1]setpts=N[b];[a][b]ssim=stats_file=-", "-f", "null", "-"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    shown = [float(line.split("Y:")[1].split()[0]) for line in done.stdout.splitlines()]
    found = [frame.ssim for frame in looked if frame.ssim is not None]
    assert len(shown) == FRAMES and found == pytest.approx(shown, abs=2e-6)


def frame_at(number: int | None, kind: str, ssim: float | None) -> CodedFrame:
    return CodedFrame(
        number, kind, None, 1, {}, *([None] * 3 if ssim is None else [1.0, 1.0, ssim])
    )


def test_steps_know_where_they_are() -> None:
    kinds = ["key", "hidden", "plain", "plain", "joint", "plain", "end", "plain"]
    values = [0.99, None, 0.98, 0.98, 0.97, 0.975, 0.99, 0.96]
    numbers = iter(range(len(kinds)))
    frames = [
        frame_at(None if kind == "hidden" else next(numbers), kind, value)
        for kind, value in zip(kinds, values, strict=True)
    ]
    found = where.steps(frames)
    counts = {kind: step["count"] for kind, step in found.items()}
    assert counts == {"all": 6, "key_frames": 1, "group_ends": 2, "joints": 1, "elsewhere": 2}
    assert found["all"]["largest_at"] == 6
    assert found["all"]["largest_db"] == pytest.approx(ssim_db(0.99) - ssim_db(0.96))
    assert found["joints"]["mean_db"] == pytest.approx(ssim_db(0.975) - ssim_db(0.97))
    assert list(where.steps(frames, groups=False)) == ["all", "key_frames", "elsewhere"]
    alone = where.steps(frames[:1])["all"]
    assert alone == {"count": 0, "mean_db": None, "largest_db": None, "largest_at": None}


# Mechanisms ---------------------------------------------------------------------------------------------------------


def half_still(count: int) -> Iterator[Image]:
    """A fast pan beside what stands still."""
    wide = moving_images(WIDTH + 4 * count, HEIGHT, 1, 21)[0]
    for number in range(count):
        moved = (
            p[:, s * number :][:, : s * WIDTH // 4] for p, s in zip(wide, (4, 2, 2), strict=True)
        )
        image = Image(*(plane.copy() for plane in moved))
        for plane, still in zip(image, wide, strict=True):
            plane[:, : plane.shape[1] // 2] = still[:, : plane.shape[1] // 2]
        yield image


@SLOW
def test_each_mechanism_can_be_left_out(tmp_path: Path) -> None:
    film = write(tmp_path / "film.y4m", half_still(FRAMES))

    def bytes_with(**options: Any) -> bytes:
        out = tmp_path / "out.ivf"
        encode(film, out, executor="sync", preset="balanced", cq_level=24, **options)
        return out.read_bytes()

    usual = bytes_with()
    assert bytes_with(mechanisms=ALL_ON) == usual
    found = {name: bytes_with(mechanisms=ALL_ON.without(name)) for name in NAMES}
    assert usual not in found.values()
    assert len(set(found.values())) == len(found)


@SLOW
def test_without_hidden_frames_a_batch_is_one_chunk(film: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "preset": "balanced", "key_distance": 20, "scene_cuts": False,
        "mechanisms": ALL_ON.without("hidden_frames"),
    }  # fmt: skip
    made = plan(film, **options)
    assert [(c.start, c.frames) for c in made.chunks] == [(0, 20), (20, 20)]
    encode(film, tmp_path / "out.ivf", executor="sync", **options)
    assert len(list(read_packets(tmp_path / "out.ivf"))) == FRAMES
    made = plan(film, **options | {"mechanisms": ALL_ON.without("group_lengths")})
    assert not any(group.ahead is False for group in made.groups)


def test_jobs_with_other_mechanisms_are_other_jobs(film: Path) -> None:
    from excamera_dask import api

    source = open_source(film)
    usual = Settings.of(preset="balanced")
    prints = {
        api._fingerprint(source, dataclasses.replace(usual, mechanisms=mechanisms))
        for mechanisms in (ALL_ON, *map(ALL_ON.without, NAMES))
    }
    assert len(prints) == 1 + len(NAMES)
    assert Settings.of(preset="paper", mechanisms=ALL_ON.without("hints")).unused == ("mechanisms",)


def test_no_option_and_no_name_leaves_a_mechanism_out() -> None:
    from excamera_dask.cli.encode import encode as command

    assert "mechanisms" not in {parameter.name for parameter in command.params}
    assert parse_method("balanced").mechanisms == ALL_ON
    with pytest.raises(ValueError):
        parse_method("balanced without hints")
    with pytest.raises(ExcameraError):
        Settings.of(hints=False)
    names = [method.name for method in Method("balanced").each_left_out()]
    assert names[0] == "balanced without hidden_frames" and len(set(names)) == len(NAMES)


# The command --------------------------------------------------------------------------------------------------------


@SLOW
def test_the_command_tells_and_draws(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    out, drawn = tmp_path / "where.json", tmp_path / "where.png"
    arguments = ["--limit", "16", "-N", "4", "--executor", "sync", "--mechanisms", "20,40"]
    files = ["-o", str(out), "--plot", str(drawn)]
    assert main(["bench", "where", str(film), *arguments, *files]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result == json.loads(out.read_text())
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert (result["frames"], result["method"], result["cq_level"]) == (16, "balanced:4", 30)
    assert len(result["each_frame"]) == result["total"]["frames"] > 16
    assert set(result["mechanisms"]["bd_rate_percent_without"]) == set(NAMES)
    assert len(result["mechanisms"]["points"]) == 2 * (1 + len(NAMES))
    for word in (
        "hidden",
        "skeleton",
        "position",
        "y2",
        "group ends",
        "temporal filter",
    ):
        assert word in said.err


@SLOW
@pytest.mark.vpx
def test_vpxenc_stands_beside(film: Path, vpxenc: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["bench", "where", str(film), "--limit", "8", "--executor", "sync"]
    assert main(line) == 0
    theirs = json.loads(capsys.readouterr().out)["vpxenc"]
    assert theirs["total"]["bytes"] == pytest.approx(
        sum(parts["all"] for parts in theirs["by_element"].values())
    )
    assert list(theirs["steps"]) == ["all", "key_frames", "elsewhere"]
    assert main([*line, "--no-vpxenc"]) == 0
    assert json.loads(capsys.readouterr().out)["vpxenc"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--preset", "paper"], 2, "paper"),
        (["--cq-level", "64"], 2, "64"),
        (["--mechanisms", "30"], 2, "two different levels"),
        (["-N", "33"], 2, "33"),
        (["--plot", "x.jpg"], 2, "must end in .png"),
        (["--skip", "40"], 1, "no frames left"),
        (["-o", "/proc/where.json"], 1, "cannot write into /proc"),
    ],
)
def test_bad_input_is_one_line(
    film: Path, arguments: list[str], code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "where", str(film), *arguments]) == code
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and word in said.err


def test_no_film_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "none.mp4", tmp_path / "text.mp4"):
        if path.stem == "text":
            path.write_text("no film")
        assert main(["bench", "where", str(path)]) == 1
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and str(path) in said.err


def test_a_batch_of_its_key_frame_alone_has_places(tmp_path: Path) -> None:
    assert coded_frames.places_of(plan_of_one()) == [("key", 0)]


def plan_of_one() -> Any:
    from excamera_dask.planning import make_skeleton_plan

    return make_skeleton_plan([(0, 1)], [24], 24, frame_bytes=1000)
