"""What a job needs of Lambda functions beyond what any cluster has: input they can reach, kernels they need not compile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack
from urllib.parse import urlsplit

import executors.aws_lambda
from codec.kernel_cache import INTERPRETED, cache_root
from excamera_dask.errors import ExcameraError
from excamera_dask.sources import SourceInfo
from excamera_dask.storage import S3Url, locate
from excamera_dask.storage.access import Access, find_access
from excamera_dask.storage.bucket import open_bucket
from excamera_dask.storage.errors import StorageError
from executors.aws_lambda.backend import LOCAL, check_backend
from executors.aws_lambda.config import setting
from executors.aws_lambda.options import LambdaOptions, spelt_out
from executors.loopback import VARIABLES, reach_loopback_directly
from executors.worker_processes import current_folder

PASSED_ON = (*VARIABLES, "PATH", "NUMBA_DISABLE_JIT")
"""Variables that functions on this machine get from the client."""
TELLING = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SKIP_SIGNATURE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
"""Variables any of which says how this user signs, if he does."""
SHARED_FILES = {
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "AWS_CONFIG_FILE": "~/.aws/config",
}


def store_access() -> Access | None:
    """How this user reaches object stores, where anything but an instance's metadata says so, and it can be used."""
    told = any(map(os.environ.get, TELLING))
    files = (os.environ.get(name) or usual for name, usual in SHARED_FILES.items())
    if told or any(Path(file).expanduser().exists() for file in files):
        with contextlib.suppress(StorageError):  # told by whoever asks a store for something
            return find_access()
    return None


@spelt_out
class LambdaCluster(executors.aws_lambda.LambdaCluster):
    """`executors.aws_lambda.LambdaCluster` for videos: functions on this machine find encoders and compiled kernels.

    What it can do is told there.
    """

    def __init__(self, n_workers: int | None = None, **options: Unpack[LambdaOptions]) -> None:
        super().__init__(n_workers, **with_means(options))


def options_for(options: Mapping[str, Any], source: SourceInfo) -> dict[str, Any]:
    """The executor's options for a job on `source`. Raises ExcameraError for an input that functions cannot read."""
    backend = setting("backend", options.get("backend"))
    check_backend(backend)
    if backend != LOCAL and "://" not in source.path and not _is_here(backend):
        raise ExcameraError(
            f"{source.path}: Lambda functions cannot read this machine's files: copy it to S3 and give its s3:// URL"
        )
    place = locate(source.path)
    if isinstance(place, S3Url):
        bucket = open_bucket(place.bucket)
        return with_means({"inputs": (source.path,), **options}, lambda: bucket.access)
    return with_means(options, lambda: None, (str(Path(place).parent),))


def with_means(
    options: Mapping[str, Any],
    find: Callable[[], Access | None] = store_access,
    folders: Sequence[str] = (),
) -> dict[str, Any]:
    """Options of a cluster, with what functions on this machine need.

    find: finds the access to the store that they read from, if they do; folders: that they must see.
    """
    if setting("backend", options.get("backend")) != LOCAL:
        from excamera_dask.lambda_image import versions

        return {"versions": versions(), **options}
    given = setting("environment", options.get("environment"))
    local = setting("backend-options", options.get("backend_options"))
    local["visible"] = (*local.get("visible", ()), *folders, *seen_by_workers())
    access = find()
    local.setdefault("credentials", credentials_of(access))
    if access is not None:
        local.setdefault("region", setting("region", options.get("region")) or access.region)
    return {
        **options,
        "environment": {**worker_environment(access), **given},
        "backend_options": local,
    }


def seen_by_workers() -> tuple[str, ...]:
    """Folders that functions on this machine must see: where the user is, and the compiled kernels.

    Raises InvalidExecutor.
    """
    return current_folder(), str(cache_root())


def _is_here(backend: str) -> bool:
    """Whether a server of Lambda's API runs on this machine."""
    return urlsplit(backend).hostname in ("127.0.0.1", "::1", "localhost")


def credentials_of(access: Access | None) -> dict[str, str] | None:
    """What functions on this machine sign with, as the local Lambda's setting `credentials` takes it: what this user does."""
    if access is None or access.is_anonymous:
        return None
    keys = access.keys()
    return {"access_key": keys[0], "secret_key": keys[1], "token": keys[2] or ""}


def worker_environment(access: Access | None = None) -> dict[str, str]:
    """What functions on this machine need to find: encoders, storage, and the kernels that are compiled already.

    access: to the store that this user has, wherever that is said: functions do not see what says it.
    """
    reach_loopback_directly(access.endpoint if access else None)
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if access is not None:
        passed |= access.variables()
    if INTERPRETED:
        return passed
    return passed | {"EXCAMERA_CACHE_DIR": str(cache_root())}
