"""What the tests of the local Lambda share: calls through plain boto3, and looks at processes."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
HANDLER = "lambda_handlers.handle"


def require_runtime() -> None:
    """Skip where AWS's runtime client is not installed (it is in the extra local-lambda)."""
    pytest.importorskip("awslambdaric")


def invoke(client: Any, name: str, do: str = "echo", **event: Any) -> Any:
    """What the handler returns; a function error fails the test."""
    answer = call(client, name, do, **event)
    assert "FunctionError" not in answer, answer
    return answer["Payload"]


def call(client: Any, name: str, do: str = "echo", **event: Any) -> dict[str, Any]:
    """boto3's answer to a RequestResponse, with the payload and the tail of the log decoded."""
    payload = json.dumps({"do": do, **event})
    answer = client.invoke(FunctionName=name, Payload=payload, LogType="Tail")
    text = answer["Payload"].read()
    answer["Payload"] = json.loads(text)
    answer["LogResult"] = base64.b64decode(answer["LogResult"]).decode()
    return dict(answer)


def send(client: Any, name: str, do: str = "echo", **event: Any) -> str:
    """Make an Event invocation; returns its request id."""
    payload = json.dumps({"do": do, **event})
    answer = client.invoke(FunctionName=name, InvocationType="Event", Payload=payload)
    assert answer["StatusCode"] == 202
    return str(answer["ResponseMetadata"]["RequestId"])


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Wait until the condition is true, and return what it gave."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s in vain for: {what}")


def process_state(process: int) -> str:
    """R, S, T (stopped), Z ... of a process; "" if there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def is_gone(process: int) -> bool:
    """True if the process has ended, reaped or not."""
    return process_state(process) in ("", "Z", "X")


def descendants(process: int) -> set[int]:
    """All processes that descend from one."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents[int(entry)] = int(text.rpartition(")")[2].split()[1])
    found: set[int] = set()
    waiting = [process]
    while waiting:
        parent = waiting.pop()
        children = {each for each, its in parents.items() if its == parent} - found
        found |= children
        waiting.extend(children)
    return found
