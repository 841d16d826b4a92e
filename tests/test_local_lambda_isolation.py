"""What an environment may do: write to /tmp only, within limits, seen by nobody; and the same for those who are not root."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from local_lambda import HANDLER, TESTS, call, invoke, require_runtime, wait_for

require_runtime()

from executors.local_lambda import LocalLambda, StartFailed  # noqa: E402
from executors.local_lambda.cgroups import ControlGroups  # noqa: E402
from executors.local_lambda.sandbox import probe  # noqa: E402

NOBODY = 65_534
ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def server() -> Iterator[LocalLambda]:
    with LocalLambda() as local:
        local.create_function("probe", HANDLER, code=TESTS, memory=512, timeout=30)
        yield local


@pytest.fixture
def client(server: LocalLambda) -> Any:
    return server.client()


@pytest.fixture
def mounts(server: LocalLambda) -> None:
    """Skip where environments cannot have mounts of their own; the server must have said so, too."""
    confinement, why = probe()
    assert (confinement is None) == any("no mounts" in notice for notice in server.notices)
    if confinement is None:
        pytest.skip(f"no mount namespaces here: {why}")


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("path", ["/written", f"{TESTS}/written", "/dev/written", "/var/written"])
def test_everything_but_tmp_is_read_only(client: Any, path: str) -> None:
    assert invoke(client, "probe", "write_file", path=path) == "EROFS"
    assert not os.path.exists(path)


@pytest.mark.usefixtures("mounts")
def test_tmp_is_the_environments_own(server: LocalLambda, client: Any, tmp_path: Path) -> None:
    server.create_function("first", HANDLER, code=TESTS)
    server.create_function("second", HANDLER, code=TESTS)
    assert invoke(client, "first", "write_file", path="/tmp/of-the-first") == ""
    assert "of-the-first" in invoke(client, "first", "list_folder", path="/tmp")
    assert "of-the-first" not in invoke(client, "second", "list_folder", path="/tmp")
    assert not os.path.exists("/tmp/of-the-first")


REACHED = (
    "import sys\n"
    "from executors.local_lambda import LocalLambda\n"
    "with LocalLambda() as local:\n"
    "    local.create_function('probe', sys.argv[1], code=sys.argv[2], memory=512, timeout=30)\n"
    "    answer = local.client('lambda').invoke(FunctionName='probe', Payload=b'{}')\n"
    "    print(sys.prefix, answer['StatusCode'], answer.get('FunctionError'))\n"
)


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("shape", ["a chain", "relative, on the way"])
def test_an_environment_is_reached_over_links_below_tmp(shape: str, tmp_path: Path) -> None:
    """Python and the code lie somewhere, and what leads there is hidden with the rest of /tmp."""
    if not tmp_path.is_relative_to("/tmp"):
        pytest.skip("temporary files lie elsewhere than in /tmp")
    links = tmp_path / "links"
    links.mkdir()
    (links / "env").symlink_to(sys.prefix)
    (links / "code").symlink_to(TESTS)
    if shape == "a chain":
        (tmp_path / "again").symlink_to(links / "env")
        (links / "env").rename(links / "moved")
        (links / "env").symlink_to(links / "moved")
        python = tmp_path / "again"
    else:
        (tmp_path / "way").symlink_to(Path("links") / ".." / "links")
        python = tmp_path / "way" / "env"
    told = subprocess.run(
        [python / "bin" / "python", "-c", REACHED, HANDLER, links / "code"],
        capture_output=True, text=True, timeout=60, check=True, cwd=Path(TESTS).parent,
    )  # fmt: skip
    assert told.stdout == f"{python} 200 None\n", told.stderr


@pytest.mark.usefixtures("mounts")
def test_tmp_holds_what_the_function_may_store(server: LocalLambda, client: Any) -> None:
    server.create_function("storage", HANDLER, code=TESTS, memory=256, ephemeral_storage=512)
    much, more = 400 << 20, 200 << 20
    assert invoke(client, "storage", "write_file", path="/tmp/much", bytes=1) == ""
    assert call(client, "storage", "write_file", path="/tmp/large", bytes=64 << 20)["Payload"] == ""
    server.create_function("wide", HANDLER, code=TESTS, memory=2048, ephemeral_storage=512)
    assert invoke(client, "wide", "write_file", path="/tmp/much", bytes=much) == ""
    assert invoke(client, "wide", "write_file", path="/tmp/more", bytes=more) == "ENOSPC"


@pytest.mark.usefixtures("mounts")
def test_there_is_no_shared_memory(client: Any) -> None:
    limits = invoke(client, "probe", "tell_limits")
    assert not limits["shm"]
    assert limits["lock"] in ("ENOENT", "ENOSYS")
    assert sorted(invoke(client, "probe", "list_folder", path="/dev")) == sorted(
        [*("fd", "full", "null", "random", "stderr", "stdin", "stdout", "urandom", "zero")]
        + (["tty"] if os.path.exists("/dev/tty") else [])
    )


@pytest.mark.usefixtures("mounts")
def test_code_under_tmp_is_seen_and_read_only(
    server: LocalLambda, client: Any, tmp_path: Path
) -> None:
    shutil.copy(TESTS / "lambda_handlers.py", tmp_path)
    server.create_function("moved", HANDLER, code=tmp_path)
    assert invoke(client, "moved", "list_folder", path=str(tmp_path)) == ["lambda_handlers.py"]
    if str(tmp_path).startswith("/tmp/"):
        assert invoke(client, "moved", "write_file", path=str(tmp_path / "new")) == "EROFS"


def test_descriptors_and_variables_are_lambdas(client: Any) -> None:
    limits = invoke(client, "probe", "tell_limits")
    assert limits["descriptors"] == 1024
    assert limits["folder"] == str(TESTS)
    variables = limits["variables"]
    assert variables["_HANDLER"] == HANDLER
    assert variables["LAMBDA_TASK_ROOT"] == str(TESTS)
    assert variables["AWS_REGION"] == variables["AWS_DEFAULT_REGION"] == "us-east-1"
    assert variables["AWS_LAMBDA_FUNCTION_NAME"] == "probe"
    assert variables["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert variables["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "512"
    assert variables["AWS_LAMBDA_LOG_GROUP_NAME"] == "/aws/lambda/probe"
    assert variables["AWS_EXECUTION_ENV"].startswith("AWS_Lambda_python3.")
    assert variables["AWS_SESSION_TOKEN"]
    assert "PYTEST_CURRENT_TEST" not in variables and "HOME" not in variables


def test_what_keeps_an_environment_from_starting_is_told(
    server: LocalLambda, client: Any, tmp_path: Path
) -> None:
    folder = shutil.copytree(
        TESTS, tmp_path / "code", ignore=lambda _, names: set(names) - {"lambda_handlers.py"}
    )
    server.create_function("gone", HANDLER, code=folder)
    shutil.rmtree(folder)
    message = call(client, "gone")["Payload"]["errorMessage"]
    assert "exit status 126" in message
    assert "The environment cannot start" in message and str(folder) in message


def test_threads_are_limited(client: Any) -> None:
    groups = ControlGroups.open()
    if isinstance(groups, str) or "pids" not in groups.controllers:
        pytest.skip("no control group for processes here")
    groups.close()
    assert 900 < invoke(client, "probe", "start_threads", number=1500) < 1024


def test_memory_is_limited_without_control_groups() -> None:
    with LocalLambda(cgroups=False, isolate=False) as local:
        local.create_function("greedy", HANDLER, code=TESTS, memory=128, timeout=60)
        answer = call(local.client(), "greedy", "fill_memory", megabytes=8000)
        assert "signal: killed" in answer["Payload"]["errorMessage"]
        assert "Error Type: Runtime.OutOfMemory" in answer["LogResult"]


@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_FIFO], ids=["usual", "real time"])
def test_a_small_function_gets_a_small_share_of_cpu(policy: int) -> None:
    """However the one who starts it is scheduled."""
    try:
        os.sched_setscheduler(0, policy, os.sched_param(int(policy != os.SCHED_OTHER)))
    except PermissionError:
        pytest.skip("needs the right to run in real time")
    with LocalLambda(cpu_share=True) as local:
        lacking = [notice for notice in local.notices if "cpu" in notice.lower()]
        if lacking:
            pytest.skip(lacking[0])
        local.create_function("small", HANDLER, code=TESTS, memory=128, timeout=60)
        used, passed = invoke(local.client(), "small", "burn", seconds=1.0)
    assert used < 0.25 * passed  # 128 of 1,769 MB are 7 % of a CPU


def test_without_mounts_each_environment_has_its_tmpdir() -> None:
    with LocalLambda(isolate=False, cgroups=False) as local:
        local.create_function("plain", HANDLER, code=TESTS)
        variables = invoke(local.client(), "plain", "tell_limits")["variables"]
        folder = Path(variables["TMPDIR"])
        assert folder.is_dir()
        assert invoke(local.client(), "plain", "write_file", path=f"{folder}/x") == ""
        os.kill(local.environments()[0]["pid"], 9)
        wait_for(lambda: not folder.exists(), "removal of the environment's folder")


WITHOUT_RIGHTS = """
import json
from local_lambda import HANDLER, TESTS, invoke
from executors.local_lambda import LocalLambda
from executors.local_lambda.sandbox import probe
with LocalLambda() as local:
    local.create_function("probe", HANDLER, code=TESTS, memory=256)
    client = local.client()
    confinement, why = probe()
    print(json.dumps({
        "notices": local.notices,
        "user_namespace": confinement.user_namespace if confinement else None,
        "echo": invoke(client, "probe")["count"],
        "root": invoke(client, "probe", "write_file", path="/written"),
        "tmp": invoke(client, "probe", "list_folder", path="/tmp"),
        "shm": invoke(client, "probe", "tell_limits")["shm"],
    }))
"""
BECOME_NOBODY = f"import os; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
# The right to give user 0 a place in a user namespace is the one that an ordinary user does not need for itself.
BECOME_POWERLESS = (
    "from executors.local_lambda.kernel import drop_capabilities; drop_capabilities((31,))"
)


@pytest.mark.skipif(not ROOT, reason="needs root, to give its rights up")
@pytest.mark.parametrize("become", [BECOME_NOBODY, BECOME_POWERLESS])
def test_it_works_without_the_rights_of_root(become: str) -> None:
    start = f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', {WITHOUT_RIGHTS!r}])"
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "HOME": "/nonexistent"}
    command = [sys.executable, "-c", f"{become}\n{start}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if become == BECOME_NOBODY and "Permission denied" in done.stderr:
        pytest.skip("this Python, or this checkout, cannot be read by others")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["echo"] == 1
    if found["user_namespace"] is None:
        assert any("no mounts" in notice for notice in found["notices"])
    else:
        assert found["user_namespace"]
        assert found["root"] == "EROFS" and not found["shm"]
        assert not [name for name in found["tmp"] if name.startswith("bash")]


# -- networks -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def isolated() -> Iterator[LocalLambda]:
    try:
        local = LocalLambda(network="isolated").start()
    except StartFailed as error:
        pytest.skip(str(error))
    local.create_function("probe", HANDLER, code=TESTS, memory=256, timeout=30)
    yield local
    local.stop()


def test_in_a_network_of_its_own_an_environment_reaches_us(isolated: LocalLambda) -> None:
    with socket.create_server((isolated.host_address, 0)) as ours:
        port = ours.getsockname()[1]
        target = {"host": isolated.host_address, "port": port, "seconds": 5}
        assert invoke(isolated.client(), "probe", "connect", **target) == ""


def test_nobody_reaches_an_environment_in_a_network_of_its_own(isolated: LocalLambda) -> None:
    client = isolated.client()
    with ThreadPoolExecutor(1) as threads:
        listening = threads.submit(invoke, client, "probe", "listen", port=8000, seconds=4)

        def busy() -> list[dict[str, Any]]:
            return [each for each in isolated.environments() if each["state"] == "busy"]

        (listener,) = wait_for(busy, "the listener")
        target = {"host": listener["address"], "port": 8000, "seconds": 1.5}
        assert invoke(isolated.client(), "probe", "connect", **target) == "TimeoutError"
        with pytest.raises(TimeoutError):
            socket.create_connection((listener["address"], 8000), 1.0)
        listening.result()


def test_networks_go_with_their_environments(isolated: LocalLambda) -> None:
    invoke(isolated.client(), "probe")
    own = isolated.host_address
    for environment in isolated.environments():
        os.kill(environment["pid"], 9)

    def interfaces() -> int:
        listed = subprocess.run(
            ["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True
        )
        return listed.stdout.count(f" {own}/32")

    wait_for(lambda: interfaces() == 1, "removal of the environments' interfaces")
