"""The user's Dask configuration: above ours, shipped, refused where nothing could work with it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dask
import pytest

from executors import InvalidExecutor, open_executor
from executors.aws_lambda.config import WORKER_CONFIG, links_config, workers_config
from executors.aws_lambda.life import MAX_SPILL, _most_spilled
from executors.dask_config import unless_configured, users_configuration


def test_what_the_user_says_counts() -> None:
    ours = {"distributed.scheduler.bandwidth": 1, "distributed.worker.profile.enabled": False}
    assert unless_configured(ours) == ours
    with dask.config.set({"distributed.scheduler.bandwidth": 5}):
        assert unless_configured(ours) == {"distributed.worker.profile.enabled": False}


def test_it_counts_too_where_it_repeats_dasks_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "True")
    assert unless_configured({"distributed.worker.profile.enabled": False}) == {}


def test_what_is_shipped() -> None:
    told = {
        "distributed.worker.memory.target": 0.5,
        "distributed.admin.low-level-log-length": 7,
        "films.names": ["a", {"b": None}],
        "films.empty": {},
        "temporary-directory": "/home/me",
        "distributed.comm.tls.ca-file": "/home/me/ca.pem",
        "excamera.lambda.budget": 5,
    }
    assert users_configuration().get("films") is None
    with dask.config.set(told):
        found = json.loads(json.dumps(workers_config()))
        assert found["films"] == {"names": ["a", {"b": None}], "empty": {}}
        assert "excamera" not in found and "temporary-directory" not in found
        assert "comm" not in found["distributed"]
    merged = dask.config.merge(dask.config.config, found)
    for name, value in {**WORKER_CONFIG, "distributed.admin.low-level-log-length": 7}.items():
        assert dask.config.get(name, config=merged) == value
    assert merged["distributed"]["worker"]["memory"]["target"] == 0.5
    assert merged["distributed"]["worker"]["memory"]["spill"] == 0.7, "what he left alone"


def test_what_cannot_be_shipped_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with dask.config.set({"films.length": timedelta(1)}), caplog.at_level(logging.WARNING):
        assert "films" not in users_configuration()
    assert "films.length is no plain value: workers do not get it" in caplog.text


def test_links_are_told_before_all_else() -> None:
    assert links_config() == {}
    with dask.config.set({"distributed.comm.rdv.bulk-from": 0}):
        assert links_config() == {"distributed.comm.rdv": {"bulk-from": 0}}


@pytest.mark.parametrize("spec", ["local", "lambda", "tcp://127.0.0.1:9"])
@pytest.mark.parametrize("name", ["comm.compression", "worker.memory.spill-compression"])
def test_a_compression_that_is_not_there_is_refused_at_once(spec: str, name: str) -> None:
    options = {"backend": "local"} if spec == "lambda" else {}
    began = time.monotonic()
    with (
        dask.config.set({f"distributed.{name}": "shrink"}),
        pytest.raises(InvalidExecutor, match=rf"distributed\.{name} is 'shrink'") as caught,
    ):
        open_executor(spec, **options)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 5


def test_the_cluster_of_a_job_does_not_end_before_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        dask.config.set({"distributed.scheduler.idle-timeout": "300ms"}),
        open_executor("local", workers=1) as executor,
    ):
        time.sleep(1)
        done: list[int] = []
        executor.run({("a", 1): (abs, -1)}, [("a", 1)], lambda key, value: done.append(value))
    assert done == [1]
    assert "distributed.scheduler.idle-timeout is not followed" in caplog.text


@pytest.mark.parametrize(
    ("allowed", "storage", "right"),
    [
        (False, 100 << 20, lambda room: room == int(0.8 * (100 << 20))),
        ("1 MiB", 100 << 20, lambda room: room == 1 << 20),
        ("1 PiB", 100 << 20, lambda room: room == int(0.8 * (100 << 20))),
        (False, None, lambda room: room > 0),
    ],
)
def test_no_more_is_spilled_than_there_is_room_for(
    allowed: Any, storage: int | None, right: Callable[[int], bool], tmp_path: Path
) -> None:
    with dask.config.set({MAX_SPILL: allowed}):
        assert right(_most_spilled(str(tmp_path), storage))
