"""Batches with hidden frames: how they are cut, what depends on what, that chunks fit, and that any decoder plays them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask.core import get_dependencies
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import decode_with_libvpx, moving_images

import codec
from codec.encoding.quality import ssim
from codec.frame import Image
from codec.kernel_cache import INTERPRETED
from excamera_dask import encode, plan
from excamera_dask.errors import ExcameraError
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.formats.containers import read_packets
from excamera_dask.formats.ivf import is_key_frame, is_shown
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.graph import Job, Priority, build_graph
from excamera_dask.groups import LEAST_GROUP, batches_of, longest_group
from excamera_dask.planning import Plan, make_skeleton_plan
from excamera_dask.presets import PAPER, PRESETS
from excamera_dask.skeleton import stages
from excamera_dask.skeleton.manner import Manner
from excamera_dask.skeleton.schedule import ONE, finest_for, quantizers_for
from excamera_dask.sources import SourceInfo, open_source

SLOW = pytest.mark.skipif(INTERPRETED, reason="too slow without compiled kernels")
JOB = Job("test", None, FirstPassSettings(), 0.75, manner=Manner(50, "balanced"))


# Plans --------------------------------------------------------------------------------------------------------------


def plan_of(frames: int, n: int = 12, g: int = 24, d: int = 96, cuts: Iterable[int] = ()) -> Plan:
    batches = list(batches_of(frames, d, cuts))
    return make_skeleton_plan(batches, [g] * len(batches), n, frame_bytes=1000, job=JOB)


ANY_PLAN = {
    "frames": st.integers(0, 700),
    "n": st.integers(1, 40),
    "g": st.integers(1, 40),
    "d": st.integers(1, 300),
    "cuts": st.sets(st.integers(0, 720), max_size=6),
}


@given(**ANY_PLAN)
def test_a_plan_covers_a_film_once(frames: int, n: int, g: int, d: int, cuts: set[int]) -> None:
    made = plan_of(frames, n, g, d, cuts)
    assert sum(chunk.frames for chunk in made.chunks) == frames
    assert [chunk.index for chunk in made.chunks] == list(range(len(made.chunks)))
    for before, after in pairwise(made.chunks):
        assert before.start + before.frames == after.start
    assert all(chunk.frames > 0 for chunk in made.chunks)
    assert {cut for cut in cuts if 0 < cut < frames} <= set(made.key_frames)
    assert [chunk.index for g in made.groups for chunk in made.chunks[g.first : g.stop]] == list(
        range(len(made.chunks))
    )
    for group in made.groups:
        chunks = made.chunks[group.first : group.stop]
        assert chunks[0].start == (group.before if group.is_first else group.start)
        assert chunks[-1].start + chunks[-1].frames == group.end + 1
        assert group.batch_start <= group.before <= group.end < group.batch_stop
        assert {chunk.batch for chunk in chunks} == {group.batch}
        if not group.has_hidden:  # no other group and no joint in its batch
            assert len(chunks) == 1 and chunks[0].frames <= LEAST_GROUP
            assert (group.batch_start, group.batch_stop) == (group.before, group.end + 1)


@given(**ANY_PLAN)
def test_the_task_count_is_told_truly(frames: int, n: int, g: int, d: int, cuts: set[int]) -> None:
    made = plan_of(frames, n, g, d, cuts)
    graph, results = build_graph(made, window=2)
    assert len(graph) == made.task_count
    assert results == [("code-test", chunk.index) for chunk in made.chunks]


def test_a_few_frames_more_are_no_key_frame_more() -> None:
    keys = [len(plan_of(frames, d=96).key_frames) for frames in range(230, 336)]
    assert set(keys) == {2, 3} and keys == sorted(keys)
    for frames in (289, 301, 330):
        sizes = np.diff([*plan_of(frames, d=96).key_frames, frames])
        assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 700), st.integers(2, 32), st.integers(1, 32))
def test_chunks_are_about_as_long_as_asked_for(frames: int, n: int, g: int) -> None:
    made = plan_of(frames, n, g, 240)
    for group in made.groups:
        sizes = [chunk.frames for chunk in made.chunks[group.first : group.stop]]
        assert max(sizes) - min(sizes) <= 1 + group.is_first
        assert max(sizes) <= 1.5 * n + 1 or len(sizes) == 1


def test_at_most_four_tasks_a_chunk() -> None:
    for n in (6, 12, 24):
        made = plan_of(21_600, n, 24, 240)
        assert made.task_count <= 4 * len(made.chunks)


def test_a_chunk_waits_for_its_skeleton_alone() -> None:
    tasks = dict(build_graph(plan_of(97, 12, 24, 96), window=2)[0])
    assert get_dependencies(tasks, ("code-test", 5)) == {("skeleton-test", 2), ("survey-test", 2)}
    assert get_dependencies(tasks, ("skeleton-test", 2)) == {
        ("begin-test", 0),
        ("skeleton-test", 1),
        ("survey-test", 2),
    }
    assert get_dependencies(tasks, ("skeleton-test", 0)) == {("begin-test", 0), ("survey-test", 0)}
    assert get_dependencies(tasks, ("begin-test", 0)) == {("survey-test", g) for g in range(4)}
    assert get_dependencies(tasks, ("survey-test", 3)) == set()


def test_the_skeleton_goes_before_chunks_and_chunks_before_other_batches() -> None:
    order = [("skeleton-x", 9), ("code-x", 8), ("code-x", 9), ("survey-x", 0)]
    priorities = [Priority()(key) for key in order]
    assert priorities == sorted(priorities, reverse=True)
    assert Priority()(("begin-x", 0)) > Priority()(("code-x", 0))


def test_what_is_done_is_not_done_again() -> None:
    made = plan_of(289, 12, 24, 96)
    first = made.batches[1][0].index
    graph, results = build_graph(made, window=2, done=range(first))
    assert {key[1] for key in results} == set(range(first, len(made.chunks)))
    assert not {key for key in dict(graph) if key[0] == "begin-test" and key[1] == 0}
    graph, results = build_graph(made, window=2, done=set(range(len(made.chunks))) - {3})
    skeletons = [key for key in dict(graph) if key[0] == "skeleton-test"]
    assert results == [("code-test", 3)] and len(skeletons) == 2
    assert build_graph(made, window=2, done=range(len(made.chunks)))[1] == []


def test_the_graph_holds_no_pictures() -> None:
    graph, _ = build_graph(plan_of(6000), window=4)
    assert len(pickle.dumps(dict(graph))) < 600 * len(graph)


# Quantizers ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 127), st.lists(st.integers(0, 400 * ONE), min_size=2, max_size=40))
def test_what_lives_longer_is_never_coarser(q_index: int, values: list[int]) -> None:
    importance = np.sort(np.array(values, np.int64))[np.newaxis]
    indices = finest_for(importance, q_index)[0]
    assert np.all(np.diff(indices) <= 0)
    assert indices.min() >= 0 and indices.max() <= q_index
    assert finest_for(np.zeros((1, 1), np.int64), q_index) == q_index
    chosen = quantizers_for(importance, q_index)
    assert 0 <= chosen.q_index <= q_index
    if chosen.segments is not None:
        assert set(np.unique(chosen.segments.map)) <= set(range(4))
        assert all(0 <= index <= q_index for index in chosen.segments.q_indices)


def test_the_step_falls_by_a_power_of_the_frames_that_inherit() -> None:
    from codec.tables import AC_QLOOKUP

    for q_index in (20, 51, 106):
        for frames in (1, 5, 24, 240):
            index = int(finest_for(np.array([[frames * ONE]]), q_index)[0, 0])
            wanted = AC_QLOOKUP[q_index] / (1 + frames) ** 0.4
            around = [
                abs(int(AC_QLOOKUP[max(i, 0)]) - wanted) for i in (index - 1, index, index + 1)
            ]
            assert around[1] <= min(around) + 0.5


# Lengths of groups ---------------------------------------------------------------------------------------------------


def look_of(errors: dict[int, float], rows: int = 4, columns: int = 6) -> Any:
    """Mean squared errors at distances, the same for all macroblocks."""
    from excamera_dask.skeleton.lengths import Look

    fields = [np.full((rows, columns), 256.0 * error) for error in errors.values()]
    return Look(tuple(errors), np.array(fields))


@SLOW
def test_groups_are_as_long_as_their_content_lives() -> None:
    from excamera_dask.skeleton.lengths import DISTANCES, best_length

    still = look_of(dict.fromkeys(DISTANCES, 2.0))
    pages = look_of(
        {d: 2.0 if d <= 4 else 3000.0 for d in DISTANCES}
    )  # another page every few frames
    assert best_length([still], 50, 24) == 24
    assert best_length([still], 50, 10) == 10
    assert best_length([pages], 50, 24) == 4
    assert best_length([], 50, 24) == 24


@SLOW
@given(
    st.lists(st.floats(0, 20_000), min_size=7, max_size=7), st.integers(0, 127), st.integers(3, 32)
)
@settings(deadline=None)
def test_some_length_is_always_found(errors: list[float], q_index: int, longest: int) -> None:
    from excamera_dask.skeleton.lengths import DISTANCES, LENGTHS, best_length

    found = best_length([look_of(dict(zip(DISTANCES, errors, strict=True)))], q_index, longest)
    assert found == longest or (found in LENGTHS and found < longest)


@given(st.integers(0, 500), st.integers(1, 600))
def test_pictures_that_are_looked_at_lie_in_their_batch(start: int, frames: int) -> None:
    from excamera_dask.skeleton.lengths import looked_at

    places = looked_at(start, start + frames)
    assert all(start < place < start + frames for place in places)
    assert len(places) <= 4 and (places or frames == 1)


@SLOW
def test_batches_have_lengths_of_their_own(tmp_path: Path) -> None:
    """A still scene before a pan, which leaves less and less of a picture."""
    wide = moving_images(96 + 48 * 4, 80, 1, 21)[0]
    pan = [
        Image(
            wide.y[:, 4 * n : 4 * n + 96],
            wide.u[:, 2 * n : 2 * n + 48],
            wide.v[:, 2 * n : 2 * n + 48],
        )
        for n in range(48)
    ]
    source = write(tmp_path / "film.y4m", [*moving_images(96, 80, 1, 3) * 50, *pan])
    made = plan(source, preset="balanced", key_frame_times=(2.0,), scene_cuts=False)
    lengths = [
        max(g.end - g.before for g in made.groups if g.batch_start == start)
        for start in made.key_frames
    ]
    assert made.key_frames == [0, 50]
    assert lengths[0] >= 20 and lengths[1] <= 12


def test_short_chunks_have_groups_of_two() -> None:
    assert [longest_group(n) for n in (1, 2, 6, 9, 10, 16, 24, 32)] == [
        3,
        4,
        12,
        18,
        10,
        16,
        24,
        32,
    ]


# Films --------------------------------------------------------------------------------------------------------------


def write(path: Path, images: Iterable[Image]) -> Path:
    images = list(images)
    with Y4mWriter(path, images[0].width, images[0].height, Fraction(25)) as writer:
        for image in images:
            writer.write(image)
    return path


def shown(path: Path) -> list[Image]:
    state, images = None, []
    for packet in read_packets(path):
        state, image = codec.decode(state, packet.data)
        if image is not None:
            images.append(image)
    return images


def check_plays(path: Path, images: list[Image], least_ssim: float) -> list[bytes]:
    """libvpx shows what our decoder shows, that many frames, near their originals; gives the frames."""
    frames = [packet.data for packet in read_packets(path)]
    ours = shown(path)
    assert [image.to_bytes() for image in ours] == list(decode_with_libvpx(frames))
    assert len(ours) == len(images)
    assert min(ssim(a, b).y for a, b in zip(images, ours, strict=True)) >= least_ssim
    return frames


def fades(count: int) -> list[Image]:
    first = moving_images(80, 64, count)
    return [
        Image(*((plane.astype(int) * (count - n) // count).astype(np.uint8) for plane in image))
        for n, image in enumerate(first)
    ]


def flashes(count: int) -> list[Image]:
    images = moving_images(80, 64, count)
    return [
        Image(*(np.minimum(p, 255 - p) ^ 255 for p in i)) if n % 7 == 5 else i
        for n, i in enumerate(images)
    ]


def cut_within(count: int) -> list[Image]:
    return moving_images(80, 64, count // 2, 1) + moving_images(80, 64, count - count // 2, 5)


def still(count: int) -> list[Image]:
    return moving_images(80, 64, 1) * count


def grainy(count: int) -> list[Image]:
    random = np.random.default_rng(11)
    return [
        Image(*(np.clip(p + random.normal(0, 6, p.shape), 0, 255).astype(np.uint8) for p in image))
        for image in moving_images(80, 64, count)
    ]


@SLOW
@pytest.mark.parametrize("content", [moving_images, fades, flashes, cut_within, still, grainy])
def test_any_content_plays_in_any_decoder(content: Any, tmp_path: Path) -> None:
    images = content(80, 64, 40) if content is moving_images else content(40)
    source = write(tmp_path / "film.y4m", images)
    out = tmp_path / "out.ivf"
    options: dict[str, Any] = {"preset": "balanced", "chunk_frames": 12, "scene_cuts": False}
    encode(source, out, executor="sync", cq_level=20, **options)
    frames = check_plays(out, images, 0.8)
    hidden = [frame for frame in frames if not is_shown(frame)]
    assert len(hidden) == len(plan(source, cq_level=20, **options).groups) >= 3


@SLOW
@pytest.mark.parametrize("n", [1, 24])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 17, 18, 33])
def test_short_films(count: int, n: int, tmp_path: Path) -> None:
    images = moving_images(50, 34, count)
    source, out = write(tmp_path / "film.y4m", images), tmp_path / "out.webm"
    report = encode(
        source,
        out,
        executor="sync",
        preset="balanced",
        chunk_frames=n,
        cq_level=16,
        scene_cuts=False,
    )
    check_plays(out, images, 0.85)
    assert (report.frames, report.key_frames) == (count, 1)


@SLOW
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != PAPER])
@pytest.mark.parametrize("n", [2, 3, 5, 8, 12, 16, 32])
def test_chunks_of_any_length(n: int, preset: str, tmp_path: Path) -> None:
    images = moving_images(64, 48, 50)
    source, out = write(tmp_path / "film.y4m", images), tmp_path / "out.ivf"
    encode(
        source, out, executor="sync", preset=preset, chunk_frames=n, key_distance=30, cq_level=20
    )  # fmt: skip
    frames = check_plays(out, images, 0.85)
    assert sum(map(is_key_frame, frames)) == 2


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("film") / "film.y4m", moving_images(96, 80, 66))


OPTIONS: dict[str, Any] = {
    "preset": "balanced", "chunk_frames": 6, "key_distance": 33, "cq_level": 24, "scene_cuts": False,
}  # fmt: skip


@SLOW
def test_workers_give_the_same_bytes(film: Path, tmp_path: Path) -> None:
    encode(film, tmp_path / "sync.webm", executor="sync", **OPTIONS)
    expected = (tmp_path / "sync.webm").read_bytes()
    for workers in (1, 3):
        out = tmp_path / f"{workers}.webm"
        encode(film, out, workers=workers, **OPTIONS)
        assert out.read_bytes() == expected


@SLOW
@pytest.mark.parametrize("most", [3, 5, 100])
def test_states_that_travel_are_what_they_were(
    most: int, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every result goes from process to process: chunks are the same, and lead to the states that the next ones begin with."""

    from excamera_dask.skeleton import making

    monkeypatch.setattr(making, "MOST_PACKETS", most)

    def moved(value: Any) -> Any:
        return pickle.loads(pickle.dumps(value))

    encode(film, tmp_path / "out.ivf", executor="sync", **OPTIONS)
    frames = [packet.data for packet in read_packets(tmp_path / "out.ivf")]
    made = plan(film, **OPTIONS)
    source: SourceInfo = made.job.source
    manner = made.job.manner
    found: list[bytes] = []
    for start in made.key_frames:
        groups = [group for group in made.groups if group.batch_start == start]
        surveys = [moved(stages.survey(source, group, manner)) for group in groups]
        skeleton = begun = moved(stages.begin(source, start, surveys, manner))
        state = None
        for place, (group, seen) in enumerate(zip(groups, surveys, strict=True)):
            skeleton = moved(stages.extend(source, group, place, begun, skeleton, seen, manner))
            for chunk in made.chunks[group.first : group.stop]:
                result = stages.code(source, chunk, group, skeleton, seen, manner)
                found += result.packets
                for packet in result.packets:
                    state, _ = codec.decode(state, packet)
            assert state == skeleton.end
            assert len(skeleton.packets) <= most + 2
    assert found == frames


@SLOW
def test_an_interrupted_job_goes_on(film: Path, tmp_path: Path) -> None:
    """A process is killed amid its work; the next one takes what is there, whatever chunks those are."""
    out = tmp_path / "out.webm"
    script = (
        "import sys, json; from excamera_dask import encode\n"
        "encode(sys.argv[1], sys.argv[2], executor='sync', **json.loads(sys.argv[3]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, film, out, json.dumps(OPTIONS)])
    folder = tmp_path / "out.webm.excamera"
    deadline = time.monotonic() + 240
    while len(list(folder.glob("*/*.chunk"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    begun = sorted(folder.glob("*/*.chunk"))
    begun[1].unlink()  # a gap
    report = encode(film, out, executor="sync", **OPTIONS)
    assert report.resumed_chunks >= 2
    encode(film, tmp_path / "whole.webm", executor="sync", **OPTIONS)
    assert out.read_bytes() == (tmp_path / "whole.webm").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.webm", "whole.webm"]


@SLOW
def test_it_can_be_entered_at_every_key_frame(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.ivf"
    encode(film, out, executor="sync", **OPTIONS)
    frames = [packet.data for packet in read_packets(out)]
    pictures = list(decode_with_libvpx(frames))
    second = next(number for number, frame in enumerate(frames) if number and is_key_frame(frame))
    later = list(decode_with_libvpx(frames[second:]))
    assert later == pictures[-len(later) :]
    assert len(later) == 33


@SLOW
def test_frames_that_cannot_be_read_are_told_once(film: Path, tmp_path: Path) -> None:
    """Joints and hidden frames are read by several tasks; a frame that is missing counts in its own chunk alone."""
    source = open_source(film)
    made = plan(film, **OPTIONS)
    group = made.groups[0]
    seen = stages.survey(source, group, made.job.manner)
    begun = stages.begin(source, 0, [seen], made.job.manner)
    skeleton = stages.extend(source, group, 0, begun, begun, seen, made.job.manner)
    numbers: list[int] = []

    def reading(source: SourceInfo, start: int, count: int, missing: list[int]) -> Iterator[Image]:
        from excamera_dask.sources import iter_frames

        for number, image in enumerate(iter_frames(source, start, count), start):
            missing.append(number)
            yield image

    from excamera_dask.skeleton import making

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "iter_frames", reading)
        for chunk in made.chunks[group.first : group.stop]:
            result = stages.code(source, chunk, group, skeleton, seen, made.job.manner)
            numbers += result.missing
    assert numbers == list(range(group.end + 1))


def test_settings_that_cannot_be() -> None:
    with pytest.raises(
        ExcameraError, match="preset 'best'; it must be paper, fast, balanced, smallest"
    ):
        plan("film.y4m", preset="best")
    with pytest.raises(ExcameraError, match="encodes at a cq_level"):
        plan("film.y4m", preset="balanced", end_usage="vbr")
    with pytest.raises(
        ExcameraError, match="chunk_frames is 33; with preset 'balanced' it must be at most 32"
    ):
        plan("film.y4m", preset="balanced", chunk_frames=33)
    with pytest.raises(ExcameraError, match="key_distance is 0"):
        plan("film.y4m", preset="balanced", key_distance=0)


@SLOW
@pytest.mark.parametrize(
    ("options", "names"),
    [
        (
            {"preset": "balanced", "batch_chunks": 4, "tune": "psnr", "min_q": 3},
            "batch_chunks, min_q, tune",
        ),
        ({"preset": "balanced", "encoder": "vpxenc", "kf_q_weight": 0.5}, "kf_q_weight, encoder"),
        ({"preset": "paper", "key_distance": 100}, "key_distance"),
        ({"preset": "balanced", "cq_level": 40, "chunk_frames": 12, "key_distance": 100}, None),
        ({"chunk_frames": 12, "batch_chunks": 4, "tune": "psnr"}, None),
    ],
)
def test_settings_without_effect_are_named(
    film: Path, options: dict[str, Any], names: str | None
) -> None:
    told: list[Any] = []
    plan(film, on_event=told.append, limit=6, **options)
    warnings = [event.text for event in told if event.text.startswith("without effect")]
    preset = options.get("preset", "paper")
    assert warnings == ([f"without effect with preset {preset!r}: {names}"] if names else [])


@SLOW
@pytest.mark.parametrize(("width", "height"), [(1, 1), (16, 16), (17, 31), (130, 66)])
def test_pictures_of_any_size(width: int, height: int, tmp_path: Path) -> None:
    images = moving_images(width, height, 12)
    source, out = write(tmp_path / "film.y4m", images), tmp_path / "out.ivf"
    for n in (1, 12):
        encode(
            source,
            out,
            executor="sync",
            preset="balanced",
            chunk_frames=n,
            cq_level=10,
            scene_cuts=False,
        )
        check_plays(out, images, 0.5)


@SLOW
def test_an_estimate_has_the_seconds_of_a_real_encode(film: Path, tmp_path: Path) -> None:
    from excamera_dask.estimate import Machine, estimate, seconds_a_megapixel

    report = encode(film, tmp_path / "out.ivf", executor="sync", preset="balanced", chunk_frames=12)
    made = plan(film, preset="balanced", chunk_frames=12)
    model = seconds_a_megapixel(report)
    found = estimate(made, Machine(1), model)
    assert found.stage_seconds["code"] > 0.9 * report.stage_seconds["code"]
    assert found.stage_seconds["survey"] == pytest.approx(report.stage_seconds["survey"], rel=0.1)
    assert found.chain_seconds > 0
    many = estimate(made, Machine(100), model)
    assert (
        many.seconds >= many.chain_seconds
    )  # the key frame waits for surveys, chunks for their skeleton


@SLOW
def test_other_versions_take_nothing_over(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of other code would not fit: their joints would be others."""
    from excamera_dask import api, same_bytes

    chosen = api.Settings.of(**OPTIONS)
    source = open_source(film)
    usual = api._fingerprint(source, chosen)
    assert api._fingerprint(source, chosen) == usual
    monkeypatch.setattr(same_bytes, "versions", lambda encoder: {"sources": "others"})
    assert api._fingerprint(source, chosen) != usual
