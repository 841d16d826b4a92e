"""Outputs that are no files: pipes, devices, sockets, and descriptors that the shell has opened for us."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable
from typing import IO, Any

from excamera_dask.errors import ContainerError
from excamera_dask.storage.errors import reason_of
from excamera_dask.storage.file_output import STDOUT, NamedFile, existing

Tell = Callable[[str], Any]
LINKS = 40
"""Links that a path may lead through, as the system has it."""
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/(self|\d+))/fd/(\d+)")


def is_stream(path: str) -> bool:
    """Whether bytes are sent to what lies at `path`, rather than put in its place."""
    if own_descriptor(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def own_descriptor(path: str) -> int | None:
    """The number of our own descriptor that a path such as /dev/stdout or /dev/fd/3 names, through links too."""
    for _ in range(LINKS):
        path = os.path.abspath(path)
        if path in _STANDARD:
            return _STANDARD[path]
        match = _DESCRIPTOR.fullmatch(path)
        if match is not None and match[1] in (None, "self", str(os.getpid())):
            return int(match[2])
        try:
            path = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:
            return None
    return None


def claim_stream(path: str) -> None:
    """Find out what can be found out without opening it, which its reader would notice; raises ContainerError."""
    number = own_descriptor(path)
    if number is None:
        existing(path)
        return
    try:
        writable = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except OSError:
        writable = False
    if not writable:
        raise ContainerError(f"{path}: is closed, or not open for writing")


class StreamOutput:
    """Bytes that are sent where `path` leads, as soon as they are written (`in_order`) or all together by `commit`.

    tell: called with one line when a pipe without a reader makes us wait for one. Raises ContainerError.
    """

    def __init__(
        self, path: str, folder: str | os.PathLike[str] | None, in_order: bool, tell: Tell
    ) -> None:
        claim_stream(path)
        self._stream = _open(path, tell)
        self.file: IO[bytes] = self._stream if in_order else _hidden(path, folder)

    def commit(self) -> None:
        if self.file is not self._stream:
            self.file.seek(0)
            shutil.copyfileobj(self.file, self._stream)
        self._stream.close()

    def discard(self) -> None:
        for file in (self.file, self._stream):
            with contextlib.suppress(OSError, ContainerError):
                file.close()


def _hidden(path: str, folder: str | os.PathLike[str] | None) -> IO[bytes]:
    """A file without a name."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return io.BufferedRandom(NamedFile(os.dup(file.fileno()), path, "r+"))


def _open(path: str, tell: Tell) -> IO[bytes]:
    number = own_descriptor(path)
    try:
        handle = _open_path(path, tell) if number is None else os.dup(number)
    except OSError as error:
        raise ContainerError(f"{path}: cannot be written ({reason_of(error)})") from None
    return io.BufferedWriter(NamedFile(handle, STDOUT if number == 1 else path, "w"))


def _open_path(path: str, tell: Tell) -> int:
    mode = os.stat(path).st_mode
    if stat.S_ISSOCK(mode):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            return connection.detach()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno != errno.ENXIO or not stat.S_ISFIFO(mode):
            raise
        tell(f"{path}: is a pipe that nobody reads yet; waiting for a reader")
        return os.open(path, os.O_WRONLY)
    os.set_blocking(handle, True)
    return handle
