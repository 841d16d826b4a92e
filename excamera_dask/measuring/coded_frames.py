"""Every frame of an encode: where it stands, what it took, how near it came; read from the file by which it plays."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import codec
from codec.element_bits import element_bits
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.formats.containers import read_packets
from excamera_dask.formats.ivf import is_key_frame, is_shown
from excamera_dask.groups import batches_of
from excamera_dask.measuring.methods import SERIAL, Method, reference_settings
from excamera_dask.measuring.rd_curves import job_settings, write_serial
from excamera_dask.measuring.serial import encode_serially
from excamera_dask.planning import Plan
from excamera_dask.progress import Started
from excamera_dask.sources import SourceInfo
from excamera_dask.watching.comparison import Comparison, Selection, compare_films, hints_of

KEY, HIDDEN, PLAIN, JOINT, END = "key", "hidden", "plain", "joint", "end"
STAGES = {KEY: "begin", HIDDEN: "skeleton", END: "skeleton", PLAIN: "code", JOINT: "code"}
"""The task that makes frames of each type; a group's end is told by `code` to the state that it has come to."""


class Place(NamedTuple):
    """Of a shown frame: its type, and its place behind its group's hidden frame, from 1 on."""

    type: str
    position: int


@dataclasses.dataclass(frozen=True)
class CodedFrame:
    """`frame` counts those shown, None if it is not; bits by syntax element; errors (squared, mean) of luma and chroma, SSIM
    of luma.
    """

    frame: int | None
    type: str
    position: int | None
    bytes: int
    bits: dict[str, float]
    error: float | None = None
    chroma_error: float | None = None
    ssim: float | None = None


def frames_of_job(
    source: SourceInfo,
    settings: FirstPassSettings,
    method: Method,
    key_distance: int,
    **job: Any,
) -> list[CodedFrame]:
    """Encode the whole source by a method with hidden frames; `job` are further arguments of `encode`."""
    from excamera_dask.api import encode

    plans: list[Plan] = []

    def hear(event: object) -> None:
        if isinstance(event, Started):
            plans.append(event.plan)

    how = job_settings(source, settings, method, key_distance)
    with tempfile.TemporaryDirectory(prefix="excamera-where-") as folder:
        path = Path(folder) / "job.ivf"
        encode(source.path, path, settings=how, on_event=hear, **job)
        return list(coded_frames(source, path, places_of(plans[0])))


def frames_of_vpxenc(
    source: SourceInfo, settings: FirstPassSettings, key_distance: int
) -> list[CodedFrame]:
    """Encode the whole source by one vpxenc at its best; its groups are not known, only which frames it hides."""
    longest = max(stop - start for start, stop in batches_of(source.frame_count, key_distance, ()))
    best = reference_settings(SERIAL, settings)
    encoded = encode_serially(source, best, key_distance=longest)
    with tempfile.TemporaryDirectory(prefix="excamera-where-") as folder:
        path = Path(folder) / "serial.ivf"
        write_serial(source, encoded, path)
        return list(coded_frames(source, path))


def places_of(plan: Plan) -> list[Place]:
    """Where each frame of a film stands."""
    places: list[Place] = []
    for group in plan.groups:
        if group.is_first:
            places.append(Place(KEY, 0))
        joints = {chunk.start + chunk.frames - 1 for chunk in plan.chunks[group.first : group.stop]}
        for number in range(group.start, group.end + 1):
            kind = PLAIN
            if group.has_hidden and number in joints:
                kind = END if number == group.end else JOINT
            places.append(Place(kind, number - group.before))
    return places


def coded_frames(
    source: SourceInfo, path: Path, places: Sequence[Place] = ()
) -> Iterator[CodedFrame]:
    """The frames of a file, an encode of `source`, in the order of coding. What it shows is judged as `compare` does."""
    hints = hints_of(source.reading)
    original = Selection(source.path, source.skip, source.frame_count, source.stream_index, hints)
    compared = compare_films(original, Selection(path))
    state, shown = None, 0
    for packet in read_packets(path):
        if not packet.data:  # the picture before is shown once more
            yield CodedFrame(shown, PLAIN, None, 0, {}, *_nearness(compared, shown))
            shown += 1
            continue
        bits = element_bits(state, packet.data)
        state, _ = codec.decode(state, packet.data)
        if not is_shown(packet.data):
            yield CodedFrame(None, HIDDEN, None, len(packet.data), bits)
            continue
        place = places[shown] if places else None
        kind = KEY if is_key_frame(packet.data) else PLAIN
        yield CodedFrame(
            shown,
            place.type if place else kind,
            place.position if place else None,
            len(packet.data),
            bits,
            *_nearness(compared, shown),
        )
        shown += 1


def _nearness(compared: Comparison, number: int) -> tuple[float, float, float]:
    error = compared.errors[number]
    return error.y, (error.u + error.v) / 2, compared.similarities[number].y
