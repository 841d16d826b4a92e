"""What decides the bytes of a video beside its input and settings: it must be alike wherever a part of it is encoded."""

from __future__ import annotations

from excamera_dask.first_pass import VPXENC
from excamera_dask.lambda_image import DISTRIBUTION, versions
from executors.aws_lambda.deploy.versions import SOURCES

DECIDING = (DISTRIBUTION, SOURCES, "av", VPXENC)


def deciding_versions(encoder: str) -> dict[str, str]:
    """The versions of what decides, as they are here, for a job whose first pass is by `encoder`."""
    found = versions(encoder)
    return {name: found[name] for name in DECIDING if name in found}
