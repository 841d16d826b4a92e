"""Where inputs and outputs lie: paths of files, file:// URLs and s3:// URLs, told apart in one place."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from excamera_dask.storage.errors import InvalidLocation

PathLike = str | os.PathLike[str]
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_CONTROL = frozenset(map(chr, (*range(32), 127)))
KEY_BYTES = 1024
NAME_BYTES = 255
"""What a file's name has at most where its file system does not tell."""


@dataclass(frozen=True, order=True)
class S3Url(os.PathLike[str]):
    """An object of S3, or of a store that speaks its protocol; as text s3://bucket/key."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __fspath__(self) -> str:
        return str(self)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return PurePosixPath(self.key).suffix


def locate(path: PathLike) -> str | S3Url:
    """A path as it is, the path of a file:// URL, or an S3Url; raises InvalidLocation.

    `pathlib` makes s3:/bucket/key of s3://bucket/key; that is understood too.
    """
    if isinstance(path, S3Url):
        return path
    text = os.fspath(path)
    if "\0" in text:
        raise InvalidLocation(f"{text!r}: a name cannot hold a zero byte")
    match = _SCHEME.match(text)
    if match is None:
        return text
    scheme = match[1].lower()
    if scheme == "file":
        return _file(text)
    if scheme == "s3":
        return _object(text)
    if "://" not in text:  # a folder whose name ends in a colon
        return text
    raise InvalidLocation(
        f"{text}: only files, file:///path and s3://bucket/key can be read and written"
    )


def is_remote(path: PathLike) -> bool:
    """Whether a path is the URL of an object in a store."""
    return isinstance(locate(path), S3Url)


def full_name(path: PathLike) -> str:
    """The one name of a place for this machine: an absolute path, or the URL of an object."""
    place = locate(path)
    return str(place) if isinstance(place, S3Url) else os.path.abspath(place)


def beside(path: PathLike, ending: str, below: int = 0) -> str:
    """The folder, or prefix, for what belongs to an output: it is named like the output, with an ending.

    Where that is too long, the name is cut, and a hash of all of it keeps outputs apart. below: bytes that the keys in
    a prefix need behind it. It lies beside the file that a symbolic link names, on the same disk.
    """
    place = locate(path)
    if isinstance(place, S3Url):
        key = shortened(place.key, KEY_BYTES - len(ending) - below)
        return str(S3Url(place.bucket, key + ending))
    file = os.path.realpath(place)
    if os.path.exists(file) and not os.path.isfile(file):  # a link to a device stands for itself
        file = os.path.abspath(place)
    folder, name = os.path.split(file)
    return os.path.join(folder, shortened(name, longest_name(folder) - len(ending)) + ending)


def shortened(name: str, limit: int) -> str:
    """A name of at most `limit` bytes: as it is, or its beginning and a hash of the whole."""
    if len(os.fsencode(name)) <= limit:
        return name
    mark = "~" + hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()
    while name and len(os.fsencode(name)) > limit - len(mark):
        name = name[:-1]
    return name + mark


def longest_name(folder: str) -> int:
    """Bytes that a file's name may have in a folder."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return NAME_BYTES


def _file(text: str) -> str:
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise InvalidLocation(f"{text}: a file URL has three slashes, file:///path")
    return unquote(parts.path)


def _object(text: str) -> S3Url:
    bucket, _, key = text[len("s3:") :].lstrip("/").partition("/")
    if not _BUCKET.fullmatch(bucket) or not key or key.endswith("/"):
        raise InvalidLocation(f"{text}: an object of S3 is named s3://bucket/key")
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise InvalidLocation(f"{text}: keys with empty parts, '.' or '..' cannot be used")
    if not _CONTROL.isdisjoint(key):
        raise InvalidLocation(
            f"{text!r}: keys with control characters, such as tabs, cannot be used"
        )
    if len(key.encode(errors="surrogateescape")) > KEY_BYTES:
        raise InvalidLocation(f"{text}: an object's key has {KEY_BYTES} bytes at most")
    return S3Url(bucket, key)
