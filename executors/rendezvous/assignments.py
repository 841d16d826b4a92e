"""What a scheduler has told one worker to do, by which it is known of which tasks that may speak."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

GIVEN_AWAY = frozenset({None, "released", "ready", "constrained", "waiting"})
"""States of a task that a worker has given up, when it is asked for it."""


class Assignments:
    """Reads along both ways on the stream between a scheduler and a worker."""

    def __init__(self) -> None:
        self._runs: dict[int, Hashable] = {}
        self._copies: set[Hashable] = set()
        # the runs that are meant: what is given to the worker after it was asked is its own
        self._steals: dict[tuple[Hashable, str], frozenset[int]] = {}

    def hear(self, message: Mapping[str, Any]) -> None:
        """What the scheduler says to the worker."""
        op = message.get("op")
        if op == "compute-task":
            self._runs[message["run_id"]] = message["key"]
            self._copies.update(message["who_has"])
        elif op == "acquire-replicas":
            self._copies.update(message["who_has"])
        elif op == "remove-replicas":  # it may keep what it has, and says so
            self._copies.update(message["keys"])
        elif op == "free-keys":
            self._copies.difference_update(message["keys"])
        elif op == "steal-request":
            key = message["key"]
            runs = frozenset(run for run, other in self._runs.items() if other == key)
            self._steals[key, message["stimulus_id"]] = runs

    def runs(self, key: Hashable, run: int) -> bool:
        """Whether that run of a task is the worker's."""
        return run in self._runs and self._runs[run] == key

    def end(self, run: int) -> None:
        """A run has come to its end, and is not spoken of again."""
        self._runs.pop(run, None)

    def copies(self, keys: Iterable[Hashable]) -> list[Hashable]:
        """Those of `keys` whose results the worker was told to fetch, or was known to have."""
        return [key for key in keys if key in self._copies]

    def gives(self, key: Hashable, stimulus: str, state: str | None) -> bool:
        """Whether the worker was asked to give a task away; once it has, the runs that it had then are another's."""
        runs = self._steals.pop((key, stimulus), None)
        if runs is None:
            return False
        if state in GIVEN_AWAY:
            for run in runs:
                self._runs.pop(run, None)
        return True
