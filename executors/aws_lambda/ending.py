"""Leave no task behind in an execution environment: the next invocation there would share the processor with it.

Python cannot end a thread, but Lambda starts a fresh environment when the process of one has ended.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import threading
import time
from typing import Any

TASK_THREADS = ("Dask-Default-Threads", "Dask-Actor-Threads")
"""What the names of the threads contain in which Dask's workers run tasks."""
TASK_GRACE = 2.0
"""Seconds that a task may take to end after its worker has gone; they are paid for."""
API = "AWS_LAMBDA_RUNTIME_API"
API_TIMEOUT = 5.0
FRESH = "fresh"
"""In an answer: the next invocation shall find nothing of this one."""


def leave_no_task(request_id: str, answer: dict[str, Any]) -> None:
    """Wait for tasks to end; where one does not, or the answer is FRESH, answer Lambda and end this process.

    Off Lambda (no Runtime API) the process goes on.
    """
    fresh = answer.pop(FRESH, False)
    if API not in os.environ or (not fresh and tasks_end(TASK_GRACE)):
        return
    print(
        f"{answer['reason'] if fresh else 'a task still runs'}: this environment ends", flush=True
    )
    with contextlib.suppress(OSError, http.client.HTTPException):
        _answer(os.environ[API], request_id, answer)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def tasks_end(grace: float) -> bool:
    """Whether no thread runs a task any more, within `grace` seconds."""
    end = time.monotonic() + grace
    threads = [
        one for one in threading.enumerate() if any(word in one.name for word in TASK_THREADS)
    ]
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def _answer(api: str, request_id: str, answer: dict[str, Any]) -> None:
    """What the runtime does with an answer; it asks for the next event afterwards, which we must not."""
    connection = http.client.HTTPConnection(api, timeout=API_TIMEOUT)
    path = f"/2018-06-01/runtime/invocation/{request_id}/response"
    connection.request("POST", path, json.dumps(answer).encode())
    connection.getresponse().read()
    connection.close()
