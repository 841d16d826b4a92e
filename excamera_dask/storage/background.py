"""One thread with an event loop for all traffic with object stores, so that callers can wait, overlap and give up."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

SETTLING = 0.1
"""Seconds at the end of a process in which obstore's own threads let go of Python's objects: to do so after the interpreter
is gone would abort the process."""

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def start(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Let `work` run in the background; cancelling the Future ends its request."""
    return asyncio.run_coroutine_threadsafe(work, _running_loop())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Wait for `work`; Ctrl-C ends the wait at once."""
    future = start(work)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(
                target=_loop.run_forever, name="excamera-storage", daemon=True
            )
            _thread.start()
            atexit.register(_end)
        return _loop


def _end() -> None:
    """Take no more work, and let what was under way come to its end."""
    if _loop is None or _thread is None:
        return
    _loop.call_soon_threadsafe(_loop.stop)
    _thread.join(timeout=1.0)
    time.sleep(SETTLING)


def _forget() -> None:
    """A forked child has the loop, but not the thread."""
    global _loop, _lock, _thread
    _loop, _lock, _thread = None, threading.Lock(), None


os.register_at_fork(after_in_child=_forget)
