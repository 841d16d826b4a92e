"""The user's Dask configuration: above ours, shipped, refused where nothing could work with it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

from excamera_dask.lambda_jobs import seen_by_workers
from executors import ExecutorError, InvalidExecutor, open_executor
from executors.aws_lambda.blame import BlamingScheduler
from executors.aws_lambda.config import WORKER_CONFIG, links_config, workers_config
from executors.aws_lambda.life import MAX_SPILL, _most_spilled
from executors.dask_config import require_usable, unless_configured, users_configuration


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


@pytest.mark.parametrize("name", ["TEMPORARY_DIRECTORY", "SCHEDULER_ADDRESS", "DISTRIBUTED__COMM__TLS__CA_FILE"])  # fmt: skip
def test_what_is_of_this_machine_stays_here_also_from_the_environment(name: str) -> None:
    """Dask keeps the names of variables with underscores."""
    asked = "from executors.aws_lambda.config import workers_config; print(workers_config())"
    told = _python(asked, **{f"DASK_{name}": "/home/me"})
    assert told.returncode == 0 and "/home/me" not in told.stdout


def _python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


OPEN = """
import sys
from executors import InvalidExecutor, open_executor
if __name__ == "__main__":
    try:
        open_executor(sys.argv[1], **({"backend": "local"} if sys.argv[1] == "lambda" else {}))
    except InvalidExecutor as error:
        print(error)
"""


def _refusal(spec: str, **variables: str) -> str:
    """The one line that is said of a configuration by variables."""
    told = _python(OPEN, spec, **{f"DASK_{name}": value for name, value in variables.items()})
    assert told.stderr == ""
    (line,) = told.stdout.splitlines()
    return line


@pytest.mark.parametrize(
    ("spec", "scheme"), [("local", "tls"), ("local", "tcp"), ("tls://127.0.0.1:9", "tcp")]
)
def test_a_certificate_from_the_environment_is_named_where_it_cannot_be_read(
    spec: str, scheme: str
) -> None:
    tls = {
        f"DISTRIBUTED__COMM__TLS__{role}__{file}": __file__
        for role in ("SCHEDULER", "WORKER", "CLIENT")
        for file in ("CERT", "KEY")
    }
    told = {"DISTRIBUTED__COMM__DEFAULT_SCHEME": scheme, **tls}
    line = _refusal(spec, DISTRIBUTED__COMM__TLS__CA_FILE="/no/ca.pem", **told)
    assert "distributed.comm.tls.ca-file is '/no/ca.pem', which cannot be read" in line


def test_encryption_without_certificates_names_them() -> None:
    line = _refusal("local", DISTRIBUTED__COMM__REQUIRE_ENCRYPTION="true")
    assert "require-encryption is True, which needs distributed.comm.tls.ca-file" in line


def test_links_are_told_before_all_else() -> None:
    assert links_config() == {}
    with dask.config.set({"distributed.comm.rdv.bulk-from": 0}):
        assert links_config() == {"distributed.comm.rdv": {"bulk-from": 0}}


@pytest.mark.parametrize("spec", ["local", "lambda", "tcp://127.0.0.1:9"])
@pytest.mark.parametrize("name", ["comm.compression", "worker.memory.spill-compression"])
def test_a_compression_that_is_not_there_is_refused_at_once(spec: str, name: str) -> None:
    options = {"backend": "local"} if spec == "lambda" else {}
    with (
        dask.config.set({f"distributed.{name}": "shrink"}),
        pytest.raises(InvalidExecutor, match=rf"distributed\.{name} is 'shrink'") as caught,
    ):
        open_executor(spec, **options)
    assert "\n" not in str(caught.value)


FAULTS = {
    "a scheduler's preload": {"distributed.scheduler.preload": ["not_there"]},
    "a worker's preload": {"distributed.worker.preload": "not_there.at_all"},
    "a nanny's preload": {"distributed.nanny.preload": ["/not/there.py"]},
    "a client's preload": {"distributed.client.preload": ["not_there"]},
    "a certificate": {
        "distributed.comm.default-scheme": "tls",
        "distributed.comm.tls.worker.cert": "/not/there.pem",
    },
    "a temporary folder": {"temporary-directory": "/proc/not-there"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_there_is_named(fault: str) -> None:
    """Rather than a script without a guard, or too many workers."""
    name, value = list(FAULTS[fault].items())[-1]
    value = value[0] if isinstance(value, list) else value
    with dask.config.set(FAULTS[fault]), pytest.raises(InvalidExecutor) as caught:
        open_executor("local", workers=1)
    assert f"{name} is {value!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_processes_that_say_why_they_end_are_believed(tmp_path: Path) -> None:
    preload = tmp_path / "bad_preload.py"
    preload.write_text("raise ValueError('no film today')\n")
    with (
        dask.config.set({"distributed.worker.preload": [str(preload)]}),
        pytest.raises(InvalidExecutor, match=r"cannot start \(ValueError: no film today\)"),
    ):
        open_executor("local", workers=1)


@pytest.mark.parametrize("role", ["scheduler", "worker", "nanny", "client"])
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import sys; sys.exit(3)", r"ends the process that imports it \(exit status 3\)"),
        ("import os; os._exit(0)", r"ends the process that imports it \(exit status 0\)"),
        (
            "import os; os.close(1); os._exit(0)",
            r"ends the process that imports it \(exit status 0\)",
        ),
        ("def (", r"is no Python \(invalid syntax, line 1 of .*preload\.py\)"),
    ],
)
def test_a_preload_that_no_process_survives_is_named(
    source: str, says: str, role: str, tmp_path: Path
) -> None:
    preload = tmp_path / "exiting_preload.py"
    preload.write_text(source)
    name = f"distributed.{role}.preload"
    with (
        dask.config.set({name: [str(preload)]}),
        pytest.raises(InvalidExecutor, match=f"{name} is .*, which {says}"),
    ):
        open_executor("local", workers=1)


def test_a_package_that_no_process_survives_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the preload is a module of it, which cannot be looked for without importing the package."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for package, source in (
        ("ending", "import sys; sys.exit(3)"),
        ("failing", "raise RuntimeError"),
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(source)
        (tmp_path / package / "part.py").write_text("")
    with (
        dask.config.set({"distributed.worker.preload": ["ending.part"]}),
        pytest.raises(InvalidExecutor, match=r"ends the process that imports it \(exit status 3\)"),
    ):
        require_usable("worker")
    with dask.config.set({"distributed.worker.preload": ["failing.part"]}):
        require_usable("worker")  # Dask tells that


def test_preloads_that_are_right_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a module that only this process's path has, a built-in one, a script, one that hands on what it says."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "a_module.py").write_text("import sys; print('hello', file=sys.stdout)")
    (tmp_path / "daemon.py").write_text(
        "import os, subprocess, sys\nos.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
        "subprocess.Popen(['sleep', '300'])\n"
    )
    began = time.monotonic()
    preloads = [
        str(tmp_path / "a_module.py"), "a_module", "sys", "import os; os.getpid()", "daemon", "xml.dom",
    ]  # fmt: skip
    with dask.config.set({"distributed.worker.preload": preloads}):
        require_usable("worker")
    assert time.monotonic() - began < 55, "what a preload has started was waited for"


@pytest.mark.parametrize("spec", ["local", "lambda"])
def test_a_folder_that_is_gone(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(InvalidExecutor, match="the current folder does not exist any more"):
        open_executor(spec, **({"backend": "local"} if spec == "lambda" else {}))
    with pytest.raises(InvalidExecutor, match="the current folder does not exist any more"):
        seen_by_workers()


@pytest.mark.parametrize("spec", ["local", "lambda"])
@pytest.mark.parametrize(
    "blocked",
    ["scheduler.run_function", "scheduler.gather", "scheduler.register-client", "worker.get_data"],
)
def test_handlers_that_a_job_needs_are_named_before_anything_starts(
    spec: str, blocked: str
) -> None:
    role, handler = blocked.split(".")
    name = f"distributed.{role}.blocked-handlers"
    with (
        dask.config.set({name: ["scatter", handler]}),
        pytest.raises(InvalidExecutor, match=f"{name} is .*, and a job needs {handler}: take"),
    ):
        open_executor(spec, **({"backend": "local"} if spec == "lambda" else {}))


def test_what_no_job_needs_can_be_blocked_also_on_lambda() -> None:
    names = {"distributed.scheduler.blocked-handlers": ["scatter"]}
    with dask.config.set({**names, "distributed.worker.blocked-handlers": ["run"]}):
        require_usable("scheduler", "worker")

    async def blocked() -> list[str]:
        async with BlamingScheduler(dashboard_address="127.0.0.1:0", port=0) as scheduler:
            return list(scheduler.blocked_handlers)

    with dask.config.set(names):
        assert asyncio.run(blocked()) == ["scatter"]


def test_a_scheduler_that_runs_no_functions() -> None:
    with (
        dask.config.set({"distributed.scheduler.blocked-handlers": ["run_function"]}),
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        graph = {("a", 1): (abs, -1)}
        with pytest.raises(InvalidExecutor, match=r"blocked-handlers"):
            open_executor(client).run(graph, [("a", 1)], lambda key, value: None, print)
        with pytest.raises(InvalidExecutor, match=r"the scheduler at .*blocked-handlers"):
            open_executor(client, same=dict)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"distributed.comm.rdv.window": "5 B"}, r"distributed\.comm\.rdv: a window of 5 bytes"),
        ({"distributed.comm.rdv.silence": "soon"}, r"distributed\.comm\.rdv: .*soon"),
        ({"distributed.scheduler.preload": ["{bad}"]}, "cannot start: ValueError: no film today"),
    ],
)
def test_a_lambda_cluster_that_cannot_start_says_why(
    told: dict[str, Any], says: str, tmp_path: Path
) -> None:
    preload = tmp_path / "bad_preload_2.py"
    preload.write_text("raise ValueError('no film today')\n")
    told = json.loads(json.dumps(told).replace("{bad}", str(preload)))
    pytest.importorskip("awslambdaric", reason="needs AWS's runtime client")
    with dask.config.set(told), pytest.raises(ExecutorError, match=says):
        open_executor("lambda", backend="local")


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
