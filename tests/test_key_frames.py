"""How finely key frames of our own are coded, and frames that are alone in their chunk."""

from __future__ import annotations

import math

import numpy as np
import pytest

import codec
from codec.encoding.encoder import frame_q_index
from codec.frame import Image
from excamera_dask import stages
from excamera_dask.first_pass import FirstPassSettings, encode_chunk
from excamera_dask.key_frames import (
    MOVING,
    MOVING_WEIGHT,
    STILL,
    STILL_WEIGHT,
    chunk_motion,
    key_frame_weight,
)
from excamera_dask.stages import FirstPass, Pictures

SETTINGS = FirstPassSettings(encoder="libvpx", cq_level=32)


def scene(count: int, seed: int = 1, replaced: bool = False, width: int = 96) -> list[Image]:
    """Smooth texture that stands still, or becomes another one at each frame."""
    half = np.full((40, width // 2), 128, np.uint8)
    images = []
    for number in range(count):
        rng = np.random.default_rng(seed + number * replaced)
        coarse = rng.integers(40, 200, (11, width // 8 + 1)).astype(float)
        rows, columns = np.arange(80) / 8, np.arange(width) / 8
        luma = np.array([np.interp(columns, np.arange(coarse.shape[1]), row) for row in coarse])
        luma = np.array([np.interp(rows, np.arange(11), column) for column in luma.T]).T
        images.append(Image(luma.astype(np.uint8), half, half))
    return images


def chunk(images: list[Image]) -> tuple[Pictures, FirstPass]:
    pictures = Pictures(images, {})
    return pictures, stages.encode(pictures, SETTINGS)


def test_a_still_scene_gets_a_fine_key_frame():
    pictures, first_pass = chunk(scene(6))
    assert chunk_motion(pictures.images, first_pass.packets) < STILL
    assert key_frame_weight(pictures.images, first_pass.packets) == STILL_WEIGHT
    pictures, first_pass = chunk(scene(6, replaced=True))
    assert chunk_motion(pictures.images, first_pass.packets) > MOVING
    assert key_frame_weight(pictures.images, first_pass.packets) == MOVING_WEIGHT


def test_a_picture_alone_gains_nobody():
    pictures, first_pass = chunk(scene(1))
    assert chunk_motion(pictures.images, first_pass.packets) == math.inf


def test_the_first_chunk_of_a_batch_stands_on_its_own_key_frame():
    pictures, first_pass = chunk(scene(5))
    decoded = stages.final_state(first_pass)
    key = stages.replace_first(pictures, first_pass)
    rebased = stages.rebase(pictures, first_pass, decoded, key)
    assert rebased.packets[0] == key.packet
    assert [codec.parse(None, key.packet).header.key_frame, len(rebased.packets)] == [True, 5]
    assert stages.state_after(rebased.packets) == rebased.state.open(decoded.state)
    of_libvpx, following = (frame_q_index(packet) for packet in first_pass.packets[:2])
    assert of_libvpx < frame_q_index(key.packet) < following


@pytest.mark.parametrize("cq_level", [0, 5, 20, 32, 44, 52, 63])
def test_the_cq_level_is_the_quantizer_of_what_follows(cq_level):
    settings = FirstPassSettings(encoder="libvpx", cq_level=cq_level)
    frames = encode_chunk(scene(3, replaced=True), settings)
    assert frame_q_index(frames[1]) == settings.cq_index
    assert FirstPassSettings(end_usage="vbr").cq_index is None


def test_a_frame_alone_in_its_chunk_is_no_better_than_its_neighbours():
    previous = stages.final_state(chunk(scene(4))[1])
    pictures, first_pass = chunk(scene(1, seed=9))
    alone = stages.replace(pictures, first_pass, previous)
    assert frame_q_index(alone.packet) == SETTINGS.cq_index
    pictures, first_pass = chunk(scene(2, seed=9))
    assert frame_q_index(stages.replace(pictures, first_pass, previous).packet) < SETTINGS.cq_index


def test_where_the_rate_is_controlled_a_lone_frame_follows_the_key_frame():
    previous = stages.final_state(chunk(scene(4))[1])
    pictures, first_pass = chunk(scene(1, seed=9))
    alone = stages.replace(pictures, first_pass._replace(q_index=None), previous)
    assert frame_q_index(alone.packet) == frame_q_index(first_pass.packets[0])
