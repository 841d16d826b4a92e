"""The worker's real handler under AWS's own aws-lambda-rie, as a worker of a real cluster."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import test_local_lambda_rie as rie_tests
from test_local_lambda_rie import Rie, binary  # noqa: F401 - a fixture

from executors.aws_lambda import LambdaCluster
from executors.aws_lambda.backend import HANDLER
from executors.aws_lambda.deploy.versions import installed
from executors.aws_lambda.payload import PROBE
from executors.local_lambda import Faults


@pytest.fixture
def function(binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    monkeypatch.setattr(rie_tests, "LIMIT", 120)
    monkeypatch.setattr(rie_tests, "MEMORY", 512)
    running = Rie(binary, HANDLER, tmp_path / "log")
    yield running
    running.stop()


def test_it_tells_its_versions(function: Rie) -> None:
    assert json.loads(function.invoke(PROBE)) == {"outcome": "ready", "versions": installed()}


def test_it_refuses_what_is_not_for_it(function: Rie) -> None:
    answer = json.loads(function.invoke({"anything": 1}))
    assert answer["errorType"] == "InvalidPayload"
    assert "excamera encode --executor lambda" in answer["errorMessage"]


def test_it_works_in_a_cluster(function: Rie) -> None:
    """Lambda loses an invocation; aws-lambda-rie runs it instead."""
    answers: list[str] = []
    with LambdaCluster(0, backend="local", fleet_options={"appear_timeout": 60.0}) as cluster:
        backend = cluster.backend
        backend.local.set_faults(backend.function_name, Faults(lose=frozenset({1, 2})))
        cluster.scale(1)
        while not (
            names := [view.name for view in cluster.coordinator.fleet.snapshot().invocations]
        ):
            time.sleep(0.05)
        event = json.loads(cluster._payload(names[0]))
        caller = threading.Thread(target=lambda: answers.append(function.invoke(event)))
        caller.start()
        with cluster.get_client() as client:
            client.wait_for_workers(1, timeout=30)
            assert client.submit(sum, [1, 2, 3]).result(timeout=20) == 6
    caller.join(20)
    assert json.loads(answers[0])["outcome"] == "finished"
