"""Outputs that appear whole or not at all, as a file or as an object."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from typing import IO, Any, Protocol

from excamera_dask.errors import ContainerError
from excamera_dask.storage.locations import PathLike, S3Url, locate


class Output(Protocol):
    """A binary file on its way to its name."""

    file: IO[bytes]

    def commit(self) -> None:
        """Let it appear under its name."""

    def discard(self) -> None:
        """Remove what there is of it; nothing to do after `commit`."""


def open_output(path: PathLike, folder: PathLike | None = None) -> Output:
    """Begin an output; the bytes of a file grow beside `path`, or in `folder` on the same disk.

    Raises ContainerError, StorageError.
    """
    target = locate(path)
    if isinstance(target, S3Url):
        return ObjectOutput(target)
    return FileOutput(target, folder)


class NamedFile(io.FileIO):
    """A file whose failures to write name the output that it will be."""

    def __init__(self, path: str, output: str) -> None:
        super().__init__(path, "x+")
        self._output = output

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = self._output
            raise


class FileOutput:
    """A file under a hidden name until it is whole; of a symbolic link, the file that it names."""

    def __init__(self, path: str, folder: PathLike | None = None) -> None:
        self.path = os.path.realpath(path)
        self.folder = os.path.dirname(self.path) if folder is None else os.fspath(folder)
        base = os.path.basename(self.path)
        self._temporary = os.path.join(self.folder, f".{base}.{secrets.token_hex(4)}.part")
        try:
            self.file: IO[bytes] = io.BufferedRandom(NamedFile(self._temporary, path))
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise ContainerError(f"{self.folder}: cannot write there ({reason})") from None

    def commit(self) -> None:
        self.file.flush()
        self.file.close()
        os.replace(self._temporary, self.path)

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # what is still in its buffer may not fit on the disk
            self.file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)


class ObjectOutput:
    """An object that is uploaded while it is written."""

    def __init__(self, url: S3Url) -> None:
        from excamera_dask.storage.multipart import MultipartObject

        self._object = MultipartObject(url)
        self.file: Any = self._object

    def commit(self) -> None:
        self._object.commit()
        self._object.close()

    def discard(self) -> None:
        self._object.close()
