"""A worker that several close at the same time closes once, and leaves no thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest
from distributed import Client, Scheduler
from distributed.core import Status

from executors.aws_lambda.worker import Worker

HELD_UP = 5.0
"""Seconds; two at once wait for 30."""


def threads() -> list[threading.Thread]:
    """Those that run the tasks of the worker."""
    return [one for one in threading.enumerate() if one.name.startswith("twice-Dask")]


async def close_twice(status_between: Status) -> None:
    """Closed by two, and called `status_between` by the scheduler as soon as the first has begun."""
    async with (
        Scheduler(port=0, dashboard=False) as scheduler,
        Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
    ):
        worker = await Worker(scheduler.address, nthreads=1, name="twice", dashboard=False)
        assert await client.submit(abs, -1) == 1
        assert threads()
        first = asyncio.create_task(worker.close(executor_wait=False, reason="first"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        worker.status = status_between
        await asyncio.wait_for(asyncio.gather(first, worker.close(reason="second")), HELD_UP)


@pytest.mark.parametrize("between", [Status.running, Status.closing_gracefully])
def test_two_close_it(between: Status, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "distributed.worker"):
        asyncio.run(close_twice(between))
    closed = [text for text in caplog.messages if text.startswith("Stopping worker")]
    assert len(closed) == 1 and closed[0].endswith("Reason: first")
    deadline = time.monotonic() + HELD_UP
    while threads():
        assert time.monotonic() < deadline, "a thread for tasks was left behind"
        time.sleep(0.05)


def test_who_stops_waiting_stops_nothing() -> None:
    async def leave_early() -> Status:
        async with Scheduler(port=0, dashboard=False) as scheduler:
            worker = await Worker(scheduler.address, nthreads=1, dashboard=False)
            early = asyncio.create_task(worker.close())
            await asyncio.sleep(0)
            early.cancel()
            await asyncio.wait_for(worker.finished(), HELD_UP)
            return worker.status

    assert asyncio.run(leave_early()) is Status.closed
