"""The whole encode as one Dask graph.

Keys are ("load-<job>", first chunk), ("encode-<job>", chunk) and so on, one for each stage; a job's
result for a chunk is ("result-<job>", chunk). The graph holds the description of the source and the
settings, no pictures.

Memory stays bounded on every scheduler because of the graph itself: a load waits for the results of
the span `window` spans before it, so at most `window` spans of raw pictures exist at any time
(docs/memory.md). Where the source cannot be entered for long, a load also waits for the one before
it, and asks for the same worker, so that the film is decoded once and not again for each span.
Priorities make the serial chain of rebases run as soon as it can: rebase, replace, final_state,
encode, load; and that of skeletons: begin and skeleton, code, survey.

Batches with hidden frames have four tasks and no chain of chunks: ("survey-<job>", group), ("begin-<job>", first group),
("skeleton-<job>", group), each behind the one before, and ("code-<job>", chunk), whose result is the chunk's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from excamera_dask import stages
from excamera_dask.errors import ExcameraError
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.planning import Chunk, LoadSpan, Plan
from excamera_dask.skeleton import stages as skeletons
from excamera_dask.skeleton.manner import Manner
from excamera_dask.sources import SourceInfo
from executors import Executor, Graph, Key
from executors.base import REPEATABLE

RANKS = {
    "survey": 0,
    "load": 0,
    "loaded": 5,
    "encode": 1,
    "code": 1,
    "begin": 2,
    "skeleton": 2,
    "final_state": 2,
    "replace": 3,
    "rebase": 4,
    "resume": 4,
    "chunk": 5,
    "result": 5,
    "mux": 5,
}
"""Later stages go first, and the tasks without work of their own before all. Of batches with hidden frames the skeleton does,
which is serial: where its next group and a chunk become ready at once, a worker with the chunk would keep the chain waiting."""
RANK_STEP = 1 << 24
SMALLEST_WINDOW = 2
CHUNKS_A_WORKER = 4
MANY_WORKERS = 64
"""As many are reckoned with where workers may come of which nobody knows."""
MEMORY_SHARE = 0.4


@dataclass(frozen=True)
class Job:
    """What is done to every chunk of a plan; `name` makes the keys of this job its own."""

    name: str
    source: SourceInfo | None
    first_pass: FirstPassSettings
    kf_q_weight: float
    keep: bool = False
    manner: Manner | None = None
    """How frames are made where batches have hidden ones."""

    def draw(self, plan: Plan, filename: str | None, **options: Any) -> Any:
        """Draw the graph of a plan for this job with graphviz, as `dask.visualize` does."""
        import dask.base

        graph, _ = build_graph(plan, window=SMALLEST_WINDOW)
        try:
            return dask.base.visualize_dsk(dict(graph), filename=filename, **options)
        except (ImportError, RuntimeError) as error:
            raise ExcameraError(
                "drawing a plan needs graphviz: pip install graphviz, and dot (Debian: graphviz)"
            ) from error


class Resumed(NamedTuple):
    """Where an interrupted batch goes on: its first chunk without a result, and all frames before it."""

    chunk: int
    packets: tuple[bytes, ...]


@dataclass(frozen=True)
class Homes:
    """The worker that a task should run on by its key: Dask's annotation `workers`; None for any."""

    addresses: Mapping[Key, str]

    def __call__(self, key: Any) -> list[str] | None:
        return [self.addresses[key]] if key in self.addresses else None


@dataclass(frozen=True)
class NotOnlyAtHome:
    """Whether another worker may run a task that has a home: Dask's annotation `allow_other_workers`."""

    addresses: Mapping[Key, str]

    def __call__(self, key: Any) -> bool | None:
        return True if key in self.addresses else None


@dataclass(frozen=True)
class Priority:
    """A task's priority by its key: later stages first, then earlier chunks."""

    def __call__(self, key: Any) -> int:
        name, number = key
        return RANKS[name.split("-")[0]] * RANK_STEP - int(number)


@dataclass(frozen=True)
class Repeatable:
    """Whether a task by its key may be run twice at once: any but the one that writes the output."""

    def __call__(self, key: Any) -> bool:
        return not key[0].startswith("mux-")


def window_spans(plan: Plan, workers: int, memory: int) -> int:
    """Load spans that may be in work at once: CHUNKS_A_WORKER chunks a worker, within MEMORY_SHARE.

    workers: that there may be while the job runs; memory: bytes that these have together, 0 if unknown. At least
    SMALLEST_WINDOW. The output does not depend on it.
    """
    if not plan.spans:
        return SMALLEST_WINDOW
    chunks = max(span.stop - span.first for span in plan.spans)
    wanted = 1 + -(-CHUNKS_A_WORKER * workers // chunks)
    if memory:
        wanted = min(wanted, int(MEMORY_SHARE * memory) // span_bytes(plan))
    return max(SMALLEST_WINDOW, wanted)


def window_of(plan: Plan, executor: Executor) -> int:
    """The window of a job whose workers may be yet to come: it is no larger than they need, nor than they can hold."""
    there, foreseen, memory = executor.workers, executor.foreseen, executor.memory
    if foreseen is None:  # within the memory that is there already
        return window_spans(plan, max(there, MANY_WORKERS), memory)
    return window_spans(plan, foreseen, memory * max(foreseen, there) // there)


def homes_of(executor: Executor) -> list[str]:
    """Workers that loads can be tied to: none while others are to come, who would get nothing."""
    there = executor.workers if executor.present is None else executor.present
    foreseen = executor.foreseen
    return executor.addresses if foreseen is None or foreseen <= there else []


def span_bytes(plan: Plan) -> int:
    """Raw bytes of the longest load span."""
    frames = (sum(chunk.frames for chunk in plan.span_chunks(span)) for span in plan.spans)
    return plan.frame_bytes * max(frames, default=0)


def build_graph(
    plan: Plan,
    *,
    window: int,
    done: Collection[int] = (),
    resumed: Mapping[int, Resumed] | None = None,
    workers: Sequence[str] = (),
) -> tuple[Graph, list[Key]]:
    """The graph of a plan's job and the keys of its results, in the order of chunks.

    done: chunks whose results exist already; resumed: by batch, where to go on behind such chunks; workers: addresses,
    of which the loads that follow one another share one, if it is still there then.
    """
    if plan.groups:
        return _skeleton_graph(plan, plan.job, set(done))
    tasks = _Tasks(plan, plan.job, window, set(done), dict(resumed or {}), workers)
    return tasks.graph(), tasks.results


def _skeleton_graph(plan: Plan, job: Job, done: set[int]) -> tuple[Graph, list[Key]]:
    """The graph of batches with hidden frames: chunks wait for the skeleton up to their group, and for nothing else."""
    tasks: dict[Key, Any] = {}
    results: list[Key] = []
    for _, members in groupby(plan.groups, lambda group: group.batch):
        groups = list(members)
        wanted = [any(c not in done for c in range(g.first, g.stop)) for g in groups]
        if not any(wanted):
            continue
        begin = (f"begin-{job.name}", groups[0].index)
        surveys = [(f"survey-{job.name}", group.index) for group in groups if group.has_hidden]
        start, manner = groups[0].batch_start, job.manner
        tasks[begin] = (skeletons.begin, job.source, start, surveys, manner)
        before: Key = begin
        for place, group in enumerate(groups):
            seen: Key | None = None
            if group.has_hidden:
                seen = surveys[place]
                tasks[seen] = (skeletons.survey, job.source, group, manner)
                if any(wanted[place:]):
                    own = (f"skeleton-{job.name}", group.index)
                    tasks[own] = (
                        skeletons.extend, job.source, group, place, begin, before, seen, manner,
                    )  # fmt: skip
                    before = own
            for chunk in plan.chunks[group.first : group.stop]:
                if chunk.index not in done:
                    key = (f"code-{job.name}", chunk.index)
                    tasks[key] = (
                        skeletons.code, job.source, chunk, group, before, seen, manner,
                    )  # fmt: skip
                    results.append(key)
    return with_priorities(job.name, tasks), results


class _Tasks:
    """Collects the tasks of a job that are still to be done."""

    def __init__(
        self,
        plan: Plan,
        job: Job,
        window: int,
        done: set[int],
        resumed: dict[int, Resumed],
        workers: Sequence[str] = (),
    ) -> None:
        self.plan, self.job, self.window, self.done, self.resumed = plan, job, window, done, resumed
        self.workers = workers
        self.homes: dict[Key, str] = {}
        self.stretches = 0
        """Of spans that follow one another."""
        self.last_load: int | None = None
        """The first chunk of the load before."""
        self.tasks: dict[Key, Any] = {}
        self.results: list[Key] = []
        self.decoded_again = {place.chunk - 1 for place in resumed.values() if place.chunk > 0}
        """Chunks with a result whose first pass is needed once more, to go on behind them."""

    def graph(self) -> Graph:
        loaded: list[list[Key]] = []
        for span in self.plan.spans:
            chunks = [c for c in self.plan.span_chunks(span) if self._is_wanted(c)]
            if chunks:
                self._add_span(span, chunks, loaded)
        return with_priorities(self.job.name, self.tasks, self.homes)

    def key(self, stage: str, index: int) -> Key:
        return (f"{stage}-{self.job.name}", index)

    def _is_wanted(self, chunk: Chunk) -> bool:
        return chunk.index not in self.done or chunk.index in self.decoded_again

    def _add_span(self, span: LoadSpan, chunks: list[Chunk], loaded: list[list[Key]]) -> None:
        """Load runs of wanted chunks; the load waits for what must have left memory before."""
        after = loaded[-self.window] if len(loaded) >= self.window else []
        runs = _runs(chunks)
        self.stretches += span.follows and not self.plan.spans[span.index - 1].follows
        for run in runs:
            load = self.key("load", run[0].index)
            scattered = self.plan.scattered and not span.follows
            behind = self._behind(load) if span.follows else ()
            self.tasks[load] = (
                stages.load_span, self.job.source, list(run), scattered, *behind, *after,
            )  # fmt: skip
            self.last_load = run[0].index
            for place, chunk in enumerate(run):
                self.tasks[self.key("chunk", chunk.index)] = (stages.take, load, place)
                self._add_chunk(chunk)
        loaded.append(self._ends(chunks))

    def _behind(self, load: Key) -> tuple[Key, ...]:
        """Let a load go on where the last one stopped; the task that says so."""
        if self.workers:
            self.homes[load] = self.workers[self.stretches % len(self.workers)]
        if self.last_load is None:
            return ()
        link = self.key("loaded", self.last_load)
        self.tasks[link] = (stages.loaded, self.key("load", self.last_load))
        return (link,)

    def _ends(self, chunks: list[Chunk]) -> list[Key]:
        """Tasks that end only when all of these chunks have left memory: the last of each batch."""
        last = {chunk.batch: chunk for chunk in chunks}
        return [
            self.key("result" if chunk.index not in self.done else "final_state", chunk.index)
            for chunk in last.values()
        ]

    def _add_chunk(self, chunk: Chunk) -> None:
        """One chunk's way from its pictures to its result."""
        index, job, key = chunk.index, self.job, self.key
        pictures, first_pass = key("chunk", index), key("encode", index)
        self.tasks[first_pass] = (stages.encode, pictures, job.first_pass, chunk)
        if not self.plan.is_chained:
            self.tasks[key("result", index)] = (stages.finish_alone, index, first_pass, job.keep)
            self.results.append(key("result", index))
            return
        decoded = key("final_state", index)
        self.tasks[decoded] = (stages.final_state, first_pass)
        if index in self.done:
            return
        replaced, rebased = key("replace", index), key("rebase", index)
        before: tuple[Key, ...] = ()
        if chunk.position == 0:
            self.tasks[replaced] = (stages.replace_first, pictures, first_pass)
        else:
            previous = key("final_state", index - 1)
            self.tasks[replaced] = (stages.replace, pictures, first_pass, previous, job.kf_q_weight)
            before = (previous, self._true_state(chunk))
        own = (first_pass, decoded, replaced)
        self.tasks[rebased] = (stages.rebase, pictures, *own, *before)
        self.tasks[key("result", index)] = (stages.finish, index, *own, rebased, job.keep)
        self.results.append(key("result", index))

    def _true_state(self, chunk: Chunk) -> Key:
        """The task whose result holds the true final state of the chunk before."""
        place = self.resumed.get(chunk.batch)
        if place is not None and place.chunk == chunk.index:
            resume = self.key("resume", chunk.index)
            self.tasks[resume] = (stages.resume, place.packets)
            return resume
        return self.key("rebase", chunk.index - 1)


def with_priorities(
    name: str, tasks: Mapping[Key, Any], homes: Mapping[Key, str] | None = None
) -> Graph:
    """Tasks as one layer of Dask's, with a priority for each, and for some the worker where they should run."""
    annotations: dict[str, Any] = {"priority": Priority(), REPEATABLE: Repeatable()}
    if homes:
        annotations |= {"workers": Homes(homes), "allow_other_workers": NotOnlyAtHome(homes)}
    layer = MaterializedLayer(dict(tasks), annotations=annotations)
    return HighLevelGraph({name: layer}, {name: set()})


def with_tasks(graph: Graph, tasks: Mapping[Key, Any]) -> Graph:
    """A graph of `with_priorities` with other tasks."""
    (name,) = graph.layers
    layer = MaterializedLayer(dict(tasks), annotations=graph.layers[name].annotations)
    return HighLevelGraph({name: layer}, {name: set()})


def _runs(chunks: list[Chunk]) -> list[list[Chunk]]:
    """Chunks grouped into runs without a gap."""
    runs: list[list[Chunk]] = []
    for chunk in chunks:
        if not runs or chunk.index != runs[-1][-1].index + 1:
            runs.append([])
        runs[-1].append(chunk)
    return runs
