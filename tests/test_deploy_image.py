"""The build context: this very installation, the versions that run here, a Dockerfile with every value in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from aws import Run, at, client_at

import excamera_dask
from excamera_dask.lambda_image import IMPORTED, image_versions, recipe
from executors.aws_lambda.deploy import image, registry
from executors.aws_lambda.deploy.errors import DeploymentError
from executors.aws_lambda.deploy.requirements import pinned_requirements
from executors.aws_lambda.deploy.session import Place
from executors.aws_lambda.deploy.wheel import package_files, source_digest, write_wheel

ROOT = Path(excamera_dask.__file__).parents[1]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> image.Context:
    """A context for x86_64."""
    return image.write_context(recipe(), tmp_path_factory.mktemp("context"))


def test_each_argument_of_the_dockerfile_has_its_value(context: image.Context) -> None:
    text = (context.folder / "Dockerfile").read_text()
    arguments = dict(re.findall(r'^ARG (\w+)="(.+)"$', text, re.M))
    assert set(arguments) == set(re.findall(r"^ARG (\w+)", text, re.M))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert re.fullmatch(rf"python:{python}-slim-(bookworm|trixie)", arguments["BASE"])
    assert arguments["CPU"] == "x86-64-v3"
    assert arguments["SYSTEM_PACKAGES"] == "vpx-tools"
    used = set(re.findall(r"\$\{?([A-Z_]+)", text)) - {"PATH"}
    assert used == set(arguments)


def test_the_processor_is_pinned_where_kernels_are_compiled_and_where_they_run(
    context: image.Context,
) -> None:
    text = (context.folder / "Dockerfile").read_text()
    build, run = text.split("\nFROM ")[1:]
    for stage, step in ((build, "$PREPARE"), (run, "$CHECK")):
        before = stage[: stage.index(f"RUN {'PATH' if stage is build else 'sh'}")]
        assert "NUMBA_CPU_NAME=${CPU} NUMBA_CPU_FEATURES=" in before
        assert step in stage


def test_the_dockerfile_names_modules_and_commands_that_exist(context: image.Context) -> None:
    text = (context.folder / "Dockerfile").read_text()
    handler = re.search(r'CMD \["(.+)\.(\w+)"\]', text)
    start = re.search(r'START="(.+):(\w+)"', text)
    assert handler and start
    code = f"from {handler[1]} import {handler[2]}; from {start[1]} import {start[2]}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_requirements_are_what_runs_here(context: image.Context) -> None:
    pins = (context.folder / "requirements.txt").read_text().split()
    names = [pin.partition("==")[0] for pin in pins]
    assert {"distributed", "numba", "llvmlite", "av", "obstore", "awslambdaric", "tornado"} <= set(
        names
    )
    assert not {"pytest", "moto", "excamera-dask", "matplotlib"} & set(names)
    for pin in pins:
        name, sign, version = pin.partition("==")
        assert sign and metadata.version(name) == version


def test_what_is_not_installed_here_keeps_its_range() -> None:
    pins = pinned_requirements("click", ["no-such-runtime>=3,<5"])
    assert "no-such-runtime>=3,<5" in pins


def test_the_wheel_holds_each_file_as_it_is_here(context: image.Context) -> None:
    (path,) = context.folder.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        for package in IMPORTED:
            for source in (ROOT / package).rglob("*.py"):
                name = source.relative_to(ROOT).as_posix()
                assert wheel.read(name) == source.read_bytes()
        (record,) = (name for name in names if name.endswith("RECORD"))
        listed = {line.split(",")[0] for line in wheel.read(record).decode().split()}
    assert listed == names
    assert "executors/aws_lambda/deploy/Dockerfile" in names
    assert "executors/aws_lambda/deploy/template.yaml" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_the_wheel_installs_and_brings_its_entry_points(
    context: image.Context, tmp_path: Path
) -> None:
    (wheel,) = context.folder.glob("*.whl")
    install = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(tmp_path),
        str(wheel),
    ]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=120)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from importlib.metadata import distribution\n"
        "import excamera_dask\n"
        "found = distribution('excamera-dask')\n"
        "print(excamera_dask.__file__, found.version, *sorted(e.name for e in found.entry_points))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    path, version, *names = done.stdout.split()
    assert Path(path).is_relative_to(tmp_path)
    assert version == excamera_dask.__version__
    assert names == ["excamera", "rdv"]


def test_equal_installations_make_equal_images(context: image.Context, tmp_path: Path) -> None:
    again = image.write_context(recipe(), tmp_path / "again")
    assert again.tag == context.tag
    assert re.fullmatch(r"[\w][\w.-]{0,127}", again.tag)
    other = image.write_context(recipe(), tmp_path / "arm", "arm64")
    assert other.tag != context.tag and "arm64" in other.tag
    assert 'CPU="neoverse-n1"' in (tmp_path / "arm" / "Dockerfile").read_text()


def test_a_changed_source_makes_another_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "changing"
    package.mkdir()
    (package / "__init__.py").write_text("answer = 41\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    first = source_digest(["changing"])
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    assert source_digest(["changing"]) == first
    (package / "__init__.py").write_text("answer = 42\n")
    assert source_digest(["changing"]) != first
    assert [name for name, _ in package_files(["changing"])] == ["changing/__init__.py"]


def test_the_record_says_what_is_in_it(context: image.Context) -> None:
    record = json.loads((context.folder / image.RECORD).read_text())
    assert record == {"tag": context.tag, "architecture": "x86_64", "versions": image_versions()}
    assert record["versions"]["sources"] == source_digest(IMPORTED)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="no-such-thing is not installed here: pip install"):
        write_wheel("no-such-thing", IMPORTED, tmp_path)
    with pytest.raises(DeploymentError, match="the package nowhere is not installed here"):
        source_digest(["nowhere"])


def test_a_context_is_written_without_engine_and_aws(
    run: Run, tmp_path: Path, no_aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, out, _ = run(
        "lambda", "build", "--context-only", "-o", str(tmp_path / "context"), "--json"
    )
    assert code == 0
    told = json.loads(out)
    assert told["image"] is None and told["context"] == str(tmp_path / "context")
    written = {path.name.split("-")[0] for path in (tmp_path / "context").iterdir()}
    assert written == {
        "Dockerfile",
        ".dockerignore",
        "build.json",
        "excamera_dask",
        "requirements.txt",
    }


def test_no_engine_is_told_with_what_to_do(
    run: Run, no_aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert run("lambda", "build") == (
        1,
        "",
        "excamera: no container engine answers here (docker or podman): start one, or write the build context by "
        "--context-only -o DIR and build it where there is one\n",
    )


def test_a_zip_is_refused_by_its_size(run: Run) -> None:
    code, _, line = run("lambda", "build", "--package", "zip")
    assert code == 1
    assert re.fullmatch(
        r"excamera: a zip may unpack to 250 MiB, this installation has \d{3} \(llvmlite \d+, .*\): build an image\n",
        line,
    )


ENGINE = """#!{python}
# Stands for a container engine: keeps what it is told, and puts a manifest into the registry when it is to push.
import boto3, json, os, sys
with open({log!r}, "a") as log:
    given = sys.stdin.read() if "--password-stdin" in sys.argv else None
    print(json.dumps([sys.argv[1:], given, os.getcwd(), os.environ.get("BUILDX_NO_DEFAULT_ATTESTATIONS")]), file=log)
if sys.argv[1] == "push":
    name, _, tag = sys.argv[2].partition("/")[2].partition(":")
    ecr = boto3.client("ecr", region_name={region!r}, endpoint_url={url!r})
    ecr.put_image(repositoryName=name, imageManifest=json.dumps({{"image": tag}}), imageTag=tag,
                  imageManifestMediaType="application/vnd.docker.distribution.manifest.v2+json")
"""


def test_an_image_is_built_and_pushed_once(run: Run, aws: Place, tmp_path: Path) -> None:
    log, engine = tmp_path / "log", tmp_path / "engine"
    engine.write_text(
        ENGINE.format(python=sys.executable, log=str(log), region=aws.region, url=aws.endpoint_url)
    )
    engine.chmod(0o755)
    code, out, err = run("lambda", "build", "--engine", str(engine), "--json", *at(aws))
    assert code == 0, err
    told = json.loads(out)
    repository = f"123456789012.dkr.ecr.{aws.region}.amazonaws.com/excamera"
    assert re.fullmatch(rf"{repository}@sha256:[0-9a-f]{{64}}", told["image"])
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    name = f"{repository}:{told['tag']}"
    assert [call[0] for call in calls] == [
        ["version"],
        ["build", "--platform", "linux/amd64", "-t", name, "."],
        ["login", "--username", "AWS", "--password-stdin", repository.partition("/")[0]],
        ["push", name],
    ]
    assert calls[1][3] == "1"
    assert calls[2][1] == registry.login(client_at(aws, "ecr")).password
    code, out, _ = run("lambda", "build", "--engine", str(engine), "--json", *at(aws))
    assert json.loads(out)["image"] == told["image"]
    again = [json.loads(line)[0] for line in log.read_text().splitlines()[len(calls) :]]
    assert again == [["version"]]


def test_an_engine_that_fails_is_told(run: Run, aws: Place, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.write_text('#!/bin/sh\n[ "$1" = version ]\n')
    engine.chmod(0o755)
    code, _, line = run("lambda", "build", "--engine", str(engine), *at(aws))
    assert code == 1
    assert re.fullmatch(
        r"excamera: building \S+ failed: engine build ended with 1, its reasons above\n", line
    )


def test_wrong_usage_is_told_in_one_line(run: Run) -> None:
    assert run("lambda", "build", "--context-only") == (
        2,
        "",
        "excamera: --context-only needs -o DIR for the context (see: excamera lambda build --help)\n",
    )
