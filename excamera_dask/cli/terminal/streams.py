"""Standard streams that are closed, full or left by their reader: the work is done, and only a lost result is an error."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from excamera_dask.cli.terminal.printing import Escaping
from excamera_dask.storage.file_output import STDOUT, NamedFile


class QuietFile(io.FileIO):
    """A file for what may be lost: who closed or filled it up does not want to read it."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def steady_streams() -> None:
    """Have stdin, stdout and stderr open, whatever the caller left us; to be called before anything is opened.

    A closed one leads to the null device, so that no file of ours gets its number and what is printed in the wrong
    place. Writing to a closed or full stdout raises ContainerError; stderr takes everything.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest number that is free, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - it stays open until the interpreter ends
    if _is_plain(sys.stdout, 1):
        raw: io.FileIO = NamedFile(1, STDOUT, "w", closefd=False)
        sys.stdout = _text(raw, sys.stdout, "surrogateescape")
    if _is_plain(sys.stderr, 2):
        sys.stderr = _text(QuietFile(2, "w", closefd=False), sys.stderr, "backslashreplace")


@contextlib.contextmanager
def escaped_streams() -> Iterator[None]:
    """Let nothing reach a terminal that it would obey: see `printing`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Escaping, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def finish_stdout() -> None:
    """Write what is left for stdout; raises ContainerError."""
    sys.stdout.flush()


def give_stdout_up() -> None:
    """Send what is left for stdout nowhere, so that the interpreter does not stumble over it when it ends."""
    with contextlib.suppress(OSError, ValueError):  # it may be none of the system's, as in tests
        if sys.stdout.fileno() == 1:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _is_plain(stream: TextIO | None, number: int) -> bool:
    """Whether Python opened it, or found it closed; others are somebody's who knows what he does."""
    if stream is None:
        return True
    raw = _raw(stream)
    return type(raw) is io.FileIO and raw.fileno() == number


def _raw(stream: TextIO) -> Any:
    buffer = getattr(stream, "buffer", None)  # with PYTHONUNBUFFERED it is the raw file itself
    return getattr(buffer, "raw", buffer)


def _text(raw: io.FileIO, before: TextIO | None, errors: str) -> TextIO:
    encoding = "utf-8" if before is None else before.encoding
    if codecs.lookup(encoding).name == "ascii":  # as click does, on a stream of its own
        encoding = "utf-8"
    unbuffered = isinstance(getattr(before, "buffer", None), io.RawIOBase)
    by_line = unbuffered or raw.isatty() or raw.fileno() == 2
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=by_line)
