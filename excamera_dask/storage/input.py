"""Inputs, files and objects alike."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, cast

from excamera_dask.storage.locations import PathLike, S3Url, locate

if TYPE_CHECKING:
    from excamera_dask.storage.object_file import ObjectFile


def open_input(path: PathLike) -> IO[bytes]:
    """A file or an object, open for reading at random; raises OSError, StorageError."""
    place = demuxable(path)
    return (
        open(place, "rb") if isinstance(place, str) else cast("IO[bytes]", io.BufferedReader(place))
    )


def demuxable(path: PathLike) -> str | ObjectFile:
    """What `av.open` takes: the name of a file, or an open object; raises StorageError."""
    place = locate(path)
    if isinstance(place, S3Url):
        from excamera_dask.storage.object_file import ObjectFile

        return ObjectFile(place)
    return place
