"""Tasks that fail through no fault of their own are run again: elsewhere where an executor can, else in their place."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from executors.base import Key

logger = logging.getLogger("excamera")

TRIES = 3
"""How often a task is begun before its failure is final."""
PAUSE = 0.5
"""Seconds before a task is begun again in the same place."""


class TryElsewhere(Exception):
    """Base of what a task raises when the same may go well at another place or time, such as a program that was killed."""


class Again:
    """A task's function that begins anew after TryElsewhere, in the same place; `notice` is told."""

    def __init__(
        self, function: Callable[..., Any], notice: Callable[[str], None] = logger.warning
    ) -> None:
        self.function = function
        self.notice = notice

    def __call__(self, *arguments: Any) -> Any:
        for number in range(2, TRIES + 1):
            try:
                return self.function(*arguments)
            except TryElsewhere as error:
                self.notice(told(error, number))
                time.sleep(PAUSE)
        return self.function(*arguments)


def told(error: BaseException, number: int) -> str:
    """What a user reads before a task is begun for the `number`th time."""
    return f"{error}; trying again ({number} of {TRIES})"


def tried_in_place(
    tasks: Mapping[Key, Any], notice: Callable[[str], None] = logger.warning
) -> dict[Key, Any]:
    """Tasks of a graph, each of which is begun anew where it is."""
    return {
        key: (Again(task[0], notice), *task[1:])
        if type(task) is tuple and task and callable(task[0])
        else task
        for key, task in tasks.items()
    }
