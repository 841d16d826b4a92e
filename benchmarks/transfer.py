"""What crosses between workers: bytes of each edge of the graph, and the time to pack and unpack it.

    python benchmarks/transfer.py CLIP [--preset paper] [--skip 300] [--chunks 4] [--json]

Every value is what one task of a chunk hands to another, as `distributed` serializes it when the two run in different
processes. `raw state` is what the same state takes as plain pictures, `whole state` those compressed by themselves. With
hidden frames a batch is as long as the chunks, and the values are the mean over its groups.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from statistics import mean
from typing import Any, NamedTuple

from distributed.protocol import deserialize, serialize

from codec.state import DecoderState
from excamera_dask import stages
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.kernels.warm_up import load_kernels
from excamera_dask.planning import Chunk, make_skeleton_plan
from excamera_dask.presets import PAPER, PRESETS
from excamera_dask.skeleton import stages as skeletons
from excamera_dask.skeleton.manner import Manner
from excamera_dask.sources import SourceInfo, open_source

CHUNK_FRAMES = 6

Record = Callable[[str, "Sample"], None]


class Sample(NamedTuple):
    """One value on its way: bytes, seconds to pack, seconds until the receiver can use it."""

    bytes: int
    pack: float
    unpack: float


def send(value: Any, use: Any = None) -> Sample:
    """Serialize and deserialize a value; `use` does what a receiver must before it can work."""
    begin = time.perf_counter()
    header, frames = serialize(value)
    frames = [bytes(frame) for frame in frames]
    packed = time.perf_counter()
    received = deserialize(header, frames)
    if use is not None:
        use(received)
    return Sample(sum(map(len, frames)), packed - begin, time.perf_counter() - packed)


def raw_bytes(state: DecoderState) -> int:
    """Bytes of the distinct pictures of a state, without borders."""
    assert state.references is not None
    pictures = {id(picture) for picture in state.references}
    rows, columns = state.macroblock_rows, state.macroblock_columns
    return len(pictures) * rows * columns * 384


def measure(
    clip: str, preset: str, skip: int, chunk_frames: int, chunks: int
) -> dict[str, list[Sample]]:
    """Walk through the chunks of one batch and send each result to where the graph needs it."""
    source = open_source(clip).select(skip, chunks * chunk_frames)
    load_kernels()
    edges: dict[str, list[Sample]] = {}

    def record(edge: str, sample: Sample) -> None:
        edges.setdefault(edge, []).append(sample)

    if PRESETS[preset] is None:
        measure_chain(source, chunk_frames, record)
    else:
        measure_skeleton(source, preset, chunk_frames, record)
    return edges


def measure_skeleton(source: SourceInfo, preset: str, chunk_frames: int, record: Record) -> None:
    """One batch with hidden frames, each chunk a group."""
    manner = Manner(FirstPassSettings().cq_index or 0, preset)
    batch = (0, source.frame_count)
    plan = make_skeleton_plan([batch], [chunk_frames], chunk_frames, frame_bytes=1)
    surveys = [skeletons.survey(source, group, manner) for group in plan.groups]
    before = begun = skeletons.begin(source, 0, surveys, manner)
    record("begun batch: begin > skeleton", send(begun, lambda s: s.end))
    for place, (group, seen) in enumerate(zip(plan.groups, surveys, strict=True)):
        record("survey: survey > begin, code", send(seen))
        before = skeletons.extend(source, group, place, begun, before, seen, manner)
        record("skeleton: skeleton > code", send(before, lambda s: s.begin))
        record("(whole state, compressed)", packed_state(before.begin))
        record("(raw state)", Sample(raw_bytes(before.begin), 0, 0))
        for chunk in plan.chunks[group.first : group.stop]:
            result = skeletons.code(source, chunk, group, before, seen, manner)
            record("result: code > client", send(result))


def measure_chain(source: SourceInfo, chunk_frames: int, record: Record) -> None:
    """One batch whose chunks libvpx encodes."""
    settings = FirstPassSettings().choose()
    previous: stages.Decoded | None = None
    true: Any = None
    for start in range(0, source.frame_count - chunk_frames + 1, chunk_frames):
        pictures = stages.load(source, start, chunk_frames)
        first_pass = stages.encode(pictures, settings)
        decoded = stages.final_state(first_pass)
        record("pictures, few workers: load > encode, replace, rebase", send(pictures))
        chunk = Chunk(0, start, chunk_frames, 0, 0)
        scattered = stages.load_span(source, [chunk], True)[0]
        record("pictures, many workers: the same", send(scattered, lambda p: p.images))
        record("first pass: encode > final_state, replace, rebase", send(first_pass))
        record(
            "first-pass state: final_state > replace, rebase", send(decoded, lambda d: d.decoding)
        )
        if previous is not None:
            replaced = stages.replace(pictures, first_pass, previous)
            rebased = stages.rebase(pictures, first_pass, decoded, replaced, previous, true)
            record("replaced frame: replace > rebase", send(replaced))
            base = decoded.state
            record(
                "rebased frames and state: rebase > rebase",
                send(rebased, partial(_open, base=base)),
            )
            final = rebased.state.open()
            record(
                "(the same state as a delta of all pictures)",
                packed_state(final, decoded.decoding.final),
            )
            result = stages.finish(0, first_pass, decoded, replaced, rebased, False)
            record("result: finish > client", send(result))
            true = rebased
        else:
            true = decoded
        state = decoded.decoding.final
        record("(whole state, compressed)", packed_state(state))
        record("(raw state)", Sample(raw_bytes(state), 0, 0))
        previous = decoded


def _open(rebased: stages.Rebased, base: stages.PassedState) -> None:
    rebased.state.open(base)


def packed_state(state: DecoderState, base: DecoderState | None = None) -> Sample:
    """A state as its own bytes."""
    begin = time.perf_counter()
    data = state.to_bytes(base)
    packed = time.perf_counter()
    DecoderState.from_bytes(data, base)
    return Sample(len(data), packed - begin, time.perf_counter() - packed)


def main() -> None:
    parser = argparse.ArgumentParser(description="Bytes a chunk of each edge of the graph.")
    parser.add_argument("clip")
    parser.add_argument("--preset", choices=list(PRESETS), default=PAPER)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("-N", "--frames", type=int, help="a chunk, default the preset's")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    structure = PRESETS[options.preset]
    frames = options.frames or (CHUNK_FRAMES if structure is None else structure.chunk_frames)
    edges = measure(options.clip, options.preset, options.skip, frames, options.chunks)
    if options.json:
        print(json.dumps({edge: [sample._asdict() for sample in s] for edge, s in edges.items()}))
        return
    print(
        f"{'bytes':>12} {'pack ms':>9} {'unpack ms':>9}  mean of {options.chunks} chunks of {frames}"
    )
    for edge, samples in edges.items():
        pack, unpack = (min(getattr(s, name) for s in samples) for name in ("pack", "unpack"))
        print(
            f"{mean(s.bytes for s in samples):12,.0f} {1e3 * pack:9.1f} {1e3 * unpack:9.1f}  {edge}"
        )


if __name__ == "__main__":
    main()
