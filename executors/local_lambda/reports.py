"""The words of Lambda's platform: log lines around an invocation, and the error documents it makes itself."""

from __future__ import annotations

import datetime
import json
import math
import os
import signal
from typing import Any

# How Go, in which Lambda's own part of an environment is written, calls the signals.
_SIGNALS = {
    signal.SIGHUP: "hangup",
    signal.SIGINT: "interrupt",
    signal.SIGQUIT: "quit",
    signal.SIGILL: "illegal instruction",
    signal.SIGTRAP: "trace/breakpoint trap",
    signal.SIGABRT: "aborted",
    signal.SIGBUS: "bus error",
    signal.SIGFPE: "floating point exception",
    signal.SIGKILL: "killed",
    signal.SIGUSR1: "user defined signal 1",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGUSR2: "user defined signal 2",
    signal.SIGPIPE: "broken pipe",
    signal.SIGALRM: "alarm clock",
    signal.SIGTERM: "terminated",
}


def exit_reason(status: int) -> str:
    """A wait status in Lambda's words, such as `exit status 1` or `signal: killed`."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"signal: {_SIGNALS.get(number, f'signal {number}')}"  # type: ignore[call-overload]
    return f"exit status {os.WEXITSTATUS(status)}"


def exit_error(request_id: str, status: int) -> dict[str, Any]:
    """The error document for a runtime that ended without an answer."""
    if status == 0:
        what = "Runtime exited without providing a reason"
    else:
        what = f"Runtime exited with error: {exit_reason(status)}"
    return {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: {request_id} Error: {what}",
    }


def timeout_words(seconds: float) -> str:
    """What Lambda says of a function that took longer than its time limit."""
    return f"Task timed out after {seconds:.2f} seconds"


def timeout_error(request_id: str, seconds: float) -> dict[str, Any]:
    """The error document for a function that took longer than its time limit."""
    return {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {request_id} Error: {timeout_words(seconds)}",
    }


def timeout_line(request_id: str, seconds: float, now: float) -> str:
    """The log line for the same."""
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return f"{stamp} {request_id} {timeout_words(seconds)}"


def response_too_large(size: int, limit: int) -> dict[str, Any]:
    """The error document for an answer of `size` bytes."""
    return {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": f"Response payload size ({size} bytes) exceeded maximum allowed payload size ({limit} bytes).",
    }


def billed(duration: float, init: float | None) -> int:
    """Milliseconds that an invocation costs; the init phase is paid for, too."""
    return max(1, math.ceil((duration + (init or 0.0)) * 1000))


def report_line(
    request_id: str,
    duration: float,
    memory: int,
    peak: int,
    init: float | None,
    status: str | None,
    error_type: str | None,
) -> str:
    """The REPORT line: durations in seconds, memory in MB, peak in bytes; status is None, `error` or `timeout`."""
    parts = [
        f"REPORT RequestId: {request_id}",
        f"Duration: {duration * 1000:.2f} ms",
        f"Billed Duration: {billed(duration, init)} ms",
        f"Memory Size: {memory} MB",
        f"Max Memory Used: {min(memory, math.ceil(peak / (1 << 20)))} MB",
    ]
    if init is not None:
        parts.append(f"Init Duration: {init * 1000:.2f} ms")
    if status is not None:
        parts.append(f"Status: {status}")
    if error_type is not None:
        parts.append(f"Error Type: {error_type}")
    return "\t".join(parts) + "\t"


def init_report_line(
    seconds: float, status: str, error_type: str | None = None, phase: str = "init"
) -> str:
    """The INIT_REPORT line, which Lambda writes when the init phase fails."""
    line = f"INIT_REPORT Init Duration: {seconds * 1000:.2f} ms\tPhase: {phase}\tStatus: {status}"
    return f"{line}\tError Type: {error_type}" if error_type else line


def document(value: dict[str, Any]) -> bytes:
    """An error document as the bytes of a payload."""
    return json.dumps(value).encode()
