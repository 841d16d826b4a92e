"""Options of commands that can run on Lambda functions; they hold for `--executor lambda` alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from excamera_dask.cli.values import Number

Command = TypeVar("Command", bound=Callable[..., Any])
NAMES = (
    "backend", "function_name", "region", "budget", "overprovision", "idle_timeout", "relay", "security",
    "advertise",
)  # fmt: skip


def lambda_options(command: Command) -> Command:
    """Add the options; `take_lambda_options` collects their values."""
    for option in (
        click.option(
            "--advertise", metavar="HOST",
            help="lambda: the name or address by which workers reach the rendezvous that is started here.",
        ),
        click.option(
            "--relay-authority", "security", type=click.Path(file_okay=False), metavar="DIR",
            help="lambda: the authority of that rendezvous, as `excamera rendezvous --authority` made it.",
        ),
        click.option(
            "--relay", metavar="HOST:PORT", help="lambda: a rendezvous that runs already; default: start one here."
        ),
        click.option(
            "--idle-timeout", metavar="TIME",
            help="lambda: send a worker home that has had no work for so long (60s).",
        ),
        click.option(
            "--overprovision", type=Number(1, 2),
            help="lambda: invoke so many times the workers wanted; the surplus goes when enough are there.",
        ),
        click.option(
            "--budget", type=Number(0, min_open=True), metavar="DOLLARS",
            help="lambda: stop before more than this is spent; finished chunks are kept.",
        ),
        click.option("--region", help="lambda: AWS region; default as the AWS tools find it."),
        click.option("--function", "function_name", help="lambda: name of the function (excamera)."),
        click.option(
            "--backend", metavar="aws|local|URL",
            help="lambda: aws, a Lambda on this machine (local), or the URL of another server of its API.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def take_lambda_options(executor: str, options: dict[str, Any]) -> dict[str, Any]:
    """Take the values out of a command's options. Raises click.UsageError where they do not belong."""
    given = {name: options.pop(name) for name in NAMES}
    given = {name: value for name, value in given.items() if value is not None}
    if given and executor != "lambda":
        flag = "--" + next(iter(given)).replace("_", "-")
        raise click.UsageError(f"{flag} goes with --executor lambda")
    return given
