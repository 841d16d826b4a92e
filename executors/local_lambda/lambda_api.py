"""Lambda's HTTP API, as far as workers and their deployment need it: Invoke, and the management of functions."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import Any
from urllib.parse import unquote

from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from executors.local_lambda import functions as functions_module
from executors.local_lambda.errors import ApiError, invalid, not_found
from executors.local_lambda.functions import EventConfig, Function, Functions
from executors.local_lambda.invocations import Dispatcher, new_invocation
from executors.local_lambda.pool import Pool
from executors.local_lambda.quotas import (
    ASYNC_PAYLOAD,
    SYNC_PAYLOAD,
    UNZIPPED_BYTES,
    UPLOAD,
    Settings,
)

_PAGE = 50


class ApiHandler(RequestHandler):
    """What all calls share: JSON in, JSON out, errors as botocore reads them."""

    settings_of_lambda: Settings
    functions: Functions
    dispatcher: Dispatcher
    pool: Pool

    def initialize(
        self, settings: Settings, functions: Functions, dispatcher: Dispatcher, pool: Pool
    ) -> None:
        self.settings_of_lambda = settings
        self.functions = functions
        self.dispatcher = dispatcher
        self.pool = pool

    def function(self, name: str) -> Function:
        """The function that the path names."""
        return self.functions.find(unquote(name), self.get_query_argument("Qualifier", None))

    def body(self) -> dict[str, Any]:
        """The request's JSON."""
        try:
            value = json.loads(self.request.body or b"{}")
        except ValueError:
            raise ApiError(
                400, "InvalidRequestContentException", "Could not parse request body into json"
            ) from None
        return value if isinstance(value, dict) else {}

    def answer(self, value: dict[str, Any], status: int = 200) -> None:
        """Send JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value))

    def configuration(self, function: Function) -> dict[str, Any]:
        """A function's FunctionConfiguration."""
        return function.to_json(time.monotonic())

    def prepare(self) -> None:
        self.set_header("x-amzn-RequestId", str(id(self)))

    def compute_etag(self) -> str | None:
        return None

    def write_error(self, status_code: int, **details: Any) -> None:
        error = details.get("exc_info", (None, None))[1]
        if not isinstance(error, ApiError):
            error = ApiError(status_code, "ServiceException", f"{self._reason}: {error}")
        self.set_status(error.status)
        self.set_header("x-amzn-ErrorType", error.kind)
        if error.status == 429:
            self.set_header("Retry-After", "1")
        self.answer(error.to_json(), error.status)

    def log_exception(self, kind: Any, value: Any, trace: Any) -> None:
        if not isinstance(value, ApiError):
            super().log_exception(kind, value, trace)


class InvokeHandler(ApiHandler):
    """Invoke."""

    async def post(self, name: str) -> None:
        function = self.function(name)
        kind = self.request.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        if kind not in ("RequestResponse", "Event", "DryRun"):
            raise invalid(f"{kind} is no invocation type")
        state = self.configuration(function)["State"]
        if state != "Active":
            raise ApiError(
                409,
                "ResourceConflictException",
                f"The operation cannot be performed at this time. The function is currently in the following state: {state}",
            )
        payload = self.request.body or b"{}"
        self._check_json(payload)
        if kind == "DryRun":
            self.set_status(204)
            return
        context = self.request.headers.get("X-Amz-Client-Context")
        invocation = new_invocation(
            payload, base64.b64decode(context).decode() if context else None
        )
        self.set_header("x-amzn-RequestId", invocation.request_id)
        self.set_header("X-Amzn-Trace-Id", invocation.trace)
        outcome = await self.dispatcher.call(function, kind, invocation)
        if outcome is None:
            self.set_status(202)
            return
        self.set_header("X-Amz-Executed-Version", "$LATEST")
        if outcome.failed:
            self.set_header("X-Amz-Function-Error", "Unhandled")
        if self.request.headers.get("X-Amz-Log-Type") == "Tail":
            self.set_header("X-Amz-Log-Result", base64.b64encode(outcome.tail).decode())
        self.set_header("Content-Type", "application/json")
        self.finish(outcome.payload)

    @staticmethod
    def _check_json(payload: bytes) -> None:
        # Lambda checks all; a large one is sent by a program that made it
        if len(payload) <= 1 << 16:
            try:
                json.loads(payload)
            except ValueError as error:
                raise ApiError(
                    400,
                    "InvalidRequestContentException",
                    f"Could not parse request body into json: {error}",
                ) from None


class FunctionsHandler(ApiHandler):
    """CreateFunction, ListFunctions."""

    def post(self) -> None:
        self.answer(self.configuration(self.functions.create(self.body(), time.monotonic())), 201)

    def get(self) -> None:
        everything = [self.configuration(function) for function in self.functions]
        begin = int(self.get_query_argument("Marker", "0"))
        end = begin + min(_PAGE, int(self.get_query_argument("MaxItems", str(_PAGE))))
        answer: dict[str, Any] = {"Functions": everything[begin:end]}
        if end < len(everything):
            answer["NextMarker"] = str(end)
        self.answer(answer)


class FunctionHandler(ApiHandler):
    """GetFunction, DeleteFunction."""

    def get(self, name: str) -> None:
        function = self.function(name)
        answer: dict[str, Any] = {
            "Configuration": self.configuration(function),
            "Code": {"RepositoryType": "S3", "Location": f"file://{function.code.folder}"},
        }
        if function.package_type == "Image":
            answer["Code"] = {"RepositoryType": "ECR", "ImageUri": "local"}
        if function.tags:
            answer["Tags"] = function.tags
        if function.reserved is not None:
            answer["Concurrency"] = {"ReservedConcurrentExecutions": function.reserved}
        self.answer(answer)

    def delete(self, name: str) -> None:
        function = self.function(name)
        self.functions.delete(function)
        self.pool.retire(function.name)
        self.set_status(204)


class ConfigurationHandler(ApiHandler):
    """GetFunctionConfiguration, UpdateFunctionConfiguration."""

    def get(self, name: str) -> None:
        self.answer(self.configuration(self.function(name)))

    def put(self, name: str) -> None:
        function = self.function(name)
        self.functions.update(function, self.body())
        self.pool.retire(function.name, function.revision)
        self.answer(self.configuration(function))


class CodeHandler(ApiHandler):
    """UpdateFunctionCode."""

    def put(self, name: str) -> None:
        function = self.function(name)
        self.functions.update_code(function, self.body())
        self.pool.retire(function.name, function.revision)
        self.answer(self.configuration(function))


class ConcurrencyHandler(ApiHandler):
    """PutFunctionConcurrency, GetFunctionConcurrency, DeleteFunctionConcurrency."""

    def get(self, name: str) -> None:
        reserved = self.function(name).reserved
        self.answer({} if reserved is None else {"ReservedConcurrentExecutions": reserved})

    def put(self, name: str) -> None:
        function = self.function(name)
        amount = self.body().get("ReservedConcurrentExecutions")
        if not isinstance(amount, int):
            raise invalid("ReservedConcurrentExecutions must be a number")
        self.functions.reserve(function, amount)
        self.answer({"ReservedConcurrentExecutions": amount})

    def delete(self, name: str) -> None:
        self.function(name).reserved = None
        self.set_status(204)


class EventConfigHandler(ApiHandler):
    """Put-, Update-, Get- and DeleteFunctionEventInvokeConfig."""

    def put(self, name: str) -> None:
        self._set(self.function(name), EventConfig())

    def post(self, name: str) -> None:
        function = self.function(name)
        self._check(function)
        self._set(function, function.events)

    def get(self, name: str) -> None:
        function = self.function(name)
        self._check(function)
        self._tell(function)

    def delete(self, name: str) -> None:
        function = self.function(name)
        self._check(function)
        function.events = EventConfig()
        self.set_status(204)

    def _set(self, function: Function, before: EventConfig) -> None:
        function.events = functions_module.check_event_config(self.body(), before, time.time())
        self._tell(function)

    def _check(self, function: Function) -> None:
        if not function.events.changed:
            raise not_found(f"The function {function.arn} doesn't have an EventInvokeConfig")

    def _tell(self, function: Function) -> None:
        events = function.events
        self.answer(
            {
                "FunctionArn": f"{function.arn}:$LATEST",
                "LastModified": events.changed,
                "MaximumEventAgeInSeconds": events.age,
                "MaximumRetryAttempts": events.retries,
                "DestinationConfig": events.destinations or {"OnSuccess": {}, "OnFailure": {}},
            }
        )


class TagsHandler(ApiHandler):
    """TagResource, ListTags, UntagResource."""

    def get(self, arn: str) -> None:
        self.answer({"Tags": self.function(arn).tags})

    def post(self, arn: str) -> None:
        self.function(arn).tags.update(self.body().get("Tags", {}))
        self.set_status(204)

    def delete(self, arn: str) -> None:
        for key in self.get_query_arguments("tagKeys"):
            self.function(arn).tags.pop(key, None)
        self.set_status(204)


class AccountHandler(ApiHandler):
    """GetAccountSettings."""

    def get(self) -> None:
        everything = list(self.functions)
        self.answer(
            {
                "AccountLimit": {
                    "TotalCodeSize": 80_530_636_800,
                    "CodeSizeUnzipped": UNZIPPED_BYTES,
                    "CodeSizeZipped": 52_428_800,
                    "ConcurrentExecutions": self.settings_of_lambda.concurrency,
                    "UnreservedConcurrentExecutions": self.functions.unreserved(),
                },
                "AccountUsage": {
                    "TotalCodeSize": sum(function.code.size for function in everything),
                    "FunctionCount": len(everything),
                },
            }
        )


def body_limit(request: HTTPServerRequest) -> int:
    """How many bytes the body of a call may have."""
    if request.path.endswith("/invocations"):
        kind = request.headers.get("X-Amz-Invocation-Type")
        return ASYNC_PAYLOAD if kind == "Event" else SYNC_PAYLOAD
    brings_code = re.fullmatch(r"/2015-03-31/functions(/?|/[^/]+/code)", request.path)
    return UPLOAD if brings_code else SYNC_PAYLOAD


def routes(given: dict[str, Any]) -> list[tuple[str, type[ApiHandler], dict[str, Any]]]:
    """The paths of the API."""
    one = r"/functions/([^/]+)"
    return [
        (rf"/2015-03-31{one}/invocations", InvokeHandler, given),
        (r"/2015-03-31/functions/?", FunctionsHandler, given),
        (rf"/2015-03-31{one}", FunctionHandler, given),
        (rf"/2015-03-31{one}/configuration", ConfigurationHandler, given),
        (rf"/2015-03-31{one}/code", CodeHandler, given),
        (rf"/(?:2017-10-31|2019-09-30){one}/concurrency", ConcurrencyHandler, given),
        (rf"/2019-09-25{one}/event-invoke-config", EventConfigHandler, given),
        (r"/2017-03-31/tags/(.+)", TagsHandler, given),
        (r"/2016-08-19/account-settings/?", AccountHandler, given),
    ]
