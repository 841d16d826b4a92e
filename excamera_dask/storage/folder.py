"""A few thousand small named values beside an output: a folder of files, or objects under a prefix.

Each appears whole or not at all, and is there when its writer has been told so, or `flush` returned.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Protocol

from excamera_dask.errors import ExcameraError
from excamera_dask.storage import background
from excamera_dask.storage.bucket import open_bucket
from excamera_dask.storage.errors import NoSuchObject, StorageError, reason_of
from excamera_dask.storage.locations import PathLike, S3Url, locate
from excamera_dask.storage.stream_output import Tell

WRITES_AT_ONCE, READS_AT_ONCE = 16, 8
WRITING_BYTES, KEPT_BYTES = 64 << 20, 128 << 20
LAST_SECONDS = 10
"""How long writes that are under way may take when a job ends early."""


class Folder(Protocol):
    """Values by name, in `path/name` of a parent that other folders share."""

    local: Path | None
    """Where temporary files may lie, on the same disk; None where there is no disk."""

    def names(self) -> dict[str, int]:
        """Names of the values and their sizes in bytes."""

    def write(self, name: str, data: bytes, again: bool = True) -> None:
        """Put a value, which will be read again or not; may return before it is there, and raise for one before."""

    def read(self, name: str) -> bytes | None:
        """A value, None if there is none; those after it by name are likely to be read next."""

    def drop(self, name: str) -> None:
        """Remove a value."""

    def close(self) -> None:
        """Let what is under way end, briefly; leave no empty folder."""

    def remove_all(self, is_ours: Callable[[str], bool], tell: Tell) -> None:
        """Remove this folder and those beside it, by their names; `tell` is called with a line where objects stay."""


def open_folder(parent: PathLike, name: str) -> Folder:
    """The folder `name` in `parent`, a path or an object's URL; raises StorageError."""
    place = locate(parent)
    if isinstance(place, S3Url):
        return ObjectFolder(place, name)
    return FileFolder(Path(place), name)


class CannotKeep(ExcameraError):
    """Values cannot be kept beside the output."""


@contextlib.contextmanager
def claimed(parent: PathLike) -> Iterator[None]:
    """Be alone in a folder of files, made if need be, where its file system has locks; objects know none.

    Raises CannotKeep while somebody else is there. An empty folder goes at the end.
    """
    place = locate(parent)
    if isinstance(place, S3Url):
        yield
        return
    handle = _locked(place)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(place)
        os.close(handle)


def _locked(path: str) -> int:
    """A handle of the folder that holds a lock until it is closed, or its process ends."""
    try:
        os.makedirs(path, exist_ok=True)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise CannotKeep(
            f"{path}: cannot keep finished chunks there ({reason_of(error)})"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise CannotKeep(f"{path}: another job is writing this output now") from None
    except OSError:
        pass  # a file system without locks
    return handle


class FileFolder:
    """Files in a folder."""

    def __init__(self, parent: Path, name: str) -> None:
        self.parent = parent
        self.local: Path | None = parent / name
        self._folder = parent / name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotKeep(
                f"{parent}: cannot keep finished chunks there ({reason_of(error)})"
            ) from None

    def __str__(self) -> str:
        return str(self._folder)

    def names(self) -> dict[str, int]:
        with os.scandir(self._folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}

    def write(self, name: str, data: bytes, again: bool = True) -> None:
        path = self._folder / name
        temporary = path.with_suffix(f".{os.getpid()}.part")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise CannotKeep(f"{path}: cannot be written ({reason_of(error)})") from None

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except OSError:
            return None

    def drop(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._folder.rmdir()
            self.parent.rmdir()

    def remove_all(self, is_ours: Callable[[str], bool], tell: Tell) -> None:
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.parent):
                if is_ours(entry.name) and entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
            self.parent.rmdir()


class ObjectFolder:
    """Objects under a prefix, written and read several at once.

    What will be read again stays in memory until then, up to KEPT_BYTES.
    """

    local: Path | None = None

    def __init__(self, parent: S3Url, name: str) -> None:
        self.parent = parent
        self._prefix = f"{parent.key}/{name}"
        self._bucket = open_bucket(parent.bucket)
        self._writing: dict[str, tuple[Future[None], int]] = {}
        self._reading: dict[str, Future[bytes]] = {}
        self._kept: dict[str, bytes] = {}
        self._known: list[str] = []

    def __str__(self) -> str:
        return f"s3://{self._bucket.name}/{self._prefix}"

    def names(self) -> dict[str, int]:
        for name in list(self._writing):
            self._settle(name)
        found = background.run(self._bucket.below(self._prefix))
        sizes = {info.key[len(self._prefix) + 1 :]: info.size for info in found}
        self._known = sorted(sizes)
        return sizes

    def write(self, name: str, data: bytes, again: bool = True) -> None:
        self._make_room(len(data))
        self._settle(name)
        work = self._bucket.put(self._key(name), data)
        self._writing[name] = (background.start(work), len(data))
        if again:
            self._keep(name, data)

    def read(self, name: str) -> bytes | None:
        if name in self._kept:
            return self._kept.pop(name)
        self._ask_for(name)
        try:
            return self._reading.pop(name).result()
        except NoSuchObject:
            return None

    def drop(self, name: str) -> None:
        self._settle(name)
        self._kept.pop(name, None)
        background.run(self._bucket.delete([self._key(name)]))

    def close(self) -> None:
        for reading in self._reading.values():
            reading.cancel()
        futures = [future for future, _ in self._writing.values()]
        wait_for(futures, LAST_SECONDS)
        for future in futures:
            future.cancel()

    def remove_all(self, is_ours: Callable[[str], bool], tell: Tell) -> None:
        self.close()
        try:
            found = background.run(self._bucket.below(self.parent.key))
            start = len(self.parent.key) + 1
            keys = [info.key for info in found if is_ours(info.key[start:].partition("/")[0])]
            background.run(self._bucket.delete(keys))
        except StorageError as error:  # what is stored here has served
            tell(
                f"{error}; what lies below {self.parent}/ stays, and costs: "
                "to remove it takes the rights s3:ListBucket and s3:DeleteObject"
            )

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _make_room(self, size: int) -> None:
        """Wait until few enough writes are under way; raise what one of them failed with."""
        while True:
            for name in [name for name, (future, _) in self._writing.items() if future.done()]:
                self._writing.pop(name)[0].result()
            waiting = sum(size for _, size in self._writing.values())
            if not self._writing or (
                len(self._writing) < WRITES_AT_ONCE and waiting + size <= WRITING_BYTES
            ):
                return
            wait_for(
                [future for future, _ in self._writing.values()], return_when="FIRST_COMPLETED"
            )

    def _settle(self, name: str) -> None:
        """Wait until a value that is being written is there; forget what was read of it before."""
        if name in self._writing:
            self._writing.pop(name)[0].result()
        if name in self._reading:
            self._reading.pop(name).cancel()

    def _keep(self, name: str, data: bytes) -> None:
        """Keep in memory, at the expense of what will be read last."""
        self._kept[name] = data
        while sum(map(len, self._kept.values())) > KEPT_BYTES:
            del self._kept[max(self._kept)]

    def _ask_for(self, name: str) -> None:
        """Start reading a value, and those after it that are known."""
        after = [other for other in self._known if other > name and other not in self._kept]
        for wanted in [name, *after[: READS_AT_ONCE - 1]]:
            if wanted not in self._reading:
                self._settle(wanted)
                self._reading[wanted] = background.start(self._bucket.get(self._key(wanted)))
        while len(self._reading) > 2 * READS_AT_ONCE:
            self._reading.pop(max(self._reading.keys() - {name})).cancel()
