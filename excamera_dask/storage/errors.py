"""What can go wrong between us and an object store, each as one line: what, where, what to do."""

from __future__ import annotations

from excamera_dask.errors import ExcameraError


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


class WrongRegion(StorageError):
    """The bucket is in another region than the one that was asked."""


class NoSuchRange(StorageError):
    """A range was asked for that begins behind the object's end."""


class ObjectChanged(StorageError):
    """The object is not the one any more that reading began with."""


class StoreUnavailable(StorageError):
    """The endpoint does not answer, answers with errors, or too slowly, for longer than we wait."""
