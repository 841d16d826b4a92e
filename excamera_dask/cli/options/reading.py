"""How a source is to be read, for every command that reads one: the options, with ffmpeg's names where it has any."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from excamera_dask.cli.options.values import ReadingValue
from excamera_dask.cli.terminal.output import notice

if TYPE_CHECKING:
    from excamera_dask.overrides import Reading
    from excamera_dask.sources import SourceInfo

Command = TypeVar("Command", bound=Callable[..., Any])

# field of `overrides.Reading`, names, value, help
OPTIONS = (
    ("stream", ("--stream",), "INDEX|v:N",
     "Video stream to read, as ffprobe counts; by default the one that ffmpeg takes."),
    ("color_range", ("--color-range",), "tv|pc", "Range of luma and chroma, where the file lies."),
    ("colorspace", ("--colorspace",), "MATRIX",
     "Matrix: bt709, bt601, bt470bg, smpte170m, smpte240m, fcc, bt2020nc."),
    ("color_primaries", ("--color-primaries",), "NAME", "Primaries, to be told to players."),
    ("color_trc", ("--color-trc",), "NAME", "Transfer characteristics, to be told to players."),
    ("aspect", ("--aspect",), "W:H", "Aspect of the picture as displayed."),
    ("sample_aspect", ("--sar", "--sample-aspect"), "W:H", "Aspect of a pixel, instead."),
    ("frame_rate", ("-r", "--frame-rate"), "N|N/D", "Frames a second, instead of the file's times."),
)  # fmt: skip
FIELDS = tuple(field for field, *_ in OPTIONS)


def reading_options(command: Command) -> Command:
    """Add the options; the command gets them as keywords named as the fields of `Reading`."""
    return _with_options(command, short=True)


def long_reading_options(command: Command) -> Command:
    """The same without -r, which means something else there."""
    return _with_options(command, short=False)


def stream_option(command: Command) -> Command:
    """Add --stream alone."""
    field, names, value, text = OPTIONS[0]
    return click.option(*names, field, type=ReadingValue(field, value), help=text)(command)


def take_reading(options: dict[str, Any]) -> Reading:
    """What `options` say, which are taken out of them."""
    from excamera_dask.overrides import Reading

    return Reading(**{field: options.pop(field) for field in FIELDS})


def tell_choice(source: SourceInfo) -> None:
    """What was chosen at opening a source."""
    for text in source.notices:
        notice(f"{source.path}: {text}")


def _with_options(command: Command, short: bool) -> Command:
    for field, names, value, text in reversed(OPTIONS):
        kept = [name for name in names if short or name.startswith("--")]
        kind = ReadingValue(field, value)
        command = click.option(*kept, field, type=kind, callback=_one_aspect, help=text)(command)
    return command


def _one_aspect(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    other = {"aspect": "sample_aspect", "sample_aspect": "aspect"}.get(parameter.name or "", "")
    if value is not None and context.params.get(other) is not None:
        raise click.UsageError("give either --aspect or --sar", context)
    return value
