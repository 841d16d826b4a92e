"""The process of a local Lambda: one event loop with the API, the Runtime APIs and all environments.

It is started by `supervisor.py`, prints one JSON line when it is ready, and ends at SIGTERM. Settings and keys come in a
variable of its environment, which other users cannot read, as they can a command's arguments.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from executors.local_lambda import kernel, lambda_api
from executors.local_lambda.errors import LocalLambdaError
from executors.local_lambda.faults import Faults
from executors.local_lambda.functions import Functions
from executors.local_lambda.gate import Gate
from executors.local_lambda.invocations import Dispatcher
from executors.local_lambda.keys import VARIABLE, Keys
from executors.local_lambda.launcher import Launcher
from executors.local_lambda.logs import LogStore
from executors.local_lambda.logs_api import LogsHandler
from executors.local_lambda.pool import Pool
from executors.local_lambda.quotas import MEBIBYTE, Settings

_BODY = 128 * MEBIBYTE
"""More than any body may have: one that is too large, but not larger than that, is read to its end and answered."""


class _Admin(RequestHandler):
    """What tests and people ask that Lambda does not tell: /local/stats, /local/environments, /local/faults."""

    dispatcher: Dispatcher
    pool: Pool

    def initialize(self, dispatcher: Dispatcher, pool: Pool) -> None:
        self.dispatcher = dispatcher
        self.pool = pool

    def get(self, what: str) -> None:
        answers = {"stats": self.dispatcher.stats, "environments": self.pool.describe}
        if what not in answers:
            self.send_error(404)
            return
        self.finish(json.dumps({what: answers[what]()}))

    def put(self, what: str) -> None:
        request = json.loads(self.request.body)
        self.dispatcher.set_faults(request["function"], Faults.from_json(request["faults"]))


async def serve(settings: Settings, keys: Keys, state: Path, port: int) -> None:
    """Serve until SIGTERM."""
    logs = LogStore(state / "logs")
    functions = Functions(settings, state)
    launcher = Launcher(settings, state)
    pool = Pool(settings, launcher, logs)
    dispatcher = Dispatcher(settings, functions, pool)
    given: dict[str, Any] = {
        "settings": settings,
        "functions": functions,
        "dispatcher": dispatcher,
        "pool": pool,
    }
    application = Application(
        [
            *lambda_api.routes(given),
            (r"/local/(\w+)", _Admin, {"dispatcher": dispatcher, "pool": pool}),
            (r"/", LogsHandler, {"store": logs}),
        ],
        log_function=lambda handler: None,
    )
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setblocking(False)
    gate = Gate(keys, application, lambda_api.body_limit)
    server = HTTPServer(gate, max_body_size=_BODY, max_buffer_size=MEBIBYTE)
    server.add_socket(listener)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch = asyncio.ensure_future(pool.watch())
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    ready = {
        "endpoint_url": url,
        "host_address": launcher.host_address,
        "notices": launcher.notices,
    }
    print(json.dumps(ready), flush=True)
    await stop.wait()
    server.stop()
    watch.cancel()
    await dispatcher.close()
    await pool.close()
    launcher.close()


def main() -> None:
    """Arguments: the state folder, the port (0: any free one), the parent's process id."""
    state, port, parent = sys.argv[1:]
    kernel.die_with_parent(int(parent))
    _raise_descriptor_limit()
    given = json.loads(os.environ.pop(VARIABLE))
    settings, keys = Settings.from_json(given["settings"]), Keys(*given["keys"])
    try:
        asyncio.run(serve(settings, keys, Path(state), int(port)))
    except (LocalLambdaError, OSError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        os._exit(1)


def _raise_descriptor_limit() -> None:
    """An environment takes about five descriptors here, and there may be hundreds."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
