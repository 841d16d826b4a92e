"""Where a function's code comes from: a zip file, a folder, or the current installation."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

from executors.aws_lambda.emulator.errors import invalid

FOLDER_BUCKET = "local-folder"  # Code={"S3Bucket": "local-folder", "S3Key": "/absolute/path"}
IMAGE = "local"  # Code={"ImageUri": "local"}: whatever this Python has installed


@dataclasses.dataclass(frozen=True)
class Code:
    """The folder that becomes LAMBDA_TASK_ROOT, and what the API tells of it."""

    folder: str
    size: int
    sha256: str


def place_code(source: dict[str, Any], package_type: str, state: Path, name: str) -> Code:
    """Make the code that a CreateFunction request names available as a folder.

    Raises: ApiError.
    """
    if package_type == "Image":
        return _from_image(source.get("ImageUri", ""), state)
    if source.get("ZipFile"):
        return _unpack(source["ZipFile"], state, name)
    if source.get("S3Bucket") == FOLDER_BUCKET:
        return _from_folder(source.get("S3Key", ""))
    if source.get("S3Bucket"):
        raise invalid(
            f"Error occurred while GetObject. Here is only the bucket {FOLDER_BUCKET}, whose keys are local folders."
        )
    raise invalid("Please provide a source for function code.")


def _from_image(uri: str, state: Path) -> Code:
    if uri != IMAGE:
        raise invalid(
            f"Source image {uri} does not exist. Here is only the image {IMAGE!r}: what this Python has installed."
        )
    folder = state / "task"
    folder.mkdir(exist_ok=True)
    return Code(str(folder), 0, _digest(uri.encode()))


def _from_folder(key: str) -> Code:
    if not os.path.isabs(key) or not os.path.isdir(key):
        raise invalid(f"S3 Error Message: The specified key does not exist: no folder {key}")
    files = [path for path in Path(key).rglob("*") if path.is_file()]
    marks = "".join(f"{path}{path.stat().st_mtime_ns}" for path in sorted(files))
    return Code(key, sum(path.stat().st_size for path in files), _digest(marks.encode()))


def _unpack(encoded: str, state: Path, name: str) -> Code:
    try:
        data = base64.b64decode(encoded, validate=True)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            digest = _digest(data)
            folder = state / "code" / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
            archive.extractall(folder)
            for item in archive.infolist():  # extractall forgets the permissions
                mode = item.external_attr >> 16
                if mode & 0o777:
                    os.chmod(folder / item.filename, mode & 0o777)
    except (binascii.Error, zipfile.BadZipFile, ValueError):
        raise invalid(
            "Could not unzip uploaded file. Please check your file, then try to upload again."
        ) from None
    return Code(str(folder), len(data), digest)


def _digest(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
