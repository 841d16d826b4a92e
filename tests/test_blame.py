"""Whom Dask's scheduler holds the death of a worker against."""

from __future__ import annotations

import asyncio

import pytest
from distributed import Client, KilledWorker, Worker

from executors.aws_lambda.blame import BlamingScheduler


@pytest.mark.parametrize("told_before", [False, True])
@pytest.mark.parametrize("last", [[], ["third"], ["a task that ended before"]])
def test_what_ran_is_blamed_and_what_waited_is_not(last: list[str], told_before: bool) -> None:
    said = list(last)

    async def go() -> None:
        async with BlamingScheduler(dashboard_address=None, protocol="inproc") as scheduler:
            scheduler.seen_running = lambda name: said
            async with (
                Worker(scheduler.address, nthreads=1, name="w") as worker,
                Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
            ):
                futures = [
                    client.submit(asyncio.sleep, 60, key=key, workers=["w"], priority=-place)
                    for place, key in enumerate(["first", "second", "third"])
                ]
                while len(scheduler.workers[worker.address].processing) < 3:
                    await asyncio.sleep(0.01)
                guilty = said[0] if said == ["third"] else "first"
                if told_before:
                    assert scheduler.died_of("w") == guilty
                    said.clear()  # whoever was told has taken note
                await scheduler.remove_worker(worker.address, stimulus_id="test", close=False)
                counts = {future.key: scheduler.tasks[future.key].suspicious for future in futures}
                assert counts == {"first": 0, "second": 0, "third": 0} | {guilty: 1}
                if not told_before:
                    assert scheduler.died_of("w") == guilty
                assert scheduler.died_of("w") is None and not scheduler._died_of

    asyncio.run(go())


def test_a_task_that_takes_longer_than_workers_live_is_given_up() -> None:
    """Each worker leaves in time, so none dies of it, and it would begin anew for ever."""

    async def go() -> None:
        async with (
            BlamingScheduler(dashboard_address=None, protocol="inproc") as scheduler,
            Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
        ):
            scheduler.seen_running = lambda name: ["endless"]
            endless = client.submit(asyncio.sleep, 60, key="endless")
            for number in range(4):
                async with Worker(scheduler.address, nthreads=1, name=f"w{number}"):
                    while (
                        task := scheduler.tasks.get("endless")
                    ) is None or not task.processing_on:
                        await asyncio.sleep(0.01)
                    assert endless.status == "pending"
                    scheduler.blame_running(f"w{number}")
                    if number < 3:
                        await scheduler.retire_workers(
                            names=[f"w{number}"], close_workers=False, remove=True,
                            stimulus_id="test",
                        )  # fmt: skip
                    else:
                        assert isinstance(await endless.exception(), KilledWorker)

    asyncio.run(go())
