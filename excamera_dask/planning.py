"""How a film is cut: into chunks, batches and load spans; pure arithmetic on frame numbers.

`[N, x]` means N frames a chunk and x chunks a batch. A batch starts with the one key frame that it
has; a key frame that is asked for, or a scene cut, ends the chunk and the batch before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from excamera_dask.errors import ExcameraError
from excamera_dask.groups import Group, chunks_of, groups_of

SPAN_BYTES = 64 << 20
"""Raw pictures that one load task reads at most, where a few chunks are not more."""
SPAN_CHUNKS = 4
LARGEST_SPAN_BYTES = 512 << 20
LONGEST_WAY = 120
"""Frames that a load may decode in vain to come to its first; a span further from where the source can be entered goes on
where the one before it stopped."""
LONGEST_STRETCH = 600
"""Frames between two entries up to which all loads decode from there, where going on means that raw pictures travel."""
FEW_WORKERS = 8
"""More do not share memory: they load chunk by chunk, and read pictures again rather than send them."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames start .. start + frames - 1; `position` counts the chunks of its batch from 0."""

    index: int
    start: int
    frames: int
    batch: int
    position: int


@dataclass(frozen=True, slots=True)
class LoadSpan:
    """Chunks first .. stop - 1, read by one task; `follows`: behind the span before it, by the same process if it can be."""

    index: int
    first: int
    stop: int
    follows: bool = False


@dataclass(frozen=True)
class Plan:
    """The chunks of a film in order, and the spans in which they are loaded, or the groups in which they lie."""

    frame_count: int
    chunk_frames: int
    batch_chunks: int | None
    frame_bytes: int
    chunks: tuple[Chunk, ...] = field(repr=False)
    spans: tuple[LoadSpan, ...] = field(repr=False)
    job: Any = field(default=None, repr=False, compare=False)
    """What is done to the chunks (`graph.Job`, which can draw it), when the plan was made for a source."""
    scattered: bool = field(default=False, repr=False)
    """Whether the workers are so many that raw pictures shall not cross between them."""
    groups: tuple[Group, ...] = field(default=(), repr=False)
    """Chunks behind the same hidden frame, where batches are made so; there are no load spans then."""

    @property
    def batches(self) -> list[tuple[Chunk, ...]]:
        """The chunks of each batch."""
        found: list[list[Chunk]] = []
        for chunk in self.chunks:
            if chunk.position == 0:
                found.append([])
            found[-1].append(chunk)
        return [tuple(batch) for batch in found]

    @property
    def key_frames(self) -> list[int]:
        """Numbers of the frames that will be key frames: the first of each batch."""
        return [chunk.start for chunk in self.chunks if chunk.position == 0]

    @property
    def task_count(self) -> int:
        """Tasks of the whole graph."""
        if self.groups:
            hidden = sum(group.has_hidden for group in self.groups)
            return 2 * hidden + len(self.key_frames) + len(self.chunks)
        links = sum(span.follows for span in self.spans)
        return len(self.spans) + links + (6 if self.is_chained else 3) * len(self.chunks)

    @property
    def is_chained(self) -> bool:
        """Whether chunks are replaced and rebased; those of plain chunking stay as the first pass makes them."""
        return self.batch_chunks != 1 and not self.groups

    def span_chunks(self, span: LoadSpan) -> tuple[Chunk, ...]:
        return self.chunks[span.first : span.stop]

    def visualize(self, filename: str | None = "excamera", **options: Any) -> Any:
        """Draw the graph as Dask does (`dask.visualize`); needs graphviz. Cut long films with `limit` first."""
        if self.job is None:
            raise ExcameraError(
                "this plan belongs to no source: make it with excamera_dask.plan(source)"
            )
        return self.job.draw(self, filename, **options)

    def __str__(self) -> str:
        if self.groups:
            return (
                f"chunks of {self.chunk_frames}: {self.frame_count} frames, {len(self.chunks)} chunks, "
                f"{len(self.groups)} groups, {len(self.key_frames)} batches, {self.task_count} tasks"
            )
        limit = "unlimited" if self.batch_chunks is None else self.batch_chunks
        return (
            f"[{self.chunk_frames}, {limit}]: {self.frame_count} frames, {len(self.chunks)} chunks, "
            f"{len(self.key_frames)} batches, {len(self.spans)} load spans, {self.task_count} tasks"
        )

    def _repr_html_(self) -> str:
        limit = "unlimited" if self.batch_chunks is None else self.batch_chunks
        method: dict[str, object] = {"[N, x]": f"[{self.chunk_frames}, {limit}]"}
        if self.groups:
            method = {"frames a chunk": self.chunk_frames, "groups": len(self.groups)}
        rows = method | {
            "frames": self.frame_count,
            "chunks": len(self.chunks),
            "batches (key frames)": len(self.key_frames),
            "load spans": len(self.spans),
            "tasks": self.task_count,
        }
        cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items())
        return f"<table><caption>Encoding plan</caption>{cells}</table>"


def make_plan(
    frame_count: int,
    chunk_frames: int,
    batch_chunks: int | None,
    *,
    frame_bytes: int,
    cuts: Iterable[int] = (),
    anchors: Sequence[int] = (),
    workers: int = 1,
    separate: bool = False,
    job: Any = None,
) -> Plan:
    """Cut `frame_count` frames into chunks of `chunk_frames` and batches of `batch_chunks` (None: unlimited).

    cuts: frames at which a new batch must start, numbers outside the film are ignored; frame_bytes:
    bytes of a raw picture; anchors: frames from which the source can be decoded, near which load
    spans are cut; workers: more than FEW_WORKERS load chunk by chunk, as those always do that are far apart
    (`separate`), between whom raw pictures should not travel.

    Raises: ValueError.
    """
    if frame_count < 0 or frame_bytes < 1:
        raise ValueError("a film has 0 or more frames, of at least a byte each")
    if chunk_frames < 1 or (batch_chunks is not None and batch_chunks < 1):
        raise ValueError("[N, x] needs N >= 1 frames a chunk and x >= 1 chunks a batch")
    chunks = tuple(_chunks(frame_count, chunk_frames, batch_chunks, cuts))
    largest = max(SPAN_BYTES, min(SPAN_CHUNKS * chunk_frames * frame_bytes, LARGEST_SPAN_BYTES))
    scattered = separate or workers > FEW_WORKERS
    longest = 1 if scattered else max(1, largest // frame_bytes)
    stretch = LONGEST_STRETCH if scattered else LONGEST_WAY
    spans = tuple(_spans(chunks, longest, anchors, stretch))
    return Plan(frame_count, chunk_frames, batch_chunks, frame_bytes, chunks, spans, job, scattered)


def make_skeleton_plan(
    batches: Sequence[tuple[int, int]],
    group_frames: Sequence[int],
    chunk_frames: int,
    *,
    frame_bytes: int,
    job: Any = None,
) -> Plan:
    """Cut batches (start and stop of each) into groups of about so many frames, and those into chunks of about
    `chunk_frames`; the first of a batch has its key frame besides.

    frame_bytes: as of `make_plan`. Raises: ValueError.
    """
    if min(chunk_frames, *group_frames, frame_bytes) < 1:
        raise ValueError("chunks and groups have at least a frame, of at least a byte each")
    chunks: list[Chunk] = []
    groups: list[Group] = []
    for batch, ((start, stop), length) in enumerate(zip(batches, group_frames, strict=True)):
        before, position = start, 0
        for size in groups_of(stop - start - 1, length):
            first = len(chunks)
            begin, end = before + (before > start), before + size
            for frames in chunks_of(size, chunk_frames):
                more = begin == start  # the key frame
                chunks.append(Chunk(len(chunks), begin, frames + more, batch, position))
                begin, position = begin + frames + more, position + 1
            place = len(groups), batch, before, end, start, stop
            groups.append(Group(*place, first, len(chunks)))
            before = end
    frames = batches[-1][1] if batches else 0
    return Plan(
        frames, chunk_frames, None, frame_bytes, tuple(chunks), (), job, groups=tuple(groups)
    )


def make_plain_plan(
    batches: Sequence[tuple[int, int]], *, frame_bytes: int, job: Any = None
) -> Plan:
    """The same batches without hidden frames: each is one chunk, whose frames lean on one another."""
    chunks = [Chunk(n, start, stop - start, n, 0) for n, (start, stop) in enumerate(batches)]
    groups = [
        Group(n, n, start, stop - 1, start, stop, n, n + 1, ahead=False)
        for n, (start, stop) in enumerate(batches)
    ]
    frames = batches[-1][1] if batches else 0
    longest = max((chunk.frames for chunk in chunks), default=1)
    return Plan(frames, longest, None, frame_bytes, tuple(chunks), (), job, groups=tuple(groups))


def _chunks(
    frame_count: int, chunk_frames: int, batch_chunks: int | None, cuts: Iterable[int]
) -> Iterator[Chunk]:
    inside = {cut for cut in cuts if 0 < cut < frame_count}
    index, batch = 0, -1
    for begin, end in pairwise([0, *sorted(inside), frame_count]):
        for number, start in enumerate(range(begin, end, chunk_frames)):
            position = number if batch_chunks is None else number % batch_chunks
            batch += position == 0
            yield Chunk(index, start, min(chunk_frames, end - start), batch, position)
            index += 1


def _spans(
    chunks: Sequence[Chunk], longest: int, anchors: Sequence[int], longest_stretch: int
) -> Iterator[LoadSpan]:
    """Runs of whole chunks of at most `longest` frames (or one chunk), each ended as late as an anchor allows.

    longest_stretch: frames between two anchors up to which no span follows the one before.
    """
    good = _anchored(chunks, anchors)
    entries = [*sorted({0, *anchors}), _end(chunks[-1]) if chunks else 0]
    first, index = 0, 0
    while first < len(chunks):
        stop = first + 1
        while stop < len(chunks) and _end(chunks[stop]) - chunks[first].start <= longest:
            stop += 1
        if stop < len(chunks):
            stop = max(
                (chunk for chunk in range(first + 1, stop + 1) if chunk in good), default=stop
            )
        start = chunks[first].start
        after = bisect_right(entries, start)
        way, stretch = start - entries[after - 1], entries[after] - entries[after - 1]
        yield LoadSpan(index, first, stop, way > LONGEST_WAY and stretch > longest_stretch)
        first, index = stop, index + 1


def _anchored(chunks: Sequence[Chunk], anchors: Sequence[int]) -> set[int]:
    """Chunks at whose start, or within the chunk before it, the source can be entered."""
    found: set[int] = set()
    chunk = 0
    for anchor in sorted(anchors):
        while chunk < len(chunks) and chunks[chunk].start < anchor:
            chunk += 1
        found.add(chunk)
    return found


def _end(chunk: Chunk) -> int:
    return chunk.start + chunk.frames
