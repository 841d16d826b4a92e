"""Where a command's results go: JSON on stdout, notices on stderr, files whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.printing import printable
from excamera_dask.storage import claim_file, whole_output
from excamera_dask.storage.errors import reason_of
from excamera_dask.storage.stream_output import is_stream

if TYPE_CHECKING:
    from excamera_dask.storage import S3Url


def notice(text: str) -> None:
    """One line for the person at the terminal."""
    click.echo(printable(text), err=True)


def print_json(value: Any) -> None:
    """The result of the command as JSON on stdout: indented on a terminal, one line elsewhere."""
    click.echo(as_json(value, indent=2 if sys.stdout.isatty() else None))


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON of plain values, dataclasses and numbers of numpy; what is infinite becomes null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


Command = TypeVar("Command", bound=Callable[..., Any])


def overwrite_options(command: Command) -> Command:
    """Add -y and -n, `yes` and `no`, of which `may_overwrite` makes an answer."""
    command = click.option("-n", "no", is_flag=True, help="Never overwrite; by default ask.")(
        command
    )
    return click.option("-y", "yes", is_flag=True, help="Overwrite an existing output.")(command)


def may_overwrite(yes: bool, no: bool) -> bool | None:
    """Whether an existing output is replaced: True, False, or None where that has to be asked."""
    if yes and no:
        raise click.UsageError("-y and -n exclude each other", click.get_current_context())
    return True if yes else False if no else None


def claim_output(path: Path | S3Url, overwrite: bool | None) -> None:
    """Refuse an output that cannot be written, before any work is done.

    `overwrite`: True replaces an existing one, False refuses it, None asks on a terminal and refuses elsewhere.
    """
    if isinstance(path, Path):
        exists = claim_file(str(path))
    else:
        from excamera_dask.storage.checks import claim_object, object_exists

        claim_object(path, notice)
        exists = object_exists(path)
    if not exists or overwrite:
        return
    if overwrite is None and sys.stdin.isatty() and sys.stderr.isatty():
        if click.confirm(f"{printable(str(path))} exists. Overwrite?", err=True):
            return
        raise Failure(f"{path}: kept as it was")
    raise Failure(f"{path}: exists already; -y overwrites it")


def check_input(path: Path) -> None:
    """Refuse an input that is not there."""
    try:
        path.stat()
    except OSError as error:
        pipe = " (a pipe cannot be read at many places at once: save it as a file first)"
        raise Failure(f"{path}: {reason_of(error)}{pipe if str(path) == '-' else ''}") from None


def claim_all(*outputs: Path | None, inputs: tuple[Path | None, ...]) -> None:
    """Refuse outputs that cannot be written, that are an input, or each other; existing ones will be overwritten."""
    named = [path for path in outputs if path is not None]
    for path in named:
        refuse_inputs(path, *inputs)
        claim_output(path, overwrite=True)
    files = [os.path.realpath(path) for path in named if not is_stream(str(path))]
    for file in files:
        if files.count(file) > 1:
            raise Failure(f"{file}: cannot be two outputs at once")


def refuse_inputs(output: Path, *inputs: Path | None) -> None:
    """Refuse an output that is one of the inputs, under whatever name."""
    for path in inputs:
        with contextlib.suppress(OSError):  # one of them is not there
            if path is not None and os.path.samefile(path, output):
                raise Failure(f"{output}: is the input itself")


def whole_file(path: Path) -> AbstractContextManager[IO[bytes]]:
    """A binary file that becomes `path` when the block ends well, and leaves nothing otherwise."""
    return whole_output(path, notice)
