"""Object stores for tests: moto's S3 server as a process of its own, and a proxy that misbehaves in front of one."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

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


def wait_for_port(
    port: int, server: subprocess.Popen[bytes], seconds: float = START_SECONDS
) -> None:
    """Return when something listens on the port; fail when its process ends or takes too long."""
    deadline = time.monotonic() + seconds
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


class Store(NamedTuple):
    """A bucket, and boto3's client as an independent view of it."""

    endpoint: str
    bucket: str
    client: Any

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def put(self, key: str, data: bytes) -> str:
        """Write an object; its URL."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
        return self.url(key)

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def names(self) -> list[str]:
        """All keys of the bucket."""
        found = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", ())
        return [item["Key"] for item in found]

    def uploads(self) -> list[str]:
        """Keys of the uploads that were begun and not ended."""
        found = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ())
        return [item["Key"] for item in found]


def new_bucket(endpoint: str) -> Store:
    """An empty bucket of its own."""
    client = client_of(endpoint)
    name = f"films-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=name)
    return Store(endpoint, name, client)


class Fault(NamedTuple):
    """What the proxy does instead of passing a request on: an answer of its own, or a broken one of the store's.

    status: an answer with this status and body; cut: end the connection after so many bytes of the body; stall: send so
    many bytes and then nothing more for a long time; drop: end the connection without an answer.
    """

    status: int = 0
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    cut: int | None = None
    stall: int | None = None
    drop: bool = False


class Request(NamedTuple):
    """A request that came by."""

    method: str
    path: str
    range: str
    authorization: str


def s3_error(status: int, code: str, more: str = "", **headers: str) -> Fault:
    """The store's own way to refuse."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message>{more}</Error>"
    return Fault(status, body.encode(), tuple(headers.items()))


class Proxy:
    """An HTTP server in front of a store; `fault` is asked about each request, `seen` keeps them.

    As a client's HTTP proxy it leads to that store whatever name it is asked for.
    """

    def __init__(self, store: str) -> None:
        self.store = urlsplit(store)
        self.fault: Callable[[Request], Fault | None] = lambda request: None
        self.seen: list[Request] = []
        self.lock = threading.Lock()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.released = threading.Event()

    def __enter__(self) -> Proxy:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def once(self, fault: Fault, times: int = 1, method: str = "GET") -> None:
        """Do so to the next few requests of a method."""
        left = [times]

        def decide(request: Request) -> Fault | None:
            if request.method != method or left[0] == 0:
                return None
            left[0] -= 1
            return fault

        self.fault = decide

    def _decide(self, request: Request) -> Fault | None:
        with self.lock:
            self.seen.append(request)
            return self.fault(request)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(
                    self.command,
                    self.path,
                    self.headers.get("Range", ""),
                    self.headers.get("Authorization", ""),
                )
                fault = proxy._decide(request)
                if fault is not None and fault.drop:
                    self.close_connection = True
                elif fault is not None and fault.status:
                    self.answer(fault.status, list(fault.headers), fault.body)
                else:
                    self.pass_on(body, fault or Fault())

            def pass_on(self, body: bytes, fault: Fault) -> None:
                connection = http.client.HTTPConnection(proxy.store.netloc, timeout=30)
                dropped = ("expect",) if self.path.startswith("/") else ("expect", "host")
                headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
                path = urlsplit(self.path)._replace(scheme="", netloc="").geturl()
                connection.request(self.command, path, body, headers)
                answer = connection.getresponse()
                data = answer.read()
                kept = [
                    (name, value)
                    for name, value in answer.getheaders()
                    if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server")
                ]  # fmt: skip
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                self.answer(answer.status, kept, data, fault, length)
                connection.close()

            def answer(
                self,
                status: int,
                headers: list[tuple[str, str]],
                data: bytes,
                fault: Fault | None = None,
                length: str | None = None,
            ) -> None:
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(data)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                fault = fault or Fault()
                stop = fault.cut if fault.cut is not None else fault.stall
                self.wfile.write(data[:stop])
                self.wfile.flush()
                if fault.stall is not None:
                    proxy.released.wait(60)
                if stop is not None:
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        return Handler
