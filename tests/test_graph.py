"""The graph by itself: what depends on what, what it holds, and that memory is bounded in any order of execution."""

from __future__ import annotations

import pickle
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dask.core import get_dependencies
from hypothesis import given, settings
from hypothesis import strategies as st

from excamera_dask import stages
from excamera_dask.errors import ExcameraError
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.graph import (
    SMALLEST_WINDOW,
    Job,
    Priority,
    Resumed,
    build_graph,
    span_bytes,
    window_spans,
)
from excamera_dask.planning import Plan, make_plan

FRAME = 4 << 20
JOB = Job("test", None, FirstPassSettings(), 0.75)


def plan_of(frames: int, n: int = 6, x: int | None = 4, cuts: Any = (), size: int = FRAME) -> Plan:
    return make_plan(frames, n, x, frame_bytes=size, cuts=cuts, job=JOB)


def stage_of(key: Any) -> str:
    return str(key[0]).split("-")[0]


def test_each_chunk_has_its_tasks():
    plan = plan_of(30, x=3)
    graph, results = build_graph(plan, window=2)
    assert len(graph) == plan.task_count
    assert results == [("result-test", i) for i in range(5)]
    tasks = dict(graph)
    assert get_dependencies(tasks, ("rebase-test", 2)) == {
        ("chunk-test", 2), ("encode-test", 2), ("final_state-test", 2), ("replace-test", 2),
        ("final_state-test", 1), ("rebase-test", 1),
    }  # fmt: skip
    assert get_dependencies(tasks, ("replace-test", 2)) == {
        ("chunk-test", 2), ("encode-test", 2), ("final_state-test", 1),
    }  # fmt: skip
    assert get_dependencies(tasks, ("replace-test", 3)) == {("chunk-test", 3), ("encode-test", 3)}
    assert get_dependencies(tasks, ("rebase-test", 3)) == {
        ("chunk-test", 3), ("encode-test", 3), ("final_state-test", 3), ("replace-test", 3),
    }  # fmt: skip


def test_plain_chunking_has_neither_chains_nor_states():
    graph, _ = build_graph(plan_of(30, x=1), window=2)
    assert {stage_of(key) for key in graph} == {"load", "chunk", "encode", "result"}


@given(
    st.integers(1, 300),
    st.integers(1, 20),
    st.none() | st.integers(1, 8),
    st.sets(st.integers(1, 300)),
)
def test_the_task_count_is_told_truly(frames, n, x, cuts):
    plan = plan_of(frames, n, x, cuts)
    assert len(build_graph(plan, window=2)[0]) == plan.task_count


def test_the_graph_holds_no_pictures():
    graph, _ = build_graph(plan_of(6000), window=4)
    assert len(pickle.dumps(dict(graph))) < 400 * len(graph)


def test_the_chain_goes_first():
    order = ["rebase", "replace", "final_state", "encode", "load"]
    priorities = [Priority()((f"{stage}-test", 100_000)) for stage in order]
    assert priorities == sorted(priorities, reverse=True)
    assert (
        Priority()(("encode-test", 3))
        > Priority()(("encode-test", 4))
        > Priority()(("load-test", 0))
    )


def execute(tasks: dict[Any, Any], choose: random.Random) -> Iterator[Any]:
    """Keys in some order that the dependencies allow."""
    waiting = {key: set(get_dependencies(tasks, key)) for key in tasks}
    users: dict[Any, list[Any]] = {key: [] for key in tasks}
    for key, needs in waiting.items():
        for need in needs:
            users[need].append(key)
    ready = sorted(key for key, needs in waiting.items() if not needs)
    while ready:
        key = ready.pop(choose.randrange(len(ready)))
        yield key
        for user in users[key]:
            waiting[user].discard(key)
            if not waiting[user]:
                ready.append(user)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 400), st.integers(1, 12), st.none() | st.integers(1, 6), st.sets(st.integers(1, 400)),
    st.integers(SMALLEST_WINDOW, 5), st.randoms(use_true_random=False),
)  # fmt: skip
def test_no_order_of_execution_holds_more_spans_than_the_window(frames, n, x, cuts, window, choose):
    plan = plan_of(frames, n, x, cuts)
    tasks = dict(build_graph(plan, window=window)[0])
    span_of = {chunk.index: span.index for span in plan.spans for chunk in plan.span_chunks(span)}
    users = {key: 0 for key in tasks if stage_of(key) == "chunk"}
    for key in tasks:
        for need in get_dependencies(tasks, key):
            if need in users:
                users[need] += 1
    held = dict.fromkeys(users, 0)
    done = set()
    for key in execute(tasks, choose):
        done.add(key)
        for need in get_dependencies(tasks, key):
            if need in held:
                held[need] += 1
        in_memory = {
            span_of[key[1]]
            for key in users
            if held[key] < users[key] and ("load-test", plan.spans[span_of[key[1]]].first) in done
        }
        assert len(in_memory) <= window
    assert len(done) == len(tasks)


def test_the_window_follows_workers_and_memory():
    plan = plan_of(100_000, size=1_382_400)
    assert window_spans(plan, 1, 0) == 2
    assert window_spans(plan, 1000, 0) == 1 + 4000 // 8
    small = window_spans(plan, 1000, 4 << 30)
    assert small * span_bytes(plan) <= 0.4 * (4 << 30)
    assert window_spans(plan, 1000, 1 << 20) == SMALLEST_WINDOW
    assert window_spans(plan_of(0), 8, 0) == SMALLEST_WINDOW


def test_a_resumed_batch_goes_on_from_its_state():
    plan = plan_of(48, x=4)
    resumed = {1: Resumed(6, (b"frames",))}
    graph, results = build_graph(plan, window=2, done={0, 1, 2, 3, 4, 5}, resumed=resumed)
    tasks = dict(graph)
    assert results == [("result-test", 6), ("result-test", 7)]
    assert {key for key in tasks if stage_of(key) == "encode"} == {
        ("encode-test", i) for i in (5, 6, 7)
    }
    assert tasks["resume-test", 6] == (stages.resume, (b"frames",))
    assert ("resume-test", 6) in get_dependencies(tasks, ("rebase-test", 6))
    assert ("final_state-test", 5) in get_dependencies(tasks, ("replace-test", 6))


def test_nothing_is_left_of_a_finished_job():
    graph, results = build_graph(plan_of(48), window=2, done=range(8))
    assert len(graph) == 0
    assert results == []


def test_a_plan_of_no_source_cannot_be_drawn():
    with pytest.raises(ExcameraError, match="belongs to no source"):
        make_plan(10, 6, 1, frame_bytes=1).visualize()


def test_drawing_needs_graphviz(tmp_path: Path):
    pytest.importorskip("graphviz", reason="without graphviz the next test applies")
    if shutil.which("dot") is None:
        pytest.skip("graphviz's program dot is not on PATH (Debian: graphviz)")
    assert plan_of(20).visualize(str(tmp_path / "plan"), format="svg") is not None


def test_drawing_without_graphviz_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "graphviz", None)
    with pytest.raises(ExcameraError, match="pip install graphviz"):
        plan_of(20).visualize(None)


def test_loads_far_from_an_entry_go_on_one_after_another_at_one_worker():
    plan = make_plan(600, 6, 16, frame_bytes=FRAME, anchors=[0, 300], job=JOB)
    graph, _ = build_graph(plan, window=3, workers=["tcp://a:1", "tcp://b:1"])
    tasks = dict(graph)
    loads = [span for span in plan.spans if span.follows]
    assert len(loads) > 10
    homes: dict[int, set[str]] = {}
    for span in loads:
        before = plan.spans[span.index - 1]
        link = ("loaded-test", before.first)
        assert link in get_dependencies(tasks, ("load-test", span.first))
        assert get_dependencies(tasks, link) == {("load-test", before.first)}
        layer = graph.layers["test"]
        assert layer.annotations["allow_other_workers"](("load-test", span.first))
        (home,) = layer.annotations["workers"](("load-test", span.first))
        homes.setdefault(plan.chunks[span.first].start // 300, set()).add(home)
    assert [len(found) for found in homes.values()] == [1, 1] and homes[0] != homes[1]
    assert layer.annotations["workers"](("encode-test", 0)) is None
