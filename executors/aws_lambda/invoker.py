"""Invoke the function with boto3, from threads, and say in the fleet's words what came of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ProxyConnectionError,
)

from executors.aws_lambda.deploy.versions import mismatch
from executors.aws_lambda.payload import PROBE

THREADS = 32
ACCEPTED = 202
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 15.0
THROTTLED = frozenset(
    {"TooManyRequestsException", "ThrottlingException", "Throttling", "EC2ThrottledException"}
)
PASSING = frozenset(
    {"ServiceException", "InternalServerError", "ServiceUnavailableException", "RequestTimeout"}
)
"""Error codes of Lambda's that another try may mend; all others are ours to mend."""
UNSENT = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)
"""No connection was made (refused, no such host, no route, no answer), so no request went out on it."""


def invoke_config(region: str | None = None) -> Config:
    """How to talk to Lambda: short timeouts, and no retries of boto3's, for the fleet paces and repeats."""
    return Config(
        region_name=region,
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        max_pool_connections=THREADS,
        retries={"total_max_attempts": 1, "mode": "standard"},
    )


@dataclass(frozen=True)
class Accepted:
    """Lambda has taken the event; whether, when and how often it runs is its own affair."""

    request_id: str


@dataclass(frozen=True)
class Throttled:
    """Too much at once; another try later is due."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """Not taken; `fatal` where no other try will fare better, `unanswered` where Lambda may have taken it all the same."""

    reason: str
    fatal: bool
    unanswered: bool = False


@dataclass(frozen=True)
class Unsent:
    """Lambda cannot be reached from here; it has certainly not taken the event."""

    reason: str


Outcome = Accepted | Throttled | Failed | Unsent


class Invoker:
    """Sends Event invocations of one function in a pool of threads; versions: what its packages must be."""

    def __init__(
        self,
        client: Any,
        function_name: str,
        versions: Mapping[str, str],
        qualifier: str | None = None,
    ) -> None:
        self._client = client
        self._versions = versions
        self._arguments: dict[str, Any] = {"FunctionName": function_name, "InvocationType": "Event"}
        if qualifier is not None:
            self._arguments["Qualifier"] = qualifier
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="invoke")
        self._unsent = -math.inf, Unsent("")

    def submit(self, make_payload: Callable[[], bytes]) -> Future[Outcome]:
        """Make a payload and invoke with it, both in a thread; the future never fails."""
        return self._threads.submit(self._invoke, make_payload, time.monotonic())

    def _invoke(self, make_payload: Callable[[], bytes], asked: float) -> Outcome:
        since, unsent = self._unsent
        if asked < since:  # it waited for a thread meanwhile: one wait for a connection is enough
            return unsent
        try:
            answer = self._client.invoke(**self._arguments, Payload=make_payload())
        except ClientError as error:
            return _refusal(error)
        except UNSENT as error:
            unsent = Unsent(" ".join(str(error).split()))
            self._unsent = time.monotonic(), unsent
            return unsent
        except HTTPClientError as error:
            return Failed(f"Lambda does not answer: {error}", fatal=False, unanswered=True)
        except BotoCoreError as error:
            return Failed(f"Lambda cannot be called: {error}", fatal=True)
        except Exception as error:
            return Failed(f"{type(error).__name__}: {error}", fatal=True)
        told = answer["ResponseMetadata"]
        if told.get("HTTPStatusCode") != ACCEPTED:
            return Failed(
                f"what answers {told.get('HTTPStatusCode')} at {self._client.meta.endpoint_url} is not Lambda",
                fatal=True,
            )
        return Accepted(told.get("RequestId", ""))

    def probe(self) -> Failed | None:
        """Run the function once and wait: why it cannot work at all, or None. Takes as long as a start of it."""
        request = {**self._arguments, "InvocationType": "RequestResponse"}
        name = self._arguments["FunctionName"]
        try:
            answer = self._client.invoke(**request, Payload=json.dumps(PROBE).encode())
            told = json.loads(answer["Payload"].read() or b"{}")
        except ClientError as error:
            refusal = _refusal(error)
            return refusal if isinstance(refusal, Failed) and refusal.fatal else None
        except Exception:  # slow or cut: the fleet will find out by itself
            return None
        if not isinstance(told, dict) or ("FunctionError" not in answer and "versions" not in told):
            return Failed(
                f"function {name} is no worker of excamera: give the --function that excamera lambda deploy made",
                fatal=True,
            )
        if "FunctionError" not in answer:
            wrong = mismatch(told["versions"], self._versions, who=f"function {name}")
            return None if wrong is None else Failed(wrong, fatal=True)
        kind, text = (
            told.get("errorType", "error"),
            " ".join(str(told.get("errorMessage", "")).split()),
        )
        return Failed(f"function {name} cannot start: {kind}: {text}", fatal=True)

    def close(self) -> None:
        """Let go of what has not been sent; calls under way end by their timeouts."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _refusal(error: ClientError) -> Outcome:
    told = error.response.get("Error", {})
    code, message = told.get("Code", "unknown"), told.get("Message", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in THROTTLED or status == 429:
        return Throttled(str(error.response.get("Reason") or code))
    return Failed(f"{code}: {message}".rstrip(": "), fatal=code not in PASSING and status < 500)
