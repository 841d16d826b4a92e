"""Rate-distortion curves of serial libvpx and of [N, x], and the BD-rate between them."""

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
from excamera_dask.measuring.bd_rate import bd_rate
from excamera_dask.measuring.serial import encode_serially
from excamera_dask.sources import SourceInfo
from excamera_dask.watching.comparison import Selection, compare_films, hints_of

SERIAL = "serial"


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


def serial_point(source: SourceInfo, settings: FirstPassSettings, threads: int = 1) -> Point:
    """One serial encode of the whole source by libvpx, decoded by libavcodec and compared."""
    encoded = encode_serially(source, settings.full_effort(), threads)
    with tempfile.TemporaryDirectory(prefix="excamera-rd-") as folder:
        path = Path(folder) / "serial.ivf"
        with Writer(path, source.width, source.height, 1 / _rate(source)) as writer:
            shown = 0
            for frame in encoded.frames:
                writer.write(frame, shown)
                shown += is_shown(frame)
        return measure(SERIAL, settings.cq_level, source, path, encoded.seconds)


def parallel_point(
    source: SourceInfo,
    settings: FirstPassSettings,
    chunk_frames: int,
    batch_chunks: int | None,
    **job: Any,
) -> Point:
    """One encode of the whole source by [N, x]; `job` are further arguments of `encode`."""
    from excamera_dask.api import encode
    from excamera_dask.settings import Settings

    how = Settings(
        chunk_frames=chunk_frames,
        batch_chunks=batch_chunks,
        skip=source.skip,
        limit=source.frame_count,
        encoder=settings.encoder,
        first_pass=settings,
        reading=source.reading,
    )
    with tempfile.TemporaryDirectory(prefix="excamera-rd-") as folder:
        path = Path(folder) / "parallel.ivf"
        begin = time.perf_counter()
        encode(source.path, path, settings=how, **job)
        seconds = time.perf_counter() - begin
        name = method_name(chunk_frames, batch_chunks)
        return measure(name, settings.cq_level, source, path, seconds)


def method_name(chunk_frames: int, batch_chunks: int | None) -> str:
    """How [N, x] is written."""
    return f"[{chunk_frames},{'unlimited' if batch_chunks is None else batch_chunks}]"


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
    methods: Sequence[tuple[int, int | None]],
    on_point: Callable[[Point], None],
    **job: Any,
) -> list[Point]:
    """Points of serial libvpx and of each [N, x] in `methods`, at each cq-level."""
    points = []
    for cq_level in cq_levels:
        at_level = dataclasses.replace(settings, cq_level=cq_level)
        points.append(serial_point(source, at_level))
        on_point(points[-1])
        for chunk_frames, batch_chunks in methods:
            points.append(parallel_point(source, at_level, chunk_frames, batch_chunks, **job))
            on_point(points[-1])
    return points


def bd_rates(points: Sequence[Point]) -> dict[str, dict[str, float | None]]:
    """Percent more bytes than serial libvpx, for each other method, by SSIM dB and by PSNR; None without overlap."""
    methods = dict.fromkeys(point.method for point in points if point.method != SERIAL)
    return {
        method: {measure: _bd_rate(points, method, measure) for measure in ("ssim_db", "psnr")}
        for method in methods
    }


def _bd_rate(points: Sequence[Point], method: str, measure: str) -> float | None:
    def curve(name: str) -> list[tuple[float, float]]:
        return [
            (point.bytes, getattr(point, measure))
            for point in points
            if point.method == name and math.isfinite(getattr(point, measure))
        ]

    try:
        return round(bd_rate(curve(SERIAL), curve(method)), 3)
    except ValueError:
        return None


def plot(points: Sequence[Point], title: str, file: IO[bytes]) -> None:
    """Draw SSIM (dB) over kB a frame as a PNG; needs matplotlib (the extra `plot`)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    for method in dict.fromkeys(point.method for point in points):
        curve = sorted((p.bytes / p.frames / 1000, p.ssim_db) for p in points if p.method == method)
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
