"""Dask's worker, which closes once, however many ask for it, and whose data can be read when its disk is full."""

from __future__ import annotations

import asyncio
from typing import Any

import distributed
from distributed.spill import MaxSpillExceeded, PickleError, SpillBuffer


class ReadableSpill(SpillBuffer):
    """Data of which some lies on disk, and can be read also where nothing else can make room for it there.

    Dask moves what is read into memory and writes something else to disk for it; where that fails, the read does.
    """

    def __getitem__(self, key: Any) -> Any:
        try:
            return super().__getitem__(key)
        except (MaxSpillExceeded, PickleError, OSError):
            if key not in self.fast:
                raise
            return self.fast[key]


class Worker(distributed.Worker):
    """A worker that more than one may close at the same time: coordinator, scheduler, time limit, a broken connection.

    The scheduler may call a worker running again that closes already (it could not retire it), and Dask would close it a
    second time beside the first: each empties the queue in which the other has just told the threads of tasks to end, and
    both wait for 30 s for a thread that has nothing to do.
    """

    _closes: asyncio.Task[Any] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if type(self.data) is SpillBuffer:
            self.data.__class__ = ReadableSpill

    async def close(self, *args: Any, **options: Any) -> Any:
        """As Dask's; whoever comes later waits for the first, whose arguments count. To stop waiting stops nothing."""
        if self._closes is None:
            self._closes = asyncio.create_task(super().close(*args, **options))
        return await asyncio.shield(self._closes)
