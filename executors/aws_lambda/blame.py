"""Whom the death of a worker is held against: what ran there, not what waited there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.config
from distributed import Scheduler
from distributed.protocol import pickle
from distributed.scheduler import KilledWorker, TaskState, WorkerState

from executors.aws_lambda.messages import key_text

STIMULUS = "time-is-up"


class BlamingScheduler(Scheduler):
    """Dask's scheduler, but that a worker which dies counts against the tasks that ran on it.

    Dask counts it against all tasks that it was given, so those that wait behind one that kills its workers fail with it.
    seen_running: keys, as text, of what the worker of a name said last that it runs.
    """

    seen_running: Callable[[str], Sequence[str]] = staticmethod(lambda name: ())

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._died_of: dict[str, list[str]] = {}
        """By the name of a worker, once somebody has seen its death: keys, as text, of what ran there."""
        blocked = dask.config.get("distributed.scheduler.blocked-handlers")  # Dask asks by class
        super().__init__(*arguments, **{"blocked_handlers": blocked, **options})

    async def remove_worker(
        self, address: str, *, stimulus_id: str, expected: bool = False, close: bool = True
    ) -> Any:
        """As Dask's."""
        ws = self.workers.get(self.coerce_address(address))
        if ws is not None and not expected:
            name, guilty = str(ws.name), self._guilty(ws)
            if self._died_of.pop(name, None) is None:
                self._died_of[name] = [key_text(task.key) for task in guilty]
            for task in ws.processing:
                if task not in guilty:  # of these it counts one more in a moment
                    task.suspicious -= 1
                    task.prefix.suspicious -= 1
        return await super().remove_worker(
            address, stimulus_id=stimulus_id, expected=expected, close=close
        )

    def died_of(self, name: str) -> str | None:
        """Key, as text, of the task that a worker most likely ran when it died just now; None: it had none.

        Ask before what it said last is forgotten: it is what will be blamed where its removal is yet to come.
        """
        address = self.aliases.get(name)
        if address is None:
            ran = self._died_of.pop(name, [])
        else:
            ran = [key_text(task.key) for task in self._guilty(self.workers[address])]
            self._died_of[name] = ran
        return ran[0] if ran else None

    def blame_running(self, name: str) -> None:
        """The time of a worker is up: what it said that it runs has lost one more, and fails where it has lost too many."""
        address = self.aliases.get(name)
        if address is None:
            return
        ws, said = self.workers[address], set(self.seen_running(name))
        for task in [one for one in ws.processing if key_text(one.key) in said]:
            task.suspicious += 1
            task.prefix.suspicious += 1
            if task.suspicious > self.allowed_failures:
                self._give_up(task, ws)

    def _give_up(self, task: TaskState, ws: WorkerState) -> None:
        """As where a worker dies."""
        failures = self.allowed_failures
        error = KilledWorker(task=task.key, last_worker=ws.clean(), allowed_failures=failures)
        more = self.transition(
            task.key, "erred", exception=pickle.dumps(error), cause=task.key, worker=ws.address,
            stimulus_id=STIMULUS,
        )  # fmt: skip
        self.transitions(more, stimulus_id=STIMULUS)

    def _guilty(self, ws: WorkerState) -> list[TaskState]:
        """What it said that it runs, or else what a worker runs first; at least one, if it was given any."""
        name = str(ws.name)
        said = set(self._died_of.get(name) or self.seen_running(name))
        ran = [task for task in ws.processing if key_text(task.key) in said]
        return ran or sorted(ws.processing, key=lambda task: task.priority or ())[: ws.nthreads]
