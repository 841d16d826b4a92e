"""What Dask users call: `encode` (blocking), `submit` (a Future), `plan` (look before you leap)."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from excamera_dask import journal as journals
from excamera_dask import stages
from excamera_dask.errors import ExcameraError, SourceError
from excamera_dask.first_pass import LIBVPX, encoder_version
from excamera_dask.formats.containers import output_suffix
from excamera_dask.graph import Job, Resumed, build_graph, homes_of, window_of, with_tasks
from excamera_dask.group_lengths import find_group_lengths
from excamera_dask.groups import batches_of, longest_group
from excamera_dask.intermediates import Intermediates
from excamera_dask.journal import Journal, writing_alone
from excamera_dask.muxing import Draft, Muxer, dropped, missing_frames, mux
from excamera_dask.planning import Plan, make_plain_plan, make_plan, make_skeleton_plan
from excamera_dask.progress import STAGES, ChunkDone, Notice, OnEvent, StageCounts, Started, ignore
from excamera_dask.report import EncodeReport, versions
from excamera_dask.scene_cuts import find_scene_cuts
from excamera_dask.settings import Settings
from excamera_dask.skeleton.manner import Manner
from excamera_dask.sources import SourceInfo, open_source
from excamera_dask.storage import (
    S3Url,
    StorageError,
    Tell,
    claim_file,
    full_name,
    is_remote,
    locate,
)
from excamera_dask.storage.checks import claim_object, end_begun
from executors import Counts, Executor, open_executor
from executors.tries import tried_in_place

if TYPE_CHECKING:
    from distributed import Client, Future

PathLike = str | os.PathLike[str]
ENCODER_MEMORY = 64 << 20
"""Bytes that a worker needs besides pictures: interpreter, kernels, the first-pass encoder's own."""
PICTURES_A_TASK = 60
"""Raw pictures' worth of memory that a worker's task touches beside its chunk: references, encoder."""


def encode(
    src: PathLike,
    out: PathLike,
    *,
    executor: str | Client | Executor = "local",
    workers: int | None = None,
    executor_options: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    keep: PathLike | None = None,
    resume: bool = True,
    on_event: OnEvent = ignore,
    **options: Any,
) -> EncodeReport:
    """Encode a video file into `out` (.webm or .ivf by its suffix) and wait for it.

    executor: "sync", "local" (`workers` at once, in processes), "lambda" (`workers` invocations), a scheduler's address,
    a `distributed.Client` or an open Executor; the bytes are the same on each. executor_options: for "lambda", keywords of
    `executors.aws_lambda.LambdaCluster`. settings, or options by name: those of
    Settings, FirstPassSettings and Reading, e.g. `cq_level=30, batch_chunks=16, stream=1`. keep: a
    folder for each chunk's intermediates as IVF. resume: go on with what an interrupted job of the
    same input, settings and output has finished. on_event: see `progress`.

    src and out are paths or URLs (file:///path, s3://bucket/key). The output appears whole or not at
    all. Raises: ExcameraError (bad input, bad setting, failing encoder, storage),
    executors.ExecutorError, codec.errors.CodecError.
    """
    began = time.time()
    chosen = _settings(settings, options).chosen()
    source = _opened(src, chosen, on_event)
    target = _checked_output(out, source, lambda text: on_event(Notice(text, is_warning=True)))
    for loss in dropped(source, output_suffix(target)):
        on_event(Notice(f"{target}: {loss}", is_warning=True))
    keeper = None if keep is None else Intermediates(keep, source)
    identity = _fingerprint(source, chosen)
    with (
        writing_alone(target),
        _executor(
            executor, workers, dict(executor_options or {}), source, chosen, on_event
        ) as runner,
    ):
        made = _plan(source, chosen, identity, runner, keep=keep is not None)
        suffix = output_suffix(target)
        draft = _draft(made, source, target, chosen, runner.name, runner.workers, began, suffix)
        journal = Journal(target, identity)
        try:
            return _Run(draft, runner, journal, keeper, on_event).run(resume)
        finally:
            journal.close()


def submit(
    src: PathLike,
    out: PathLike | None = None,
    *,
    client: Client | None = None,
    settings: Settings | None = None,
    container: str = ".webm",
    **options: Any,
) -> Future:
    """Start an encode on a cluster and return Dask's Future of its EncodeReport at once.

    The last task of the graph writes `out` on the worker that runs it, so `out` must lie where
    workers can write and you can read: on S3 where workers are Lambda functions. Without `out` the
    Future's result is an EncodedVideo: the whole file's bytes (`container` ".webm" or ".ivf") and
    the report; its `save` writes it. client: default the current
    one. Cancelling the Future stops the job; what a killed worker has begun of an object is ended when the job ends
    with an error. The compressed video is held in the cluster's memory
    until it is written; raw pictures are bounded as in `encode`.
    """
    from distributed import get_client

    client = client or get_client()
    began = time.time()
    chosen = _settings(settings, options).chosen()
    source = _opened(src, chosen, ignore)
    target = None if out is None else _checked_output(out, source)
    with open_executor(client, same=_same(chosen)) as cluster:
        if target is not None and cluster.far_apart and not is_remote(target):
            raise ExcameraError(
                f"{target}: Lambda functions cannot write this machine's files: give an s3:// URL, or no output "
                "and save what the result holds: .result().save(...)"
            )
        made = _plan(source, chosen, _fingerprint(source, chosen), cluster)
        count, name = cluster.foreseen or cluster.workers, cluster.name
        window, homes = window_of(made, cluster), homes_of(cluster)
    suffix = output_suffix(f"out{container}" if target is None else target)
    draft = _draft(made, source, target, chosen, name, count, began, suffix)
    graph, keys = build_graph(made, window=window, workers=homes)
    last = (f"mux-{made.job.name}", 0)
    tasks = tried_in_place({**graph, last: (mux, draft._replace(plan=made), keys)})
    future = client.get(with_tasks(graph, tasks), last, sync=False)
    place = None if target is None else locate(target)
    if isinstance(place, S3Url):
        future.add_done_callback(partial(_end_what_was_begun, place))
    return future


def _end_what_was_begun(place: S3Url, future: Future) -> None:
    """A worker that was killed while it wrote the output has left a part of it, which costs; one that failed has not."""
    if future.status == "error":
        with contextlib.suppress(StorageError):  # the next job with this output ends it
            end_begun(place)


def plan(
    src: PathLike,
    *,
    settings: Settings | None = None,
    on_event: OnEvent = ignore,
    **options: Any,
) -> Plan:
    """How a video would be cut into chunks, batches and tasks; `.visualize()` draws the graph."""
    chosen = _settings(settings, options).chosen()
    source = _opened(src, chosen, on_event)
    if chosen.structure is not None:
        from excamera_dask.kernels.warm_up import compile_kernels

        compile_kernels(lambda text: on_event(Notice(text)))
    with open_executor("sync") as runner:
        return _plan(source, chosen, _fingerprint(source, chosen), runner)


class _Run:
    """One blocking encode: results as they complete go to the journal, and in order to the output."""

    def __init__(
        self,
        draft: Draft,
        executor: Executor,
        journal: Journal,
        keeper: Intermediates | None,
        on_event: OnEvent,
    ) -> None:
        self.draft, self.executor, self.journal = draft, executor, journal
        self.keeper, self.on_event = keeper, on_event
        self.plan = draft.plan
        self.muxer = Muxer(draft, str(draft.output), journal.local, self._tell)
        self.finished: set[int] = set()
        self.frames = 0
        self.bytes = 0

    def run(self, resume: bool) -> EncodeReport:
        done, resumed = _where_to_go_on(self.plan, self.journal) if resume else ({}, {})
        for index, size in done.items():
            self._count(index, size)
        if done:
            text = f"continuing an interrupted job: {len(done)} of {len(self.plan.chunks)} chunks are done"
            self.on_event(Notice(text))
        executor = self.executor
        self.on_event(Started(self.plan, executor.name, executor.workers, self.frames, self.bytes))
        window, homes = window_of(self.plan, executor), homes_of(executor)
        graph, keys = build_graph(
            self.plan, window=window, done=done, resumed=resumed, workers=homes
        )
        with self.muxer:
            self._mux_ready(None)
            executor.run(graph, keys, self._take, self._tell_counts)
        self.journal.remove(self._warn)
        for warning in missing_frames(self.muxer.missing):
            self.on_event(Notice(f"{self.draft.source.path}: {warning}", is_warning=True))
        return self.muxer.report(len(done), executor.spent)

    def _tell(self, text: str) -> None:
        self.on_event(Notice(text))

    def _warn(self, text: str) -> None:
        self.on_event(Notice(text, is_warning=True))

    def _take(self, key: Any, values: Sequence[Any]) -> None:
        """A chunk is finished: keep it, write what is next in order, tell."""
        result = stages.read_result(values, key[1])
        self.journal.write(result.chunk, result.packets, result.chunk != self.muxer.chunks)
        if self.keeper is not None:
            self.keeper.write(result)
        self._count(result.chunk, sum(map(len, result.packets)))
        self.muxer.count(dict(result.seconds))
        self.muxer.miss(result.missing)
        self._mux_ready(result)
        self.on_event(ChunkDone(result.chunk, self.frames, self.bytes, len(self.finished)))

    def _count(self, index: int, size: int) -> None:
        self.finished.add(index)
        self.frames += self.plan.chunks[index].frames
        self.bytes += size

    def _mux_ready(self, result: stages.ChunkResult | None) -> None:
        """Write all chunks that are next in order; those that came early are read back."""
        while (index := self.muxer.chunks) in self.finished:
            if result is not None and result.chunk == index:
                packets: tuple[bytes, ...] | None = result.packets
            else:
                packets = self.journal.read(index)
            if packets is None:
                raise ExcameraError(
                    f"{self.journal}: chunk {index} is damaged; run the encode again"
                )
            self.muxer.write(packets)

    def _tell_counts(self, counts: Mapping[str, Counts]) -> None:
        by_stage = {name.split("-")[0]: value for name, value in counts.items()}
        told = {stage: by_stage[stage] for stage in STAGES if stage in by_stage}
        told["mux"] = Counts(len(self.plan.chunks), 0, self.muxer.chunks)
        self.on_event(StageCounts(told, self.executor.present, self.executor.spent))


def _where_to_go_on(plan: Plan, journal: Journal) -> tuple[dict[int, int], dict[int, Resumed]]:
    """Chunks that need no work any more with their bytes, and where each batch that is not complete goes on."""
    present = journal.chunks()
    if plan.groups:  # each chunk is made without the others
        return {i: size for i, size in present.items() if i < len(plan.chunks)}, {}
    done: dict[int, int] = {}
    resumed: dict[int, Resumed] = {}
    for batch in plan.batches:
        begun = [chunk.index for chunk in takewhile(lambda c: c.index in present, batch)]
        if len(begun) < len(batch):
            packets: list[bytes] = []
            for place, index in enumerate(begun):
                kept = journal.read(index)
                if kept is None:
                    begun = begun[:place]
                    break
                packets += kept
            if begun:
                resumed[batch[0].batch] = Resumed(batch[len(begun)].index, tuple(packets))
        done.update((index, present[index]) for index in begun)
    return done, resumed


def _settings(settings: Settings | None, options: Mapping[str, Any]) -> Settings:
    if settings is not None and options:
        raise TypeError("give settings or options by name, not both")
    return settings or Settings.of(**options)


def _opened(src: PathLike, settings: Settings, on_event: OnEvent) -> SourceInfo:
    """The source with the frames to encode; its warnings are told."""
    whole = open_source(src, settings.reading)
    for choice in whole.notices:
        on_event(Notice(f"{whole.path}: {choice}"))
    for warning in whole.warnings:
        on_event(Notice(f"{whole.path}: {warning}", is_warning=True))
    source = whole.select(settings.skip, settings.limit)
    for warning in _warnings(settings, source):
        on_event(Notice(warning, is_warning=True))
    if source.frame_count == 0:
        raise SourceError(
            f"{whole.path}: nothing to encode after skipping {settings.skip} of {whole.frame_count} frames"
        )
    return source


def _warnings(settings: Settings, source: SourceInfo) -> Iterator[str]:
    if settings.unused:
        names = ", ".join(settings.unused)
        yield f"without effect with preset {settings.preset!r}: {names}"
    reason = settings.first_pass.unrepeatable
    if reason and not settings.structure:
        yield f"libvpx may give other bytes at another run: {reason}"
    missed = [time for time in settings.key_frame_times if _frame_at(source, time) is None]
    if missed and source.frame_count:
        last = float(source.times[-1] * source.time_base)
        yield (
            f"no key frame at {', '.join(f'{time:g}' for time in missed)} s: "
            f"no frame is there, the last one that is encoded comes at {last:g} s"
        )


def _checked_output(out: PathLike, source: SourceInfo, tell: Tell = warnings.warn) -> str:
    """The absolute path or the URL of the output, where it can be written; raises ContainerError, StorageError."""
    target = full_name(out)
    output_suffix(target)
    place = locate(target)
    if isinstance(place, S3Url):
        if target == source.path:
            raise ExcameraError(f"{target}: the output is the input; give it another name")
        claim_object(place, tell)
        return target
    exists = claim_file(place)
    if exists and not is_remote(source.path) and os.path.samefile(place, source.path):
        raise ExcameraError(f"{target}: the output is the input; give it another name")
    return target


def _plan(
    source: SourceInfo, settings: Settings, identity: str, executor: Executor, keep: bool = False
) -> Plan:
    """Cut the film; the executor looks for scene cuts, if they are wanted."""
    name = f"{identity[:8]}-{secrets.token_hex(4)}"
    cuts = _forced(source, settings.key_frame_times)
    if settings.scene_cuts and settings.has_kernels:
        cuts.update(find_scene_cuts(source, executor))
    if settings.structure is not None:
        job = _job(name, source, settings, keep)
        chunk = settings.frames_a_chunk
        batches = list(batches_of(source.frame_count, settings.key_distance, cuts))
        if not settings.mechanisms.hidden_frames:
            return make_plain_plan(batches, frame_bytes=source.frame_bytes, job=job)
        longest = longest_group(chunk)
        lengths = [longest] * len(batches)
        if settings.mechanisms.group_lengths:
            lengths = find_group_lengths(source, batches, _index(settings), longest, executor)
        return make_skeleton_plan(batches, lengths, chunk, frame_bytes=source.frame_bytes, job=job)
    return make_plan(
        source.frame_count,
        settings.frames_a_chunk,
        settings.batch_chunks,
        frame_bytes=source.frame_bytes,
        cuts=cuts,
        anchors=[int(frame) for frame in source.keyframes],
        separate=executor.far_apart,
        workers=executor.foreseen or executor.workers,
        job=_job(name, source, settings, keep),
    )


def _job(name: str, source: SourceInfo, settings: Settings, keep: bool) -> Job:
    first_pass = settings.first_pass
    manner = None
    if settings.structure is not None:
        manner = Manner(_index(settings), settings.preset, settings.mechanisms)
    return Job(name, source, first_pass, settings.kf_q_weight, keep, manner)


def _index(settings: Settings) -> int:
    """The quantizer index of plain frames; settings with hidden frames have one."""
    return settings.first_pass.cq_index or 0


def _forced(source: SourceInfo, times: tuple[float, ...]) -> set[int]:
    """Frames that are the first shown at or after the given seconds."""
    frames = (_frame_at(source, moment) for moment in times)
    return {frame for frame in frames if frame is not None}


def _frame_at(source: SourceInfo, moment: float) -> int | None:
    """The first frame shown at or after a time in seconds; None behind the last."""
    frame = bisect_left(
        source.times, moment - 1e-9, key=lambda ticks: float(int(ticks) * source.time_base)
    )
    return frame if frame < source.frame_count else None


def _fingerprint(source: SourceInfo, settings: Settings) -> str:
    """What stands for everything that determines the bytes."""
    deciding = sorted(_same(settings)().items())
    encoder = _encoder_version(settings)
    return journals.fingerprint(
        source.identity, source.skip, source.frame_count, settings, encoder, deciding
    )


def _encoder_version(settings: Settings) -> str:
    return "ours" if settings.structure else encoder_version(settings.first_pass.encoder)


def _draft(
    made: Plan,
    source: SourceInfo,
    target: str | None,
    settings: Settings,
    executor: str,
    workers: int,
    began: float,
    suffix: str,
) -> Draft:
    encoder = _encoder_version(settings)
    return Draft(
        made, source, target, suffix, executor, workers, settings.as_dict(), versions(encoder),
        (*source.warnings, *dropped(source, suffix), *_warnings(settings, source)), began,
    )  # fmt: skip


def _same(settings: Settings) -> partial[dict[str, str]]:
    """What must be installed alike on all machines of a job."""
    from excamera_dask.same_bytes import deciding_versions

    encoder = (
        LIBVPX if settings.structure else settings.first_pass.encoder
    )  # what pictures are read with decides
    return partial(deciding_versions, encoder)


@contextlib.contextmanager
def _executor(
    spec: str | Client | Executor,
    workers: int | None,
    options: dict[str, Any],
    source: SourceInfo,
    settings: Settings,
    on_event: OnEvent,
) -> Iterator[Executor]:
    """The executor to run on; one that was given open stays open."""
    if isinstance(spec, Executor):
        yield spec
        return
    if spec == "lambda":
        from excamera_dask.lambda_jobs import options_for

        options = options_for(options, source)
    load = None
    if settings.has_kernels:
        from excamera_dask.kernels.warm_up import (
            compile_kernels,
            prepare_own_process,
            prepare_worker,
        )

        compile_kernels(lambda text: on_event(Notice(text)))
        load = prepare_own_process if spec == "local" else prepare_worker
        if spec == "lambda":
            from excamera_dask.kernels.shipped import load
    chunk = min(settings.frames_a_chunk, source.frame_count)
    need = ENCODER_MEMORY + (PICTURES_A_TASK + 2 * chunk) * source.frame_bytes
    with open_executor(
        spec,
        workers=workers,
        memory_per_worker=need,
        warm_up=load,
        same=None if spec in ("sync", "local", "lambda") else _same(settings),
        **options,
    ) as opened:
        opened.on_notice(lambda text: on_event(Notice(text)))
        yield opened
