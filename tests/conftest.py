"""Fixtures that every test module may use: the shared footage, the command-line tools beside us."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import stores
from aws import aws, aws_server, credentials, no_aws, run  # noqa: F401 - fixtures of all modules

# The background jobs of a shell begin with it ignored, and so would ours, which the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Of what lies under /tmp, functions on this machine see no more than this names: the tests' own modules, wherever they lie.
_PATH = [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PATH))


def pytest_sessionstart() -> None:
    """Where an installed wheel is tested, see that it is: nothing of the checkout may stand in for what it lacks."""
    checkout = os.environ.get("EXCAMERA_CHECKOUT")
    for package in ("codec", "executors", "excamera_dask") if checkout else ():
        file = Path(str(import_module(package).__file__)).resolve()
        if "site-packages" not in file.parts or not file.is_relative_to(Path(sys.prefix).resolve()):
            pytest.exit(
                f"{file} is not of the installed wheel", returncode=pytest.ExitCode.USAGE_ERROR
            )


def _shared_folder() -> Path:
    beside = Path(__file__).resolve().parents[1].parent / "shared"
    return Path(os.environ.get("EXCAMERA_SHARED", beside))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test vectors and footage; the test skips where it is absent."""
    folder = _shared_folder()
    if not (folder / "vp8").is_dir():
        pytest.skip(f"no test material in {folder} (set EXCAMERA_SHARED)")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clusters of tests leave their logs elsewhere than those of the user."""
    os.environ["EXCAMERA_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))
    yield
    del os.environ["EXCAMERA_STATE_DIR"]


@pytest.fixture(autouse=True)
def _usual_scheduling() -> Iterator[None]:
    """SVT-AV1's encoder makes the thread that opens it, where it may, one of real time, and all that this starts later."""
    yield
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not on PATH (Debian: {package})")
    return path


@pytest.fixture(scope="session")
def vpxenc() -> str:
    """Path of vpxenc; the test skips without it."""
    return _tool("vpxenc", "vpx-tools")


@pytest.fixture(scope="session")
def vpxdec() -> str:
    """Path of vpxdec; the test skips without it."""
    return _tool("vpxdec", "vpx-tools")


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """Path of ffmpeg; the test skips without it."""
    return _tool("ffmpeg", "ffmpeg")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """moto's S3 server, for the whole session."""
    with stores.moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> stores.Store:
    """A new bucket, and an environment that leads to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in stores.aws_environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return stores.new_bucket(s3_endpoint)
