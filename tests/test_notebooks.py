"""The notebooks' cells run as they stand, on a small film."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from streams import moving_images

from excamera_dask.formats.y4m import Y4mWriter

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "clip.y4m"
    with Y4mWriter(path, 64, 48, Fraction(25)) as writer:
        for image in moving_images(64, 48, 24):
            writer.write(image)
    monkeypatch.setenv("CLIP", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def run_cells(name: str) -> dict[str, object]:
    """Run all code cells in one namespace, as a kernel would."""
    notebook = json.loads((NOTEBOOKS / name).read_text())
    space: dict[str, object] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name} {cell['id']}", "exec"), space)
    return space


def test_lambda(clip: Path) -> None:
    pytest.importorskip(
        "awslambdaric", reason="needs AWS's runtime client: pip install awslambdaric"
    )
    space = run_cells("lambda.ipynb")
    assert space["video"].report.frames == 24  # type: ignore[attr-defined]
    assert (clip.parent / "out.webm").stat().st_size == len(space["video"].data)  # type: ignore[attr-defined]


def test_steps(clip: Path) -> None:
    assert os.environ["CLIP"] == str(clip)
    run_cells("steps.ipynb")
