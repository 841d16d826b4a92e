"""Start a local Lambda from a program or a test, and talk to it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from executors.child_python import child_environment, module_command
from executors.local_lambda import kernel, supervisor
from executors.local_lambda.code import FOLDER_BUCKET, IMAGE
from executors.local_lambda.errors import FunctionRefused, StartFailed
from executors.local_lambda.faults import Faults
from executors.local_lambda.keys import VARIABLE, Keys
from executors.local_lambda.quotas import Settings
from executors.loopback import reach_loopback_directly

_START = 30.0  # seconds
_STOP = 20.0
_ROLE = "arn:aws:iam::123456789012:role/local"


def check_available() -> None:
    """Raises: StartFailed, where this machine or what is installed on it cannot run a local Lambda."""
    if not kernel.supported():
        raise StartFailed("the local Lambda needs Linux")
    if importlib.util.find_spec("awslambdaric") is None:
        raise StartFailed(
            "the local Lambda needs AWS's runtime client: pip install 'excamera-dask[local-lambda]'"
        )


class LocalLambda:
    """A server of Lambda's API on loopback, in a process of its own, that ends with this object or this process.

    with LocalLambda(concurrency=50, time_scale=0.01) as local:
        local.create_function("worker", "package.module.handler", memory=1769, timeout=60)
        local.client("lambda").invoke(FunctionName="worker", Payload=b"{}")

    Keywords are the fields of `Settings`. directory: where logs and code are kept, and remain; a temporary one by
    default. port: 0 takes any free one.
    """

    def __init__(
        self, *, directory: str | Path | None = None, port: int = 0, **settings: Any
    ) -> None:
        """Only keep the settings; `start` or `with` starts the server.

        Raises: InvalidSettings.
        """
        self.settings = Settings(**settings)
        self.keys = Keys.new()
        """What requests to it must be signed with; `keys.variables()` for other programs."""
        self.endpoint_url = ""
        self.host_address = "127.0.0.1"  # where environments reach this machine
        self.notices: list[str] = []
        self.directory = Path(directory) if directory is not None else None
        self._keep = directory is not None
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start the server; returns when it answers.

        Raises: StartFailed.
        """
        check_available()
        if self.directory is None:
            self.directory = Path(tempfile.mkdtemp(prefix="local-lambda-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        module = "executors.local_lambda.server"
        command = [*module_command(module), str(self.directory), str(self._port)]
        given = {"settings": dataclasses.asdict(self.settings), "keys": self.keys}
        remove = "0" if self._keep else "1"
        watcher = [sys.executable, "-I", "-S", supervisor.__file__]
        self._process = subprocess.Popen(
            [*watcher, str(self.directory), remove, str(os.getpid()), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**child_environment(), VARIABLE: json.dumps(given)},
            start_new_session=True,
        )
        answer = self._first_line()
        if "error" in answer:
            self.stop()
            raise StartFailed(f"the local Lambda did not start: {answer['error']}")
        self.endpoint_url = answer["endpoint_url"]
        reach_loopback_directly()
        self.host_address = answer["host_address"]
        self.notices = answer["notices"]
        return self

    def stop(self) -> None:
        """End the server and every environment; returns when they are gone."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        if not self._keep:
            self.directory = None

    def wait(self) -> None:
        """Wait until the server ends, which it does only if something has killed it."""
        if self._process is not None:
            self._process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- use ----------------------------------------------------------------------------------------------------

    def client(self, service: str = "lambda", **options: Any) -> Any:
        """A plain boto3 client ("lambda" or "logs") that talks to this server."""
        import boto3

        keys = {"aws_access_key_id": self.keys[0], "aws_secret_access_key": self.keys[1]}
        session = boto3.session.Session(region_name=self.settings.region, **keys)
        return session.client(service, endpoint_url=self.endpoint_url, **options)

    def create_function(
        self,
        name: str,
        handler: str,
        *,
        code: str | Path | None = None,
        memory: int = 1769,
        timeout: int = 60,
        environment: Mapping[str, str] | None = None,
        ephemeral_storage: int = 512,
        reserved_concurrency: int | None = None,
        **members: Any,
    ) -> dict[str, Any]:
        """Create a function, through boto3; returns its configuration.

        code: the folder in which the handler's module lies, or None for what is installed in this Python; memory and
        ephemeral_storage: MB; timeout: seconds; members: further members of CreateFunction.

        Raises: FunctionRefused.
        """
        from botocore.exceptions import ClientError

        client = self.client()
        if code is None:
            package = {
                "PackageType": "Image",
                "Code": {"ImageUri": IMAGE},
                "ImageConfig": {"Command": [handler]},
            }
        else:
            folder = str(Path(code).resolve())
            package = {
                "Runtime": f"python3.{sys.version_info.minor}",
                "Handler": handler,
                "Code": {"S3Bucket": FOLDER_BUCKET, "S3Key": folder},
            }
        if environment:
            package["Environment"] = {"Variables": dict(environment)}
        try:
            answer = client.create_function(
                FunctionName=name,
                Role=_ROLE,
                MemorySize=memory,
                Timeout=timeout,
                EphemeralStorage={"Size": ephemeral_storage},
                **package,
                **members,
            )
            if reserved_concurrency is not None:
                client.put_function_concurrency(
                    FunctionName=name, ReservedConcurrentExecutions=reserved_concurrency
                )
        except ClientError as error:
            raise FunctionRefused(
                f"function {name}: {error.response['Error']['Message']}"
            ) from error
        finally:
            client.close()
        answer.pop("ResponseMetadata", None)
        return dict(answer)

    def logs(self, name: str, stream: str | None = None) -> list[str]:
        """The log lines of a function, or of one stream, in order of time."""
        client = self.client("logs")
        try:
            if f"/aws/lambda/{name}" not in _names(client.describe_log_groups()):
                return []
            pages = client.get_paginator("filter_log_events").paginate(
                logGroupName=f"/aws/lambda/{name}",
                **({"logStreamNames": [stream]} if stream else {}),
            )
            return [event["message"] for page in pages for event in page["events"]]
        finally:
            client.close()

    def stats(self) -> dict[str, Any]:
        """Counts of calls, starts, throttles, errors, retries; executions and environments now."""
        answer: dict[str, Any] = self._ask("stats")
        return answer

    def environments(self) -> list[dict[str, Any]]:
        """Every execution environment: id, function, state, frozen, pid, address, request_id, log_stream ..."""
        answer: list[dict[str, Any]] = self._ask("environments")
        return answer

    def set_faults(self, name: str, faults: Faults) -> None:
        """Let calls of this function go wrong, counted from 1 from now on."""
        body = json.dumps({"function": name, "faults": faults.to_json()}).encode()
        self._send("faults", body, "PUT").close()

    def _ask(self, what: str) -> Any:
        with self._send(what) as answer:
            return json.load(answer)[what]

    def _send(self, what: str, body: bytes | None = None, method: str = "GET") -> Any:
        """A signed request for what Lambda does not tell."""
        from botocore.awsrequest import AWSRequest

        signed = AWSRequest(method, f"{self.endpoint_url}/local/{what}", data=body)
        self.keys.signer("lambda", self.settings.region).add_auth(signed)
        headers = dict(signed.headers.items())
        request = urllib.request.Request(signed.url, body, headers, method=method)
        return _opener.open(request, timeout=_START)

    def _first_line(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        answers = select.poll()
        answers.register(self._process.stdout, select.POLLIN)
        line = self._process.stdout.readline() if answers.poll(_START * 1000) else b""
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            return {"error": line.decode(errors="replace") or "it did not answer; see its messages"}
        return answer


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _names(answer: dict[str, Any]) -> list[str]:
    return [group["logGroupName"] for group in answer["logGroups"]]
