"""A slow task runs a second time on an idle worker, beside the first; whichever run ends first gives the result.

Dask's scheduler knows one run of a task. The second one is sent under a run number of its own, and is made the run that the
scheduler knows in the moment in which its result comes, as where a task is stolen. What the other run still sends is of a
number that nobody waits for: the run is let go, or, where a task of that worker needs it by now, its result is one copy more.
An error of a second run counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from distributed import Scheduler, SchedulerPlugin
from distributed.scheduler import TaskState, WorkerState

from executors.aws_lambda.messages import key_text
from executors.base import REPEATABLE, Key

STIMULUS = "second-run"
PAUSE = 0.05
"""Seconds within which what happens is looked at together."""


@dataclass(frozen=True)
class _Run:
    """The second run of a task on some worker, by its number."""

    key: Key
    number: int


class SecondRuns(SchedulerPlugin):
    """The second runs of one scheduler's tasks.

    is_idle: whether the worker of a name does nothing at all; on_beaten hears the name of a worker, and the key of the task
    that still runs there though its result is known.
    """

    name = "second-runs"

    def __init__(
        self,
        scheduler: Scheduler,
        is_idle: Callable[[str], bool],
        on_beaten: Callable[[str, str], None],
    ) -> None:
        self._scheduler = scheduler
        self._is_idle, self._on_beaten = is_idle, on_beaten
        self._slow: dict[Key, str] = {}
        """Tasks that are slow, and the address of the worker where that was seen."""
        self._wanted: dict[Key, None] = {}
        """Those for which no idle worker was found yet."""
        self._runs: dict[str, _Run] = {}
        """By the address of the worker: the latest second run there."""
        self._due = False
        self._finished = scheduler.stream_handlers["task-finished"]
        scheduler.stream_handlers["task-finished"] = self._task_finished
        scheduler.add_plugin(self, name=self.name)

    def want(self, name: str, text: str) -> None:
        """The task whose key reads `text` is slow on the worker `name`: run it elsewhere too, as soon as a worker is idle."""
        address = self._scheduler.aliases.get(name)
        if address is None:
            return
        run = self._runs.get(address)
        if run is not None and key_text(run.key) == text and not self._is_processing(run.key):
            self._on_beaten(name, text)
            return
        for task in self._scheduler.workers[address].processing:
            if key_text(task.key) == text and _is_repeatable(task):
                self._slow[task.key] = address
                self._wanted[task.key] = None
        self.look()

    @property
    def waiting(self) -> int:
        """Slow tasks for which no worker is idle."""
        return len(self._wanted)

    def look(self) -> None:
        """A worker may be idle now."""
        if self._slow and not self._due:
            self._due = True
            self._scheduler.loop.call_later(PAUSE, self._place)

    def _place(self) -> None:
        """Give idle workers second runs of slow tasks, and what waits behind these."""
        self._due = False
        running = self._scheduler.running
        idle = [ws for ws in running if not ws.processing and self._is_idle(str(ws.name))]
        idle.sort(key=lambda ws: str(ws.address), reverse=True)
        for key in list(self._wanted):
            taken = _pop_allowed(idle, self._scheduler.tasks.get(key))
            if taken is not None:
                self._run_too(self._scheduler.tasks[key], taken)
        for task in self._waiting_behind():
            taken = _pop_allowed(idle, task)
            if taken is not None:
                self._move(task, taken)

    # Dask's side

    def transition(self, key: Key, start: str, finish: str, *_: Any, **about: Any) -> None:
        """Once there is a result, or there will be none, no run is needed any more."""
        if key in self._slow and finish in ("memory", "erred", "forgotten"):
            self._scheduler.loop.add_callback(self._conclude, key, about.get("worker"))
        self.look()

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        """Its second run has ended with it."""
        self._runs.pop(worker, None)

    def _task_finished(self, key: Key, worker: str, run_id: int, **told: Any) -> None:
        run = self._runs.get(worker)
        task, ws = self._scheduler.tasks.get(key), self._scheduler.workers.get(worker)
        if (
            run == _Run(key, run_id)
            and ws is not None
            and task is not None
            and task.state == "processing"
        ):
            if task.processing_on is not ws:
                self._assign(task, ws)
            task.run_id = run_id
        is_known = task is not None and task.state == "memory" and _is_repeatable(task)
        if task is not None and is_known and task.run_id != run_id:
            # as good a copy as any; Dask would have it thrown away, though a task there may be about to use it
            self._scheduler.add_keys(worker, [key])
        else:
            self._finished(key=key, worker=worker, run_id=run_id, **told)

    # What is done

    def _run_too(self, task: TaskState, ws: WorkerState) -> None:
        known = task.run_id
        message = self._scheduler._task_to_msg(task)  # under the next number
        self._runs[ws.address] = _Run(task.key, message["run_id"])
        task.run_id = known
        del self._wanted[task.key]
        self._scheduler.worker_send(ws.address, message)

    def _move(self, task: TaskState, ws: WorkerState) -> None:
        """Have a task that has not begun run there instead."""
        self._assign(task, ws)
        self._scheduler.send_task_to_worker(ws.address, task)

    def _assign(self, task: TaskState, ws: WorkerState) -> None:
        """As the scheduler does where a task was stolen; what comes of it where it was is thrown away."""
        before = task.processing_on
        assert before is not None
        self._let_go(before.address, task.key)
        before.remove_from_processing(task)
        task.processing_on = ws
        ws.add_to_processing(task)
        for one in (before, ws):
            if one.address in self._scheduler.workers:
                self._scheduler.check_idle_saturated(one)

    def _waiting_behind(self) -> list[TaskState]:
        """What waits on workers of one thread that are busy with a slow task; the most urgent first."""
        found: list[TaskState] = []
        for address in dict.fromkeys(self._slow.values()):
            ws = self._scheduler.workers.get(address)
            if ws is not None and ws.nthreads == 1 and self._is_busy_with_slow(ws):
                found += [one for one in ws.processing if one.key not in self._slow]
        movable = (one for one in found if _is_repeatable(one))
        return sorted(movable, key=lambda one: one.priority or ())

    def _is_busy_with_slow(self, ws: WorkerState) -> bool:
        return any(self._slow.get(one.key) == ws.address for one in ws.processing)

    def _is_processing(self, key: Key) -> bool:
        task = self._scheduler.tasks.get(key)
        return task is not None and task.state == "processing"

    def _conclude(self, key: Key, winner: str | None) -> None:
        if self._is_processing(key):  # it begins anew already
            return
        first = self._slow.pop(key, None)
        self._wanted.pop(key, None)
        for address, run in self._runs.items():
            if run.key == key and address != winner:
                self._let_go(address, key)
        ws = self._scheduler.workers.get(first) if first is not None else None
        if ws is not None and winner not in (None, first):
            self._on_beaten(str(ws.name), key_text(key))

    def _let_go(self, address: str, key: Key) -> None:
        """Have a worker not begin a run, or throw away what will come of it, unless what it was given waits for that."""
        ws, task = self._scheduler.workers.get(address), self._scheduler.tasks.get(key)
        needed = (
            ws is not None
            and task is not None
            and any(map(ws.processing.__contains__, task.waiters or ()))
        )
        if address in self._scheduler.stream_comms and not needed:
            message = {"op": "free-keys", "keys": [key], "stimulus_id": STIMULUS}
            self._scheduler.worker_send(address, message)


def _is_repeatable(task: TaskState) -> bool:
    return bool((task.annotations or {}).get(REPEATABLE)) and not task.resource_restrictions


def _pop_allowed(idle: list[WorkerState], task: TaskState | None) -> WorkerState | None:
    """An idle worker, not idle any more, that may run a task which runs somewhere else now."""
    if task is None or task.state != "processing":
        return None
    for place in reversed(range(len(idle))):
        if idle[place] is not task.processing_on and _may_run(task, idle[place]):
            return idle.pop(place)
    return None


def _may_run(task: TaskState, ws: WorkerState) -> bool:
    if task.loose_restrictions:
        return True
    allowed: Iterable[str] | None = task.worker_restrictions
    hosts: Iterable[str] | None = task.host_restrictions
    return (not allowed or ws.address in allowed) and (not hosts or ws.host in hosts)
