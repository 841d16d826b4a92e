"""Files and objects of S3 under one roof: where they lie, reading at random, outputs whole or not at all."""

from excamera_dask.storage.errors import (
    AccessDenied,
    CredentialsRefused,
    InvalidLocation,
    NoCredentials,
    NoSuchBucket,
    NoSuchObject,
    ObjectArchived,
    ObjectChanged,
    StdoutClosed,
    StorageError,
    StoreUnavailable,
    WrongRegion,
)
from excamera_dask.storage.input import demuxable, open_input
from excamera_dask.storage.locations import PathLike, S3Url, beside, full_name, is_remote, locate
from excamera_dask.storage.output import Output, claim_file, open_output, whole_output
from excamera_dask.storage.stream_output import Tell

__all__ = [
    "AccessDenied",
    "CredentialsRefused",
    "InvalidLocation",
    "NoCredentials",
    "NoSuchBucket",
    "NoSuchObject",
    "ObjectArchived",
    "ObjectChanged",
    "Output",
    "PathLike",
    "S3Url",
    "StdoutClosed",
    "StorageError",
    "StoreUnavailable",
    "Tell",
    "WrongRegion",
    "beside",
    "claim_file",
    "demuxable",
    "full_name",
    "is_remote",
    "locate",
    "open_input",
    "open_output",
    "whole_output",
]
