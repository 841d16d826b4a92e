"""Each benchmark still runs, on next to nothing; its figures are not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_api import write_film

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CLIP = "CLIP"
ALONE = {
    "fleet": ["20"],
    "fleet_registration": ["--workers", "4", "--upto", "scheduler"],
    "registration": ["--workers", "4"],
    "latency": ["--minutes", "0.5"],
    "relay": ["--megabytes", "1", "--hops", "2", "--rounds", "1", "--sizes", "1000"],
    "relay_floor": ["--megabytes", "1", "--rounds", "1"],
    "scheduler": ["--chunks", "4", "--workers", "1"],
    "transfer": [CLIP, "--chunks", "1"],
    "reading": [CLIP],
}
WITH_A_LOCAL_LAMBDA = {
    "local_lambda": ["--environments", "2", "--heavy", "1"],
    "small_tasks": ["--tasks", "20", "--workers", "1", "--rounds", "1"],
}
WITH_LIBVPXS_TOOLS = {
    "decode": [CLIP, "--limit", "6", "--rounds", "1"],
    "encoder_rd": [CLIP, "--frames", "3", "--quantizers", "20", "40"],
    "estimate": [CLIP, "--limit", "12", "--rounds", "1"],
    "rebase_rd": [CLIP, "--limit", "6", "--cq-level", "20", "--cq-level", "40"],
    "stage_seconds": [CLIP, "--limit", "12", "--rounds", "1"],
    "frontier": [CLIP, "--limit", "8", "--cq-levels", "20,40"],
    "whole_job": [CLIP, "--limit", "12", "--rounds", "1"],
}
TOO_LONG = {
    "kernels",  # a 720p frame through every kernel, many times
    "memory",  # a film of some length, or there is nothing to see
    "start_up",  # compiles everything anew
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("clip") / "film.y4m", frames=24)


def runs(name: str, arguments: list[str], clip: Path) -> None:
    command = [sys.executable, BENCHMARKS / f"{name}.py", *arguments]
    command = [str(clip) if word == CLIP else str(word) for word in command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip(), "it says nothing"
    for word in ("Traceback", "refused"):
        assert word not in done.stderr, done.stderr[-3000:]


@pytest.mark.parametrize("name", ALONE)
def test_alone(name: str, clip: Path) -> None:
    runs(name, ALONE[name], clip)


def test_transfer_between_hidden_frames(clip: Path) -> None:
    runs("transfer", [CLIP, "--preset", "balanced", "-N", "4", "--chunks", "2"], clip)


@pytest.mark.parametrize("name", WITH_A_LOCAL_LAMBDA)
def test_with_a_local_lambda(name: str, clip: Path) -> None:
    pytest.importorskip("awslambdaric", reason="needs AWS's runtime client")
    runs(name, WITH_A_LOCAL_LAMBDA[name], clip)


@pytest.mark.parametrize("name", WITH_LIBVPXS_TOOLS)
def test_with_libvpxs_tools(name: str, clip: Path, vpxenc: str, vpxdec: str) -> None:
    runs(name, WITH_LIBVPXS_TOOLS[name], clip)


def test_none_is_left_out() -> None:
    there = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert there == {*ALONE, *WITH_A_LOCAL_LAMBDA, *WITH_LIBVPXS_TOOLS, *TOO_LONG}
