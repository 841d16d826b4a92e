"""How long a job will take on so many workers, and what it will cost: its very graph, run through with measured times.

Each task of the graph takes the seconds that its stage takes for a megapixel on the machine of `cost_model.json`; the
serial chain of rebases, the window of loads and the workers that come late all have their effect as in a real run.
"""

from __future__ import annotations

import bisect
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from excamera_dask.graph import Priority, build_graph, window_spans
from excamera_dask.planning import LoadSpan, Plan
from excamera_dask.report import EncodeReport
from executors import Graph, Key

MODEL = Path(__file__).with_name("cost_model.json")
STAGES = ("survey", "skeleton", "code", "load", "encode", "final_state", "replace", "rebase")
TASK = 0.0005
"""Seconds of the scheduler for one task, one after another."""
LAMBDA_PROCESSOR = 1769
"""MB of memory with which a function has one whole processor; with less it has that part of one."""


@dataclass(frozen=True)
class Machine:
    """Workers that run a job: how many tasks at once, how soon they are there, how fast and how far apart they are.

    start: seconds until the first is ready; burst, ramp: how many may start at once, and seconds until as many more may;
    speed: against the machine that was measured; hop: seconds for a result to reach another worker; memory: bytes of
    all workers together, 0 if unknown.
    """

    workers: int
    start: float = 0.0
    burst: int = 1 << 30
    ramp: float = 0.0
    speed: float = 1.0
    hop: float = 0.0
    memory: int = 0

    def arrivals(self) -> list[float]:
        """When each worker is ready, in seconds from the start of the job."""
        return [self.start + number // self.burst * self.ramp for number in range(self.workers)]


LOCAL_START = 1.3
LAMBDA_START = 6.0
LAMBDA_HOP = 0.012


def loaded_apart(plan: Plan) -> Plan:
    """The plan as workers that are far from each other run it: each chunk is loaded where it is encoded."""
    spans = tuple(LoadSpan(chunk.index, chunk.index, chunk.index + 1) for chunk in plan.chunks)
    return replace(plan, spans=spans)


def local_machine(workers: int, memory: int = 0) -> Machine:
    """Processes on this machine, supposed as fast as the one that was measured."""
    return Machine(workers, start=LOCAL_START, hop=0.002, memory=memory)


def lambda_machine(workers: int, memory: int) -> Machine:
    """Functions with `memory` MB each: a cold start, Lambda's ramp of 1,000 every 10 s, a share of a processor."""
    return Machine(
        workers,
        start=LAMBDA_START,
        burst=1000,
        ramp=10.0,
        speed=min(1.0, memory / LAMBDA_PROCESSOR),
        hop=LAMBDA_HOP,
        memory=workers * memory << 20,
    )


@dataclass(frozen=True)
class Estimate:
    """What a job is expected to need, in seconds: wall time, each stage, all workers busy and present, the longest chain.

    Workers are present from their start, which is paid for, to the end of the job.
    """

    seconds: float
    stage_seconds: Mapping[str, float]
    busy_seconds: float
    worker_seconds: float
    chain_seconds: float
    workers_used: int
    tasks: int
    loads: int
    chunks: int
    assumptions: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_model(path: Path = MODEL) -> dict[str, float]:
    """Seconds a megapixel of each stage."""
    model = json.loads(path.read_text())["seconds_a_megapixel"]
    return {stage: float(model[stage]) for stage in STAGES}


def estimate(plan: Plan, machine: Machine, model: Mapping[str, float] | None = None) -> Estimate:
    """Run a plan's graph through in thought; `model`: seconds a megapixel by stage, default the measured ones."""
    chosen = read_model() if model is None else model
    source = plan.job.source
    megapixels = source.width * source.height / 1e6
    window = window_spans(plan, machine.workers, machine.memory)
    graph, _ = build_graph(plan, window=window)
    times = _durations(plan, graph, chosen, megapixels / machine.speed)
    run = _Run(graph, times, machine)
    end = run.end()
    stages = _stage_sums(plan, times, chosen)
    links, link = _chain(plan, chosen)
    link = link * megapixels / machine.speed + machine.hop
    arrivals = machine.arrivals()
    return Estimate(
        seconds=end,
        stage_seconds=stages,
        busy_seconds=sum(times.values()),
        worker_seconds=sum(max(0.0, end - arrival + machine.start) for arrival in arrivals),
        chain_seconds=links * link,
        workers_used=run.used,
        tasks=len(times),
        loads=len(plan.spans) or len(times),
        chunks=len(plan.chunks),
        assumptions=assumptions(machine, measured=model is not None),
    )


def assumptions(machine: Machine, measured: bool) -> tuple[str, ...]:
    """What an estimate takes for granted, in words; `measured`: its model is of this film on this machine."""
    model = json.loads(MODEL.read_text())
    found = [
        "stages as measured on a few frames of this film, on this machine"
        if measured
        else f"stages as measured on {model['machine']} with presets balanced and paper; films differ twofold either way",
        f"first workers ready after {machine.start:g} s",
        f"{1000 * machine.hop:g} ms from worker to worker, {1000 * TASK:g} ms of the scheduler a task",
        "no failures, and no time for reading a far source or for moving pictures",
    ]
    if machine.ramp:
        found.append(f"{machine.burst} more workers every {machine.ramp:g} s")
    if machine.speed != 1.0:
        found.append(f"{machine.speed:.2f} of a processor a worker")
    return tuple(found)


def _chain(plan: Plan, model: Mapping[str, float]) -> tuple[int, float]:
    """Links of the longest chain, and seconds a megapixel of one."""
    if plan.groups:
        groups = Counter(group.batch for group in plan.groups)
        return 1 + max(groups.values(), default=0), model["skeleton"]
    links = max(map(len, plan.batches), default=0) if plan.is_chained else 0
    return links, plan.chunk_frames * model["rebase"]


def _stage_sums(
    plan: Plan, times: Mapping[Key, float], model: Mapping[str, float]
) -> dict[str, float]:
    """Seconds of each stage over all tasks, as reports have them: chunks between hidden frames load what they code."""
    sums = dict.fromkeys(STAGES, 0.0)
    for key, seconds in times.items():
        stage = "skeleton" if _stage(key) == "begin" else _stage(key)
        if stage in sums:
            sums[stage] += seconds
    if plan.groups:
        both = sums["code"]
        sums["load"] = both * model["load"] / ((model["load"] + model["code"]) or 1.0)
        sums["code"] = both - sums["load"]
    return sums


def _stage(key: Key) -> str:
    assert isinstance(key, tuple)
    return str(key[0]).split("-")[0]


def _number(key: Key) -> int:
    assert isinstance(key, tuple) and isinstance(key[1], int)
    return key[1]


def _durations(
    plan: Plan, graph: Graph, model: Mapping[str, float], megapixels: float
) -> dict[Key, float]:
    """Seconds of each task of the graph."""
    found: dict[Key, float] = {}
    if plan.groups:
        return {key: megapixels * _group_seconds(plan, key, model) for key in graph}
    spans = {span.first: span for span in plan.spans}
    for key in graph:
        stage = _stage(key)
        chunk = plan.chunks[_number(key)]
        if stage == "load":
            frames = _frames_read(plan, spans[chunk.index])
        else:
            frames = 1 if stage == "replace" else chunk.frames
        found[key] = frames * model.get(stage, 0.0) * megapixels
    return found


def _group_seconds(plan: Plan, key: Key, model: Mapping[str, float]) -> float:
    """Seconds a megapixel of a task of a batch with hidden frames."""
    stage, number = _stage(key), _number(key)
    if stage == "code":
        return plan.chunks[number].frames * (model["load"] + model["code"])
    if stage in ("begin", "skeleton"):
        return model["skeleton"]
    group = plan.groups[number]
    return (group.end - group.before) * model[stage]


def _frames_read(plan: Plan, span: LoadSpan) -> int:
    """Frames that are decoded to load a span: from the source's key frame before it on."""
    chunks = plan.span_chunks(span)
    first, stop = chunks[0].start, chunks[-1].start + chunks[-1].frames
    if span.follows:
        return stop - first
    entries = plan.job.source.keyframes
    place = bisect.bisect_right(entries, first)
    return stop - (int(entries[place - 1]) if place else 0)


def _dependencies(task: Any, keys: Mapping[Key, float]) -> set[Key]:
    """Keys of the tasks whose results a task takes."""
    given = [item for part in task[1:] for item in (part if isinstance(part, list) else [part])]
    return {
        item for item in given if isinstance(item, tuple) and len(item) == 2 and _is_key(item, keys)
    }


def _is_key(item: tuple[Any, ...], keys: Mapping[Key, float]) -> bool:
    try:
        return item in keys
    except TypeError:  # something unhashable within
        return False


class _Run:
    """Workers take the task of highest priority as they come free, one scheduler hands them out."""

    def __init__(self, graph: Graph, times: Mapping[Key, float], machine: Machine) -> None:
        self.times, self.machine = times, machine
        self.missing: dict[Key, int] = {}
        self.followers: defaultdict[Key, list[Key]] = defaultdict(list)
        self.ready: list[tuple[int, int, Key]] = []
        self.used = 0
        self._rank = Priority()
        self._count = 0
        for key in graph:
            needed = _dependencies(graph[key], times)
            self.missing[key] = len(needed)
            for other in needed:
                self.followers[other].append(key)
        for key, count in self.missing.items():
            if not count:
                self._offer(key)

    def _offer(self, key: Key) -> None:
        heapq.heappush(self.ready, (-self._rank(key), self._count, key))
        self._count += 1

    def end(self) -> float:
        """Seconds until the last task has ended."""
        free = sorted(self.machine.arrivals())
        arriving: list[tuple[float, int, Key | None]] = [
            (at, number, None) for number, at in enumerate(free)
        ]
        heapq.heapify(arriving)
        ends, idle, scheduler, number = arriving, 0, 0.0, len(free)
        now, running, left = 0.0, 0, len(self.times)
        while left:
            now, _, key = heapq.heappop(ends)
            if key is not None:
                left, running = left - 1, running - 1
                scheduler = max(scheduler, now) + TASK
                now = scheduler
                self._release(key)
            idle += 1
            while idle and self.ready:
                idle, running = idle - 1, running + 1
                task = heapq.heappop(self.ready)[2]
                begin = max(now, scheduler)
                hop = self.machine.hop if self.times[task] else 0.0
                heapq.heappush(ends, (begin + hop + self.times[task], number, task))
                number += 1
            self.used = max(self.used, running)
        return now

    def _release(self, key: Key) -> None:
        for follower in self.followers.pop(key, ()):
            self.missing[follower] -= 1
            if not self.missing[follower]:
                self._offer(follower)


def seconds_a_megapixel(report: EncodeReport) -> dict[str, float]:
    """What a real encode tells: seconds of each stage for a megapixel of a frame that it works on: `replace` on one a chunk,
    `skeleton` on key and hidden frames, `survey` on all but key frames."""
    megapixels = report.width * report.height / 1e6
    frames = dict.fromkeys(STAGES, report.frames) | {
        "replace": report.chunks,
        "skeleton": report.key_frames + report.hidden_frames,
        "survey": report.frames - report.key_frames,
    }
    return {
        stage: report.stage_seconds.get(stage, 0.0) / (max(1, frames[stage]) * megapixels)
        for stage in STAGES
    }
