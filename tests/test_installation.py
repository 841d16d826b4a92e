"""Other packages under the names of ours: one line that names the file and the cure, and never theirs for ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from distributed import LocalCluster
from streams import moving_images

from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.installation import check_files
from excamera_dask.lambda_image import DISTRIBUTION, IMPORTED
from executors.aws_lambda.deploy.wheel import write_wheel

THEIRS = "raise SystemExit('a package of others was run')\n"


@dataclass
class Place:
    """An installation of ours in a folder of its own, and a folder where somebody works."""

    site: Path
    others: Path
    here: Path

    def run(self, *arguments: str | Path, path: str = "") -> subprocess.CompletedProcess[str]:
        """Run this Python, with `path` before our installation on its import path."""
        paths = os.pathsep.join(filter(None, [path, str(self.site), str(self.others)]))
        environment = {**os.environ, "PYTHONPATH": paths, "NUMBA_DISABLE_JIT": "1"}
        command = [sys.executable, "-S", *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.here, env=environment, capture_output=True, text=True, timeout=120
        )

    def install(self, *names: str, text: str = THEIRS) -> None:
        """Put a distribution of others beside ours, as pip would: over what is there."""
        for name in names:
            write(self.site / name, text)
        information = self.site / "rivals-1.0.dist-info"
        write(information / "METADATA", "Metadata-Version: 2.1\nName: rivals\nVersion: 1.0\n")
        write(information / "RECORD", "".join(f"{name},,\n" for name in names))

    def encode(self, executor: str = "sync", path: str = "") -> subprocess.CompletedProcess[str]:
        command = ("-m", "excamera_dask.cli", "encode", "clip.y4m", "-o", "out.webm")
        return self.run(*command, "--executor", executor, path=path)


def write(path: Path, text: str = THEIRS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel(DISTRIBUTION, IMPORTED, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that is installed here but ours, which must not stand in for what the tests take away."""
    folder = tmp_path_factory.mktemp("others")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith((*IMPORTED, "__editable__")):
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture
def place(wheel: Path, others: Path, tmp_path: Path) -> Place:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "here").mkdir()
    with Y4mWriter(tmp_path / "here" / "clip.y4m", 32, 32, Fraction(25)) as writer:
        for image in moving_images(32, 32, 2):
            writer.write(image)
    return Place(tmp_path / "site", others, tmp_path / "here")


def shadow(name: str) -> Callable[[Place], Path]:
    """A file of others in the current folder."""

    def prepare(place: Place) -> Path:
        write(place.here / name)
        return place.here / name

    return prepare


def overwrite(name: str, *others: str, text: str = THEIRS) -> Callable[[Place], Path]:
    """A distribution that is installed after ours; `name` is the file to be told of."""

    def prepare(place: Place) -> Path:
        place.install(name, *others, text=text)
        return place.site / name

    return prepare


def remove(name: str) -> Callable[[Place], Path]:
    """What uninstalling a distribution with such a file leaves of ours."""

    def prepare(place: Place) -> Path:
        path = place.site / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return path

    return prepare


AT_THE_DOOR = {
    "a module here": shadow("codec.py"),
    "a package here": shadow("codec/__init__.py"),
    "another package here": shadow("executors/__init__.py"),
    "installed after ours": overwrite("executors/__init__.py", "executors/models/__init__.py"),
    "the codec too": overwrite("codec/__init__.py", "codec/decoder.py"),
    "installed before ours": overwrite("executors/local/__init__.py"),
    "an extension": overwrite(f"codec/decoder{EXTENSION_SUFFIXES[0]}"),
    "uninstalled after ours": remove("executors/__init__.py"),
    "all uninstalled": remove("codec"),
}
"""What an import of `excamera_dask` sees at once."""

WITHIN = {
    "a module of the same name": overwrite("codec/decoder.py", text="theirs = 1\n"),
    "a module is gone": remove("codec/decoder.py"),
    "a module deep inside": remove("excamera_dask/sources/index.py"),
    "our own beginning": overwrite("excamera_dask/__init__.py", text=""),
    "our own beginning is gone": remove("excamera_dask/__init__.py"),
}
"""What the command sees, at once or when something fails."""


@pytest.mark.parametrize("name", [*AT_THE_DOOR, *WITHIN])
def test_the_command_names_the_file_in_one_line(name: str, place: Place) -> None:
    file = {**AT_THE_DOOR, **WITHIN}[name](place)
    done = place.encode()
    assert done.returncode == 1, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("excamera: ") and str(file) in line, line
    assert any(cure in line for cure in ("rename it", "uninstall rivals", "anew")), line
    assert not (place.here / "out.webm").exists()


@pytest.mark.parametrize("name", ["a module here", "installed before ours", *WITHIN])
def test_the_doctor_tells_it_too(name: str, place: Place) -> None:
    file = {**AT_THE_DOOR, **WITHIN}[name](place)
    done = place.run("-m", "excamera_dask.cli", "doctor")
    assert done.returncode == 1, done
    assert str(file) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", AT_THE_DOOR)
def test_the_library_raises_it(name: str, place: Place) -> None:
    file = AT_THE_DOOR[name](place)
    code = "try:\n    import excamera_dask.stages\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    done = place.run("-c", code)
    assert done.stdout.startswith("InstallationError "), done
    assert str(file) in done.stdout


def test_a_package_that_is_imported_already_is_seen(place: Place) -> None:
    code = (
        "import sys, types; sys.modules['codec'] = types.ModuleType('codec'); import excamera_dask"
    )
    done = place.run("-c", code)
    assert "InstallationError: a module codec without a file" in done.stderr


def test_a_path_before_ours_is_named(place: Place, tmp_path: Path) -> None:
    write(tmp_path / "theirs" / "executors" / "__init__.py")
    done = place.encode(path=str(tmp_path / "theirs"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert str(tmp_path / "theirs" / "executors" / "__init__.py") in line and "PYTHONPATH" in line


def test_a_folder_without_python_in_it_hides_nothing(place: Place) -> None:
    write(place.here / "codec" / "notes.txt")
    write(place.site / "executors" / "local" / "notes.txt")
    done = place.run("-c", "from excamera_dask import api; import executors.local")
    assert done.returncode == 0, done.stderr


def test_a_dask_worker_tells_it_to_the_client(place: Place, tmp_path: Path) -> None:
    write(tmp_path / "theirs" / "codec.py")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'theirs'}{os.pathsep}{place.site}"}
    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", "--no-nanny"]
    with LocalCluster(n_workers=0, dashboard_address=None, silence_logs=50) as cluster:
        worker = subprocess.Popen(
            [*command, cluster.scheduler_address],
            env=environment,
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not cluster.scheduler.workers:
                time.sleep(0.1)
            done = place.encode(cluster.scheduler_address)
        finally:
            worker.terminate()
            worker.wait()
    assert done.returncode == 1
    assert str(tmp_path / "theirs" / "codec.py") in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr


def test_what_we_start_does_not_import_what_lies_here(place: Place) -> None:
    """`python -m` and `python -c` have the current folder on their path, which the command itself has not."""
    write(place.here / "codec.py")
    write(place.here / "executors" / "__init__.py")
    relay = """
import asyncio
from executors.rendezvous.credentials import Authority
from executors.rendezvous.process import RelayProcess
async def main():
    relay = await RelayProcess.start(Authority.create())
    await relay.stop()
asyncio.run(main())
"""
    done = place.run("-P", "-c", relay)
    assert done.returncode == 0, done.stderr
    server = """
import multiprocessing, sys
from excamera_dask.cli.head_start import head_start
def told():
    import codec
    print(codec.__file__, flush=True)
if __name__ == "__main__":
    head_start("local")
    process = multiprocessing.get_context("forkserver").Process(target=told)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""
    write(place.site.parent / "script.py", server)
    done = place.run("-P", place.site.parent / "script.py")
    assert done.stdout.strip() == str(place.site / "codec" / "__init__.py"), done


def test_without_the_runtime_client_it_is_named_before_anything_is_done(place: Place) -> None:
    job = ["encode", "clip.y4m", "-o", "out.webm", "--executor", "lambda", "--backend", "local"]
    code = f"""
import os, sys
del os.environ["NUMBA_DISABLE_JIT"]
sys.modules["awslambdaric"] = None
from excamera_dask.cli import main
sys.exit(main({job}))
"""
    done = place.run("-c", code)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "pip install 'excamera-dask[local-lambda]'" in line


def test_here_all_is_as_it_was_installed() -> None:
    check_files()
