"""Whether worker processes can be started on this machine, and why not."""

from __future__ import annotations

import multiprocessing
import os
import resource

from executors.base import InvalidExecutor

ADDRESS_SPACE = 900 << 20
"""Bytes that a worker process maps; most of it is never used."""


def current_folder() -> str:
    """Where processes start. Raises InvalidExecutor where that has been removed."""
    try:
        return os.getcwd()
    except OSError:
        raise InvalidExecutor(
            "the current folder does not exist any more, and processes cannot start in it: change to another (cd)"
        ) from None


def processes_refused() -> str | None:
    """Why processes cannot be started here, and what to do; None where they can."""
    return _semaphores_refused() or _room_refused()


def _semaphores_refused() -> str | None:
    """They tell each other of themselves through semaphores, which lie in /dev/shm."""
    try:
        multiprocessing.get_context("fork").Lock()
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        return (
            f"worker processes need /dev/shm, which cannot be used here ({reason}): mount it writable "
            "(docker run --shm-size=64m, or --tmpfs /dev/shm), or use --executor sync"
        )
    return None


def _room_refused() -> str | None:
    """With less than they map, they would end one after the other, without a word."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed == resource.RLIM_INFINITY or allowed >= ADDRESS_SPACE:
        return None
    return (
        f"worker processes need {ADDRESS_SPACE >> 20} MB of address space each, and {allowed >> 20} MB are allowed "
        "(ulimit -v): allow more, or use --executor sync"
    )
