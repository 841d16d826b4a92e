"""Plans: every frame in exactly one chunk, batches as asked, spans of whole chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excamera_dask.planning import (
    LARGEST_SPAN_BYTES,
    LONGEST_WAY,
    SPAN_BYTES,
    SPAN_CHUNKS,
    make_plan,
)

plans = st.builds(
    lambda frames, n, x, cuts, size, anchors: make_plan(
        frames, n, x, cuts=cuts, frame_bytes=size, anchors=anchors
    ),
    st.integers(0, 500),
    st.integers(1, 40),
    st.none() | st.integers(1, 20),
    st.lists(st.integers(-5, 520)),
    st.sampled_from([1, 100_000, 1_400_000, 12_000_000, 700_000_000]),
    st.lists(st.integers(0, 500)),
)


@given(plans)
def test_chunks_cover_the_film_in_order(plan):
    starts = [chunk.start for chunk in plan.chunks]
    ends = [chunk.start + chunk.frames for chunk in plan.chunks]
    assert [0, *ends][:-1] == starts if plan.chunks else plan.frame_count == 0
    assert not ends or ends[-1] == plan.frame_count
    assert [chunk.index for chunk in plan.chunks] == list(range(len(plan.chunks)))
    assert all(1 <= chunk.frames <= plan.chunk_frames for chunk in plan.chunks)


@given(plans)
def test_batches_are_runs_of_chunks(plan):
    for number, batch in enumerate(plan.batches):
        assert [chunk.position for chunk in batch] == list(range(len(batch)))
        assert {chunk.batch for chunk in batch} == {number}
        assert plan.batch_chunks is None or len(batch) <= plan.batch_chunks
        assert all(chunk.frames == plan.chunk_frames for chunk in batch[:-1])
    assert sum(map(len, plan.batches)) == len(plan.chunks)
    assert plan.key_frames == [batch[0].start for batch in plan.batches]


@given(plans)
def test_spans_are_runs_of_whole_chunks_of_bounded_size(plan):
    assert [chunk for span in plan.spans for chunk in plan.span_chunks(span)] == list(plan.chunks)
    most = max(
        SPAN_BYTES, min(SPAN_CHUNKS * plan.chunk_frames * plan.frame_bytes, LARGEST_SPAN_BYTES)
    )
    for span in plan.spans:
        frames = sum(chunk.frames for chunk in plan.span_chunks(span))
        assert frames * plan.frame_bytes <= most or span.stop - span.first == 1


@given(
    st.integers(1, 300),
    st.integers(1, 30),
    st.none() | st.integers(1, 9),
    st.sets(st.integers(0, 320)),
)
def test_cuts_start_batches(frames, n, x, cuts):
    plan = make_plan(frames, n, x, cuts=cuts, frame_bytes=1000)
    assert {cut for cut in cuts if cut < frames} | {0} <= set(plan.key_frames)
    if not cuts:
        per_batch = frames if x is None else n * x
        assert plan.key_frames == list(range(0, frames, per_batch))


def test_the_reference_setting():
    plan = make_plan(200, 6, 16, frame_bytes=1_382_400)
    assert plan.key_frames == [0, 96, 192]
    assert [chunk.frames for chunk in plan.chunks] == [6] * 33 + [2]
    assert plan.chunks[-1].position == 1
    assert str(plan) == "[6, 16]: 200 frames, 34 chunks, 3 batches, 5 load spans, 211 tasks"


def test_plain_chunking_has_no_chains():
    plan = make_plan(60, 6, 1, frame_bytes=1000)
    assert not plan.is_chained
    assert len(plan.key_frames) == len(plan.chunks) == 10


def test_one_batch_when_unlimited():
    plan = make_plan(1000, 1, None, frame_bytes=1000)
    assert plan.key_frames == [0]
    assert plan.chunks[-1].position == 999


def test_spans_far_from_an_anchor_follow_the_one_before():
    plan = make_plan(900, 6, 16, frame_bytes=1_382_400, anchors=[0, 600])
    starts = [plan.chunks[span.first].start for span in plan.spans if span.follows]
    assert starts == [
        start
        for start in (plan.chunks[span.first].start for span in plan.spans)
        if start - 600 * (start >= 600) > LONGEST_WAY
    ]
    assert len(starts) > 8
    scattered = make_plan(900, 6, 16, frame_bytes=1_382_400, anchors=[0], workers=100)
    follow = [scattered.chunks[span.first].start for span in scattered.spans if span.follows]
    assert follow == list(range(126, 900, 6))
    near = make_plan(900, 6, 16, frame_bytes=1_382_400, anchors=[0, 450], workers=100)
    assert not any(span.follows for span in near.spans)
    often = make_plan(900, 6, 16, frame_bytes=1_382_400, anchors=range(0, 900, 100))
    assert not any(span.follows for span in often.spans)


def test_spans_end_at_anchors():
    plan = make_plan(300, 6, 16, frame_bytes=1_382_400, anchors=[0, 40, 80, 300])
    assert [plan.chunks[span.first].start for span in plan.spans][:3] == [0, 42, 84]


@pytest.mark.parametrize(("n", "x"), [(0, 1), (6, 0), (-1, None)])
def test_impossible_plans_are_refused(n, x):
    with pytest.raises(ValueError, match=r"\[N, x\] needs"):
        make_plan(10, n, x, frame_bytes=1)


def test_a_plan_shows_itself_in_notebooks():
    assert "<td>[6, unlimited]</td>" in make_plan(10, 6, None, frame_bytes=1)._repr_html_()
