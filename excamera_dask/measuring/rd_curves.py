"""Rate-distortion curves of serial libvpx and of our methods, and the BD-rate between them."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from codec.encoding import quality
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.formats.containers import Writer, read_packets
from excamera_dask.formats.ivf import is_key_frame, is_shown
from excamera_dask.groups import batches_of
from excamera_dask.measuring.bd_rate import bd_rate
from excamera_dask.measuring.methods import (
    COARSER_KEY,
    PAPERS,
    SERIAL,
    Method,
    reference_settings,
)
from excamera_dask.measuring.serial import SerialEncode, encode_serially
from excamera_dask.presets import KEY_DISTANCE
from excamera_dask.settings import Settings
from excamera_dask.sources import SourceInfo
from excamera_dask.watching.comparison import Selection, compare_films, hints_of

REFERENCES = (SERIAL, COARSER_KEY)
"""vpxenc at its best in two rows, of which the better counts for each clip."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One encode: bytes of all frames without a container; SSIM (mean) and PSNR (of the mean error) of luma."""

    method: str
    cq_level: int
    frames: int
    key_frames: int
    bytes: int
    ssim: float
    ssim_db: float
    psnr: float
    seconds: float


def serial_point(
    source: SourceInfo,
    settings: FirstPassSettings,
    threads: int = 1,
    *,
    reference: str = PAPERS,
    key_distance: int | None = None,
) -> Point:
    """One serial encode of the whole source by libvpx, decoded by libavcodec and compared."""
    chosen = reference_settings(reference, settings)
    encoded = encode_serially(source, chosen, threads, key_distance=key_distance)
    with tempfile.TemporaryDirectory(prefix="excamera-rd-") as folder:
        path = Path(folder) / "serial.ivf"
        write_serial(source, encoded, path)
        return measure(reference, settings.cq_level, source, path, encoded.seconds)


def write_serial(source: SourceInfo, encoded: SerialEncode, path: Path) -> None:
    """The frames of a serial encode as an IVF file."""
    with Writer(path, source.width, source.height, 1 / _rate(source)) as writer:
        shown = 0
        for frame in encoded.frames:
            writer.write(frame, shown)
            shown += is_shown(frame)


def parallel_point(
    source: SourceInfo,
    settings: FirstPassSettings,
    method: Method,
    key_distance: int = KEY_DISTANCE,
    **job: Any,
) -> Point:
    """One encode of the whole source by a method; `job` are further arguments of `encode`."""
    from excamera_dask.api import encode

    how = job_settings(source, settings, method, key_distance)
    with tempfile.TemporaryDirectory(prefix="excamera-rd-") as folder:
        path = Path(folder) / "parallel.ivf"
        begin = time.perf_counter()
        encode(source.path, path, settings=how, **job)
        seconds = time.perf_counter() - begin
        return measure(method.name, settings.cq_level, source, path, seconds)


def job_settings(
    source: SourceInfo, settings: FirstPassSettings, method: Method, key_distance: int
) -> Settings:
    """What `encode` is told, so that it encodes the whole of this source by a method."""
    return Settings(
        preset=method.preset,
        chunk_frames=method.chunk_frames,
        batch_chunks=method.batch_chunks,
        key_distance=key_distance,
        skip=source.skip,
        limit=source.frame_count,
        encoder=settings.encoder,
        first_pass=settings,
        reading=source.reading,
        mechanisms=method.mechanisms,
    )


def measure(method: str, cq_level: int, source: SourceInfo, path: Path, seconds: float) -> Point:
    """The point that the file `path` makes as an encode of `source`; both must have as many frames."""
    sizes = [(len(p.data), is_key_frame(p.data)) for p in read_packets(path)]
    reference = Selection(
        source.path,
        source.skip,
        source.frame_count,
        source.stream_index,
        hints_of(source.reading),
    )
    compared = compare_films(reference, Selection(path))
    _, came_back = compared.timing.frames
    if came_back != source.frame_count:
        raise ValueError(f"{method}: {came_back} frames came back of {source.frame_count}")
    ssim = compared.ssim.y
    return Point(
        method=method,
        cq_level=cq_level,
        frames=compared.frames,
        key_frames=sum(key for _, key in sizes),
        bytes=sum(size for size, _ in sizes),
        ssim=ssim,
        ssim_db=quality.ssim_db(ssim),
        psnr=compared.psnr.y,
        seconds=seconds,
    )


def curves(
    source: SourceInfo,
    settings: FirstPassSettings,
    cq_levels: Sequence[int],
    methods: Sequence[Method],
    on_point: Callable[[Point], None],
    *,
    references: Sequence[str] = REFERENCES,
    key_distance: int = KEY_DISTANCE,
    **job: Any,
) -> list[Point]:
    """Points of the references and of each method, at each cq-level.

    key_distance: as of Settings; the references' key frames are at most as far apart as the longest batch without cuts has it.
    """
    points = []
    longest = max(stop - start for start, stop in batches_of(source.frame_count, key_distance, ()))

    def add(point: Point) -> None:
        points.append(point)
        on_point(point)

    for cq_level in cq_levels:
        at_level = dataclasses.replace(settings, cq_level=cq_level)
        for reference in references:
            add(serial_point(source, at_level, reference=reference, key_distance=longest))
        for method in methods:
            add(parallel_point(source, at_level, method, key_distance, **job))
    return points


def bd_rates(
    points: Sequence[Point], references: Sequence[str] = REFERENCES
) -> dict[str, dict[str, float | None]]:
    """Percent more bytes than the better of the references, for each other method, by SSIM dB and by PSNR.

    The better one is that against which a method looks worse; None without overlap.
    """
    methods = dict.fromkeys(point.method for point in points if point.method not in references)
    return {
        method: {
            quality_: _against_the_better(points, references, method, quality_)
            for quality_ in ("ssim_db", "psnr")
        }
        for method in methods
    }


def mean_rates(
    clips: Sequence[dict[str, dict[str, float | None]]],
) -> dict[str, dict[str, float | None]]:
    """Means over clips of what `bd_rates` gives for each; None where a clip has none."""
    found: dict[str, dict[str, float | None]] = {}
    for method in clips[0] if clips else ():
        for quality_ in clips[0][method]:
            rates = [clip[method][quality_] for clip in clips]
            known = [rate for rate in rates if rate is not None]
            whole = round(sum(known) / len(known), 3) if len(known) == len(rates) else None
            found.setdefault(method, {})[quality_] = whole
    return found


def _against_the_better(
    points: Sequence[Point], references: Sequence[str], method: str, quality_: str
) -> float | None:
    rates = [_bd_rate(points, reference, method, quality_) for reference in references]
    known = [rate for rate in rates if rate is not None]
    return max(known) if known and len(known) == len(rates) else None


def _bd_rate(points: Sequence[Point], reference: str, method: str, quality_: str) -> float | None:
    def curve(name: str) -> list[tuple[float, float]]:
        return [
            (point.bytes, getattr(point, quality_))
            for point in points
            if point.method == name and math.isfinite(getattr(point, quality_))
        ]

    try:
        return round(bd_rate(curve(reference), curve(method)), 3)
    except ValueError:
        return None


def plot(clips: Sequence[tuple[str, Sequence[Point]]], file: IO[bytes]) -> None:
    """Draw SSIM (dB) over kB a frame as a PNG, a panel a clip with its title; needs matplotlib (the extra `plot`)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = 1 if len(clips) == 1 else 2
    rows = -(-len(clips) // columns)
    figure, panels = pyplot.subplots(
        rows, columns, figsize=(7 * columns, 5 * rows), layout="constrained", squeeze=False
    )
    for axes in panels.ravel()[len(clips) :]:
        axes.set_visible(False)
    for axes, (title, points) in zip(panels.ravel(), clips, strict=False):
        for method in dict.fromkeys(point.method for point in points):
            curve = sorted(
                (p.bytes / p.frames / 1000, p.ssim_db) for p in points if p.method == method
            )
            axes.plot(*zip(*curve, strict=True), marker="o", label=method)
        axes.set_xscale("log")
        axes.set_xlabel("kB a frame")
        axes.set_ylabel("SSIM of luma, dB")
        axes.set_title(title)
        axes.grid(True, which="both", alpha=0.3)
        axes.legend()
    figure.savefig(file, dpi=120, format="png")
    pyplot.close(figure)


def _rate(source: SourceInfo) -> Any:
    return source.average_rate.limit_denominator(10000)
