"""The Runtime API of one environment (version 2018-06-01), as AWS documents it, on a port of its own.

It hears the environment's own processes alone: events hold what nobody else shall read, and answers are believed.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError
from tornado.web import Application, RequestHandler

from executors.local_lambda.environment import Environment
from executors.local_lambda.owners import is_held_by
from executors.local_lambda.quotas import MEBIBYTE

_VERSION = "/2018-06-01/runtime"


class _Handler(RequestHandler):
    environment: Environment

    def initialize(self, environment: Environment) -> None:
        self.environment = environment

    def accept(self) -> None:
        self.set_status(202)
        self.finish({"status": "OK"})

    def refuse(self, status: int, kind: str, message: str) -> None:
        self.set_status(status)
        self.finish({"errorType": kind, "errorMessage": message})

    def compute_etag(self) -> str | None:
        return None


class _Next(_Handler):
    _waiting: asyncio.Task[Any] | None = None

    async def get(self) -> None:
        self._waiting = asyncio.ensure_future(self.environment.next())
        try:
            invocation, deadline = await self._waiting
        except asyncio.CancelledError:
            return  # the process has ended
        self.set_header("Lambda-Runtime-Aws-Request-Id", invocation.request_id)
        self.set_header("Lambda-Runtime-Deadline-Ms", str(int(deadline * 1000)))
        self.set_header("Lambda-Runtime-Invoked-Function-Arn", self.environment.function.arn)
        self.set_header("Lambda-Runtime-Trace-Id", invocation.trace)
        if invocation.client_context:
            self.set_header("Lambda-Runtime-Client-Context", invocation.client_context)
        self.set_header("Content-Type", "application/json")
        try:
            await self.finish(invocation.payload)
        except StreamClosedError:
            return

    def on_connection_close(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()


class _Response(_Handler):
    def post(self, request_id: str) -> None:
        if not self.environment.is_current(request_id):
            self.refuse(400, "InvalidRequestID", "Invalid request ID")
        elif self.environment.answer(self.request.body):
            self.accept()
        else:
            self.refuse(413, "RequestEntityTooLarge", "Exceeded maximum allowed payload size")


class _Error(_Handler):
    def post(self, request_id: str) -> None:
        if not self.environment.is_current(request_id):
            self.refuse(400, "InvalidRequestID", "Invalid request ID")
            return
        kind = self.request.headers.get("Lambda-Runtime-Function-Error-Type", "")
        self.environment.answer_error(self.request.body or json.dumps({"errorType": kind}).encode())
        self.accept()


class _InitError(_Handler):
    def post(self) -> None:
        self.environment.init_failed(self.request.body or b"{}")
        self.accept()


class _Server(HTTPServer):
    """Closes connections of processes that are not the environment's."""

    environment: Environment

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        process = self.environment.process
        if process is None or not is_held_by(stream.socket, process.processes()):
            stream.close()
            return
        super().handle_stream(stream, address)


def serve_runtime_api(environment: Environment, listener: socket.socket) -> HTTPServer:
    """Serve the environment's Runtime API on a listening socket."""
    given = {"environment": environment}
    application = Application(
        [
            (rf"{_VERSION}/invocation/next", _Next, given),
            (rf"{_VERSION}/invocation/([^/]+)/response", _Response, given),
            (rf"{_VERSION}/invocation/([^/]+)/error", _Error, given),
            (rf"{_VERSION}/init/error", _InitError, given),
        ],
        log_function=lambda handler: None,
    )
    server = _Server(application, max_body_size=64 * MEBIBYTE, max_buffer_size=64 * MEBIBYTE)
    server.environment = environment
    server.add_socket(listener)
    return server
