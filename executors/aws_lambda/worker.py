"""Dask's worker, which closes once, however many ask for it."""

from __future__ import annotations

import asyncio
from typing import Any

import distributed


class Worker(distributed.Worker):
    """A worker that more than one may close at the same time: coordinator, scheduler, time limit, a broken connection.

    The scheduler may call a worker running again that closes already (it could not retire it), and Dask would close it a
    second time beside the first: each empties the queue in which the other has just told the threads of tasks to end, and
    both wait for 30 s for a thread that has nothing to do.
    """

    _closes: asyncio.Task[Any] | None = None

    async def close(self, *args: Any, **options: Any) -> Any:
        """As Dask's; whoever comes later waits for the first, whose arguments count. To stop waiting stops nothing."""
        if self._closes is None:
            self._closes = asyncio.create_task(super().close(*args, **options))
        return await asyncio.shield(self._closes)
