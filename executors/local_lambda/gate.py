"""Who may speak to the server: whoever signs with its keys, on this machine, and no web page.

One gate before everything that it answers. A request carries AWS's Signature Version 4, which boto3 and other AWS tools
make of themselves.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine

from executors.local_lambda.errors import ApiError
from executors.local_lambda.keys import Keys

_HERE = ("127.0.0.1", "localhost", "::1")
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)
_TIME = re.compile(r"\d{8}T\d{6}Z")


class Gate:
    """Hands requests on to `application` whose senders may send them; answers the others as AWS does."""

    def __init__(self, keys: Keys, application: Callable[[HTTPServerRequest], object]) -> None:
        self._keys = keys
        self._application = application

    def __call__(self, request: HTTPServerRequest) -> None:
        try:
            check(request, self._keys)
        except ApiError as error:
            _refuse(request, error)
        else:
            self._application(request)


def check(request: HTTPServerRequest, keys: Keys) -> None:
    """Raises ApiError (403) for a request of a web page, for another host's name, and without a signature by `keys`."""
    if "Origin" in request.headers:
        raise _denied("AccessDeniedException", "Web pages may not use this server.")
    host = request.headers.get_list("Host")
    if len(host) != 1 or _name(host[0]) not in _HERE:
        raise _denied("AccessDeniedException", "This server has no such name.")
    match = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
    if match is None:
        raise _denied("MissingAuthenticationTokenException", "Missing Authentication Token")
    access_key, region, service, names, signature = match.groups()
    if not hmac.compare_digest(access_key, keys.access_key):
        raise _denied(
            "UnrecognizedClientException",
            "The security token included in the request is invalid: "
            "this server takes the keys that it has told at its start.",
        )
    if not hmac.compare_digest(_signature(request, keys.signer(service, region), names), signature):
        raise _denied(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        )


def _signature(request: HTTPServerRequest, signer: SigV4Auth, names: str) -> str:
    """What the request's signature must be; "" where it leaves out what has to be signed."""
    wanted = names.split(";")
    time = request.headers.get("X-Amz-Date", "")
    if "host" not in wanted or _TIME.fullmatch(time) is None:
        return ""
    again = AWSRequest(
        method=request.method,
        url=f"http://{request.host}{request.uri}",
        headers={name: request.headers.get(name, "") for name in wanted},
        data=request.body,
    )
    again.context["timestamp"] = time
    text = signer.string_to_sign(again, signer.canonical_request(again))
    return str(signer.signature(text, again))


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
        ResponseStartLine("HTTP/1.1", error.status, "Forbidden"), headers, body
    )
    request.connection.finish()
