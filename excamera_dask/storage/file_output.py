"""A file under a hidden name until it is whole; then it takes the place, and the rights, of the one before it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
import stat
from typing import IO, Any

from excamera_dask.errors import ContainerError
from excamera_dask.storage.errors import StdoutClosed, reason_of
from excamera_dask.storage.locations import longest_name, shortened

STDOUT = "standard output"
ACCESS_LIST = "system.posix_acl_access"
_CANNOT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


class NamedFile(io.FileIO):
    """A file, by its path or an open descriptor, whose failures to write name the output that it will be.

    `write` raises ContainerError, and StdoutClosed where it is standard output that nobody reads any more.
    """

    def __init__(self, file: str | int, output: str, mode: str, **options: Any) -> None:
        super().__init__(file, mode, **options)
        self._output = output

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            kind = StdoutClosed if self._output == STDOUT else ContainerError
            raise kind(f"{self._output}: nobody reads it any more") from None
        except OSError as error:
            raise ContainerError(
                f"{self._output}: cannot be written ({reason_of(error)})"
            ) from None


def existing(path: str) -> os.stat_result | None:
    """The status of what lies at a path, through links, None for nothing; raises ContainerError if it must not be written."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ContainerError(f"{path}: cannot be written ({reason_of(error)})") from None
    if stat.S_ISDIR(found.st_mode):
        raise ContainerError(f"{path}: is a folder; name a file in it")
    if not found.st_mode & 0o222:  # the superuser could, but somebody has protected it
        raise ContainerError(f"{path}: is read-only; chmod u+w it, or give another name")
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ContainerError(f"{path}: cannot be written (no permission); give another name")
    return found


class FileOutput:
    """A file that grows beside `path`, or in `folder` on the same disk; of a symbolic link, the file that it names.

    What it replaces keeps mode, owner, group and access control lists, as far as we may give them.
    """

    def __init__(self, path: str, folder: str | os.PathLike[str] | None = None) -> None:
        self.name = path
        self.path = os.path.realpath(path)
        self.folder = os.path.dirname(self.path) if folder is None else os.fspath(folder)
        self._replaced = existing(path)
        hidden = shortened(os.path.basename(self.path), longest_name(self.folder) - 15)
        self._temporary = os.path.join(self.folder, f".{hidden}.{secrets.token_hex(4)}.part")
        try:
            raw = NamedFile(self._temporary, path, "x+", opener=self._create)
        except OSError as error:
            raise ContainerError(
                f"{self.folder}: cannot write there ({reason_of(error)})"
            ) from None
        self.file: IO[bytes] = io.BufferedRandom(raw)

    def _create(self, path: str, flags: int) -> int:
        """Nobody else may look into what replaces a file until it has that one's rights."""
        return os.open(path, flags, 0o666 if self._replaced is None else 0o600)

    def commit(self) -> None:
        self.file.flush()
        try:
            handle = self.file.fileno()
            with contextlib.suppress(FileNotFoundError):
                self._replaced = os.stat(self.path)
            if self._replaced is not None:
                _take_over(handle, self.path, self._replaced)
            _sync(handle)
            self.file.close()
            self._take_place()
        except OSError as error:
            raise ContainerError(f"{self.name}: cannot be written ({reason_of(error)})") from None

    def discard(self) -> None:
        # what is still in its buffer may not fit on the disk
        with contextlib.suppress(OSError, ContainerError):
            self.file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)

    def _take_place(self) -> None:
        try:
            os.replace(self._temporary, self.path)
        except OSError as error:
            if error.errno == errno.EXDEV and self.folder != os.path.dirname(self.path):
                self._take_place_from_afar()
            elif error.errno == errno.EBUSY:  # mounted there, as into a container: no other can be
                self._write_over()
            else:
                raise

    def _take_place_from_afar(self) -> None:
        nearer = FileOutput(self.path)
        try:
            with open(self._temporary, "rb") as whole:
                shutil.copyfileobj(whole, nearer.file)
            nearer.commit()
        finally:
            nearer.discard()

    def _write_over(self) -> None:
        with open(self._temporary, "rb") as whole, open(self.path, "wb") as file:
            shutil.copyfileobj(whole, file)
            file.flush()
            _sync(file.fileno())


def _take_over(handle: int, path: str, replaced: os.stat_result) -> None:
    """Give an open file what the one at `path` has beside its bytes."""
    mode = stat.S_IMODE(replaced.st_mode) & 0o777
    try:
        os.fchown(handle, replaced.st_uid, replaced.st_gid)
    except OSError:
        try:
            os.fchown(handle, -1, replaced.st_gid)
        except OSError:  # another group gets what everybody has
            mode = mode & ~0o070 | (mode & 0o007) << 3
    os.fchmod(handle, mode)
    if not hasattr(os, "listxattr"):
        return
    with contextlib.suppress(OSError):
        names = os.listxattr(path)
        if ACCESS_LIST in set(os.listxattr(handle)) - set(names):
            os.removexattr(handle, ACCESS_LIST)
        for name in names:
            with contextlib.suppress(OSError):
                os.setxattr(handle, name, os.getxattr(path, name))


def _sync(handle: int) -> None:
    """Have the bytes on the disk before the name tells of them: a power cut leaves the old file or the new one."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
