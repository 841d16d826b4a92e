"""Compiling the kernels: told once before, and told where they cannot be kept."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from codec import kernel_cache, kernel_files
from codec.kernel_cache import INTERPRETED
from excamera_dask.kernels import warm_up

pytestmark = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")


A_KERNEL = """
import sys
from codec.kernel import kernel
from codec.kernel_cache import mark_complete
from codec.kernel_files import FOLDERS, UNSAVED

@kernel
def twice(value):
    return 2 * value

print(twice(21), sum(twice.stats.cache_hits.values()), len(UNSAVED))
if "MARK" in sys.argv:
    mark_complete(FOLDERS)
"""
"""What a module of the codec is: it prints its result, how many kernels came from the cache, and how many were not kept."""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(A_KERNEL)
    return path


def run(
    program: Path, cache: Path, user: Sequence[str] = (), *arguments: str, **environment: str
) -> list[int]:
    """What the program prints when it keeps its kernels in `cache`."""
    done = subprocess.run(
        [*user, sys.executable, str(program), *arguments],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.fixture
def nobody(tmp_path: Path) -> Sequence[str]:
    """A command that runs another as a user who may read all, wherever Python itself lies, and write nothing of ours."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs to be root, and setpriv (Debian: util-linux), to become another user")
    reads = "+dac_read_search"
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    return [*command, "--inh-caps", reads, "--ambient-caps", reads]


def test_kernels_are_read_where_nothing_can_be_written(
    program: Path, tmp_path: Path, nobody: Sequence[str]
) -> None:
    """As another user, and as root on a file system that is mounted read-only."""
    cache = tmp_path / "cache"
    assert run(program, cache, [], "MARK") == [42, 0, 0]
    assert subprocess.run([*nobody, "touch", str(cache / "file")], capture_output=True).returncode
    assert run(program, cache, nobody) == [42, 1, 0]
    read_only = (
        f'mount --bind "{cache}" "{cache}" && mount -o remount,ro,bind "{cache}" && exec "$@"'
    )
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0:
        mounted = ["unshare", "-m", "sh", "-c", read_only, "sh"]
        assert run(program, cache, mounted) == [42, 1, 0]


def test_a_user_without_a_place_of_ones_own_has_one_among_the_temporary_files(
    program: Path, tmp_path: Path, nobody: Sequence[str]
) -> None:
    """It is kept for the next process, and for that user alone."""
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    cache.mkdir()
    temporary.mkdir()
    temporary.chmod(0o777)
    assert run(program, cache, nobody, TMPDIR=str(temporary)) == [42, 0, 0]
    assert run(program, cache, nobody, TMPDIR=str(temporary)) == [42, 1, 0]
    (own,) = temporary.iterdir()
    assert own.name == "excamera-kernels-65534"
    assert own.stat().st_mode & 0o777 == 0o700
    assert run(program, cache, TMPDIR=str(temporary)) == [42, 0, 0]  # root writes where it is told


def test_a_folder_that_somebody_else_made_among_the_temporary_files_is_not_used(
    program: Path, tmp_path: Path, nobody: Sequence[str]
) -> None:
    """What lies in a cache is run."""
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    cache.mkdir()
    (temporary / "excamera-kernels-65534").mkdir(parents=True)
    temporary.chmod(0o777)
    (temporary / "excamera-kernels-65534").chmod(0o777)
    assert run(program, cache, nobody, TMPDIR=str(temporary)) == [42, 0, 1]
    assert not list((temporary / "excamera-kernels-65534").iterdir())


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["empty", "cut", "zeros"])
def test_damaged_files_are_compiled_anew_and_mended(
    program: Path, tmp_path: Path, ending: str, damage: str
) -> None:
    cache = tmp_path / "cache"
    run(program, cache)
    (file,) = cache.rglob(f"*.{ending}")
    data = file.read_bytes()
    file.write_bytes(
        {"empty": b"", "cut": data[: len(data) // 2], "zeros": bytes(len(data))}[damage]
    )
    assert run(program, cache) == [42, 0, 0]
    assert run(program, cache) == [42, 1, 0]


def test_a_full_disk_ends_nothing(program: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    full = f'mount -t tmpfs -o size=4k none "{cache}" && exec "$@"'
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("needs to be root to mount a file system")
    assert run(program, cache, ["unshare", "-m", "sh", "-c", full, "sh"]) == [42, 0, 1]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty place for kernels."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("EXCAMERA_CACHE_DIR", str(tmp_path / "kernels"))
    yield tmp_path / "kernels"


def fill(place: Path) -> tuple[Path, Path]:
    """Files that stand for a module's kernels, marked as all there are."""
    folder = kernel_cache.cache_directory("decoder") / "codec_0"
    folder.mkdir(parents=True)
    index, data = folder / "decode.nbi", folder / "decode.1.nbc"
    index.write_bytes(b"index")
    data.write_bytes(b"data")
    kernel_cache.mark_complete([str(folder)])
    return index, data


def test_what_is_lacking_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel_cache.lacking(place) == ""
    index, data = fill(place)
    assert kernel_cache.lacking(place) is None
    index.write_bytes(b"index of two")
    assert kernel_cache.lacking(place) is None
    data.write_bytes(b"dat")
    assert kernel_cache.lacking(place) == f"{data} is damaged"
    data.unlink()
    assert kernel_cache.lacking(place) == f"{data} is missing"
    mark = kernel_cache.complete_mark()
    mark.write_text("{")
    assert kernel_cache.lacking(place) == f"{mark} is damaged"
    mark.unlink()
    assert kernel_cache.lacking(place) == f"those in {place} are incomplete"
    fill_again = mark.with_name(mark.name[:-8] + "01234567")
    fill_again.write_text("{}")
    assert "another processor" in str(kernel_cache.lacking(place))
    fill_again.rename(mark.with_name("complete-0-0"))
    assert "an installation in another folder" in str(kernel_cache.lacking(place))
    monkeypatch.setattr(kernel_cache, "_digest", lambda module: "0" * 16)
    assert "another version" in str(kernel_cache.lacking(place))


def test_pinned_and_own_processors_do_not_share_a_mark(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = kernel_cache.processor.__wrapped__()
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "")
    pinned = kernel_cache.processor.__wrapped__()
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2")
    assert len({own, pinned, kernel_cache.processor.__wrapped__()}) == 3


def test_a_place_that_holds_all_comes_before_one_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels that an administrator compiled serve a user whose own folder is empty, or who has no home at all."""
    for name in ("NUMBA_CACHE_DIR", "EXCAMERA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    monkeypatch.setattr(kernel_cache, "FOR_ALL_USERS", tmp_path / "all")
    assert kernel_cache.cache_root() == tmp_path / "own" / "excamera-dask"
    kernel_cache._chosen.cache_clear()
    monkeypatch.setenv("EXCAMERA_CACHE_DIR", str(tmp_path / "all"))
    fill(tmp_path / "all")
    monkeypatch.delenv("EXCAMERA_CACHE_DIR")
    assert kernel_cache.cache_root() == tmp_path / "all"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where there is no home
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert kernel_cache.cache_root() == tmp_path / "all"
    assert tmp_path / "all" == kernel_cache.places()[0]


def test_another_installation_of_the_same_sources_is_marked_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba keeps kernels by the path of their sources: what one virtual environment compiled, another does not find."""
    here = kernel_cache.complete_mark()
    shutil.copytree(Path(kernel_cache.__file__).parent, tmp_path / "codec")
    monkeypatch.setattr(kernel_cache, "_PACKAGE", tmp_path / "codec")
    there = kernel_cache.complete_mark()
    assert there.parent == here.parent and there != here


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's own kernels, loaded before the place changes, stand for compiling."""
    warm_up.load_kernels()
    monkeypatch.setattr(warm_up, "_in_another_process", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(kernel_files, "UNSAVED", [])


def test_compiling_is_told_once_and_why(
    warm: None, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = kernel_cache.cache_directory("decoder") / "codec_0"
    folder.mkdir(parents=True)
    monkeypatch.setattr(kernel_files, "FOLDERS", {str(folder)})
    said: list[str] = []
    warm_up.compile_kernels(said.append)
    warm_up.compile_kernels(said.append)
    assert said == [
        f"compiling the codec's kernels (about a minute): those in {place} are incomplete"
    ]


def test_a_cache_that_cannot_be_written_is_told(
    warm: None, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.touch()  # a file, where nobody can make a folder
    monkeypatch.setattr(kernel_cache, "_temporary_place", lambda: (tmp_path / "mine",))
    said: list[str] = []
    monkeypatch.setattr(kernel_files, "FOLDERS", set())
    warm_up.compile_kernels(said.append)
    assert len(said) == 1
    assert f"{place} cannot be written, they are kept in {tmp_path / 'mine'}" in said[0]
    assert "EXCAMERA_CACHE_DIR" in said[0]
    monkeypatch.setattr(kernel_cache, "_temporary_place", tuple)
    warm_up.compile_kernels(said.append)
    assert len(said) == 3
    assert "cannot be kept" in said[2] and "EXCAMERA_CACHE_DIR" in said[2]


@pytest.mark.slow
def test_all_kernels_that_root_compiled_serve_a_user_who_cannot_write(
    tmp_path: Path, nobody: Sequence[str]
) -> None:
    """Nothing is compiled, nothing is said, nothing is written."""
    code = """
from excamera_dask.kernels import warm_up
warm_up.compile_kernels(print)
warm_up.load_kernels()
print(len(warm_up.count_loads()[1]))
"""
    if kernel_cache.lacking(kernel_cache.cache_root()) is not None:
        pytest.skip("not all kernels are compiled: excamera doctor --warm-up")
    image = tmp_path / "image"
    image.mkdir()
    for module in (None, *kernel_cache.modules()):
        folder = kernel_cache.cache_directory(module)
        if folder.is_dir():
            shutil.copytree(folder, image / folder.name)
    environment = {**os.environ, "EXCAMERA_CACHE_DIR": str(image), "HOME": "/nonexistent"}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [*nobody, sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("module", ["stages", "scene_cuts", "graph", "key_frames"])
def test_what_a_worker_unpickles_tasks_with_imports_no_kernels(module: str) -> None:
    """It is imported in the thread that talks to the scheduler, while another loads the kernels."""
    code = f"import sys, excamera_dask.{module}; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_may_import_the_kernels_at_once() -> None:
    code = """
import threading, codec
failures = []
def run(act):
    try:
        act()
    except Exception as error:
        failures.append(error)
acts = [codec.import_kernels, lambda: codec.decode, lambda: codec.encode_key_frame, codec.import_kernels]
threads = [threading.Thread(target=run, args=[act]) for act in acts]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failures, failures
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_what_a_module_runs_counts_as_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        "one": "from codec import two, three as other\n"
        "if TYPE_CHECKING:\n    from codec.five import Five\n\n    from codec import six\nx = 1\n",
        "two": "from codec.inside.four import (\n    name,  # said here\n    other,\n)\n",
        "three": "def late():\n    from codec import seven\n",
        "inside/__init__": "",
        "inside/four": "import codec\nfrom codec import kernels\n",
        **dict.fromkeys(("__init__", "five", "six", "seven"), ""),
    }
    for name, text in sources.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(kernel_cache, "_PACKAGE", tmp_path)
    for remembered in (kernel_cache.modules, kernel_cache._imports, kernel_cache._sources_behind):
        monkeypatch.setattr(kernel_cache, remembered.__name__, remembered.__wrapped__)
    behind = kernel_cache._sources_behind("one")
    assert behind == ("inside.four", "one", "seven", "three", "two")


def test_a_frames_header_is_behind_few_kernels() -> None:
    """Those who only know the type of a frame need not be compiled again."""
    behind = [
        m for m in kernel_cache.modules() if "frame_header" in kernel_cache._sources_behind(m)
    ]
    assert "reconstruct" in behind and "encoding.rebase" in behind
    assert not {"loop_filter", "tokens", "predict_inter", "encoding.motion_search"} & set(behind)
