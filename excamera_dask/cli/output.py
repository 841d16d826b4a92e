"""Where a command's results go: JSON on stdout, notices on stderr, files whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from excamera_dask.cli.failures import Failure

if TYPE_CHECKING:
    from excamera_dask.storage import S3Url


def notice(text: str) -> None:
    """One line for the person at the terminal."""
    click.echo(text, err=True)


def print_json(value: Any, file: IO[str] | None = None) -> None:
    """The result of the command as JSON on stdout (or `file`): indented on a terminal, one line elsewhere."""
    target = file or sys.stdout
    indent = 2 if target.isatty() else None
    click.echo(json.dumps(value, indent=indent, default=_plain, allow_nan=False), file=target)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    return str(value)


def claim_output(path: Path | S3Url, overwrite: bool | None) -> None:
    """Refuse an output that cannot be written, before any work is done.

    `overwrite`: True replaces an existing one, False refuses it, None asks on a terminal and refuses elsewhere.
    """
    if isinstance(path, Path):
        exists = _claim_file(path)
    else:
        from excamera_dask.storage.checks import claim_object, object_exists

        claim_object(path)
        exists = object_exists(path)
    if not exists or overwrite:
        return
    if overwrite is None and sys.stdin.isatty() and sys.stderr.isatty():
        if click.confirm(f"{path} exists. Overwrite?", err=True):
            return
        raise Failure(f"{path}: kept as it was")
    raise Failure(f"{path}: exists already; -y overwrites it")


def refuse_inputs(output: Path, *inputs: Path | None) -> None:
    """Refuse an output that is one of the inputs, under whatever name."""
    for path in inputs:
        if path is not None and path.exists() and output.exists() and path.samefile(output):
            raise Failure(f"{output}: is the input itself")


def _claim_file(path: Path) -> bool:
    """Whether there is a regular file that would be overwritten."""
    folder = path.resolve().parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        raise Failure(f"{path}: the folder {folder} does not exist")
    if path.is_dir():
        raise Failure(f"{path}: is a folder; name a file in it")
    if path.exists() and not _is_regular(path):  # a device or a pipe, such as /dev/null
        return False
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Failure(f"{path}: cannot write into {folder} ({reason})") from None
    return path.exists()


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(path.stat().st_mode)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well, and vanishes otherwise."""
    if path.exists() and not _is_regular(path):  # a device or a pipe, such as /dev/null
        yield path
        return
    path = path.resolve()
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
