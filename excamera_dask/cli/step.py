"""`excamera step`: the single steps of a chunk on files, for debugging; options named as in the original tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from excamera_dask.cli.options.libvpx import cq_level_option, libvpx_options, settings_from
from excamera_dask.cli.options.reading import long_reading_options, take_reading, tell_choice
from excamera_dask.cli.options.values import Number, OutputFile
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import claim_all, notice, whole_file

if TYPE_CHECKING:
    from codec.state import DecoderState

FILE = click.Path(path_type=Path)
IVF, STATE = OutputFile(".ivf"), OutputFile()
OUTPUT_STATE = click.option(
    "-O", "--output-state", type=STATE, help="File for the state after the last frame."
)
SKIP = click.option(
    "--skip", type=click.IntRange(min=0), default=0, help="Frames of the source to leave out first."
)
LIMIT = click.option("--limit", type=click.IntRange(min=1), help="At most this many frames.")


@click.group(short_help="The single steps of a chunk, for debugging.")
def step() -> None:
    """Run the steps of a chunk one by one. Existing outputs are overwritten.

    \b
    excamera step first-pass in.mp4 -o 0.ivf --limit 6
    excamera step first-pass in.mp4 -o 1.ivf --skip 6 --limit 6
    excamera step dump 0.ivf 0.state
    excamera step enc in.mp4 --skip 6 --limit 6 -r -I 0.state -p 1.ivf -w 0.75 -o 1r.ivf -O 1.state

    0.ivf and 1r.ivf then play one after another. A chunk further on is encoded twice: first against the first-pass
    state of the chunk before (as above), then rebased onto its true state, naming the former with -S.
    """


@step.command("first-pass")
@click.argument("source", metavar="SRC", type=FILE)
@click.option("-o", "--output", type=IVF, required=True, help="IVF file to write.")
@OUTPUT_STATE
@SKIP
@LIMIT
@cq_level_option
@long_reading_options
@libvpx_options
def first_pass(
    source: Path,
    output: Path,
    output_state: Path | None,
    skip: int,
    limit: int | None,
    cq_level: int,
    **options: Any,
) -> None:
    """Encode all frames of SRC as one chunk: a key frame and nothing but inter frames after it."""
    claim_all(output, output_state, inputs=(source,))
    from excamera_dask.first_pass import encode_chunk
    from excamera_dask.sources import open_source, read_frames
    from excamera_dask.stages import state_after

    reading = take_reading(options)
    settings = settings_from(options, cq_level)
    chosen = open_source(source, reading).select(skip, limit)
    tell_choice(chosen)
    if chosen.frame_count == 0:
        raise Failure(f"{source}: no frames left after --skip {skip}")
    packets = encode_chunk(read_frames(chosen, 0, chosen.frame_count), settings)
    _write_ivf(output, packets, chosen)
    if output_state is not None:
        _write_state(output_state, state_after(packets))


@step.command("dump")
@click.argument("ivf", type=FILE)
@click.argument("output", metavar="STATE", type=STATE)
@click.option(
    "-f",
    "--frame-number",
    type=click.IntRange(min=0),
    help="Dump after this frame; by default the last.",
)
@click.option("-S", "--input-state", type=FILE, help="State before the first frame of IVF.")
def dump(ivf: Path, output: Path, frame_number: int | None, input_state: Path | None) -> None:
    """Write the decoder's state after a frame of IVF to the file STATE."""
    claim_all(output, inputs=(ivf,))
    from excamera_dask.stages import state_after

    packets = _read_ivf(ivf)
    if frame_number is not None and frame_number >= len(packets):
        raise Failure(f"{ivf}: has {len(packets)} frames, no frame {frame_number}")
    stop = len(packets) if frame_number is None else frame_number + 1
    _write_state(output, state_after(packets[:stop], _read_state(input_state)))


@step.command("enc")
@click.argument("source", metavar="SRC", type=FILE)
@click.option("-o", "--output", type=IVF, required=True, help="IVF file to write.")
@click.option(
    "-I", "--input-state", type=FILE, required=True, help="State that the first frame leans on."
)
@OUTPUT_STATE
@SKIP
@LIMIT
@click.option("-y", "--y-ac-qi", type=click.IntRange(0, 127), help="Quantizer index of all frames.")
@click.option("-r", "--reencode", is_flag=True, help="Keep the modes and vectors of --pred-ivf.")
@click.option("-p", "--pred-ivf", type=FILE, help="Frames whose modes and vectors are kept.")
@click.option("-S", "--pred-state", type=FILE, help="State that --pred-ivf was made against.")
@click.option(
    "-w", "--kf-q-weight", type=Number(0, 1), default=0.75, show_default=True,
    help="Weight of the key frame's quantizer against the next frame's in its replacement.",
)  # fmt: skip
@long_reading_options
def enc(
    source: Path,
    output: Path,
    input_state: Path,
    output_state: Path | None,
    skip: int,
    limit: int | None,
    y_ac_qi: int | None,
    reencode: bool,
    pred_ivf: Path | None,
    pred_state: Path | None,
    kf_q_weight: float,
    **reading: Any,
) -> None:
    """Encode the frames of SRC against a state, anew (-y) or with the modes and vectors of others (-r -p)."""
    if reencode != (pred_ivf is not None) or reencode == (y_ac_qi is not None):
        raise click.UsageError("give either -r with -p PRED.ivf, or -y QUANTIZER")
    if pred_state is not None and not reencode:
        raise click.UsageError("--pred-state belongs to -r -p PRED.ivf")
    claim_all(output, output_state, inputs=(source, pred_ivf))
    from excamera_dask import reencoding
    from excamera_dask.sources import open_source, read_frames

    state = _read_state(input_state)
    assert state is not None
    chosen = open_source(source, take_reading(reading)).select(skip, limit)
    tell_choice(chosen)
    if (chosen.width, chosen.height) != (state.width, state.height):
        raise Failure(
            f"{source}: is {chosen.width}x{chosen.height}, {input_state} is of {state.width}x{state.height}"
        )
    images = read_frames(chosen, 0, chosen.frame_count)
    if y_ac_qi is not None:
        result = reencoding.encode_onto(state, images, y_ac_qi)
    else:
        assert pred_ivf is not None
        result = reencoding.reencode(
            state, images, _read_ivf(pred_ivf), _read_state(pred_state), kf_q_weight
        )
    _write_ivf(output, result.packets, chosen)
    if output_state is not None:
        _write_state(output_state, result.state)


@step.command("diff")
@click.argument("first", metavar="STATE", type=FILE)
@click.argument("second", metavar="STATE", type=FILE)
def diff(first: Path, second: Path) -> None:
    """Say in which parts two states differ; exits 1 if they do."""
    import numpy as np

    a, b = _read_state(first), _read_state(second)
    assert a is not None and b is not None
    if a == b:
        click.echo("equal")
        return
    differing = [
        name
        for name in (
            "width",
            "height",
            "horizontal_scale",
            "vertical_scale",
            "color_space",
            "clamping_type",
        )
        if getattr(a, name) != getattr(b, name)
    ]
    for group in ("probabilities", "segmentation", "filter_deltas", "references"):
        for name in getattr(a, group)._fields:
            one, other = getattr(getattr(a, group), name), getattr(getattr(b, group), name)
            planes = zip(one, other, strict=True) if group == "references" else [(one, other)]
            if not all(np.array_equal(x, y) for x, y in planes):
                differing.append(f"{group}.{name}")
    click.echo("\n".join(differing))
    raise Failure(f"{first} and {second} differ")


def _read_ivf(path: Path) -> list[bytes]:
    from excamera_dask.formats.containers import read_packets

    packets = [packet.data for packet in read_packets(path)]
    if not packets:
        raise Failure(f"{path}: no frames in it")
    return packets


def _write_ivf(path: Path, packets: list[bytes], source: Any) -> None:
    from excamera_dask.formats.containers import Writer
    from excamera_dask.formats.ivf import is_shown

    times = iter(range(source.frame_count))
    rate = source.average_rate.limit_denominator(10000)
    size = source.width, source.height
    with Writer(path, *size, 1 / rate, container=".ivf", tell=notice) as writer:
        for packet in packets:
            writer.write(packet, next(times) if is_shown(packet) else 0)
    notice(f"{path}: {len(packets)} frames, {sum(map(len, packets))} bytes")


def _read_state(path: Path | None) -> DecoderState | None:
    from codec.errors import InvalidState
    from codec.state import DecoderState

    if path is None:
        return None
    try:
        return DecoderState.from_bytes(path.read_bytes())
    except InvalidState as error:
        raise Failure(f"{path}: {error}") from None


def _write_state(path: Path, state: DecoderState) -> None:
    with whole_file(path) as file:
        file.write(state.to_bytes())
    notice(f"{path}: state {state.digest.hex()}")
