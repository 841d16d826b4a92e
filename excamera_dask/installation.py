"""That the files imported as `codec`, `executors` and `excamera_dask` are ours: other packages have such names too.

Which of two is imported depends on the import path and on what was installed last, so each import of `excamera_dask`
asks `check_packages`, which costs no more than two listings; `check_files` looks at everything that was installed.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import find_spec
from typing import TYPE_CHECKING

from excamera_dask.errors import InstallationError

if TYPE_CHECKING:
    from importlib.metadata import Distribution

DISTRIBUTION = "excamera-dask"
PACKAGES = ("codec", "executors", "excamera_dask")
COMMAND = "excamera"
ANEW = f"install {DISTRIBUTION} anew (pip install --force-reinstall --no-deps)"

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def check_packages() -> None:
    """Raises: InstallationError, where `codec` or `executors` would be, or is, another package than ours."""
    for name in PACKAGES:
        _check_package(name)


def check_files() -> None:
    """Compare the installed packages with the list of what was installed, where there is one (a checkout has none).

    Raises: InstallationError for the first file that is missing, changed or hidden.
    """
    check_packages()
    folders = set()
    for path, digest in _installed():
        folders.add(os.path.dirname(path))
        if not os.path.exists(path):
            raise InstallationError(f"{path} is missing: {ANEW}")
        if digest and digest != _digest(path):
            raise InstallationError(f"{path} is not as it was installed{_claim(path)}: {ANEW}")
    for folder in sorted(folders):
        _check_hidden(folder)


def is_of_packages(path: object) -> bool:
    """Whether a path, or what else an error names, lies in one of the three packages."""
    return any(str(path).startswith(os.path.join(_ROOT, name, "")) for name in PACKAGES)


def is_the_command() -> bool:
    """Whether this process is the command, which checks by itself, to say in one line what it finds."""
    started = sys.argv[0] if sys.argv else ""
    module = f"{__package__}.cli"
    return os.path.basename(started) == COMMAND or (started == "-m" and module in sys.orig_argv)


def _check_package(name: str) -> None:
    ours = os.path.join(_ROOT, name)
    spec = _spec(name)
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = (spec.origin if spec else None) or next(iter(places), None)
    if spec is None or (spec.origin is None and places[:1] == [ours]):
        raise InstallationError(f"{os.path.join(ours, '__init__.py')} is missing: {ANEW}")
    assert found is not None
    if not places or not _same(places[0], ours):
        raise InstallationError(
            f"{found} is imported as {name} in place of {DISTRIBUTION}'s {ours}: {_way_out(found)}"
        )
    if DISTRIBUTION.encode() not in spec.loader.get_data(found):  # type: ignore[union-attr]
        raise InstallationError(
            f"{found} is not {DISTRIBUTION}'s{_claim(found)}: {_own_environment(found)}"
        )
    _check_hidden(ours)


def _spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except ValueError:  # in sys.modules, but not imported from anywhere
        file = getattr(sys.modules[name], "__file__", None)
        return ModuleSpec(name, None, origin=file or f"a module {name} without a file")


def _same(place: str, other: str) -> bool:
    try:
        return place == other or os.path.samefile(place, other)
    except OSError:
        return False


def _check_hidden(folder: str) -> None:
    """A module `x.py` is not found where `x/__init__.py` or an extension module `x` lies beside it."""
    try:
        entries = os.listdir(folder)
    except OSError:  # within a zip file, which nothing is installed into
        return
    names = Counter(entry.partition(".")[0] for entry in entries)
    for name in (name for name, count in names.items() if count > 1 and f"{name}.py" in entries):
        rivals = [os.path.join(name, "__init__.py"), *(name + end for end in EXTENSION_SUFFIXES)]
        for rival in (os.path.join(folder, rival) for rival in rivals):
            if os.path.exists(rival):
                raise InstallationError(
                    f"{rival} hides {DISTRIBUTION}'s {os.path.join(folder, name)}.py"
                    f"{_claim(rival)}: {_own_environment(rival)}"
                )


def _way_out(found: str) -> str:
    owner = _owner(found)
    if owner:
        return _own_environment(found)
    return "rename it, take its folder off PYTHONPATH, or start in another folder"


def _own_environment(found: str) -> str:
    owner = _owner(found)
    remove = f"pip uninstall {owner}" if owner else f"remove {found}"
    return f"give {DISTRIBUTION} an environment of its own, or {remove} and {ANEW}"


def _claim(found: str) -> str:
    owner = _owner(found)
    return f" ({owner} brought it)" if owner else ""


def _owner(found: str) -> str | None:
    """The other distribution that lists this file as its own."""
    from importlib import metadata

    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name != DISTRIBUTION and any(path == found for path, _ in _record(distribution)):
            return str(name)
    return None


def _installed() -> Iterator[tuple[str, str]]:
    """(path, digest or "") of each file that was installed with this very package."""
    from importlib import metadata

    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return
    for path, digest in _record(distribution):
        if path.startswith(_ROOT + os.sep) and not path.endswith(".pyc"):
            yield path, digest


def _record(distribution: Distribution) -> Iterator[tuple[str, str]]:
    """(path, digest or "") of what a distribution has under our names; its `files` would leave out what is missing."""
    lines = (distribution.read_text("RECORD") or "").splitlines()
    for name, digest in (line.rsplit(",", 2)[:2] for line in lines):
        if name.split("/")[0] in PACKAGES:
            yield str(distribution.locate_file(name)), digest


def _digest(path: str) -> str:
    import base64
    import hashlib

    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
