"""vpxenc's options under vpxenc's names, for every command that runs a first pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from excamera_dask.first_pass import FirstPassSettings

Command = TypeVar("Command", bound=Callable[..., Any])

QUANTIZER = click.IntRange(0, 63)
FLAG = click.IntRange(0, 1)

# name, type, default, help: the defaults are those of FirstPassSettings, held together by a test
OPTIONS: tuple[tuple[str, Any, Any, str], ...] = (
    ("passes", click.IntRange(1, 2), 1, "Passes of libvpx over each chunk; 2 needs vpxenc."),
    (
        "deadline",
        click.Choice(["best", "good", "realtime"]),
        None,
        "vpxenc's --best, --good or --rt; by default realtime at --cpu-used=-1, with -x 1 good at 2.",
    ),
    (
        "cpu-used",
        click.IntRange(-16, 16),
        None,
        "Speed; higher is faster and coarser, as is lower below 0. With it alone the deadline is good; the default there is 2.",
    ),
    ("end-usage", click.Choice(["vbr", "cbr", "cq", "q"]), "cq", "Rate control."),
    ("min-q", QUANTIZER, None, "Best quantizer allowed; by default what suits --cq-level."),
    ("max-q", QUANTIZER, 63, "Worst quantizer allowed."),
    ("target-bitrate", click.IntRange(min=1), 2_000_000, "kbit/s; the default never binds."),
    ("undershoot-pct", click.IntRange(0, 100), 100, "Percent of undershoot."),
    ("buf-sz", click.IntRange(min=0), 40000, "Buffer, ms."),
    ("buf-initial-sz", click.IntRange(min=0), 10000, "Initial buffer level, ms."),
    ("buf-optimal-sz", click.IntRange(min=0), 20000, "Optimal buffer level, ms."),
    (
        "auto-alt-ref",
        FLAG,
        1,
        "Hidden altref frames, where libvpx wants them; only two passes with a lag make any.",
    ),
    ("lag-in-frames", click.IntRange(0, 25), 0, "Frames libvpx may look ahead within a chunk."),
    ("arnr-maxframes", click.IntRange(0, 15), 0, "Frames that an altref is filtered over."),
    ("arnr-strength", click.IntRange(0, 6), 3, "Strength of that filter."),
    ("arnr-type", click.IntRange(1, 3), 3, "Kind of that filter."),
    ("token-parts", click.IntRange(0, 3), 0, "Token partitions, log2."),
    ("tune", click.Choice(["psnr", "ssim"]), "ssim", "What libvpx optimises."),
    ("noise-sensitivity", click.IntRange(0, 6), 0, "Denoising."),
    ("sharpness", click.IntRange(0, 7), 0, "Sharpness of the loop filter."),
    ("static-thresh", click.IntRange(min=0), 0, "Differences taken for a standstill."),
    (
        "max-intra-rate",
        click.IntRange(min=0),
        0,
        "Largest key frame, percent of the mean; 0 is any.",
    ),
    ("profile", click.IntRange(0, 3), 0, "VP8 profile."),
    ("error-resilient", click.IntRange(0, 3), 0, "Error resilience features."),
)


def libvpx_options(command: Command) -> Command:
    """Add --first-pass and vpxenc's options; the command gets them all as `**libvpx`."""
    for name, kind, default, text in reversed(OPTIONS):
        command = click.option(
            f"--{name}", type=kind, default=default, show_default=True, help=text
        )(command)
    return click.option(
        "--first-pass",
        type=click.Choice(["vpxenc", "libvpx"]),
        help="Encoder of the first pass; by default vpxenc if it is on PATH, else libvpx inside PyAV.",
    )(command)


def cq_level_option(command: Command) -> Command:
    """Add --cq-level, also under ffmpeg's name."""
    return click.option(
        "--cq-level",
        "--crf",
        type=QUANTIZER,
        default=30,
        show_default=True,
        help="Quality: 0 is the best and largest, 63 the smallest.",
    )(command)


def settings_from(libvpx: dict[str, Any], cq_level: int) -> FirstPassSettings:
    """The first-pass settings that a command line asks for, with an encoder that is installed here."""
    from excamera_dask.first_pass import FirstPassSettings

    encoder = libvpx.pop("first_pass")
    try:
        settings = FirstPassSettings(cq_level=cq_level, **libvpx)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return settings.choose(encoder)
