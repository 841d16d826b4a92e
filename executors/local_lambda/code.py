"""Where a function's code comes from: a zip file, a folder, or the current installation."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import hashlib
import io
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from executors.local_lambda.errors import ApiError, invalid
from executors.local_lambda.quotas import UNZIPPED_BYTES

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
    except (binascii.Error, ValueError):
        raise _not_unzipped() from None
    folder = state / "code" / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        _extract(data, Path(temporary, "code"))
        with contextlib.suppress(FileExistsError):
            if not folder.exists():
                os.rename(Path(temporary, "code"), folder)
    return Code(str(folder), len(data), _digest(data))


def _extract(data: bytes, folder: Path) -> None:
    """Unpack a zip file into a new folder, and nothing outside it; raises ApiError."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            items = archive.infolist()
            if sum(item.file_size for item in items) >= UNZIPPED_BYTES:
                raise invalid(f"Unzipped size must be smaller than {UNZIPPED_BYTES} bytes")
            for item in items:
                if _leads_out(item):
                    raise _not_unzipped(f"{item.filename!r} leads out of its folder.")
            places = [archive.extract(item, folder) for item in items]  # permissions are forgotten
            for item, place in reversed(list(zip(items, places, strict=True))):
                mode = item.external_attr >> 16 & 0o777
                if mode:
                    os.chmod(place, mode | (0o700 if item.is_dir() else 0o400))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, zlib.error):
        raise _not_unzipped() from None


def _leads_out(item: zipfile.ZipInfo) -> bool:
    """Whether a member's name is no path below a folder; links are unpacked as files, as everything but folders."""
    name = item.filename.replace("\\", "/")
    return name.startswith("/") or ".." in name.split("/") or not name.strip("./")


def _not_unzipped(why: str = "Please check your file, then try to upload again.") -> ApiError:
    return invalid(f"Could not unzip uploaded file. {why}")


def _digest(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
