"""Whether worker processes can be started: they tell each other of themselves through semaphores, which lie in /dev/shm."""

from __future__ import annotations

import multiprocessing


def processes_refused() -> str | None:
    """Why processes cannot share a semaphore here, and what to do; None where they can."""
    try:
        multiprocessing.get_context("fork").Lock()
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        return (
            f"worker processes need /dev/shm, which cannot be used here ({reason}): mount it writable "
            "(docker run --shm-size=64m, or --tmpfs /dev/shm), or use --executor sync"
        )
    return None
