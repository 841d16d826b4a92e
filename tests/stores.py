"""Object stores for tests: moto's S3 server as a process of its own, and a proxy that misbehaves in front of one."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

START_SECONDS = 30


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """The endpoint of an empty S3 server on loopback."""
    port = free_port()
    command = "import sys; from moto.server import main; sys.exit(main())"
    server = subprocess.Popen(
        [sys.executable, "-c", command, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_port(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return when something listens on the port; fail when its process ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert server.poll() is None, "the server has ended"
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.05)


def aws_environment(endpoint: str) -> dict[str, str]:
    """What the environment of a user of that store has."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull + ".none",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull + ".none",
    }


def client_of(endpoint: str) -> Any:
    """boto3's client, as an independent view of the store."""
    import boto3

    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1",
        aws_access_key_id="tester", aws_secret_access_key="secret",
    )  # fmt: skip


def keys_of(client: Any, bucket: str) -> list[str]:
    """All keys of a bucket."""
    return [item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", ())]
