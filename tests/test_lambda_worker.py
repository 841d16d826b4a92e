"""A Lambda worker closes once, whoever closes it, and leaves no thread; what it holds can be read when its disk is full."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
import time

import dask
import pytest
from distributed import Client, Scheduler
from distributed.core import Status

from executors.aws_lambda.worker import ReadableSpill, Worker

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


def test_what_lies_on_disk_can_be_read_beside_what_cannot_go_there() -> None:
    """What is read moves into memory, and something goes to disk for it; here that has no pickle."""
    spill = ReadableSpill(str(tempfile.mkdtemp()), target=2_000_000)
    spill["on disk"] = bytes(1_500_000)
    spill["other"] = bytes(1_500_000)
    assert "on disk" in spill.slow
    spill["unpicklable"] = Unpicklable()
    del spill["other"]
    assert spill["on disk"] == bytes(1_500_000)


class Unpicklable:
    """A large one."""

    def __sizeof__(self) -> int:
        return 1_000_000

    def __reduce__(self) -> tuple[object, ...]:
        raise ValueError("no pickle of this")


BLOCK = 5_000_000
FULL = {
    "distributed.worker.memory.target": 0.02,  # four blocks in memory, and two on disk
    "distributed.worker.memory.max-spill": 2 * BLOCK + 100_000,
    **{f"distributed.worker.memory.{name}": False for name in ("spill", "pause", "terminate")},
}


def test_what_lies_on_a_full_disk_can_be_read() -> None:
    async def read_all() -> list[bytes]:
        async with (
            Scheduler(port=0, dashboard=False) as scheduler,
            Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
            Worker(scheduler.address, nthreads=1, memory_limit="1 GB", dashboard=False) as worker,
        ):
            made = [client.submit(bytes, BLOCK + n) for n in range(8)]
            await asyncio.gather(*(one.result() for one in made[-1:]))
            await client.gather(client.map(len, made))
            assert worker.data.disk, "nothing was spilled"
            return [await asyncio.wait_for(one.result(), HELD_UP) for one in made]

    with dask.config.set(FULL):
        found = asyncio.run(read_all())
    assert [len(each) - BLOCK for each in found] == list(range(8))
