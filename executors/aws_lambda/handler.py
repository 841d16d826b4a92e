"""What Lambda calls: one invocation is one Dask worker, which connects first and is told everything else.

Only what is needed to connect is imported before the link stands; Dask and whatever the tasks need follow.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
from typing import Any

from executors.aws_lambda.facts import read_facts
from executors.aws_lambda.payload import PROBE, Payload

PREPARE = "EXCAMERA_PREPARE"
"""Environment variable that names a function "module:name", which each environment calls once, before heavy imports."""

_starts = itertools.count()


def handle(event: Any, context: Any = None) -> dict[str, Any]:
    """Serve as a worker until told to go; the answer says how it ended.

    Where a task of the worker's goes on and on, the whole environment ends with it.
    Raises InvalidPayload for an event that is not ours; everything later is reported to the coordinator.
    """
    facts = read_facts(context, cold=next(_starts) == 0)
    if facts.cold and os.environ.get(PREPARE):
        _named(os.environ[PREPARE])()
    if event == PROBE:
        from executors.aws_lambda.deploy.versions import installed

        return {"outcome": "ready", "versions": installed()}
    payload = Payload.from_event(event)
    from executors.aws_lambda.life import live

    answer = asyncio.run(live(payload, facts))
    from executors.aws_lambda.ending import leave_no_task

    leave_no_task(facts.request_id, answer)
    return answer


def _named(spec: str) -> Any:
    """The function that "module:name" names."""
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(module), name)
