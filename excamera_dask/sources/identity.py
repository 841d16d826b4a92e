"""Whether a source still is the film that was described: asked with every frame that is read, and before an output appears.

What has been read and what will be read are then of one film, whoever writes into the file while a job runs.
"""

from __future__ import annotations

from excamera_dask.errors import SourceChanged, SourceError
from excamera_dask.sources.demuxing import file_version
from excamera_dask.sources.description import SourceInfo
from excamera_dask.storage import is_remote


def check_unchanged(source: SourceInfo) -> None:
    """Raises SourceChanged where the file's time, size or content is not what it was when opened, SourceError where it is gone.

    Of objects, the store compares the ETag in each request.
    """
    if is_remote(source.path):
        return
    try:
        found = file_version(source.path)
    except OSError:
        raise SourceError(
            f"{source.path}: not found on this machine; workers must see the same files"
        ) from None
    if found != (source.version, source.file_size):
        raise SourceChanged(f"{source.path}: changed since it was opened; start again")
