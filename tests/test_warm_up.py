"""Compiling the kernels: told once before, and told where they cannot be kept."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from codec import kernel_cache
from codec.kernel_cache import INTERPRETED
from excamera_dask import warm_up

pytestmark = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")


def test_compiled_kernels_are_marked_and_not_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_up, "complete_mark", lambda: tmp_path / "kernels" / "complete")
    said: list[str] = []
    warm_up.compile_kernels(said.append)
    assert len(said) == 1 and said[0].startswith("compiling")
    warm_up.compile_kernels(said.append)
    assert len(said) == 1


def test_another_installation_of_the_same_sources_is_marked_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba keeps kernels by the path of their sources: what one virtual environment compiled, another does not find."""
    here = kernel_cache.complete_mark()
    shutil.copytree(Path(kernel_cache.__file__).parent, tmp_path / "codec")
    monkeypatch.setattr(kernel_cache, "_PACKAGE", tmp_path / "codec")
    there = kernel_cache.complete_mark()
    assert there.parent == here.parent and there != here


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(warm_up, "complete_mark", lambda: tmp_path / "file" / "complete")
    said: list[str] = []
    warm_up.compile_kernels(said.append)
    assert len(said) == 2
    assert "cannot be kept" in said[1] and "EXCAMERA_CACHE_DIR" in said[1]


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
