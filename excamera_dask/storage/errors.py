"""What can go wrong between us and an object store, each as one line: what, where, what to do."""

from __future__ import annotations

import errno

from excamera_dask.errors import ContainerError, ExcameraError


class StorageError(ExcameraError):
    """An object cannot be read or written."""


class InvalidLocation(StorageError):
    """A URL that names nothing that can be read or written."""


class NoCredentials(StorageError):
    """No credentials for the object store were found."""


class CredentialsRefused(StorageError):
    """The object store does not know the credentials, or they have expired."""


class AccessDenied(StorageError):
    """The object store knows the credentials and refuses them this bucket or object."""


class NoSuchBucket(StorageError):
    """The bucket does not exist at this endpoint."""


class NoSuchObject(StorageError):
    """The object does not exist."""


class NoSuchUpload(StorageError):
    """An upload has been ended by somebody else."""


class WrongRegion(StorageError):
    """The bucket is in another region than the one that was asked."""


class NoSuchRange(StorageError):
    """A range was asked for that begins behind the object's end."""


class ObjectChanged(StorageError):
    """The object is not the one any more that reading began with."""


class ObjectArchived(StorageError):
    """The object is in an archive, from which it must be restored before it can be read."""


class StoreUnavailable(StorageError):
    """The endpoint does not answer, answers with errors, or too slowly, for longer than we wait."""


class StdoutClosed(ContainerError):
    """Who read our standard output has gone away, as `head` does when it has seen enough."""

    stays_where_it_is = True


_REASONS = {
    errno.EEXIST: "it is there and no folder",
    errno.ELOOP: "a loop of symbolic links",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ENOENT: "no such file or folder",
}


def reason_of(error: OSError) -> str:
    """What the system says of a file, in words to be put in brackets behind its name."""
    return _REASONS.get(error.errno or 0) or (error.strerror or str(error)).lower()
