"""Outputs that appear whole or not at all, as a file or as an object; and those that go into a pipe."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import warnings
from collections.abc import Iterator
from typing import IO, Any, Protocol

from excamera_dask.errors import ContainerError
from excamera_dask.storage.errors import reason_of
from excamera_dask.storage.file_output import FileOutput, existing
from excamera_dask.storage.locations import PathLike, S3Url, locate
from excamera_dask.storage.stream_output import StreamOutput, Tell, claim_stream, is_stream


class Output(Protocol):
    """A binary file on its way to its name."""

    file: IO[bytes]

    def commit(self) -> None:
        """Let it appear under its name."""

    def discard(self) -> None:
        """Remove what there is of it; nothing to do after `commit`."""


def claim_file(path: str) -> bool:
    """Whether a file would be replaced by an output at `path`; raises ContainerError where none can be written."""
    if is_stream(path):
        claim_stream(path)
        return False
    found = existing(path)
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise ContainerError(f"{path}: the folder {folder} does not exist")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ContainerError(f"{path}: cannot write into {folder} ({reason_of(error)})") from None
    if found is not None and not _may_replace(found, os.stat(folder)):
        raise ContainerError(f"{path}: belongs to somebody else, who alone may replace it there")
    return found is not None


def _may_replace(file: os.stat_result, folder: os.stat_result) -> bool:
    """Whether the folder's sticky bit lets us put another file in the place of this one."""
    return not folder.st_mode & stat.S_ISVTX or os.geteuid() in (0, file.st_uid, folder.st_uid)


def open_output(
    path: PathLike,
    folder: PathLike | None = None,
    *,
    in_order: bool = False,
    tell: Tell = warnings.warn,
) -> Output:
    """Begin an output; the bytes of a file grow beside `path`, or in `folder` on the same disk.

    Pipes, devices and sockets get the bytes at the end, or at once where they are written strictly `in_order`; `tell` is
    called with a line where that must wait for a reader, or where leftovers of killed jobs stay. Raises ContainerError,
    StorageError.
    """
    target = locate(path)
    if isinstance(target, S3Url):
        return ObjectOutput(target, tell)
    if is_stream(target):
        return StreamOutput(target, folder, in_order, tell)
    return FileOutput(target, folder)


@contextlib.contextmanager
def whole_output(path: PathLike, tell: Tell = warnings.warn) -> Iterator[IO[bytes]]:
    """A binary file whose bytes become the output when the block ends well, and leave nothing otherwise."""
    output = open_output(path, tell=tell)
    try:
        yield output.file
        output.commit()
    finally:
        output.discard()


class ObjectOutput:
    """An object that is uploaded while it is written."""

    def __init__(self, url: S3Url, tell: Tell) -> None:
        from excamera_dask.storage.multipart import MultipartObject

        self._object = MultipartObject(url, tell)
        self.file: Any = self._object

    def commit(self) -> None:
        self._object.commit()
        self._object.close()

    def discard(self) -> None:
        self._object.close()
