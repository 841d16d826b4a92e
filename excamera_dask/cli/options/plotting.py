"""Plots, for every command that draws one."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import click

from excamera_dask.cli.options.values import OutputFile
from excamera_dask.cli.terminal.failures import Failure

Command = TypeVar("Command", bound=Callable[..., Any])


def plot_option(text: str) -> Callable[[Command], Command]:
    """Add --plot, which the command gets as `plot_path`."""
    return click.option("--plot", "plot_path", type=OutputFile(".png"), help=text)


def require_matplotlib() -> None:
    """Refuse to draw where that cannot be done, before any work is done."""
    if find_spec("matplotlib") is None:
        raise Failure("--plot needs matplotlib: pip install 'excamera-dask[plot]'")
