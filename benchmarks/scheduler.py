"""Scheduler's time a task of an encode's real graph: `python benchmarks/scheduler.py [--chunks 2400] [--preset paper]`.

The graph is that of a film of so many chunks, with stages that do nothing, so that all time is Dask's. It runs on worker
processes here with the settings of Lambda clusters (`executors/aws_lambda/config.py`); the figure is the processor time
of the process that holds scheduler and client, divided by the tasks.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import dask
from dask.highlevelgraph import HighLevelGraph
from distributed import Client, LocalCluster

from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.graph import Job, build_graph, window_spans, with_priorities
from excamera_dask.groups import batches_of
from excamera_dask.planning import Plan, make_plan, make_skeleton_plan
from excamera_dask.presets import KEY_DISTANCE, PAPER, PRESETS
from executors.aws_lambda.config import SCHEDULER_CONFIG
from executors.dask import DaskExecutor

FRAME_BYTES = 1_382_400  # 720p


def nothing(*_: Any) -> None:
    """A stage without work."""


def idle_plan(chunks: int, preset: str) -> Plan:
    """The plan of so many chunks, by the paper's [6, 16] or a preset's structure."""
    job = Job("idle", None, FirstPassSettings(), 0.75)
    structure = PRESETS[preset]
    if structure is None:
        return make_plan(6 * chunks, 6, 16, frame_bytes=FRAME_BYTES, separate=True, job=job)
    frames = structure.chunk_frames * chunks
    batches = list(batches_of(frames, KEY_DISTANCE, ()))
    lengths = [structure.chunk_frames] * len(batches)
    return make_skeleton_plan(
        batches, lengths, structure.chunk_frames, frame_bytes=FRAME_BYTES, job=job
    )


def idle_graph(plan: Plan, workers: int) -> tuple[HighLevelGraph, list[Any]]:
    """The graph of a plan, each task replaced by one that does nothing."""
    graph, keys = build_graph(plan, window=window_spans(plan, workers, 0))
    tasks = {key: (nothing, *_arguments(task, graph)) for key, task in dict(graph).items()}
    return with_priorities(plan.job.name, tasks), keys


def _arguments(task: Any, graph: Any) -> list[Any]:
    """The keys that a task depends on."""
    parts = [part for given in task[1:] for part in (given if isinstance(given, list) else [given])]
    return [part for part in parts if isinstance(part, tuple) and _is_key(part, graph)]


def _is_key(part: Any, graph: Any) -> bool:
    try:
        return part in graph
    except TypeError:  # something unhashable within
        return False


def measure(chunks: int, workers: int, preset: str) -> dict[str, Any]:
    plan = idle_plan(chunks, preset)
    graph, keys = idle_graph(plan, workers)
    with (
        dask.config.set(SCHEDULER_CONFIG),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        executor = DaskExecutor(client)
        wall, spent = time.perf_counter(), time.process_time()
        executor.run(graph, keys, lambda key, value: None)
        wall, spent = time.perf_counter() - wall, time.process_time() - spent
    tasks = len(graph)
    return {
        "preset": preset,
        "chunks": len(plan.chunks),
        "tasks": tasks,
        "workers": workers,
        "seconds": round(wall, 2),
        "ms_a_task": round(1000 * spent / tasks, 3),
        "ms_a_chunk": round(1000 * spent / len(plan.chunks), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=2400)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--preset", choices=list(PRESETS), default=PAPER)
    given = parser.parse_args()
    print(json.dumps(measure(given.chunks, given.workers, given.preset)))


if __name__ == "__main__":
    main()
