"""Finished chunks into a container, in order, with the source's times and tags."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from excamera_dask.errors import SourceError
from excamera_dask.formats.containers import Writer
from excamera_dask.formats.ivf import is_shown
from excamera_dask.formats.webm import stated_rate
from excamera_dask.planning import Plan
from excamera_dask.report import EncodeReport
from excamera_dask.sources import SourceInfo
from excamera_dask.sources.description import UNSPECIFIED
from excamera_dask.sources.identity import check_unchanged
from excamera_dask.stages import ChunkResult
from excamera_dask.storage import Tell, whole_output

BT601 = (5, 6)


LONG_HOLD = 2
"""Times as long as the others that a last frame is shown, beyond which it is worth a word."""


class EncodedVideo(NamedTuple):
    """A whole file in memory, as `submit` without an output gives it."""

    data: bytes
    report: EncodeReport

    def __repr__(self) -> str:
        return f"EncodedVideo({len(self.data)} bytes, {self.report!r})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file or object, whole or not at all."""
        with whole_output(path) as file:
            file.write(self.data)


class Draft(NamedTuple):
    """What is known of a job before its bytes are; `output` is None for a file in memory."""

    plan: Plan
    source: SourceInfo
    output: str | None
    suffix: str
    executor: str
    workers: int
    settings: dict[str, object]
    versions: dict[str, str]
    warnings: tuple[str, ...]
    began: float  # time.time()


def dropped(source: SourceInfo, suffix: str) -> tuple[str, ...]:
    """One line that names what a source says of its pictures and a file with this suffix cannot hold; none without."""
    names = list(source.tags.lost)
    if suffix == ".ivf":
        names += [name for name, is_told in _told(source).items() if is_told]
    format_ = {".ivf": "IVF", ".webm": "WebM"}[suffix]
    return (f"not carried into {format_}: {', '.join(names)}",) if names else ()


def _told(source: SourceInfo) -> dict[str, bool]:
    """What WebM holds, and whether the source says anything of it that a decoder of VP8 would not assume."""
    colour, tags = source.colour, source.tags
    unusual = colour.matrix not in (UNSPECIFIED, *BT601)
    return {
        "aspect of pixels": source.sample_aspect != 1,
        "colour": unusual or {colour.primaries, colour.transfer} != {UNSPECIFIED},
        "stereo mode": tags.stereo_mode != 0,
        "spherical projection": tags.projection is not None,
        "mastering display": bool(tags.chromaticities or tags.luminance),
        "light level": bool(tags.light),
        "how long the last frame is shown": _holds_last(source),
    }


def _holds_last(source: SourceInfo) -> bool:
    """Whether the last frame is shown for much longer than others."""
    last = source.length - int(source.times[-1])
    return bool(last * source.time_base * source.average_rate > LONG_HOLD)


class Muxer:
    """Writes chunks in order into the output, which appears when the block ends with all frames there, and the source
    still is the film that was opened (SourceChanged).

    folder: where the output grows until then, by default beside it; tell: as in Writer.
    """

    def __init__(
        self,
        draft: Draft,
        path: str | os.PathLike[str],
        folder: str | os.PathLike[str] | None = None,
        tell: Tell = warnings.warn,
    ) -> None:
        source = draft.source
        self._draft = draft
        self._times = [source.delay + int(moment) for moment in source.times]
        self._frame = 0
        self.chunks = 0
        self._hidden = 0
        self.stage_seconds: dict[str, float] = {}
        self.missing: list[int] = []
        self.writer = Writer(
            path,
            source.width,
            source.height,
            source.time_base,
            expected_frames=source.frame_count,
            end=source.delay + source.length,
            average_rate=stated_rate(source.times, source.time_base, source.average_rate),
            colour=source.colour,
            sample_aspect=source.sample_aspect,
            tags=source.tags,
            folder=folder,
            tell=tell,
        )

    def __enter__(self) -> Muxer:
        self.writer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                check_unchanged(self._draft.source)
        except SourceError as changed:
            self.writer.__exit__(type(changed), changed, changed.__traceback__)
            raise
        self.writer.__exit__(kind, error, trace)

    def write(self, packets: Sequence[bytes]) -> None:
        """Append the next chunk."""
        begin = time.perf_counter()
        for packet in packets:
            shown = self._times[min(self._frame, len(self._times) - 1)]
            self.writer.write(packet, shown)
            is_seen = is_shown(packet)
            self._frame += is_seen
            self._hidden += not is_seen
        self.chunks += 1
        self.count({"mux": time.perf_counter() - begin})

    def count(self, seconds: dict[str, float]) -> None:
        """Add to the seconds of stages."""
        for stage, spent in seconds.items():
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + spent

    def miss(self, frames: Sequence[int]) -> None:
        """Note frames that the source could not give."""
        self.missing += frames

    def report(self, resumed_chunks: int = 0, dollars: float | None = None) -> EncodeReport:
        """Facts and figures, once everything is written."""
        draft, writer = self._draft, self.writer
        seconds = time.time() - draft.began

        return EncodeReport(
            source=draft.source.path,
            output=draft.output,
            width=draft.source.width,
            height=draft.source.height,
            frames=writer.frames,
            key_frames=writer.key_frames,
            chunks=len(draft.plan.chunks),
            batches=len(draft.plan.key_frames),
            bytes=writer.bytes,
            duration=draft.source.duration,
            seconds=seconds,
            fps=writer.frames / seconds if seconds > 0 else 0.0,
            stage_seconds=dict(self.stage_seconds),
            resumed_chunks=resumed_chunks,
            executor=draft.executor,
            workers=draft.workers,
            settings=draft.settings,
            versions=draft.versions,
            warnings=(*draft.warnings, *missing_frames(self.missing)),
            hidden_frames=self._hidden,
            dollars=dollars,
        )


def missing_frames(frames: Sequence[int]) -> list[str]:
    """A warning of frames that the source could not give, if there are any."""
    if not frames:
        return []
    some = ", ".join(map(str, sorted(frames)[:3])) + (" ..." if len(frames) > 3 else "")
    return [
        f"{len(frames)} frames could not be decoded; the ones before stand in for them ({some})"
    ]


def mux(draft: Draft, results: Sequence[ChunkResult]) -> EncodeReport | EncodedVideo:
    """The last task of a submitted job: write all chunks where this task runs, or into memory."""
    if draft.output is not None:
        return _mux_to(draft, draft.output, results)
    with tempfile.TemporaryDirectory(prefix="excamera-") as folder:
        path = os.path.join(folder, f"out{draft.suffix}")
        report = _mux_to(draft, path, results)
        return EncodedVideo(Path(path).read_bytes(), report)


def _mux_to(draft: Draft, path: str, results: Sequence[ChunkResult]) -> EncodeReport:
    with Muxer(draft, path) as muxer:
        for result in results:
            muxer.write(result.packets)
            muxer.count(dict(result.seconds))
            muxer.miss(result.missing)
    return muxer.report()
