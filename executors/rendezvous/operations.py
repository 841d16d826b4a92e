"""What a worker may ask of distributed's servers: of the scheduler what a worker of Dask's asks, of another worker its data.

distributed lets everybody who is connected ask for everything, `run_function` among it. What comes from the holder of a
worker's credential is compared with the tables below before the server sees it; whatever they do not name is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from executors.rendezvous.plain_pickles import read_error, read_warning
from executors.rendezvous.protocol.texts import shown

OWN = ("address", "worker", "nanny")
"""Arguments that must be the worker's own address wherever they appear, or nothing."""

AT_SCHEDULER: Mapping[str, frozenset[str] | None] = {
    "register-worker": None,
    "heartbeat_worker": None,
    "who_has": None,
    "set_resources": None,
    "retire_workers": frozenset({"workers", "close_workers", "remove", "stimulus_id"}),
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
}
"""Requests to the scheduler, and which arguments they may have where some would do more than a worker needs."""

ON_STREAM = frozenset(
    {
        "task-finished", "task-erred", "release-worker-data", "add-keys", "long-running", "reschedule", "keep-alive",
        "log-event", "worker-status-change", "request-refresh-who-has", "steal-response", "close-stream",
    }
)  # fmt: skip
"""What a worker says to the scheduler once it is registered."""

OF_OTHERS = frozenset({"shuffle_restrict_task"})
"""Requests of which `worker` is another one by right."""

AT_WORKER: Mapping[str, frozenset[str] | None] = {
    "get_data": None,
    "actor_execute": None,
    "actor_attribute": None,
    "shuffle_receive": None,
}
"""Requests of one worker to another."""

ACKNOWLEDGED = frozenset({"get_data"})
"""Requests whose sender says "OK" to the answer."""

FRAME = frozenset({"op", "reply", "close", "serializers"})


class Guard:
    """Reads along what one worker says to one server; call it with each message.

    requests: what it may ask; address, name: the worker's own, which the relay has checked; wants_plain_errors: whether
    the errors of its tasks shall be harmless to unpickle, at the price of those whose classes are not loaded here.
    """

    def __init__(
        self,
        requests: Mapping[str, frozenset[str] | None],
        address: str,
        name: str,
        wants_plain_errors: Callable[[], bool] = lambda: False,
    ) -> None:
        self._requests = requests
        self._wants_plain_errors = wants_plain_errors
        self._address, self._name = address, name
        self._is_stream = False
        self._may_acknowledge = False

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
        except (TypeError, ValueError, AttributeError) as error:
            return f"nonsense ({error})"

    def _request(self, message: Any) -> str | None:
        op = message.get("op") if isinstance(message, dict) else None
        may_acknowledge, self._may_acknowledge = self._may_acknowledge, op in ACKNOWLEDGED
        if op == "close" or (message == "OK" and may_acknowledge):
            return None
        if not isinstance(op, str) or op not in self._requests:
            return f"{_short(op)} is not for workers"
        allowed = self._requests[op]
        if allowed is not None and not message.keys() <= allowed | FRAME:
            return f"{op} with more than a worker may ask"
        if op == "retire_workers" and list(message.get("workers") or ()) != [self._address]:
            return f"{op} of others"
        if op == "register-worker":
            if message.get("name") not in (self._name, self._address):
                return f"it registers as {_short(message.get('name'))}"
            self._is_stream = True
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
        if op == "task-finished":
            message["type"] = None  # a pickled class that clients would load; its name stays
        elif op == "log-event" and "warn" in _topics(message.get("topic")):
            message["msg"] = read_warning(message.get("msg"))
        elif op == "log-event" and "print" in _topics(message.get("topic")):
            message["msg"] = _shown(message.get("msg"))
        elif op == "task-erred" and self._wants_plain_errors():
            self._make_plain(message)
        return self._of_another(op, message)

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
