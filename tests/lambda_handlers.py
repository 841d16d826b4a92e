"""Handlers for the tests of the local Lambda; they run in its environments, with this folder as the task root."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

COUNT = 0
TICKS = 0


def handle(event: dict[str, Any], context: Any) -> Any:
    """Do what the event says: {"do": name, ...}."""
    global COUNT
    COUNT += 1
    print(f"working on {event.get('do', 'echo')}")
    return ACTIONS[event.get("do", "echo")](event, context)


def echo(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return {"event": event, "count": COUNT, "pid": os.getpid()}


def read_object(event: dict[str, Any], context: Any) -> str:
    from excamera_dask.storage import open_input

    with open_input(event["url"]) as file:
        return file.read().decode()


def tell_context(event: dict[str, Any], context: Any) -> dict[str, Any]:
    client = context.client_context
    return {
        "request_id": context.aws_request_id,
        "remaining": context.get_remaining_time_in_millis(),
        "function": context.function_name,
        "version": context.function_version,
        "memory": context.memory_limit_in_mb,
        "arn": context.invoked_function_arn,
        "group": context.log_group_name,
        "stream": context.log_stream_name,
        "custom": client.custom if client else None,
    }


def sleep(event: dict[str, Any], context: Any) -> str:
    time.sleep(event["seconds"])
    return "slept"


def fail(event: dict[str, Any], context: Any) -> None:
    raise ValueError("this is the handler's own error")


def leave(event: dict[str, Any], context: Any) -> None:
    os._exit(event["status"])


def leave_a_task(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Have a task of Dask's that goes on and on when the handler ends, as a worker's may."""
    from executors.aws_lambda import ending

    ending.TASK_GRACE = 0.1
    name = f"{ending.TASK_THREADS[0]}-1-0"
    threading.Thread(target=time.sleep, args=[600], name=name, daemon=True).start()
    ending.leave_no_task(context.aws_request_id, {"outcome": "finished"})
    return {"outcome": "shares the processor"}


def die(event: dict[str, Any], context: Any) -> None:
    os.kill(os.getpid(), event["signal"])
    time.sleep(10)


def fill_memory(event: dict[str, Any], context: Any) -> None:
    hoard = []
    for _ in range(event["megabytes"]):
        hoard.append(bytearray(b"x") * (1 << 20))


def answer_much(event: dict[str, Any], context: Any) -> str:
    return "x" * event["bytes"]


def tick(event: dict[str, Any], context: Any) -> int:
    """Start a thread that counts, once; tell how far it is."""

    def run() -> None:
        global TICKS
        while True:
            TICKS += 1
            time.sleep(0.01)

    if TICKS == 0:
        threading.Thread(target=run, daemon=True).start()
    time.sleep(0.05)
    return TICKS


def start_child(event: dict[str, Any], context: Any) -> int:
    """Leave a process behind, in a session of its own if asked to; then sleep if asked to."""
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = subprocess.Popen(command, start_new_session=event.get("session", False))
    print(f"child {child.pid}")
    time.sleep(event.get("seconds", 0))
    return child.pid


def write_file(event: dict[str, Any], context: Any) -> str:
    """Write so many bytes to a path; returns "" or the name of the error."""
    try:
        with open(event["path"], "wb") as file:
            file.write(b"x" * event.get("bytes", 1))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def list_folder(event: dict[str, Any], context: Any) -> list[str]:
    return sorted(os.listdir(event["path"]))


def tell_limits(event: dict[str, Any], context: Any) -> dict[str, Any]:
    try:
        import multiprocessing

        multiprocessing.get_context("spawn").Lock()
        lock = ""
    except OSError as error:
        lock = errno.errorcode[error.errno or 0]
    return {
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "lock": lock,
        "shm": os.path.exists("/dev/shm"),
        "folder": os.getcwd(),
        "variables": dict(os.environ),
    }


def start_threads(event: dict[str, Any], context: Any) -> int:
    """How many threads can be had, up to a number."""
    done = threading.Event()
    started = 0
    try:
        for _ in range(event["number"]):
            threading.Thread(target=done.wait, daemon=True).start()
            started += 1
    except RuntimeError:
        pass
    done.set()
    return started


def connect(event: dict[str, Any], context: Any) -> str:
    """Connect to an address; returns "" or the name of the error's class."""
    try:
        socket.create_connection((event["host"], event["port"]), event["seconds"]).close()
    except OSError as error:
        return type(error).__name__
    return ""


def burn(event: dict[str, Any], context: Any) -> tuple[float, float]:
    """Compute for so many seconds; returns those of the processor and those of the clock."""
    used, passed = time.process_time(), time.monotonic()
    while time.monotonic() - passed < event["seconds"]:
        pass
    return time.process_time() - used, time.monotonic() - passed


def listen(event: dict[str, Any], context: Any) -> None:
    with socket.create_server(("0.0.0.0", event["port"])):
        time.sleep(event["seconds"])


ACTIONS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    action.__name__: action
    for action in (
        *(
            echo,
            read_object,
            tell_context,
            sleep,
            fail,
            leave,
            leave_a_task,
            die,
            fill_memory,
            answer_much,
            tick,
        ),
        *(start_child, write_file, list_folder, tell_limits, start_threads, connect, listen, burn),
    )
}
