"""Scene cuts: found where they are, nowhere else, however the film is divided."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codec.frame import Image
from excamera_dask.api import plan
from excamera_dask.containers import Y4mWriter
from excamera_dask.scene_cuts import cuts_of, differences, find_scene_cuts
from excamera_dask.sources import SourceInfo, open_source
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
    whole = differences(source, 0, source.frame_count)
    for size in (1, 7, 23):
        starts = range(0, source.frame_count, size)
        parts = [differences(source, at, min(size, source.frame_count - at)) for at in starts]
        assert np.array_equal(np.concatenate(parts), whole)
    assert cuts_of(whole) == CUTS


def test_selected_frames_count_from_the_first(source):
    with open_executor("sync") as executor:
        assert find_scene_cuts(source.select(10, 30), executor) == [7, 16]
        assert find_scene_cuts(source.select(0, 1), executor) == []


def test_a_plan_starts_batches_at_cuts(film):
    assert plan(film, scene_cuts=True, batch_chunks=None).key_frames == [0, *CUTS]
    assert plan(film, scene_cuts=False, batch_chunks=None).key_frames == [0]


def test_steady_change_is_no_cut():
    assert cuts_of(np.column_stack([np.full(50, 40.0), np.full(50, 0.6)])) == []
    assert cuts_of(np.zeros((50, 2))) == []
