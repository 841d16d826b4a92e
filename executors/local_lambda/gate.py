"""Who may speak to the server: whoever signs with its keys, on this machine, and no web page.

One gate before everything that it answers. A request carries AWS's Signature Version 4, which boto3 and other AWS tools
make of themselves. What its headers say is checked before anything of its body is kept.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.client import responses
from typing import NamedTuple
from urllib.parse import urlsplit

from botocore.awsrequest import AWSRequest
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)

from executors.local_lambda.errors import ApiError, too_large
from executors.local_lambda.keys import Keys

_HERE = ("127.0.0.1", "localhost", "::1")
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)
_SKEW = timedelta(minutes=15)
"""How far a signature's time may be from ours, as with AWS."""


class Gate(HTTPServerConnectionDelegate):
    """Hands requests on to `application` whose senders may send them; answers the others as AWS does.

    `limit_of` tells how many bytes a request's body may have. Nothing of a body is kept that is too large, or whose sender
    does not even name our key: it is read to its end, for the answer to be heard, and forgotten.
    """

    def __init__(
        self,
        keys: Keys,
        application: Callable[[HTTPServerRequest], object],
        limit_of: Callable[[HTTPServerRequest], int],
    ) -> None:
        self.keys = keys
        self.application = application
        self.limit_of = limit_of

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        return _Visit(self, request_conn)


class _Visit(HTTPMessageDelegate):
    """One request on its way through the gate."""

    def __init__(self, gate: Gate, connection: HTTPConnection) -> None:
        self._gate = gate
        self._connection = connection
        self._body = bytearray()
        self._error: ApiError | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        assert isinstance(start_line, RequestStartLine)
        self._request = HTTPServerRequest(
            connection=self._connection, start_line=start_line, headers=headers
        )
        try:
            self._signed = check_headers(headers, self._gate.keys, datetime.now(UTC))
            self._limit = self._gate.limit_of(self._request)
        except ApiError as error:
            self._error = error

    def data_received(self, chunk: bytes) -> None:
        if self._error is None and len(self._body) + len(chunk) > self._limit:
            self._error = too_large(self._limit)
            self._body.clear()
        if self._error is None:
            self._body += chunk

    def finish(self) -> None:
        self._request.body = bytes(self._body)
        try:
            if self._error is None:
                check_signature(self._request, self._gate.keys, self._signed)
        except ApiError as error:
            self._error = error
        if self._error is None:
            self._gate.application(self._request)
        else:
            _refuse(self._request, self._error)

    def on_connection_close(self) -> None:
        self._body.clear()


class Signed(NamedTuple):
    """What a request says of its signature."""

    region: str
    service: str
    names: str
    signature: str


def check_headers(headers: HTTPHeaders, keys: Keys, now: datetime) -> Signed:
    """Raises ApiError (403) for a request of a web page, for another host's name, and without a signature of now that names
    our key.
    """
    if "Origin" in headers:
        raise _denied("AccessDeniedException", "Web pages may not use this server.")
    host = headers.get_list("Host")
    if len(host) != 1 or _name(host[0]) not in _HERE:
        raise _denied("AccessDeniedException", "This server has no such name.")
    match = _AUTHORIZATION.fullmatch(headers.get("Authorization", ""))
    if match is None:
        raise _denied("MissingAuthenticationTokenException", "Missing Authentication Token")
    access_key, *rest = match.groups()
    if not hmac.compare_digest(access_key.encode(), keys.access_key.encode()):
        raise _denied(
            "UnrecognizedClientException",
            "The security token included in the request is invalid: "
            "this server takes the keys that it has told at its start.",
        )
    signed_at = _time(headers.get("X-Amz-Date", ""))
    if signed_at is None or abs(now - signed_at) > _SKEW:
        raise _denied(
            "InvalidSignatureException",
            f"Signature expired: its X-Amz-Date is more than 15 minutes from {now:%Y%m%dT%H%M%SZ}.",
        )
    return Signed(*rest)


def check_signature(request: HTTPServerRequest, keys: Keys, signed: Signed) -> None:
    """Raises ApiError (403) for a request whose signature is not by `keys`, or not of its whole body."""
    if not hmac.compare_digest(_signature(request, keys, signed), signed.signature):
        raise _denied(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        )


def _signature(request: HTTPServerRequest, keys: Keys, signed: Signed) -> str:
    """What the request's signature must be; "" where it leaves out what has to be signed."""
    wanted = signed.names.split(";")
    said = request.headers.get("X-Amz-Content-SHA256")  # botocore would believe it
    if "host" not in wanted or said not in (None, sha256(request.body).hexdigest()):
        return ""
    again = AWSRequest(
        method=request.method,
        url=f"http://{request.host}{request.uri}",
        headers={name: request.headers.get(name, "") for name in wanted},
        data=request.body,
    )
    again.context["timestamp"] = request.headers["X-Amz-Date"]
    signer = keys.signer(signed.service, signed.region)
    text = signer.string_to_sign(again, signer.canonical_request(again))
    return str(signer.signature(text, again))


def _time(said: str) -> datetime | None:
    try:
        return datetime.strptime(said, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _denied(kind: str, message: str) -> ApiError:
    return ApiError(403, kind, message)


def _refuse(request: HTTPServerRequest, error: ApiError) -> None:
    body = json.dumps({"__type": error.kind, **error.to_json()}).encode()
    headers = HTTPHeaders(
        {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "x-amzn-ErrorType": error.kind,
        }
    )
    assert request.connection is not None
    request.connection.write_headers(
        ResponseStartLine("HTTP/1.1", error.status, responses[error.status]), headers, body
    )
    request.connection.finish()
