"""Slow tasks run a second time on Dask's own scheduler and workers, whose validation of all their state is on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import dask
import pytest
from distributed import Client, Scheduler, Worker, get_worker

from executors.aws_lambda.messages import key_text
from executors.aws_lambda.second_runs import PAUSE, SecondRuns
from executors.base import REPEATABLE

TIMEOUT = 20.0


class Runs:
    """What the runs of a task do, by their order: each waits until it is let go, and gives what is told then."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gates: dict[int, threading.Event] = defaultdict(threading.Event)
        self.errors: set[int] = set()

    def __call__(self, *_: Any) -> str:
        number = len(self.begun)
        self.begun.append(str(get_worker().name))
        assert self.gates[number].wait(TIMEOUT)
        if number in self.errors:
            raise ValueError(f"run {number}")
        return "the result"

    def __reduce__(self) -> Any:
        return _known, (id(self),)

    def let_go(self, *numbers: int) -> None:
        for number in numbers:
            self.gates[number].set()


_THE_RUNS: dict[int, Runs] = {}


def _known(number: int) -> Runs:
    return _THE_RUNS[number]


@pytest.fixture
def runs() -> Any:
    made = Runs()
    _THE_RUNS[id(made)] = made
    yield made
    del _THE_RUNS[id(made)]


class Stage:
    """A scheduler with workers of one thread each, in this process."""

    def __init__(self, scheduler: Scheduler, workers: list[Worker], client: Client) -> None:
        self.scheduler, self.client = scheduler, client
        self.workers = {worker.name: worker for worker in workers}
        self.beaten: list[tuple[str, str]] = []
        self.second = SecondRuns(
            scheduler, self.is_idle, lambda name, key: self.beaten.append((name, key))
        )

    def is_idle(self, name: str) -> bool:
        return not self.workers[name].state.executing

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                await asyncio.sleep(0.01)

    async def second_looks(self) -> None:
        """Time enough for what happened to be looked at, and told to workers."""
        await asyncio.sleep(4 * PAUSE)


@contextlib.asynccontextmanager
async def stage(workers: int) -> AsyncIterator[Stage]:
    settings = {
        "distributed.scheduler.validate": True, "distributed.worker.validate": True,
        "distributed.scheduler.work-stealing": False, "distributed.comm.timeouts.connect": "5s",
    }  # fmt: skip
    with dask.config.set(settings):
        async with (
            Scheduler(dashboard_address=None, protocol="inproc", validate=True) as scheduler,
            contextlib.AsyncExitStack() as stack,
        ):
            there = [
                await stack.enter_async_context(
                    Worker(scheduler.address, nthreads=1, name=f"w{n}", validate=True)
                )
                for n in range(workers)
            ]
            async with Client(scheduler.address, asynchronous=True, set_as_default=False) as client:
                try:
                    yield Stage(scheduler, there, client)
                finally:
                    for runs in _THE_RUNS.values():
                        runs.let_go(0, 1, 2, 3)


def submitted(one: Stage, runs: Runs, key: str = "it", **options: Any) -> Any:
    with dask.annotate(**{REPEATABLE: True}):
        return one.client.submit(runs, key=key, **options)


async def in_two_runs(one: Stage, runs: Runs, key: str = "it") -> Any:
    """A task that was told to be slow, and now runs on two workers."""
    future = submitted(one, runs, key)
    await one.until(lambda: len(runs.begun) == 1)
    one.second.want(runs.begun[0], key_text(key))
    await one.until(lambda: len(runs.begun) == 2)
    return future


def test_the_second_run_wins_and_the_first_is_let_go(runs: Runs) -> None:
    async def go() -> None:
        async with stage(2) as one:
            future = await in_two_runs(one, runs)
            first = runs.begun[0]
            runs.let_go(1)
            assert await future == "the result"
            await one.until(lambda: one.beaten)
            assert one.beaten == [(first, "it")] and runs.begun[1] != first
            runs.let_go(0)
            await one.until(lambda: not one.workers[first].state.executing)
            assert await one.client.submit(len, "abc", workers=[first]) == 3, "it can go on"
            assert await future == "the result"
            one.scheduler.validate_state()

    asyncio.run(go())


def test_the_first_run_wins_and_the_second_leaves_nothing(runs: Runs) -> None:
    async def go() -> None:
        async with stage(2) as one:
            future = await in_two_runs(one, runs)
            runs.let_go(0)
            assert await future == "the result"
            _, second = runs.begun
            after = one.client.submit(len, future, workers=[second])
            await asyncio.sleep(0.1)
            runs.let_go(1)
            assert await after == 10
            assert not one.beaten
            future.release(), after.release()
            await one.until(lambda: not one.scheduler.tasks)
            await one.until(lambda: not any(w.state.tasks for w in one.workers.values()))

    asyncio.run(go())


@pytest.mark.parametrize("wins", [0, 1])
def test_what_needs_the_result_where_the_other_run_still_is(wins: int, runs: Runs) -> None:
    """It waits for that run, and what the run gives stays, also where it has to wait for something else."""

    async def go() -> None:
        async with stage(3) as one:
            future = await in_two_runs(one, runs)
            beaten = runs.begun[1 - wins]
            (idle,) = set(one.workers) - set(runs.begun)
            more = one.client.submit(runs, key="more", workers=[idle])
            await one.until(lambda: len(runs.begun) == 3)
            alone = one.client.submit(len, future, key="alone", workers=[beaten])
            both = one.client.submit(lambda *both: both, future, more, key="both", workers=[beaten])
            await one.until(lambda: "both" in one.scheduler.tasks)
            runs.let_go(wins)
            await one.until(lambda: one.scheduler.tasks["alone"].state == "processing")
            await one.second_looks()
            runs.let_go(1 - wins)
            assert await asyncio.wait_for(alone, TIMEOUT) == len("the result")
            await one.second_looks()
            runs.let_go(2)
            assert await asyncio.wait_for(both, TIMEOUT) == ("the result", "the result")
            one.scheduler.validate_state()

    asyncio.run(go())


def test_an_error_of_the_second_run_is_nothing(runs: Runs) -> None:
    async def go() -> None:
        async with stage(2) as one:
            runs.errors.add(1)
            key = "a long key " * 1000
            future = await in_two_runs(one, runs, key)
            runs.let_go(1)
            await one.until(lambda: not one.workers[runs.begun[1]].state.executing)
            assert future.status == "pending"
            runs.let_go(0)
            assert await future == "the result"

    asyncio.run(go())


@pytest.mark.parametrize("which", [0, 1])
def test_either_worker_may_go_in_the_middle(which: int, runs: Runs) -> None:
    """Dask begins what ran first anew; the run that is left gives the result."""

    async def go() -> None:
        async with stage(3) as one:
            future = await in_two_runs(one, runs)
            gone = one.workers[runs.begun[which]]
            await one.scheduler.remove_worker(gone.address, stimulus_id="test", close=False)
            runs.let_go(1 - which)
            assert await future == "the result"
            one.scheduler.validate_state()
            runs.let_go(0, 1, 2, 3)
            await one.until(lambda: not any(w.state.executing for w in one.workers.values()))

    asyncio.run(go())


def test_what_waits_behind_it_goes_to_who_is_idle(runs: Runs) -> None:
    async def go() -> None:
        async with stage(3) as one:
            future = submitted(one, runs, workers=["w0"], allow_other_workers=True)
            await one.until(lambda: len(runs.begun) == 1)
            with dask.annotate(**{REPEATABLE: True}):
                behind = one.client.map(
                    lambda n: n, range(5), pure=False, workers=["w0"], allow_other_workers=True
                )
            await one.until(lambda: len(one.scheduler.workers) == 3)
            await asyncio.sleep(0.1)
            assert [each.status for each in behind] == ["pending"] * 5
            one.second.want("w0", "it")
            assert await one.client.gather(behind) == list(range(5))
            runs.let_go(1)
            assert await future == "the result"
            one.scheduler.validate_state()

    asyncio.run(go())


@pytest.mark.parametrize("workers", [1, 2])
def test_what_nobody_allowed_or_nobody_can_do_is_left_alone(workers: int, runs: Runs) -> None:
    """A user's task that is not marked, and a marked one for which there is no other worker."""

    async def go() -> None:
        async with stage(workers) as one:
            mark = {REPEATABLE: True} if workers == 1 else {"priority": 1}
            with dask.annotate(**mark):
                future = one.client.submit(runs, key="it")
            await one.until(lambda: len(runs.begun) == 1)
            one.second.want(runs.begun[0], "it")
            await asyncio.sleep(0.3)
            assert len(runs.begun) == 1 and not one.beaten
            runs.let_go(0)
            assert await future == "the result"

    asyncio.run(go())


def test_a_worker_that_is_busy_now_takes_it_when_it_is_idle(runs: Runs) -> None:
    other = Runs()
    _THE_RUNS[id(other)] = other  # forgotten with the process

    async def go() -> None:
        async with stage(2) as one:
            busy = one.client.submit(other, key="other")
            await one.until(lambda: other.begun)
            future = submitted(one, runs)
            await one.until(lambda: runs.begun)
            one.second.want(runs.begun[0], "it")
            await asyncio.sleep(0.2)
            assert len(runs.begun) == one.second.waiting == 1
            other.let_go(0)
            await busy
            await one.until(lambda: len(runs.begun) == 2)
            assert one.second.waiting == 0
            runs.let_go(1)
            assert await future == "the result"

    asyncio.run(go())


def test_a_second_run_that_nobody_waits_for_is_let_go_when_it_is_slow(runs: Runs) -> None:
    async def go() -> None:
        async with stage(2) as one:
            future = await in_two_runs(one, runs)
            runs.let_go(0)
            await future
            one.second.want(runs.begun[1], "it")
            assert one.beaten == [(runs.begun[1], "it")]

    asyncio.run(go())
