"""What Lambda says of an invocation to the function that it calls."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Facts:
    """What Lambda says of an invocation; `deadline` in seconds of time.time(), memory in bytes."""

    request_id: str
    log_stream: str
    function_version: str
    memory: int
    deadline: float
    cold: bool


def read_facts(context: Any, cold: bool) -> Facts:
    """What the context object of an invocation says; the limits of any function without one."""
    remaining = context.get_remaining_time_in_millis() / 1000 if context is not None else 900.0
    megabytes = getattr(context, "memory_limit_in_mb", None)
    if megabytes is None:
        megabytes = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "0")
    return Facts(
        request_id=getattr(context, "aws_request_id", "") or "",
        log_stream=getattr(context, "log_stream_name", "") or "",
        function_version=getattr(context, "function_version", "") or "",
        memory=int(megabytes) << 20,
        deadline=time.time() + remaining,
        cold=cold,
    )
