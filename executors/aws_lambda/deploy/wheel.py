"""The running distribution as a wheel: what a worker in an image runs is exactly what runs here, edited or not."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import zipfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from executors.aws_lambda.deploy.errors import DeploymentError

_DATE = (2000, 1, 1, 0, 0, 0)  # one date for all, so that equal files make equal wheels
_LEFT_OUT = {"__pycache__"}
_CODE = {".py", ".json"}


def write_wheel(distribution: str, packages: Sequence[str], folder: Path) -> Path:
    """Write `distribution`'s packages, as they are imported here, as a wheel into `folder`; returns its path.

    Raises: DeploymentError when it is not installed.
    """
    found = _distribution(distribution)
    stem = f"{distribution.replace('-', '_')}-{found.version}"
    information = f"{stem}.dist-info"
    files = {name: path.read_bytes() for name, path in package_files(packages)}
    described = found.read_text("METADATA") or found.read_text("PKG-INFO")  # of a wheel, a checkout
    if not described:
        raise DeploymentError(f"{distribution}: its metadata is missing: install it anew")
    files[f"{information}/METADATA"] = described.encode()
    files[f"{information}/entry_points.txt"] = (found.read_text("entry_points.txt") or "").encode()
    files[f"{information}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: excamera\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = f"{information}/RECORD"
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)
    return path


def source_digest(packages: Sequence[str]) -> str:
    """Twelve hex digits that stand for the code and tables of the packages as they are imported here."""
    digest = hashlib.sha256()
    for name, path in package_files(packages):
        if path.suffix in _CODE:
            data = path.read_bytes()
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:12]


def package_files(packages: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """(name within a wheel, path) of each file of the packages, in one order everywhere."""
    for package in sorted(packages):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise DeploymentError(f"the package {package} is not installed here")
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            if path.is_file() and not _LEFT_OUT & set(inside.parts) and path.suffix != ".pyc":
                yield f"{package}/{inside.as_posix()}", path


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise DeploymentError(f"{name} is not installed here: pip install {name}") from None


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
