"""What a worker may ask of distributed's servers: of the scheduler what a worker of Dask's asks, of another worker its data.

distributed lets everybody who is connected ask for everything, `run_function` among it. What comes from the holder of a
worker's credential is compared with the tables below before the server sees it; whatever they do not name is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from executors.rendezvous.assignments import Assignments
from executors.rendezvous.plain_pickles import read_error, read_warning
from executors.rendezvous.protocol.texts import shown
from executors.rendezvous.shapes import (
    Fields,
    amount,
    anything,
    count,
    each,
    key,
    maybe,
    misfit,
    number,
    pairs,
    positive,
    record,
    share,
    text,
)  # fmt: skip

OWN = ("address", "worker", "nanny")
"""Arguments that must be the worker's own address wherever they appear, or nothing."""

METRICS = record(
    bandwidth=record(total=positive, workers=pairs(text, share), types=pairs(text, share)),
    memory=count, managed_bytes=amount, spilled_bytes=record(memory=amount, disk=amount),
    digests_total_since_heartbeat=pairs(anything, number), task_counts=pairs(anything, number),
    transfer=pairs(text, number), event_loop_interval=amount,
)  # fmt: skip
"""What a worker measures; the scheduler calculates with it."""

IDENTITY = frozenset(
    {
        "type", "id", "host", "resources", "local_directory", "name", "nthreads", "memory_limit", "last_seen", "services",
        "metrics", "status", "nanny",
    }
)  # fmt: skip
"""What the scheduler tells of a worker, besides what that adds."""

REGISTRATION: Fields = {
    "address": text, "status": text, "name": anything, "server_id": text, "now": number, "pid": count,
    "nthreads": lambda value: count(value) and 1 <= value <= 4096, "memory_limit": maybe(count),
    "resources": pairs(text, amount), "services": pairs(text, count), "metrics": METRICS, "local_directory": text,
    "versions": lambda value: value == {} or record(packages=pairs(text, maybe(text)))(value),
    "extra": lambda value: pairs(text, anything)(value) and IDENTITY.isdisjoint(value),
    "nanny": maybe(text), "stimulus_id": text,
}  # fmt: skip

AT_SCHEDULER: Mapping[str, Fields | None] = {
    "register-worker": REGISTRATION,
    "heartbeat_worker": {
        "address": text, "now": number, "metrics": METRICS, "executing": pairs(key, amount),
        "extensions": pairs(text, anything),
    },
    "who_has": {"keys": maybe(each(key))},
    "set_resources": {"worker": text, "resources": pairs(text, amount)},
    "retire_workers": {
        "workers": each(text), "close_workers": anything, "remove": anything, "stimulus_id": text,
    },
    "semaphore_register": None,
    "semaphore_acquire": None,
    "semaphore_release": None,
    "semaphore_close": None,
    "semaphore_refresh_leases": None,
    "semaphore_value": None,
    "shuffle_get": None,
    "shuffle_get_or_create": None,
    "shuffle_barrier": None,
    "shuffle_restrict_task": None,
}  # fmt: skip
"""Requests to the scheduler, and which arguments they may have where some would do more than a worker needs."""

RUN: Fields = {
    "key": key, "run_id": count, "status": text, "thread": maybe(number),
    "startstops": each(record(action=text, start=number, stop=number)),
}  # fmt: skip

ON_STREAM: Mapping[str, Fields] = {
    "task-finished": {
        **RUN, "nbytes": count, "type": anything, "typename": text, "metadata": maybe(pairs(anything, anything)),
    },
    "task-erred": {
        **RUN, "exception": anything, "traceback": anything, "exception_text": text, "traceback_text": text,
    },
    "long-running": {"key": key, "run_id": count, "compute_duration": maybe(amount)},
    "steal-response": {"key": key, "state": maybe(text)},
    "release-worker-data": {"key": key},
    "reschedule": {"key": key},
    "add-keys": {"keys": each(key)},
    "request-refresh-who-has": {"keys": each(key)},
    "log-event": {"topic": anything, "msg": anything},
    "worker-status-change": {"status": text},
    "keep-alive": {},
    "close-stream": {},
}  # fmt: skip
"""What a worker says to the scheduler once it is registered, and what may be in it."""

ENDS = frozenset({"task-finished", "task-erred"})
OF_RUNS = ENDS | {"long-running"}

OF_OTHERS = frozenset({"shuffle_restrict_task"})
"""Requests of which `worker` is another one by right."""

AT_WORKER: Mapping[str, Fields | None] = {
    "get_data": None,
    "actor_execute": None,
    "actor_attribute": None,
    "shuffle_receive": None,
}
"""Requests of one worker to another."""

ACKNOWLEDGED = frozenset({"get_data"})
"""Requests whose sender says "OK" to the answer."""

FRAME: Fields = dict.fromkeys(("op", "reply", "close", "serializers"), anything)
STREAM_FRAME: Fields = {"op": text, "stimulus_id": text}


class Guard:
    """Reads along what one worker says to one server, and hears; call it with each message.

    requests: what it may ask; address, name: the worker's own, which the relay has checked; wants_plain_errors: whether
    the errors of its tasks shall be harmless to unpickle, at the price of those whose classes are not loaded here.
    """

    def __init__(
        self,
        requests: Mapping[str, Fields | None],
        address: str,
        name: str,
        wants_plain_errors: Callable[[], bool] = lambda: False,
    ) -> None:
        self._requests = requests
        self._wants_plain_errors = wants_plain_errors
        self._address, self._name = address, name
        self._is_stream = False
        self._may_acknowledge = False
        self._assignments = Assignments()

    def hear(self, message: Any) -> None:
        """What the server says to the worker."""
        if self._is_stream:
            for said in message if isinstance(message, (list, tuple)) else (message,):
                self._assignments.hear(said)

    def answer(self, message: Any, refusal: str) -> Any:
        """What to tell the sender of a refused message in the terms of distributed; None where it waits for nothing."""
        if self._is_stream:
            return None
        text = f"{refusal}: tasks have no client of their own here"
        if isinstance(message, dict) and message.get("op") == "register-client":
            return [{"op": "stream-start", "error": text}]
        from distributed.core import error_message

        return error_message(PermissionError(text), status="uncaught-error")

    def refusal(self, message: Any) -> str | None:
        """Why a message is not for the server, None if it is; a worker that has registered says others than before.

        What such a message carries that would be unpickled where it arrives, though no task's result, is made harmless.
        """
        try:
            if not self._is_stream:
                return self._request(message)
            said = message if isinstance(message, (list, tuple)) else (message,)
            refusals = (self._said(each) for each in said if each != "OK")
            return next((each for each in refusals if each is not None), None)
        except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
            return f"nonsense ({error})"

    def _request(self, message: Any) -> str | None:
        op = message.get("op") if isinstance(message, dict) else None
        may_acknowledge, self._may_acknowledge = self._may_acknowledge, op in ACKNOWLEDGED
        if op == "close" or (message == "OK" and may_acknowledge):
            return None
        if not isinstance(op, str) or op not in self._requests:
            return f"{_short(op)} is not for workers"
        allowed = self._requests[op]
        wrong = None if allowed is None else misfit(message, {**FRAME, **allowed})
        if wrong is not None:
            return f"{op} with a {_short(wrong)} that is not a worker's"
        if op == "retire_workers" and list(message.get("workers") or ()) != [self._address]:
            return f"{op} of others"
        if op == "register-worker":
            if message.get("name") not in (self._name, self._address):
                return f"it registers as {_short(message.get('name'))}"
            self._is_stream = True
            # workers of one id are one and the same to the scheduler
            message["server_id"] = f"{self._address} {message.get('server_id')}"
        return None if op in OF_OTHERS else self._of_another(op, message)

    def _of_another(self, op: str, message: dict[str, Any]) -> str | None:
        for name in OWN:
            if message.get(name) not in (None, "", self._address):
                return f"{op} for {_short(message[name])}"
        return None

    def _said(self, message: Any) -> str | None:
        op = message.get("op") if isinstance(message, dict) else None
        if not isinstance(op, str) or op not in ON_STREAM:
            return f"{_short(op)} is not for workers"
        wrong = misfit(message, {**STREAM_FRAME, **ON_STREAM[op]})
        if wrong is not None:
            return f"{op} with a {_short(wrong)} that is not a worker's"
        if op in OF_RUNS and not self._assignments.runs(message["key"], message["run_id"]):
            return f"{op} of a task that is another's"
        if op in ENDS:
            self._assignments.end(message["run_id"])
        if op == "steal-response" and not self._assignments.gives(
            message["key"], message["stimulus_id"], message["state"]
        ):
            return f"{op} that nobody asked for"
        if op == "add-keys":  # what it was given otherwise, the scheduler knows already
            message["keys"] = self._assignments.copies(message["keys"])
        self._make_harmless(op, message)
        return None

    def _make_harmless(self, op: str, message: dict[str, Any]) -> None:
        if op == "task-finished":
            message["type"] = None  # a pickled class that clients would load; its name stays
        elif op == "log-event" and "warn" in _topics(message.get("topic")):
            message["msg"] = read_warning(message.get("msg"))
        elif op == "log-event" and "print" in _topics(message.get("topic")):
            message["msg"] = _shown(message.get("msg"))
        elif op == "task-erred" and self._wants_plain_errors():
            self._make_plain(message)

    def _make_plain(self, message: dict[str, Any]) -> None:
        from distributed.protocol.serialize import to_serialize

        error = read_error(message.get("exception"), message.get("exception_text"))
        message |= {"exception": to_serialize(error), "traceback": None}


_takes_plain_errors: weakref.WeakSet[Any] = weakref.WeakSet()


def take_plain_errors(scheduler: Any) -> None:
    """From now on no error of a task that reaches this scheduler by `rdv://` runs code where it is unpickled."""
    _takes_plain_errors.add(scheduler)


def guard_for(server: Any, address: str, name: str) -> Guard | None:
    """The guard of a server of distributed's against the worker of this address and name; others see to it themselves."""
    from distributed import Scheduler, Worker

    if isinstance(server, Scheduler):
        return Guard(AT_SCHEDULER, address, name, lambda: server in _takes_plain_errors)
    if isinstance(server, Worker):
        return Guard(AT_WORKER, address, name)
    return None


def _shown(told: Any) -> Any:
    """Texts in what `distributed.worker.print` tells, as a terminal may get them."""
    if isinstance(told, dict):
        return {name: _shown(value) for name, value in told.items()}
    if isinstance(told, (list, tuple)):
        return tuple(map(_shown, told))
    return shown(told) if isinstance(told, str) else told


def _topics(topic: Any) -> set[Any]:
    return {topic} if isinstance(topic, str) else set(topic or ())


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else "no name"
    return text if len(text) <= 60 else f"{text[:60]}..."
