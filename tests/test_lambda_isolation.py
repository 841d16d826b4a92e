"""Functions in networks of their own, where nothing comes in and none reaches another: the rendezvous is the only way."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster, get_worker
from test_lambda_faults import OPTIONS, encode, expected, functions, source  # noqa: F401 - some are fixtures

import excamera_dask
from excamera_dask.progress import ChunkDone
from executors.aws_lambda import LambdaExecutor

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or not (shutil.which("nft") or shutil.which("iptables")),
    reason="network namespaces need root, iproute2 and nftables or iptables",
)  # fmt: skip


@pytest.fixture(scope="module")
def isolated(source: Path) -> Iterator[LambdaExecutor]:  # noqa: F811
    try:
        with functions(source, workers=3, backend_options={"network": "isolated"}) as executor:
            executor.client.wait_for_workers(3, timeout=60)
            yield executor
    except Exception as error:
        if "namespace" in str(error) or "refuses" in str(error):
            pytest.skip(f"this machine gives no network namespaces: {error}")
        raise


@pytest.fixture
def client(isolated: LambdaExecutor) -> Client:
    return isolated.client


def own_address() -> str:
    """The address by which this worker reaches the world."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def listen_once() -> tuple[str, int]:
    """Listen on all addresses, as a worker on tcp:// would, and keep the socket."""
    server = socket.create_server(("0.0.0.0", 0))
    get_worker().kept = server
    return own_address(), server.getsockname()[1]


def reach(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as error:
        return type(error).__name__
    return "reached"


def test_plain_tcp_between_workers_fails(client: Client) -> None:
    first, second, _ = client.scheduler_info()["workers"]
    host, port = client.submit(listen_once, workers=[first], pure=False).result(timeout=20)
    between = client.submit(reach, host, port, workers=[second], pure=False)
    assert between.result(timeout=20) != "reached"
    assert reach(host, port) != "reached", "nor does anything come in from outside"


def start_plain_worker(scheduler: str) -> int:
    """A worker on tcp:// beside this one, in the same network."""
    options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", "/tmp"]
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, *options]
    get_worker().plain = subprocess.Popen(command)
    return int(get_worker().plain.pid)


def square(value: int) -> int:
    return value * value


def test_plain_dask_fails_there(isolated: LambdaExecutor, client: Client) -> None:
    """The same on tcp://: the worker gets out to its scheduler, but nobody gets in to fetch a result."""
    first = next(iter(client.scheduler_info()["workers"]))
    host = isolated.cluster.backend.local.host_address
    with (
        dask.config.set(
            {"distributed.comm.timeouts.connect": "2s", "distributed.comm.retry.count": 0}
        ),
        LocalCluster(n_workers=0, host=host, dashboard_address=None, silence_logs=50) as plain,
        Client(plain, set_as_default=False) as outside,
    ):
        client.submit(
            start_plain_worker, plain.scheduler_address, workers=[first], pure=False
        ).result(timeout=20)
        outside.wait_for_workers(1, timeout=30)
        future = outside.submit(square, 3)
        with pytest.raises((TimeoutError, OSError)):
            future.result(timeout=10)
    assert client.submit(square, 3).result(timeout=20) == 9


def test_transfer_of_40_megabytes(client: Client) -> None:
    first, second, _ = client.scheduler_info()["workers"]
    block = client.submit(os.urandom, 40_000_000, workers=[first], pure=False)
    copy = client.submit(bytes.upper, block, workers=[second], pure=False)
    assert client.submit(len, copy, workers=[first], pure=False).result(timeout=60) == 40_000_000
    assert len(block.result(timeout=60)) == 40_000_000


def test_scatter_and_gather(client: Client) -> None:
    futures = client.scatter([bytes([i]) * 1_000_000 for i in range(6)])
    assert [value[0] for value in client.gather(futures)] == list(range(6))


def test_retired_workers_hand_over_their_results(isolated: LambdaExecutor, client: Client) -> None:
    first = next(iter(client.scheduler_info()["workers"]))
    kept = client.submit(
        os.urandom, 5_000_000, workers=[first], allow_other_workers=True, pure=False
    )
    content = kept.result(timeout=30)
    client.retire_workers([first])
    assert first not in client.scheduler_info(n_workers=-1)["workers"]
    assert kept.result(timeout=30) == content


def test_the_whole_encode(
    isolated: LambdaExecutor,
    source: Path,  # noqa: F811
    expected: bytes,  # noqa: F811
    tmp_path: Path,
) -> None:
    assert encode(source, tmp_path / "out.webm", isolated) == expected


def test_a_silent_cut(source: Path, expected: bytes, tmp_path: Path) -> None:  # noqa: F811
    """A worker's network goes dead without a word: no connection is closed, and the same bytes come out."""
    cut: list[str] = []
    with functions(source, workers=3, backend_options={"network": "isolated"}) as executor:
        executor.client.wait_for_workers(3, timeout=60)
        local = executor.cluster.backend.local

        def cut_one(event: object) -> None:
            if isinstance(event, ChunkDone) and not cut:
                busy = [each for each in local.environments() if each["request_id"]]
                cut.append(busy[0]["address"])
                route = subprocess.run(
                    ["ip", "-o", "route", "get", cut[0]], capture_output=True, text=True, check=True
                ).stdout.split()
                device = route[route.index("dev") + 1]
                subprocess.run(["ip", "link", "set", "dev", device, "down"], check=True)

        out = tmp_path / "out.webm"
        excamera_dask.encode(source, out, executor=executor, on_event=cut_one, **OPTIONS)
        assert cut
        assert out.read_bytes() == expected
