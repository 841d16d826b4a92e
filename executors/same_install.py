"""Scheduler and workers of somebody's cluster have what the client has, or a job does not begin."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from distributed import Client

from executors.aws_lambda.deploy.versions import mismatch
from executors.base import InvalidExecutor
from executors.dask_config import ASKED

Question = Callable[[], Mapping[str, str]]
"""Tells versions by name; it travels by its name, and so must be there on the other side."""

CURE = "install there what is installed here (pip install excamera-dask)"


BLOCKED = (
    "it refuses to run functions: take run_function and run out of distributed.scheduler.blocked-handlers "
    "and distributed.worker.blocked-handlers in its Dask configuration"
)
REFUSES = "it refuses {}, which a job needs: take that out of distributed.scheduler.blocked-handlers in its Dask configuration"


def is_blocked(error: BaseException) -> bool:
    """Whether Dask says that a handler is blocked."""
    return isinstance(error, ValueError) and "explicitly disallowed" in str(error)


def require_same(client: Client, question: Question) -> None:
    """Ask the scheduler, and the workers that it has. Raises InvalidExecutor with what differs, and where."""
    ours = question()
    scheduler = client.scheduler_info(n_workers=0)["address"]
    _compare(f"the scheduler at {scheduler}", _on_scheduler(client, question), ours)
    for address, theirs in client.run(question, on_error="return").items():
        _compare(f"the worker at {address}", theirs, ours)


def require_handlers(client: Client) -> None:
    """Raises InvalidExecutor where the scheduler refuses what every job asks of it."""
    who = f"the scheduler at {client.scheduler_info(n_workers=0)['address']}"
    blocked = _on_scheduler(client, _blocked)
    if isinstance(blocked, BaseException):
        if is_blocked(blocked):
            raise InvalidExecutor(f"{who}: {BLOCKED}")
        return  # what else is wrong with it is told by whoever asks next
    needed = [handler for handler in ASKED if handler in blocked]
    if needed:
        raise InvalidExecutor(f"{who}: {REFUSES.format(' and '.join(needed))}")


def _blocked(dask_scheduler: Any = None) -> list[str]:
    """Runs on the scheduler."""
    return list(dask_scheduler.blocked_handlers)


def _on_scheduler(client: Client, question: Callable[..., Any]) -> Any:
    try:
        return client.run_on_scheduler(question)
    except Exception as error:
        return error


def _compare(who: str, theirs: Any, ours: Mapping[str, str]) -> None:
    if isinstance(theirs, BaseException) and is_blocked(theirs):
        raise InvalidExecutor(f"{who}: {BLOCKED}")
    if isinstance(theirs, BaseException):
        name = lacking(theirs)
        raise InvalidExecutor(f"{who}: {theirs}" if name is None else f"{who} lacks {name}: {CURE}")
    line = mismatch(theirs, ours, who=who, fix=CURE)
    if line is not None:
        raise InvalidExecutor(line)


def lacking(error: BaseException) -> str | None:
    """The module that an error says is missing, also where Dask has made a text of it; None where it says no such thing."""
    if isinstance(error, ImportError) and error.name:
        return error.name
    found = _MISSING.search(str(error))
    return found.group(1) if found else None


_MISSING = re.compile(r"No module named '([\w.]+)'")
