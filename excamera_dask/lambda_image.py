"""What the image of the Lambda workers holds, and what is done in it while it is built.

`python -m excamera_dask.lambda_image prepare|check FOLDER` are steps of its Dockerfile: the first compiles the kernels
into FOLDER, the second writes the image's list of versions there and loads all as a worker at its start would.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from excamera_dask.first_pass import VPXENC, encoder_version
from excamera_dask.kernels import shipped as shipped_kernels
from executors.aws_lambda.deploy.image import Recipe
from executors.aws_lambda.deploy.versions import FILE, FIXES, SOURCES, installed
from executors.aws_lambda.deploy.wheel import source_digest

DISTRIBUTION = "excamera-dask"
IMPORTED = ("codec", "executors", "excamera_dask")
SAME_RESULTS = ("numpy", "av")
"""Packages that decide the bytes of the video, beside those that pickles name."""
DEBIAN_OF_LIBVPX = {"1.12.0": "bookworm", "1.15.0": "trixie"}
DEFAULT_DEBIAN = "bookworm"
PROCESSORS = {"x86_64": "x86-64-v3", "arm64": "neoverse-n1"}
"""LLVM's names of what every Lambda of an architecture has."""

FIXES[VPXENC] = "run the job with --first-pass libvpx, or take the same vpx-tools here"


def recipe() -> Recipe:
    """How to build the image of this very installation."""
    step = "python -m excamera_dask.lambda_image"
    return Recipe(
        distribution=DISTRIBUTION,
        packages=IMPORTED,
        system_packages=("vpx-tools",),
        processors=PROCESSORS,
        debian=matching_debian(),
        prepare=f"{step} prepare /opt/prepared",
        check=f"{step} check /opt/prepared",
        start="excamera_dask.kernels.shipped:install",
        versions=image_versions(),
    )


def versions(encoder: str | None = None) -> dict[str, str]:
    """What must be the same on every machine of a job, as it is here; in an image, as it was when it was built.

    encoder: of the first pass; vpxenc's version counts for a job that uses it, or may (None).
    """
    found = installed(SAME_RESULTS)
    if os.environ.get(FILE):
        return found
    found[SOURCES] = source_digest(IMPORTED)
    vpxenc = vpxenc_version() if encoder in (None, VPXENC) else None
    return found if vpxenc is None else {**found, VPXENC: vpxenc}


def image_versions() -> dict[str, str]:
    """What the list of an image of this installation will say."""
    debian = matching_debian()
    (vpxenc,) = (version for version, name in DEBIAN_OF_LIBVPX.items() if name == debian)
    return {**versions(), VPXENC: vpxenc}


def vpxenc_version() -> str | None:
    """Such as "1.12.0"; None where vpxenc is missing, and the libvpx inside PyAV does the first pass."""
    from excamera_dask.errors import FirstPassUnavailable

    try:
        return encoder_version(VPXENC).split()[-1].lstrip("v")
    except FirstPassUnavailable:
        return None


def matching_debian() -> str:
    """The release of Debian whose vpx-tools make the same bytes as vpxenc here, where there is one."""
    return DEBIAN_OF_LIBVPX.get(vpxenc_version() or "", DEFAULT_DEBIAN)


def prepare(folder: Path) -> None:
    """Compile the kernels into `folder`/kernels."""
    shipped_kernels.pack(folder / "kernels")


def check(folder: Path) -> None:
    """Write `folder`/versions.json, and load the kernels of `folder`; raises KernelMismatch."""
    os.environ.pop(FILE, None)
    (folder / "versions.json").write_text(json.dumps(versions(), sort_keys=True))
    os.environ[shipped_kernels.SHIPPED] = str(folder / "kernels")
    loaded = shipped_kernels.prepare()
    assert loaded is not None
    print(f"{loaded.kernels} kernels loaded in {loaded.seconds:.2f} s, none compiled")


STEPS = {"prepare": prepare, "check": check}


def main(arguments: list[str]) -> None:
    """Run the step that is named first, on the folder named second."""
    if len(arguments) != 2 or arguments[0] not in STEPS:
        raise SystemExit("usage: python -m excamera_dask.lambda_image prepare|check FOLDER")
    STEPS[arguments[0]](Path(arguments[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
