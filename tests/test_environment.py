"""What a machine may refuse: a folder, semaphores, files. Each either does not matter or is told in one line."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from test_api import write_film

from codec.kernel_cache import FOR_ALL_USERS

ENCODE = [sys.executable, "-m", "excamera_dask.cli", "encode"]
PLAIN = ["-x", "1", "--first-pass", "libvpx", "--no-scene-cuts"]
"""Plain chunking needs none of our kernels."""


@pytest.fixture(scope="module", autouse=True)
def _nothing_for_all_users() -> Iterator[None]:
    """Without a home, root keeps kernels where all users find them; a test leaves none there."""
    was_there = FOR_ALL_USERS.exists()
    yield
    if not was_there:
        shutil.rmtree(FOR_ALL_USERS, ignore_errors=True)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "film.y4m", frames=12)


def encode(
    film: Path, out: Path, under: str = "", options: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Encode in a shell that has run `under` before, in mounts of its own where that mounts anything."""
    command = [*ENCODE, str(film), "-o", str(out), "-y", *PLAIN, *options]
    shell = ["sh", "-c", f'{under}\nexec "$@"', "sh", *command]
    if "mount " in under:
        if os.geteuid() != 0 or not shutil.which("unshare"):
            pytest.skip("needs to be root, and unshare (Debian: util-linux), for mounts of its own")
        shell = ["unshare", "-m", *shell]
    return subprocess.run(
        shell,
        cwd=out.parent,  # where workers leave their files if there is no other place
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("excamera: ")
    assert all(word in line for word in words), line


def over_temporary_files(*, full: bool) -> str:
    """Shell that puts a /tmp of a few bytes, or a read-only one, in place of /tmp, and leaves what these tests run on there."""
    needed = [sys.prefix, sys.base_prefix, os.getcwd(), os.environ.get("NUMBA_CACHE_DIR", "")]
    kept = sorted({"/".join(path.split("/")[:3]) for path in needed if path.startswith("/tmp/")})
    lines = ["mount --make-rprivate /", "mount -t tmpfs none /mnt"]
    lines += [f"mkdir /mnt/{n}; mount --bind {path} /mnt/{n}" for n, path in enumerate(kept)]
    lines.append(f"mount -t tmpfs -o {'size=4k' if full else 'mode=1777'} none /tmp")
    lines += [f"mkdir {path}; mount --move /mnt/{n} {path}" for n, path in enumerate(kept)]
    if full:
        return "\n".join([*lines, "head -c 4096 /dev/zero >/tmp/full"])
    return "\n".join([*lines, "mount -o remount,ro /tmp", "mount -t tmpfs -o ro none /var/tmp"])


READ_ONLY_SHM = "mount -t tmpfs -o ro none /dev/shm"
FULL_SHM = "mount -t tmpfs -o size=4k none /dev/shm; head -c 4096 /dev/zero >/dev/shm/full"


@pytest.mark.parametrize(
    ("under", "reason"), [(READ_ONLY_SHM, "Read-only"), (FULL_SHM, "No space left")]
)
def test_without_shared_memory_the_cure_is_told(
    film: Path, tmp_path: Path, under: str, reason: str
) -> None:
    done = encode(film, tmp_path / "out.ivf", under, ["-w", "2"])
    assert_one_line(done, "/dev/shm", reason, "--shm-size", "--executor sync")
    assert not list(tmp_path.iterdir())
    assert encode(film, tmp_path / "out.ivf", under, ["--executor", "sync"]).returncode == 0


def test_shared_memory_may_forbid_programs(film: Path, tmp_path: Path) -> None:
    under = "mount -t tmpfs -o noexec,nosuid,nodev,size=64k none /dev/shm"
    assert encode(film, tmp_path / "out.ivf", under, ["-w", "2"]).returncode == 0


def test_the_doctor_sees_that_processes_cannot_start() -> None:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs to be root, and unshare (Debian: util-linux), for mounts of its own")
    command = f"{READ_ONLY_SHM} && exec {sys.executable} -m excamera_dask.cli doctor"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1
    assert "/dev/shm" in done.stderr


@pytest.mark.parametrize("where", [["-w", "2"], ["--executor", "sync"]])
@pytest.mark.parametrize(
    "under",
    [
        pytest.param(over_temporary_files(full=False), id="read-only /tmp"),
        pytest.param(over_temporary_files(full=True), id="full /tmp"),
        "export TMPDIR=/nonexistent",
        "cd /proc",
        "unset HOME",
        "export HOME=/proc/nothing XDG_CACHE_HOME=/proc/nothing EXCAMERA_CACHE_DIR= NUMBA_CACHE_DIR=",
        "ulimit -n 64",
    ],
)
def test_what_does_not_matter(film: Path, under: str, where: Sequence[str]) -> None:
    home = Path.cwd()  # not among the temporary files, which are mounted over
    folder = home / f".environment-{os.getpid()}"
    folder.mkdir()
    try:
        shutil.copy(film, folder)
        done = encode(folder / film.name, folder / "out.ivf", under, where)
        assert done.returncode == 0, done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert "12 frames" in line
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "under, word",
    [
        ("ulimit -v 600000", "ulimit -v"),
        ("ulimit -n 20", os.strerror(errno.EMFILE)),
        pytest.param("mount -t tmpfs -o size=8k,mode=1777 none /dev/shm", "/dev/shm", id="full /dev/shm"),
    ],
)  # fmt: skip
def test_what_processes_cannot_start_with_is_told(
    film: Path, tmp_path: Path, under: str, word: str
) -> None:
    done = encode(film, tmp_path / "out.ivf", under, ["-w", "2"])
    assert_one_line(done, "worker processes", word, "--executor sync")
    assert not (tmp_path / "out.ivf").exists()


def test_without_any_temporary_folder_the_cure_is_told(film: Path) -> None:
    folder = Path.cwd() / f".environment-{os.getpid()}"
    folder.mkdir()
    under = f"{over_temporary_files(full=False)}; cd /proc"
    try:
        shutil.copy(film, folder)
        done = encode(folder / film.name, folder / "out.ivf", under, ["-w", "2"])
        assert_one_line(done, "worker processes cannot start", "TMPDIR")
        assert not (folder / "out.ivf").exists()
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("where", [["-w", "2"], ["--executor", "sync"]])
def test_a_limit_on_the_size_of_files_is_told(
    film: Path, tmp_path: Path, where: Sequence[str]
) -> None:
    done = encode(film, tmp_path / "out.ivf", "ulimit -f 1", where)
    assert_one_line(done, "file too large")
    assert not (tmp_path / "out.ivf").exists()
