"""However a local Lambda ends, nothing of it is left: no process, no folder, no control group."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from local_lambda import HANDLER, TESTS, descendants, invoke, is_gone, require_runtime, wait_for

require_runtime()

from executors.local_lambda import InvalidSettings, LocalLambda, StartFailed  # noqa: E402

PROGRAM = """
import json, os, sys, time
from local_lambda import HANDLER, TESTS, invoke
from executors.local_lambda import LocalLambda
local = LocalLambda(cgroups=%s).start()
local.create_function("probe", HANDLER, code=TESTS, memory=256)
child = invoke(local.client(), "probe", "start_child", session=True)
print(json.dumps({"folder": str(local.directory), "child": child}), flush=True)
time.sleep(600)
"""


def leftovers() -> set[str]:
    """Control groups of servers."""
    return {str(path) for path in Path("/sys/fs/cgroup").rglob("excamera-local-lambda-*")}


def groups_of(processes: set[int]) -> set[str]:
    """Names of servers' control groups that these processes would have made."""
    return {f"excamera-local-lambda-{process}" for process in processes}


def begin(cgroups: bool = True) -> tuple[subprocess.Popen[str], dict[str, Any], set[int]]:
    """A program with a local Lambda; what it tells, and all processes below it."""
    import json

    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM % cgroups],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    told = json.loads(program.stdout.readline())
    return program, told, descendants(program.pid)


def nothing_left(processes: set[int], folder: str) -> None:
    for process in processes:
        wait_for(lambda process=process: is_gone(process), f"end of process {process}", 15)
    wait_for(lambda: not os.path.exists(folder), "removal of the folder")
    names = groups_of(processes)
    wait_for(
        lambda: not [path for path in leftovers() if os.path.basename(path) in names],
        "removal of the control groups",
    )


@pytest.mark.parametrize("cgroups", [True, False])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_program(number: int, cgroups: bool) -> None:
    program, told, processes = begin(cgroups)
    assert told["child"] in processes and len(processes) >= 4
    program.send_signal(number)
    program.wait()
    program.stdout.close()  # type: ignore[union-attr]
    nothing_left(processes, told["folder"])


def test_nothing_outlives_the_server() -> None:
    program, told, processes = begin()
    (supervisor,) = children(program.pid)
    (server,) = children(supervisor) - {told["child"]}
    os.kill(server, signal.SIGKILL)
    for process in processes - {supervisor}:
        wait_for(lambda process=process: is_gone(process), f"end of process {process}", 15)
    program.kill()
    program.wait()
    program.stdout.close()  # type: ignore[union-attr]
    wait_for(lambda: not os.path.exists(told["folder"]), "removal of the folder")


def test_the_server_does_not_outlive_its_supervisor() -> None:
    program, told, processes = begin()
    (supervisor,) = children(program.pid)
    os.kill(supervisor, signal.SIGKILL)
    for process in processes - {supervisor, told["child"]}:
        wait_for(lambda process=process: is_gone(process), f"end of process {process}", 15)
    program.kill()
    program.wait()
    program.stdout.close()  # type: ignore[union-attr]
    with contextlib.suppress(ProcessLookupError):  # the one that had a session of its own
        os.kill(told["child"], signal.SIGKILL)
    import shutil

    shutil.rmtree(told["folder"])


def children(process: int) -> set[int]:
    return {
        int(each)
        for thread in os.listdir(f"/proc/{process}/task")
        for each in Path(f"/proc/{process}/task/{thread}/children").read_text().split()
    }


def test_a_stop_ends_everything_at_once() -> None:
    with LocalLambda() as local:
        local.create_function("probe", HANDLER, code=TESTS, memory=256)
        invoke(local.client(), "probe")
        folder, url = str(local.directory), local.endpoint_url
        processes = {each["pid"] for each in local.environments()}
    assert all(map(is_gone, processes))
    assert not os.path.exists(folder)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    local.stop()  # again: nothing to do


def test_a_stop_does_not_wait_for_handlers() -> None:
    local = LocalLambda().start()
    local.create_function("probe", HANDLER, code=TESTS, memory=256, timeout=60)
    payload = b'{"do": "sleep", "seconds": 50}'
    local.client().invoke(FunctionName="probe", InvocationType="Event", Payload=payload)
    wait_for(lambda: local.stats()["running"], "the handler")
    begun = time.monotonic()
    local.stop()
    assert time.monotonic() - begun < 30


def test_a_folder_that_was_named_remains(tmp_path: Path) -> None:
    with LocalLambda(directory=tmp_path / "state") as local:
        local.create_function("probe", HANDLER, code=TESTS, memory=256)
        invoke(local.client(), "probe")
    (log,) = (tmp_path / "state" / "logs").rglob("*.jsonl")
    assert "working on echo" in log.read_text()


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        local = LocalLambda(port=port)
        with pytest.raises(StartFailed, match="Address already in use"):
            local.start()
    assert local.directory is None


@pytest.mark.parametrize(
    "settings",
    [{"concurrency": 0}, {"time_scale": 0.0}, {"network": "none"}, {"parallel_starts": 0}],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings):
        LocalLambda(**settings)


MANY_DESCRIPTORS = """
import os, resource, sys
from executors.local_lambda.sandbox import Confinement, spawn
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1500)]
confinement = Confinement(mounts=False, user_namespace=False, tmp_bytes=1 << 20)
program = "import os; print(len(os.listdir('/proc/self/fd')))"
child = spawn(confinement, [sys.executable, "-c", program], {}, "/", 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_hundreds_of_environments_fit_into_a_server() -> None:
    """Each takes about five descriptors there, of which a new environment inherits none."""
    done = subprocess.run(
        [sys.executable, "-c", MANY_DESCRIPTORS],
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) <= 5
