"""The options of a Lambda cluster: what is wrong with one is told in one line, before anything is started."""

from __future__ import annotations

import inspect
import logging
import os
import pydoc
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask
import pytest
from click.testing import CliRunner

from excamera_dask.cli.aws.lambda_options import OFFERED
from excamera_dask.cli.encode import encode
from excamera_dask.lambda_jobs import LambdaCluster as LambdaClusterForVideos
from executors.aws_lambda import LambdaCluster, NotDeployed
from executors.aws_lambda.config import setting
from executors.aws_lambda.errors import InvalidOption
from executors.aws_lambda.options import TABLE
from executors.aws_lambda.records.clusters import ClusterFolder
from executors.rendezvous import Authority

FORGETFUL = """
import sys
from executors.aws_lambda import LambdaCluster, NotDeployed
cluster = LambdaCluster(1, backend="local", name=sys.argv[1])
client = cluster.get_client()
print(client.submit(sum, [1, 2]).result(timeout=30))
"""


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("n-workers", "many", "n-workers 'many' is not possible: use a whole number from 0"),
        ("n-workers", -1, "n-workers -1 is not possible"),
        ("n-workers", 2.5, "n-workers 2.5 is not possible"),
        ("memory", "2 GB", "memory '2 GB' is not possible: use a whole number from 128 to 10240 MB"),
        ("memory", 0, "memory 0 is not possible"),
        ("ephemeral-storage", 100, "ephemeral-storage 100 is not possible"),
        ("timeout", 0, "timeout must be positive"),
        ("timeout", "soon", "timeout 'soon' is no time"),
        ("architecture", "sparc", "architecture 'sparc' is not possible: use x86_64 or arm64"),
        ("relays", 0, "relays 0 is not possible"),
        ("port", 80_000, "port 80000 is not possible"),
        ("budget", "cheap", "budget must be a number of dollars above 0, not 'cheap'"),
        ("budget", float("nan"), "budget must be a number of dollars"),
        ("overprovision", 0.5, "overprovision must be a number of 1 or more"),
        ("environment", ["A"], r"environment \['A'\] is not possible: use names with values"),
        ("environment", {"A": None}, "environment 'A' is None: use text"),
        ("worker-options", {"nthraeds": 2}, "worker-options has no 'nthraeds': did you mean nthreads?"),
        ("worker-options", {"name": "x"}, "worker-options has no 'name'"),
        ("scheduler-options", {"dashboard_adress": ":0"}, "did you mean dashboard_address?"),
        ("scheduler-options", {"security": None}, "scheduler-options has no 'security'"),
        ("fleet-options", {"retries": 3}, "fleet-options has no 'retries'"),
        ("backend-options", {"concurency": 3}, "did you mean concurrency?"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(name: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidOption, match=words) as told:
        setting(name, value)
    assert "\n" not in str(told.value)
    with dask.config.set({f"excamera.lambda.{name}": value}), pytest.raises(InvalidOption):
        setting(name)


def test_what_can_be_is_taken() -> None:
    assert setting("memory", "3008") == 3008
    assert setting("timeout", "5m") == 300.0
    assert setting("budget", "2.50") == 2.5
    assert setting("environment", {"THREADS": 1}) == {"THREADS": "1"}
    assert setting("memory") is None
    options = {"nthreads": 2, "resources": {"GPU": 1}}
    assert setting("worker-options", options) == options


def test_a_misspelt_setting_is_not_passed_over() -> None:
    with (
        dask.config.set({"excamera.lambda.buget": 5}),
        pytest.raises(InvalidOption, match=r"lambda has no .buget.: did you mean budget"),
    ):
        setting("budget")


@pytest.mark.parametrize("kind", [LambdaCluster, LambdaClusterForVideos])
def test_help_and_completion_show_all_options(kind: type) -> None:
    """The signature is what editors and notebooks complete; the help tells each with its default."""
    shown = inspect.signature(kind).parameters
    assert [*shown] == [*TABLE] and shown["region"].kind == inspect.Parameter.KEYWORD_ONLY
    assert str(shown["memory"]) == "memory: int | None = None"
    assert shown["idle_timeout"].default == "60s"
    told = pydoc.render_doc(kind, renderer=pydoc.plaintext)
    for name, option in TABLE.items():
        assert re.search(
            rf"^ \|  +{name}: {re.escape(option.help.split()[0])}", told, re.MULTILINE
        ), name


def test_the_configuration_knows_each_option_that_is_not_of_one_program() -> None:
    section = dask.config.get("excamera.lambda")
    of_one = {
        "name", "asynchronous", "loop", "quiet", "silence_logs", "versions", "inputs", "outputs",
    }  # fmt: skip
    assert {name.replace("-", "_") for name in section} == {*TABLE} - of_one


def test_the_command_tells_what_the_table_tells() -> None:
    told = " ".join(CliRunner().invoke(encode, ["--help"]).output.split())
    for name in OFFERED:
        assert f"lambda: {TABLE[name]}." in told, name


def test_a_keyword_that_is_misspelt() -> None:
    with pytest.raises(
        TypeError, match=r"unexpected keyword argument: .* has no 'buget': did you mean budget"
    ):
        LambdaCluster(0, backend="local", buget=5)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["my cluster", "Fünf", "../x", "x" * 81, "~"])
def test_names_that_clusters_cannot_have(name: str) -> None:
    with pytest.raises(InvalidOption, match="a cluster cannot have the name"):
        LambdaCluster(0, backend="local", name=name)


def test_scale_takes_numbers_of_workers_only() -> None:
    pytest.importorskip("awslambdaric")
    with LambdaCluster(0, backend="local") as cluster:
        with pytest.raises(InvalidOption, match="n-workers -1"):
            cluster.scale(-1)
        assert cluster.target == 0


def test_functions_on_this_machine_are_as_deployed_ones() -> None:
    """What failed is not repeated behind the coordinator's back."""
    pytest.importorskip("awslambdaric")
    with LambdaCluster(0, backend="local") as cluster:
        told = cluster.backend.client.get_function_event_invoke_config(FunctionName="excamera")
    assert (told["MaximumRetryAttempts"], told["MaximumEventAgeInSeconds"]) == (0, 60)


def test_functions_on_this_machine_are_in_the_region_that_is_asked_for() -> None:
    pytest.importorskip("awslambdaric")
    with LambdaCluster(1, backend="local", region="eu-central-1") as cluster:
        with cluster.get_client() as client:
            region = client.submit(os.getenv, "AWS_REGION").result(timeout=30)
        assert (region, cluster.backend.region) == ("eu-central-1", "eu-central-1")


def test_why_a_cluster_stopped_is_seen_where_nobody_listens(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("awslambdaric")
    monkeypatch.setattr(logging.getLogger("distributed"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="distributed")
    with LambdaCluster(1, backend="local", budget=1e-5, name="too-poor"):
        end = time.monotonic() + 20
        while "too-poor: stopped: the budget of" not in caplog.text:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_cluster_that_was_not_closed_ends_with_the_program() -> None:
    pytest.importorskip("awslambdaric")
    name = f"forgotten-{os.getpid()}"
    command = [sys.executable, "-c", FORGETFUL, name]
    path = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    ended = subprocess.run(
        command, env={**os.environ, **path}, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (0, "3\n")
    card = ClusterFolder.open(name).card
    assert card.end_reason == "closed"


def test_clusters_may_share_a_relay() -> None:
    pytest.importorskip("awslambdaric")
    authority = Authority.create()
    with LambdaCluster(1, backend="local", security=authority) as first:
        given = first.relays[0].address
        with LambdaCluster(1, backend="local", security=authority, relay=given) as second:
            for cluster in (first, second):
                with cluster.get_client() as client:
                    assert client.submit(sum, [1, 2]).result(timeout=30) == 3
                    assert client.submit(os.getpid).result(timeout=30) != os.getpid()


def test_of_several_relays_the_silent_one_is_named(tmp_path: Path) -> None:
    pytest.importorskip("awslambdaric")
    authority = Authority.create()
    with LambdaCluster(0, backend="local", security=authority) as cluster:
        given = f"{cluster.relays[0].address},127.0.0.1:1"
        with pytest.raises(NotDeployed, match=r"no relay answers at 127\.0\.0\.1:1 within"):
            LambdaCluster(0, backend="local", security=authority, relay=given)
