"""Versions that must agree, and how a mismatch is told."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from executors.aws_lambda.deploy import versions
from executors.aws_lambda.deploy.errors import VersionMismatch
from executors.aws_lambda.deploy.versions import from_text, mismatch, require_same, to_text

OURS = {"python": "3.11.7", "excamera-dask": "0.2.0", "distributed": "2026.8.0", "sources": "abc"}
FIX = "run excamera lambda build && excamera lambda deploy"


def test_the_same_is_no_mismatch() -> None:
    assert mismatch(OURS, OURS) is None
    require_same(OURS, OURS)


def test_one_difference_is_told_with_the_fix() -> None:
    theirs = {**OURS, "excamera-dask": "0.1.0", "sources": "def"}
    assert mismatch(theirs, OURS, who="function excamera") == (
        f"function excamera has excamera-dask 0.1.0, this client 0.2.0: {FIX}"
    )


def test_several_differences_are_one_line() -> None:
    theirs = {**OURS, "excamera-dask": "0.1.0", "distributed": "2025.5.0"}
    with pytest.raises(VersionMismatch) as raised:
        require_same(theirs, OURS, who="the scheduler", here="this worker", fix="restart it")
    assert str(raised.value) == (
        "the scheduler has excamera-dask 0.1.0 and distributed 2025.5.0, this worker 0.2.0 and 2026.8.0: restart it"
    )


def test_other_sources_of_one_version_are_told_as_such() -> None:
    assert mismatch({**OURS, "sources": "def"}, OURS, who="function excamera") == (
        f"function excamera was built from other sources of excamera-dask 0.2.0 than this client: {FIX}"
    )


@pytest.mark.parametrize(
    ("name", "one", "other", "agree"),
    [
        ("python", "3.11.2", "3.11.7", True),
        ("python", "3.11.7", "3.12.7", False),
        ("python", "3.1.7", "3.11.7", False),
        ("numpy", "2.0.1", "2.4.6", True),
        ("numpy", "1.26.4", "2.4.6", False),
        ("distributed", "2026.8.0", "2026.8.1", False),
        ("av", "18.1.0", "18.1.0", True),
    ],
)
def test_as_much_of_a_version_counts_as_has_to(
    name: str, one: str, other: str, agree: bool
) -> None:
    assert (mismatch({name: one}, {name: other}) is None) is agree


def test_what_one_side_does_not_list_is_not_compared() -> None:
    assert mismatch(OURS, {**OURS, "vpxenc": "1.12.0"}) is None


def test_a_difference_that_no_image_mends_has_its_own_fix() -> None:
    from excamera_dask import lambda_image

    theirs, ours = ({**OURS, "vpxenc": version} for version in ("1.12.0", "1.13.0"))
    assert mismatch(theirs, ours, who="function excamera") == (
        "function excamera has vpxenc 1.12.0, this client 1.13.0: "
        "run the job with --first-pass libvpx, or take the same vpx-tools here"
    )
    assert "vpxenc" not in lambda_image.versions("libvpx")


def test_whoever_tells_nothing_is_refused() -> None:
    assert mismatch({}, OURS, who="function thumbnails") == (
        f"function thumbnails does not tell its versions: {FIX}"
    )


def test_what_is_installed_agrees_with_the_packages_own_word() -> None:
    found = versions.installed(("numpy", "no-such-package"))
    assert found["distributed"] == metadata.version("distributed")
    assert found["numpy"] == metadata.version("numpy")
    assert "no-such-package" not in found


def test_an_image_tells_its_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "versions.json"
    listed.write_text(json.dumps(OURS))
    monkeypatch.setenv(versions.FILE, str(listed))
    assert versions.installed() == OURS
    listed.write_text("half a lis")
    with pytest.raises(VersionMismatch, match=f"no list of versions .*: {FIX}"):
        versions.installed()


def test_versions_pass_through_a_variable() -> None:
    assert from_text(to_text(OURS)) == OURS
    assert from_text("nothing of ours") == {}


def test_comparing_versions_does_not_load_the_tools_of_deployment() -> None:
    code = (
        "import sys, executors.aws_lambda.deploy.versions;"
        "print([name for name in ('boto3', 'botocore', 'numba', 'av') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
