"""What a job needs of Lambda functions beyond what any cluster has: input they can reach, kernels they need not compile."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import executors.aws_lambda
from codec.kernel_cache import INTERPRETED, cache_root
from excamera_dask.errors import ExcameraError
from excamera_dask.sources import SourceInfo
from executors.aws_lambda.backend import LOCAL, check_backend
from executors.aws_lambda.config import setting

PASSED_ON = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ALLOW_HTTP",
    "PATH",
    "NUMBA_DISABLE_JIT",
)
"""Variables that functions on this machine get from the client."""


class LambdaCluster(executors.aws_lambda.LambdaCluster):
    """`executors.aws_lambda.LambdaCluster` for videos: functions on this machine find encoders and compiled kernels.

    The other keywords, and what it can do, are told there.
    """

    def __init__(self, n_workers: int | None = None, **options: Any) -> None:
        super().__init__(n_workers, **with_means(options))


def options_for(options: Mapping[str, Any], source: SourceInfo) -> dict[str, Any]:
    """The executor's options for a job on `source`. Raises ExcameraError for an input that functions cannot read."""
    backend = setting("backend", options.get("backend"))
    check_backend(backend)
    if backend != LOCAL and "://" not in source.path and not _is_here(backend):
        raise ExcameraError(
            f"{source.path}: Lambda functions cannot read this machine's files: copy it to S3 and give its s3:// URL"
        )
    if "://" in source.path:
        return with_means({"inputs": (source.path,), **options})
    return with_means(options, (str(Path(source.path).parent),))


def with_means(options: Mapping[str, Any], folders: Sequence[str] = ()) -> dict[str, Any]:
    """Options of a cluster, with what functions on this machine need; folders: that they must see."""
    if setting("backend", options.get("backend")) != LOCAL:
        from excamera_dask.lambda_image import versions

        return {"versions": versions(), **options}
    given = setting("environment", options.get("environment"))
    local = setting("backend-options", options.get("backend_options"))
    local["visible"] = (*local.get("visible", ()), *folders, *seen_by_workers())
    return {
        **options,
        "environment": {**worker_environment(), **given},
        "backend_options": local,
    }


def seen_by_workers() -> tuple[str, ...]:
    """Folders that functions on this machine must see: where the user is, and the compiled kernels."""
    return os.getcwd(), str(cache_root())


def _is_here(backend: str) -> bool:
    """Whether a server of Lambda's API runs on this machine."""
    return urlsplit(backend).hostname in ("127.0.0.1", "::1", "localhost")


def worker_environment() -> dict[str, str]:
    """What functions on this machine need to find: encoders, storage, and the kernels that are compiled already."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if INTERPRETED:
        return passed
    return passed | {"EXCAMERA_CACHE_DIR": str(cache_root())}
