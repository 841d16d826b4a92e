"""Which versions client, scheduler and workers must share, and how a mismatch is told.

Tasks, states and pictures travel between them as pickles, so what pickles name must be there on the other side. A
caller adds what matters to its own results (`extra`); an image carries its list in a file, which is faster to read.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from itertools import zip_longest
from pathlib import Path

from executors.aws_lambda.deploy.errors import VersionMismatch

DISTRIBUTION = "excamera-dask"
SOURCES = "sources"
"""The digest of the distribution's own files, which tells two checkouts of one version apart."""
PACKAGES = (DISTRIBUTION, "dask", "distributed", "cloudpickle", "msgpack", "toolz")
FILE = "EXCAMERA_VERSIONS_FILE"
"""The environment variable that names an image's list of versions."""
VARIABLE = "EXCAMERA_VERSIONS"
"""The function's environment variable with its image's versions, which a client reads without invoking anything."""
REBUILD = "run excamera lambda build && excamera lambda deploy"

FIXES: dict[str, str] = {}
"""What to do about a difference in just one package, where a new image does not mend it."""

_PRECISION = {"python": 2, "msgpack": 1, "toolz": 1, "numpy": 1}
"""Parts of a version that must agree, where not all of it has to."""


def installed(extra: Iterable[str] = ()) -> dict[str, str]:
    """Versions of what runs here: Python, PACKAGES and the packages in `extra`; those missing are left out.

    In an image, the list that was made when it was built.
    """
    listed = os.environ.get(FILE)
    if listed:
        try:
            return dict(json.loads(Path(listed).read_text()))
        except (OSError, ValueError) as error:
            raise VersionMismatch(f"{listed}: no list of versions ({error}): {REBUILD}") from None
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *extra):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def mismatch(
    theirs: Mapping[str, str],
    ours: Mapping[str, str],
    *,
    who: str = "the worker",
    here: str = "this client",
    fix: str = REBUILD,
) -> str | None:
    """One line that says what differs and what to do, or None. What only one side lists is not compared.

    >>> mismatch({"dask": "1"}, {"dask": "2"}, who="function excamera")
    'function excamera has dask 1, this client 2: run excamera lambda build && excamera lambda deploy'
    """
    if DISTRIBUTION not in theirs and not set(theirs) & set(ours):
        return f"{who} does not tell its versions: {fix}"
    different = [
        name for name in ours if name in theirs and not _agree(name, theirs[name], ours[name])
    ]
    if different == [SOURCES]:
        version = ours.get(DISTRIBUTION, "")
        return f"{who} was built from other sources of {DISTRIBUTION} {version} than {here}: {fix}"
    named = [name for name in different if name != SOURCES]
    if not named:
        return None
    if len(named) == 1:
        fix = FIXES.get(named[0], fix)
    has = _listed([f"{name} {theirs[name]}" for name in named])
    want = _listed([ours[name] for name in named])
    return f"{who} has {has}, {here} {want}: {fix}"


def require_same(
    theirs: Mapping[str, str],
    ours: Mapping[str, str],
    *,
    who: str = "the worker",
    here: str = "this client",
    fix: str = REBUILD,
) -> None:
    """Raise VersionMismatch with `mismatch`'s line where there is one."""
    line = mismatch(theirs, ours, who=who, here=here, fix=fix)
    if line is not None:
        raise VersionMismatch(line)


def to_text(versions: Mapping[str, str]) -> str:
    """Versions as one short line, for a function's environment variable."""
    return " ".join(f"{name}={value}" for name, value in sorted(versions.items()))


def from_text(text: str) -> dict[str, str]:
    """The versions that `to_text` wrote; {} for anything else."""
    pairs = (pair.partition("=") for pair in text.split())
    return {name: value for name, sign, value in pairs if sign and value}


def _agree(name: str, one: str, other: str) -> bool:
    if one == other:
        return True
    parts = _PRECISION.get(name)
    if parts is None:
        return False
    pairs = zip_longest(one.split(".")[:parts], other.split(".")[:parts])
    return all(left == right for left, right in pairs)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def minor_python() -> str:
    """Python's version as images are named by it, such as 3.12."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"
