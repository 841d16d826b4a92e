"""`excamera encode`: a video to VP8, chunk by chunk, on this machine or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from excamera_dask.cli.aws.lambda_options import lambda_options, take_lambda_options
from excamera_dask.cli.head_start import head_start
from excamera_dask.cli.options.libvpx import cq_level_option, libvpx_options
from excamera_dask.cli.options.named import named
from excamera_dask.cli.options.reading import reading_options
from excamera_dask.cli.options.values import BatchChunks, Executor, Number, OutputFile, Place, Times
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import (
    check_input,
    claim_output,
    may_overwrite,
    notice,
    overwrite_options,
    print_json,
    refuse_inputs,
)
from excamera_dask.presets import DEFAULT, KEY_DISTANCE, PRESETS

if TYPE_CHECKING:
    from excamera_dask.report import EncodeReport
    from excamera_dask.storage import S3Url

Command = TypeVar("Command", bound=Callable[..., Any])
PLACE = Place()
QUIET = (
    "tornado.application", "asyncio", "distributed.scheduler", "distributed.client", "distributed.nanny", "distributed.process",
)  # fmt: skip
"""Whose errors are the consequences of others, or of Ctrl-C."""
LOG_LEVELS = ("debug", "info", "warning", "error")


def method_options(command: Command) -> Command:
    """Add the options that say how a video is cut and where it is encoded."""
    for option in (
        click.option(
            "-w", "--workers", type=click.IntRange(min=1),
            help="Workers: processes' threads here (by default as cores and memory allow), or Lambda functions (100).",
        ),
        click.option(
            "--executor", type=Executor(), default="local", show_default=True,
            help="sync (this process), local (processes here), lambda (AWS) or a scheduler: tcp://host:8786, tls://...",
        ),
        click.option(
            "-x", "--batch-chunks", type=BatchChunks(), default=16, show_default="16 of paper",
            help="Chunks behind one key frame, the x of the paper's [N, x], whose preset it chooses; 1 is plain chunking.",
        ),
        click.option(
            "-N", "--chunk-frames", type=click.IntRange(min=1),
            help="Frames a chunk, the N of [N, x]; by default 24, of preset paper 6.",
        ),
        click.option(
            "--key-distance", type=click.IntRange(min=1), default=KEY_DISTANCE, show_default=True,
            help="Frames from one key frame to the next, about; with preset paper it is N times x.",
        ),
        click.option(
            "--preset", type=click.Choice(list(PRESETS)), default=DEFAULT, show_default=True,
            help="How batches are built; paper: [N, x] of libvpx's chunks, rebased; others: our own encoder, with hidden frames.",
        ),
    ):  # fmt: skip
        command = option(command)
    return cq_level_option(command)


@click.command(short_help="Encode a video to VP8 in WebM or IVF.")
@click.argument("source", metavar="IN", type=PLACE)
@click.option(
    "-o", "--output", type=OutputFile(".webm", ".ivf", remote=True), required=True,
    help="Output: .webm or .ivf.",
)  # fmt: skip
@overwrite_options
@method_options
@click.option(
    "--skip",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Frames of IN to leave out first.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Frames to encode at most.")
@click.option(
    "--force-key-frames", "key_frame_times", type=Times(), default=(),
    help="Times of the output, as seconds or H:MM:SS.",
)  # fmt: skip
@click.option(
    "--scene-cuts/--no-scene-cuts",
    default=True,
    show_default=True,
    help="Start a batch at each scene cut.",
)
@reading_options
@click.option(
    "--kf-q-weight", type=Number(0, 1),
    help="Weight of a replaced key frame's quantizer against the next frame's.",
)  # fmt: skip
@click.option(
    "--keep",
    type=PLACE,
    help="Keep the frames of each chunk in this folder, of paper the intermediate ones too.",
)
@click.option(
    "--progress", type=click.Choice(["auto", "rich", "json", "none"]), default="auto", show_default=True,
    help="How to tell of the progress, on stderr; auto is rich on a terminal, else none.",
)  # fmt: skip
@click.option(
    "--resume/--no-resume", default=True, show_default=True,
    help="Go on with what an interrupted job of the same input, output and settings has finished.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@click.option(
    "--log-level", type=click.Choice(LOG_LEVELS), default="error", help="Of Dask and excamera."
)
@lambda_options
@libvpx_options
def encode(
    source: Path | S3Url,
    output: Path | S3Url,
    yes: bool,
    no: bool,
    progress: str,
    as_json: bool,
    log_level: str,
    executor: str,
    workers: int | None,
    keep: Path | S3Url | None,
    first_pass: str | None,
    kf_q_weight: float | None,
    **options: Any,
) -> None:
    """Encode the video IN to VP8.

    A few frames are made first, some of which are never shown; between them chunks of frames are encoded in parallel. The
    same input and settings give the same bytes on every executor. An interrupted job goes on where it stopped when the
    same command is given again.

    \b
    excamera encode in.mp4 -o out.webm
    excamera encode in.mp4 -o out.webm --crf 20 -w 8
    excamera encode in.mkv -o part.ivf --skip 240 --limit 96 --preset fast
    excamera encode film.mkv -o film.webm --executor tcp://scheduler:8786 --json > report.json
    excamera encode s3://films/film.mkv -o s3://films/film.webm --executor lambda -w 1000

    With --preset paper libvpx encodes chunks of N frames in parallel; then all key frames but one in x chunks are replaced
    by inter frames and the rest is rebased onto them. -x and the options from --first-pass on, which are vpxenc's under
    vpxenc's names, are for that, and choose it where no preset is named.
    """
    configure_logging(log_level)  # before anything imports Dask, which reads it then
    _check_output(source, output, may_overwrite(yes, no))
    executor_options = take_lambda_options(executor, options)
    method = named({**options, "first_pass": first_pass, "kf_q_weight": kf_q_weight})
    if "first_pass" in method:
        method["encoder"] = method.pop("first_pass")
    report = run(
        source,
        output,
        progress,
        executor=executor,
        workers=workers,
        executor_options=executor_options,
        keep=keep,
        **method,
    )
    if as_json:
        print_json(report.to_dict())
    else:
        notice(f"{output}: {report}")


def run(
    source: Path | S3Url, output: Path | S3Url, progress: str, **arguments: Any
) -> EncodeReport:
    """Encode with the given display of progress; `arguments` are those of `excamera_dask.encode`."""
    head_start(arguments["executor"])
    from excamera_dask.api import encode as encode_video
    from excamera_dask.cli.terminal.display import open_display

    with open_display(progress) as display:
        return encode_video(source, output, on_event=display, **arguments)


def _check_output(source: Path | S3Url, output: Path | S3Url, overwrite: bool | None) -> None:
    if isinstance(source, Path):
        check_input(source)
    if output == source:
        raise Failure(f"{output}: is the input itself")
    if isinstance(source, Path) and isinstance(output, Path):
        refuse_inputs(output, source)
    claim_output(output, overwrite)


def configure_logging(level: str) -> None:
    """Let Dask and its libraries speak on stderr from `level` on, in this process and in those it starts."""
    import logging
    import os

    os.environ["DASK_DISTRIBUTED__LOGGING__DISTRIBUTED"] = level
    logging.basicConfig(level=level.upper(), format="%(levelname)s %(name)s: %(message)s")
    for name in ("distributed", "asyncio", "tornado", "bokeh"):
        logging.getLogger(name).setLevel(level.upper())
    # What is cut short within Dask is nobody's error, and why it is we say ourselves.
    if level == "error":
        for name in QUIET:  # not by levels, which Dask sets when it is imported
            logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.CRITICAL)
