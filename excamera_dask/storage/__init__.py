"""Files and objects of S3 under one roof: where they lie, reading at random, outputs whole or not at all."""

from excamera_dask.storage.errors import (
    AccessDenied,
    CredentialsRefused,
    InvalidLocation,
    NoCredentials,
    NoSuchBucket,
    NoSuchObject,
    ObjectChanged,
    StorageError,
    StoreUnavailable,
    WrongRegion,
)
from excamera_dask.storage.input import demuxable, open_input
from excamera_dask.storage.locations import PathLike, S3Url, full_name, is_remote, locate
from excamera_dask.storage.output import Output, open_output

__all__ = [
    "AccessDenied",
    "CredentialsRefused",
    "InvalidLocation",
    "NoCredentials",
    "NoSuchBucket",
    "NoSuchObject",
    "ObjectChanged",
    "Output",
    "PathLike",
    "S3Url",
    "StorageError",
    "StoreUnavailable",
    "WrongRegion",
    "demuxable",
    "full_name",
    "is_remote",
    "locate",
    "open_input",
    "open_output",
]
