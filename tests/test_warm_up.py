"""Compiling the kernels: told once before, and told where they cannot be kept."""

from pathlib import Path

import pytest

from codec.kernel_cache import INTERPRETED
from excamera_dask import warm_up

pytestmark = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")


def test_compiled_kernels_are_marked_and_not_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_up, "cache_directory", lambda: tmp_path / "kernels")
    said: list[str] = []
    warm_up.compile_kernels(said.append)
    assert len(said) == 1 and said[0].startswith("compiling")
    warm_up.compile_kernels(said.append)
    assert len(said) == 1


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(warm_up, "cache_directory", lambda: tmp_path / "file" / "kernels")
    said: list[str] = []
    warm_up.compile_kernels(said.append)
    assert len(said) == 2
    assert "cannot be kept" in said[1] and "EXCAMERA_CACHE_DIR" in said[1]
