"""Which frames are measured, where they are encoded, and where the result goes: for every command of `excamera bench`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from excamera_dask.cli.options.values import Executor, OutputFile

Command = TypeVar("Command", bound=Callable[..., Any])


def bench_options(command: Command) -> Command:
    """Add --skip, --limit, -o, --executor and -w."""
    for option in (
        click.option("-w", "--workers", type=click.IntRange(min=1), help="As for encode."),
        click.option(
            "--executor", type=Executor(), default="local", show_default=True, help="As for encode."
        ),
        click.option("-o", "--output", type=OutputFile(), help="Write the JSON here as well."),
        click.option(
            "--limit", type=click.IntRange(min=1), default=240, show_default=True,
            help="Frames to encode of each SRC.",
        ),
        click.option(
            "--skip", type=click.IntRange(min=0), default=0, help="Frames of each SRC to leave out first."
        ),
    ):  # fmt: skip
        command = option(command)
    return command
