"""Scene cuts: found where they are, nowhere else, however the film is divided."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from codec.frame import Image
from excamera_dask.api import encode, plan
from excamera_dask.formats.containers import read_packets
from excamera_dask.formats.ivf import is_key_frame
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.scene_cuts import changes, compare, cuts_of, find_scene_cuts
from excamera_dask.sources import SourceInfo, iter_frames, open_source
from excamera_dask.sources.previews import iter_previews
from executors import open_executor

SCENES = (17, 9, 30, 4)
CUTS = [17, 26, 56]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes of textures that pan, with noise."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("cuts") / "film.y4m"
    with Y4mWriter(path, 96, 64, Fraction(25)) as writer:
        for scene, frames in enumerate(SCENES):
            ground = rng.integers(0, 60, (8, 40)).repeat(8, 0).repeat(8, 1) + 50 * (scene % 4)
            for number in range(frames):
                luma = ground[:, number : number + 96] + rng.integers(0, 6, (64, 96))
                chroma = np.full((32, 48), 128, np.uint8)
                writer.write(Image(luma.astype(np.uint8), chroma, chroma))
    return path


@pytest.fixture(scope="module")
def source(film: Path) -> SourceInfo:
    return open_source(film)


def test_cuts_are_found(source):
    with open_executor("sync") as executor:
        assert find_scene_cuts(source, executor) == CUTS


def test_however_the_film_is_divided(source):
    whole = changes(source, 0, source.frame_count)
    assert len(whole) == source.frame_count - 1
    for size in (1, 7, 23):
        starts = range(0, source.frame_count, size)
        parts = [changes(source, at, size) for at in starts]
        assert np.array_equal(np.concatenate(parts), whole)
    assert cuts_of(np.vstack([np.zeros(3), whole])) == CUTS


def test_selected_frames_count_from_the_first(source):
    with open_executor("sync") as executor:
        assert find_scene_cuts(source.select(10, 30), executor) == [7, 16]
        assert find_scene_cuts(source.select(0, 1), executor) == []


def test_a_plan_starts_batches_at_cuts(film):
    assert plan(film, batch_chunks=None).key_frames == [0, *CUTS]
    assert plan(film, scene_cuts=False, batch_chunks=None).key_frames == [0]
    assert plan(film, batch_chunks=1).key_frames == list(range(0, sum(SCENES), 6))


def test_steady_change_is_no_cut():
    assert cuts_of(np.tile((40.0, 0.6, 40.0), (50, 1))) == []
    assert cuts_of(np.zeros((50, 3))) == []


def of(previews: list[np.ndarray]) -> np.ndarray:
    return np.vstack([np.zeros(3), compare(previews, len(previews) - 1)])


def test_a_flash_is_no_cut():
    still = np.full((40, 64), 60, np.uint8)
    frames = [still] * 12
    for lit in (5, 6):
        frames[lit] = still + 120
    assert cuts_of(of(frames)) == []
    assert cuts_of(of(frames[:5] + [still + 120] * 7)) == [5]


def test_a_fade_is_no_cut():
    picture = np.random.default_rng(5).integers(0, 200, (40, 64))
    frames = [(picture * step // 12).astype(np.uint8) for step in range(13)]
    assert cuts_of(of([frames[0]] * 8 + frames + [frames[-1]] * 8)) == []


def test_key_frames_come_where_the_cuts_are(film, tmp_path):
    out = tmp_path / "out.webm"
    options = {"executor": "sync", "encoder": "libvpx", "cpu_used": 8}
    assert encode(film, out, **options).batches == 1 + len(CUTS)
    assert key_frames(out) == [0, *CUTS]
    encode(film, out, scene_cuts=False, **options)
    assert key_frames(out) == [0]


def key_frames(path: Path) -> list[int]:
    return [n for n, packet in enumerate(read_packets(path)) if is_key_frame(packet.data)]


@pytest.mark.parametrize(
    "format", ["yuv420p", "yuv422p10le", "gray", "gray16le", "bgr0", "yuv444p"]
)
@pytest.mark.parametrize("size", [(96, 64), (37, 23), (5, 3)])
def test_previews_are_means_of_luma(tmp_path, format, size):
    width, height = size
    path = tmp_path / "film.nut"
    rng = np.random.default_rng(2)
    pictures = rng.integers(20, 230, (3, -(-height // 8), -(-width // 8)), dtype=np.uint8)
    pictures = pictures.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "rawvideo", rate=25, width=width, height=height, pix_fmt=format
        )
        for number, luma in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(luma), "gray").reformat(
                format=format,
                threads=1,  # with more, libswscale's result is not always the same
            )
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = open_source(path)
    previews = list(iter_previews(source, 0, 3))
    inside = min(size) >= 8
    for preview, image in zip(previews, iter_frames(source), strict=True):
        rows, columns = (height // 8, width // 8) if inside else (height, width)
        expected = image.y[:: 8 if inside else 1, :: 8 if inside else 1][:rows, :columns]
        assert preview.shape == (rows, columns)
        full = format.startswith("gray")  # whose pictures are stored in the full range of values
        assert np.abs(preview.astype(int) - expected).max() <= (20 if full else 1)
