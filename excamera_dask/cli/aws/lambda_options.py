"""Options of commands that can run on Lambda functions; they hold for `--executor lambda` alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from excamera_dask.cli.options.values import Number

Command = TypeVar("Command", bound=Callable[..., Any])
OFFERED: dict[str, dict[str, Any]] = {
    "backend": {"metavar": "aws|local|URL"},
    "function_name": {"flag": "--function"},
    "region": {},
    "budget": {"type": Number(0, min_open=True), "metavar": "DOLLARS"},
    "overprovision": {"type": Number(1, 2)},
    "idle_timeout": {"metavar": "TIME"},
    "relay": {"metavar": "HOST:PORT"},
    "security": {
        "flag": "--relay-authority",
        "type": click.Path(file_okay=False),
        "metavar": "DIR",
    },
    "advertise": {"metavar": "HOST"},
}
"""Those of a cluster's options that the command has, and how it spells them."""


class ClusterOption(click.Option):
    """Its help is the cluster's, looked up when it is shown: until the command begins, `executors` may be somebody else's."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from executors.aws_lambda.options import TABLE

        self.help = f"lambda: {TABLE[self.name or '']}."
        return super().get_help_record(ctx)


def lambda_options(command: Command) -> Command:
    """Add the options; `take_lambda_options` collects their values."""
    for name, spelling in reversed(OFFERED.items()):
        how = {key: value for key, value in spelling.items() if key != "flag"}
        command = click.option(_flag(name), name, cls=ClusterOption, **how)(command)
    return command


def take_lambda_options(executor: str, options: dict[str, Any]) -> dict[str, Any]:
    """Take the values out of a command's options. Raises click.UsageError where they do not belong."""
    given = {name: options.pop(name) for name in OFFERED}
    given = {name: value for name, value in given.items() if value is not None}
    if given and executor != "lambda":
        raise click.UsageError(f"{_flag(next(iter(given)))} goes with --executor lambda")
    return given


def _flag(name: str) -> str:
    flag: str = OFFERED[name].get("flag", "--" + name.replace("_", "-"))
    return flag
