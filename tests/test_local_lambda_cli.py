"""`excamera lambda local` serves until it is told to end, and its errors are one line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_lambda import HANDLER, TESTS, descendants, invoke, is_gone, require_runtime, wait_for

from excamera_dask.lambda_image import versions
from executors.aws_lambda.deploy import Place, Target, preflight

require_runtime()

PROGRAM = """
import sys
from excamera_dask.cli import cli, main
from excamera_dask.cli.aws.local_lambda import local
cli.add_command(local)
sys.exit(main())
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "local", *arguments],
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    program = start(
        *("--function", f"probe={HANDLER}", "--code", str(TESTS), "--timeout", "20"),
        *("--memory", "256", "--region", "eu-west-1", "--directory", str(tmp_path)),
    )
    yield program
    program.kill()
    program.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted(
    served: subprocess.Popen[str], tmp_path: Path, number: int
) -> None:
    import boto3

    assert served.stdout is not None
    told = json.loads(served.stdout.readline())
    assert told["functions"] == ["probe"] and told["region"] == "eu-west-1"
    client = boto3.client(
        "lambda", endpoint_url=told["endpoint_url"], region_name="eu-west-1",
        aws_access_key_id=told["access_key_id"], aws_secret_access_key=told["secret_access_key"],
    )  # fmt: skip
    assert invoke(client, "probe")["count"] == 1
    processes = descendants(served.pid)
    served.send_signal(number)
    assert served.wait(30) == 0
    for process in processes:
        wait_for(lambda process=process: is_gone(process), f"end of process {process}")
    assert list((tmp_path / "logs").rglob("*.jsonl"))


def test_a_worker_tells_the_versions_that_clients_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    program = start("--function", "excamera")
    try:
        assert program.stdout is not None
        told = json.loads(program.stdout.readline())
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", told["access_key_id"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", told["secret_access_key"])
        place = Place(region=told["region"], endpoint_url=told["endpoint_url"])
        assert preflight(Target("excamera", place, versions=versions()), patience=60.0) == []
    finally:
        program.kill()
        program.communicate()


def test_a_server_that_dies_is_an_error(served: subprocess.Popen[str]) -> None:
    assert served.stdout is not None
    served.stdout.readline()
    for process in descendants(served.pid):
        os.kill(process, signal.SIGKILL)
    _, errors = served.communicate(timeout=30)
    assert served.returncode == 1
    assert errors.splitlines()[-1] == (
        "excamera: the local Lambda has ended by itself; its messages are above"
    )


def test_errors_are_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        program = start("--port", port)
        output, errors = program.communicate(timeout=60)
    assert (program.returncode, output) == (1, "")
    assert errors.startswith("excamera: the local Lambda did not start: ")
    assert len(errors.splitlines()) == 1 and "Address already in use" in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--function", "probe=nonsense"], "NAME=MODULE.HANDLER"),
        (["--function", "no name=module.handler"], "no function name"),
        (["--memory", "64"], "--memory"),
        (["--time-scale", "0"], "--time-scale"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], words: str) -> None:
    program = start(*arguments)
    _, errors = program.communicate(timeout=60)
    assert program.returncode in (1, 2)
    assert words in errors and "Traceback" not in errors
    assert len(errors.strip().splitlines()) == 1
