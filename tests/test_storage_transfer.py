"""What a chunk's results are on their way between processes: small, and the same when they arrive."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import streams
from test_api import film

import codec
from codec.errors import InvalidState
from codec.frame import Image
from excamera_dask import stages
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.planning import Chunk, make_plan
from excamera_dask.sources import open_source

CHUNK = 6
SETTINGS = FirstPassSettings(cpu_used=8, cq_level=40)


def first_pass(images: Sequence[Image], settings: FirstPassSettings = SETTINGS) -> stages.FirstPass:
    return stages.encode(stages.Pictures(list(images), {}), settings.choose())


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return streams.moving_images(208, 144, 3 * CHUNK)


@pytest.fixture(scope="module")
def chain(images):
    """Pictures, first passes, decoded first passes and rebased chunks of one batch."""
    pictures = [stages.Pictures(images[k * CHUNK :][:CHUNK], {}) for k in range(3)]
    passes = [first_pass(chunk.images) for chunk in pictures]
    decoded = [stages.final_state(chunk) for chunk in passes]
    rebased = []
    true = decoded[0]
    for k in (1, 2):
        replaced = stages.replace(pictures[k], passes[k], decoded[k - 1])
        true = stages.rebase(pictures[k], passes[k], decoded[k], replaced, decoded[k - 1], true)
        rebased.append(true)
    return pictures, passes, decoded, rebased


def sent(value):
    data = pickle.dumps(value, protocol=5)
    return pickle.loads(data), len(data)


def test_a_decoded_first_pass_travels_as_its_frames(chain):
    _, passes, decoded, _ = chain
    for frames, ours in zip(passes, decoded, strict=True):
        theirs, size = sent(ours)
        assert size < sum(map(len, frames.packets)) + 300
        assert size < len(ours.decoding.final.to_bytes()) / 2
        assert theirs.decoding.final == ours.decoding.final == theirs.state.open()
        assert theirs.decoding.parsing_states == ours.decoding.parsing_states
        assert theirs.seconds == ours.seconds


def test_hidden_pictures_travel_too(vpxenc):
    settings = FirstPassSettings(
        passes=2, cpu_used=4, cq_level=10, lag_in_frames=16, arnr_maxframes=5
    )
    ours = stages.final_state(first_pass(list(film(40, 96, 80))[20:], settings))
    assert ours.decoding.hidden
    theirs, _ = sent(ours)
    assert theirs.decoding.hidden.keys() == ours.decoding.hidden.keys()
    for place, image in ours.decoding.hidden.items():
        assert theirs.decoding.hidden[place].to_bytes() == image.to_bytes()


def test_a_rebased_state_travels_as_one_picture_and_the_frames_after_it(chain):
    _, _, decoded, rebased = chain
    for k, ours in enumerate(rebased, start=1):
        theirs, size = sent(ours)
        base = sent(decoded[k])[0].state
        final = ours.state.open()
        assert final.references is not None
        assert len(set(map(id, final.references))) == 2
        assert theirs.state.open(base) == final
        assert theirs.packets == ours.packets
        whole_delta = len(final.to_bytes(base=decoded[k].decoding.final))
        assert size < whole_delta + sum(map(len, ours.packets)) / 2


def test_a_rebased_state_passes_through_several_hands(chain):
    _, _, decoded, rebased = chain
    once, size = sent(rebased[0])
    twice, again = sent(once)
    assert again == size
    opened = twice.state.open(decoded[1].state)
    assert opened == rebased[0].state.open()
    once.state.open(decoded[1].state)
    assert sent(once)[0].state.open(decoded[1].state) == opened


def test_another_base_is_refused(chain):
    _, _, decoded, rebased = chain
    theirs, _ = sent(rebased[0])
    with pytest.raises(InvalidState, match="another base state"):
        theirs.state.open(decoded[2].state)
    with pytest.raises(InvalidState, match="give the base state"):
        theirs.state.open()


def test_the_rest_of_a_chunk_of_one_frame_is_nothing(images):
    pictures = [stages.Pictures([image], {}) for image in images[:2]]
    passes = [first_pass(chunk.images) for chunk in pictures]
    decoded = [stages.final_state(chunk) for chunk in passes]
    replaced = stages.replace(pictures[1], passes[1], decoded[0])
    ours = stages.rebase(pictures[1], passes[1], decoded[1], replaced, decoded[0], decoded[0])
    theirs, _ = sent(ours)
    assert theirs.state.open(decoded[1].state) == ours.state.open()


def test_a_resumed_state_travels_as_all_frames(chain):
    _, passes, _, rebased = chain
    packets = passes[0].packets + rebased[0].packets
    ours = stages.resume(packets)
    theirs, size = sent(ours)
    assert size < sum(map(len, packets)) + 500
    assert theirs.state.open() == rebased[0].state.open() == codec_state(packets)


def codec_state(packets: Sequence[bytes]) -> codec.DecoderState:
    state = None
    for packet in packets:
        state, _ = codec.decode(state, packet)
    assert state is not None
    return state


def test_threads_may_ask_for_what_arrived_at_once(chain):
    theirs, _ = sent(chain[2][0])
    found: list[stages.Decoding] = []
    threads = [threading.Thread(target=lambda: found.append(theirs.decoding)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_many_workers_load_chunk_by_chunk():
    alone, few, many = (make_plan(600, 6, 16, frame_bytes=1 << 20, workers=n) for n in (1, 8, 9))
    assert alone == few
    assert few.chunks == many.chunks
    assert len(few.spans) < len(many.spans) == len(many.chunks)


def test_pictures_of_many_workers_travel_as_their_place(tmp_path):
    path = tmp_path / "film.y4m"
    with Y4mWriter(path, 208, 144, Fraction(25)) as writer:
        for image in streams.moving_images(208, 144, 20):
            writer.write(image)
    source, chunk = open_source(path), Chunk(2, 12, 6, 0, 2)
    sizes = []
    for scattered in (False, True):
        ours = stages.load_span(source, [chunk], scattered)[0]
        theirs, size = sent(ours)
        sizes.append(size)
        assert [i.to_bytes() for i in theirs.images] == [i.to_bytes() for i in ours.images]
        assert sent(theirs)[1] == size
    assert sizes[0] > 6 * source.frame_bytes
    assert sizes[1] < 2000
    assert make_plan(60, 6, 1, frame_bytes=1, workers=9).scattered
    assert not make_plan(60, 6, 1, frame_bytes=1, workers=8).scattered


def test_the_description_of_a_source_is_small_and_passed_on_as_it_came(tmp_path):
    path = tmp_path / "film.y4m"
    with Y4mWriter(path, 16, 16, Fraction(25)) as writer:
        for _ in range(3000):
            writer.write(Image(*(np.zeros((n, n), np.uint8) for n in (16, 8, 8))))
    ours = open_source(path).select(5, 2000)
    theirs, size = sent(ours)
    assert size < 3000
    assert theirs.identity == ours.identity
    assert (theirs.skip, theirs.frame_count) == (5, 2000)
    for name in ("all_times", "order"):
        assert np.array_equal(getattr(theirs, name), getattr(ours, name))
    for mine, other in zip(theirs.anchors, ours.anchors, strict=True):
        assert np.array_equal(mine, other)
    again, _ = sent(theirs)
    assert again.times.tolist() == ours.times.tolist()
    part = theirs.select(10, 20)
    assert sent(part)[0].times.tolist() == part.times.tolist()
