"""The same handlers under AWS's own aws-lambda-rie: the local Lambda answers as it does.

The binary ships inside the wheel aws-sam-cli; EXCAMERA_RIE names it, or this puts it where it is looked for:

    pip install --no-deps --target ~/.cache/excamera-dask/rie aws-sam-cli
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_lambda import HANDLER, TESTS, require_runtime

require_runtime()

from executors.aws_lambda.payload import PROBE  # noqa: E402
from executors.local_lambda import LocalLambda  # noqa: E402

LIMIT = 2  # seconds
MEMORY = 256  # MB
WORKER = "executors.aws_lambda.handler.handle"
MACHINE = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

# name of the case, handler, event: the answers of both must be the same but for what SAME takes out
CASES: list[tuple[str, str, Any]] = [
    ("success", HANDLER, {"do": "echo", "text": "Grüße", "numbers": [1, 2.5, None]}),
    ("empty-event", HANDLER, {}),
    ("function-error", HANDLER, {"do": "fail"}),
    ("exit", HANDLER, {"do": "leave", "status": 3}),
    ("exit-without-a-reason", HANDLER, {"do": "leave", "status": 0}),
    ("answered-and-left", HANDLER, {"do": "leave_a_task"}),
    ("killed", HANDLER, {"do": "die", "signal": signal.SIGKILL}),
    ("absent-module", "no_such_module.handle", {}),
    ("absent-function", "lambda_handlers.no_such_function", {}),
    ("malformed-handler", "nonsense", {}),
    ("worker-without-a-payload", WORKER, {}),
    ("worker-asked-for-its-versions", WORKER, PROBE),
]


def find_rie() -> Path | None:
    """The binary, copied to where it may be executed if need be."""
    named = os.environ.get("EXCAMERA_RIE")
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "excamera-dask" / "rie"
    )
    path = Path(named) if named else cache / f"samcli/local/rapid/aws-lambda-rie-{MACHINE}"
    return path if path.is_file() else None


class Rie:
    """One handler under aws-lambda-rie, which knows one function and one request at a time."""

    def __init__(self, binary: Path, handler: str, log: Path) -> None:
        self._port, runtime_port = free_port(), free_port()
        environment = {
            **os.environ,
            "PYTHONPATH": str(TESTS.parent),
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(LIMIT),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MEMORY),
        }
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    binary,
                    *("--runtime-interface-emulator-address", f"127.0.0.1:{self._port}"),
                    *("--runtime-api-address", f"127.0.0.1:{runtime_port}"),
                    *(sys.executable, "-m", "awslambdaric", handler),
                ],
                cwd=TESTS,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._await()

    def invoke(self, event: Any) -> str:
        url = f"http://127.0.0.1:{self._port}/2015-03-31/functions/function/invocations"
        request = urllib.request.Request(url, data=json.dumps(event).encode(), method="POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:  # 502 after the end of a runtime
            with error:
                return error.read().decode()

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _await(self) -> None:
        for _ in range(500):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self._port)).close()
                return
            time.sleep(0.02)
        raise AssertionError("aws-lambda-rie does not listen")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = find_rie()
    if found is None:
        pytest.skip(
            "no aws-lambda-rie: pip install --no-deps --target ~/.cache/excamera-dask/rie aws-sam-cli"
        )
    if os.access(found, os.X_OK):
        return found
    copied = shutil.copy(found, tmp_path_factory.mktemp("rie"))  # pip may drop the permission
    os.chmod(copied, 0o755)
    return Path(copied)


@pytest.fixture(scope="module")
def server(binary: Path) -> Iterator[LocalLambda]:
    with LocalLambda() as local:
        yield local


def ours(server: LocalLambda, handler: str, name: str, *events: Any) -> list[str]:
    """What the local Lambda answers to events, one after another."""
    server.create_function(name, handler, code=TESTS, memory=MEMORY, timeout=LIMIT)
    client = server.client()
    return [_call(client, name, event) for event in events]


def _call(client: Any, name: str, event: Any) -> str:
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event))
    return str(answer["Payload"].read().decode())


def comparable(text: str) -> Any:
    """An answer without what differs from call to call."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "REQUEST", text)
    value = json.loads(text)
    if isinstance(value, dict):
        value.pop("pid", None)
    return value


@pytest.mark.parametrize(("name", "handler", "event"), CASES, ids=[case[0] for case in CASES])
def test_it_answers_as_aws_does(
    binary: Path, server: LocalLambda, tmp_path: Path, name: str, handler: str, event: Any
) -> None:
    rie = Rie(binary, handler, tmp_path / "log")
    try:
        theirs = rie.invoke(event)
    finally:
        rie.stop()
    (answer,) = ours(server, handler, name, event)
    assert comparable(answer) == comparable(theirs)


def test_it_starts_and_uses_environments_as_aws_does(
    binary: Path, server: LocalLambda, tmp_path: Path
) -> None:
    """Warm after success and after a function error, new after the end of the runtime, answered or not, and after a timeout."""
    events = [
        {"do": "echo"}, {"do": "fail"}, {"do": "echo"}, {"do": "leave", "status": 1}, {"do": "echo"},
        {"do": "echo"}, {"do": "sleep", "seconds": 20}, {"do": "echo"},
        {"do": "leave_a_task"}, {"do": "echo"},
    ]  # fmt: skip
    rie = Rie(binary, HANDLER, tmp_path / "log")
    try:
        theirs = [rie.invoke(event) for event in events]
    finally:
        rie.stop()
    answers = ours(server, HANDLER, "sequence", *events)
    # here it is text, on Lambda an error document
    assert theirs[6] == "Task timed out after 2.00 seconds"
    timeout = json.loads(answers[6])
    assert timeout["errorType"] == "Sandbox.Timedout"
    assert timeout["errorMessage"].endswith(f"Error: {theirs[6]}")
    del theirs[6], answers[6]
    assert list(map(comparable, answers)) == list(map(comparable, theirs))
    counts = [comparable(answer).get("count") for answer in answers]
    assert counts == [1, None, 3, None, 1, 2, 1, None, 1]
    assert json.loads(answers[7]) == {"outcome": "finished"}


def test_the_context_is_as_aws_makes_it(binary: Path, server: LocalLambda, tmp_path: Path) -> None:
    event = {"do": "tell_context"}
    rie = Rie(binary, HANDLER, tmp_path / "log")
    try:
        theirs = json.loads(rie.invoke(event))
    finally:
        rie.stop()
    answer = json.loads(*ours(server, HANDLER, "context", event))
    assert {key: type(value) for key, value in answer.items()} == {
        key: type(value) for key, value in theirs.items()
    }
    for context in (answer, theirs):
        assert 0 < context["remaining"] <= LIMIT * 1000
        assert context["memory"] == str(MEMORY)
        assert context["version"] == "$LATEST"
        assert re.fullmatch(r"arn:aws:lambda:[a-z0-9-]+:\d{12}:function:[\w-]+", context["arn"])
