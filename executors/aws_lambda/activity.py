"""A worker plugin that tells what the worker is doing: running which task, waiting for which, or idle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distributed import Worker, WorkerPlugin

from executors.base import REPEATABLE, Key, kind_of

Tell = Callable[[dict[str, Any]], None]
Later = Callable[[float, Callable[[], None]], Any]
"""`call_later` of an event loop."""

PAUSE = 0.05
"""Seconds between two messages at the least, but that a task begins: of pauses that are over sooner nobody needs to hear."""


class Activity(WorkerPlugin):
    """Turns transitions of the worker's tasks into messages, each only when it says something new.

    That a task begins is told at once; what else changes within PAUSE after a message is told when that is over, as it is
    then.
    """

    name = "activity"

    def __init__(self, tell: Tell, later: Later) -> None:
        self._tell = tell
        self._later = later
        self._pauses = False
        self._running: dict[Key, None] = {}
        self._waiting: dict[Key, None] = {}
        self._told: Any = None
        self._tasks: Mapping[Key, Any] = {}

    def setup(self, worker: Worker) -> None:
        """Whose tasks they are."""
        self._tasks = worker.state.tasks

    def transition(self, key: Key, start: str, finish: str, **kwargs: Any) -> None:
        runs_on = finish in ("cancelled", "resumed") and key in self._running
        runs = finish in ("executing", "long-running") or (runs_on and self._is_repeatable(key))
        self._keep(self._running, key, runs)
        self._keep(self._waiting, key, finish in ("waiting", "fetch", "flight", "missing"))
        if not self._pauses or self._begins():
            self._speak()

    def _begins(self) -> bool:
        """Should a task end the worker, it must be known which one it was."""
        message = self._message()
        return bool(message["op"] == "running" and message != self._told)

    def _speak(self) -> None:
        message = self._message()
        if message == self._told:
            return
        self._told = message
        self._tell(message)
        if not self._pauses:
            self._pauses = True
            self._later(PAUSE, self._resume)

    def _resume(self) -> None:
        self._pauses = False
        self._speak()

    @staticmethod
    def _keep(keys: dict[Key, None], key: Key, present: bool) -> None:
        if present:
            keys[key] = None
        else:
            keys.pop(key, None)

    def _message(self) -> dict[str, Any]:
        for op, keys in (("running", self._running), ("waiting", self._waiting)):
            if keys:
                key = next(iter(keys))
                told = {"op": op, "key": str(key), "stage": stage_of(key), "number": number_of(key)}
                return told | ({"repeatable": True} if self._is_repeatable(key) else {})
        return {"op": "idle"}

    def _is_repeatable(self, key: Key) -> bool:
        task = self._tasks.get(key)
        return task is not None and bool((task.annotations or {}).get(REPEATABLE))


def stage_of(key: Key) -> str:
    """The kind of task without the name of its job: "rebase" of ("rebase-1f3a", 7)."""
    return kind_of(key).split("-")[0]


def number_of(key: Key) -> int | None:
    """Which of its kind a task is, where its key says so."""
    if isinstance(key, tuple) and len(key) > 1 and isinstance(key[1], int):
        return key[1]
    return None
