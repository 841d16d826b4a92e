"""What is installed is what the checkout has: sdist, wheel and installation hold each file of it, data like code."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGES = ("codec", "executors", "excamera_dask")
CHECKOUT = Path(os.environ.get("EXCAMERA_CHECKOUT") or Path(__file__).parents[1])
GENERATED = {"PKG-INFO", "setup.cfg"}


@pytest.fixture(scope="module")
def tracked() -> dict[str, Path]:
    """Each file of the checkout that is not ignored, by its name in it."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(listing, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a checkout, and git: {error}")
    paths = {name: CHECKOUT / name for name in done.stdout.split("\0")}
    found = {name: path for name, path in paths.items() if path.is_file()}
    if not any(name.startswith("codec/") for name in found):
        pytest.skip(f"no checkout in {CHECKOUT} (set EXCAMERA_CHECKOUT)")
    return found


@pytest.fixture(scope="module")
def built(tracked: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, the wheel that is built from it, and in checkout/ the wheel that is built without it."""
    pytest.importorskip("build", reason="needs the build frontend: pip install build setuptools")
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    for name, path in tracked.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(path.read_bytes())
    build(source, folder)
    build(source, folder / "checkout", "--wheel")
    return folder


def build(source: Path, target: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), *options]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def wheel_files(folder: Path) -> dict[str, bytes]:
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def of_packages(files: Mapping[str, object]) -> set[str]:
    return {name for name in files if name.split("/")[0] in PACKAGES}


def test_the_wheel_has_each_file_of_the_packages(tracked: dict[str, Path], built: Path) -> None:
    files = wheel_files(built / "checkout")
    assert of_packages(files) == of_packages(tracked)
    assert all(files[name] == tracked[name].read_bytes() for name in of_packages(tracked))
    assert all(name in of_packages(files) or ".dist-info/" in name for name in files)


def test_a_wheel_of_the_sdist_is_the_same(built: Path) -> None:
    assert wheel_files(built) == wheel_files(built / "checkout")


def test_the_sdist_has_each_file(tracked: dict[str, Path], built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    assert {name for name in names - GENERATED if ".egg-info/" not in name} == set(tracked)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_imported_here_is_the_checkouts(package: str, tracked: dict[str, Path]) -> None:
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    found = {
        f"{package}/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted = {
        name: path.read_bytes() for name, path in tracked.items() if name.startswith(f"{package}/")
    }
    assert found == wanted
