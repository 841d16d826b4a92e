"""What a job needs of Lambda functions beyond what any cluster has: input they can reach, kernels they need not compile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codec.kernel_cache import INTERPRETED, cache_root
from excamera_dask.errors import ExcameraError
from excamera_dask.sources import SourceInfo

PREPARE = "EXCAMERA_PREPARE"  # the handler's word for it: executors.aws_lambda.handler.PREPARE
BORROWED = "EXCAMERA_BORROWED_KERNELS"
PASSED_ON = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ALLOW_HTTP",
    "PATH",
    "NUMBA_DISABLE_JIT",
)
"""Variables that functions on this machine get from the client."""


def options_for(options: Mapping[str, Any], source: SourceInfo) -> dict[str, Any]:
    """The executor's options for a job on `source`. Raises ExcameraError for an input that functions cannot read."""
    from executors.aws_lambda.config import setting

    backend = setting("backend", options.get("backend"))
    if backend != "local":
        if "://" not in source.path:
            raise ExcameraError(
                f"{source.path}: Lambda functions cannot read this machine's files: copy it to S3 and give its s3:// URL"
            )
        return dict(options)
    given = dict(setting("environment", options.get("environment")))
    local = dict(setting("backend-options", options.get("backend_options")))
    folders = [str(Path(source.path).parent)] if "://" not in source.path else []
    local["visible"] = (*local.get("visible", ()), *folders, str(cache_root()))
    return {
        **options,
        "environment": {**_own_environment(), **given},
        "backend_options": local,
    }


def _own_environment() -> dict[str, str]:
    """What functions on this machine need to find: encoders, storage, and the kernels that are compiled already."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if INTERPRETED:
        return passed
    return passed | {PREPARE: f"{__name__}:borrow_kernels", BORROWED: str(cache_root())}


def borrow_kernels() -> None:
    """Copy the client's compiled kernels to where this function may write, before the codec is imported."""
    folder = Path(os.environ.get("TMPDIR") or "/tmp") / "excamera-kernels"
    if not folder.is_dir():
        part = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.copytree(os.environ[BORROWED], part, copy_function=shutil.copyfile)
        part.rename(folder)
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
