"""Messages of a worker to one who is none, made plain: numbers, texts, bytes, None, and collections of these.

distributed marks an object in a message by a dictionary that says which frames it is made from, with pickle or whatever else
the sender names; an object that is not made at the scheduler is made at the client to which it goes on. Here a text takes the
place of each but those in the fields that hold objects by right, which have rules of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack
from distributed.protocol.utils import msgpack_opts

NOT_READ = "<pickled by a worker>"
OBJECT = "__Serialized__"
MARKS = frozenset({OBJECT, "__Pickled__", "__Enum__"})
_SUSPECT = re.compile(b"__(?:Serialized|Pickled|Enum)__|exception")
_NAMED = b"__Enum__"  # what distributed looks up by its name while it reads

NONE: frozenset[str] = frozenset()
ERROR = frozenset({"exception", "traceback"})
SAID: Mapping[str, frozenset[str]] = {"task-erred": ERROR}
"""Fields that hold objects in what a worker says of itself."""

ANSWERED: Mapping[str, frozenset[str]] = {
    "get_data": frozenset({"data"}),
    "run": ERROR | {"result"},
    "actor_execute": ERROR | {"result"},
    "actor_attribute": ERROR | {"result"},
}
"""Fields that hold objects in its answers: what tasks and a client's own functions have made."""


def plain_said(frames: Sequence[Any]) -> Any:
    """The first of the frames of what a worker says of itself, with no objects but those of SAID."""
    return _plain(frames, lambda message: _fields(SAID, message.get("op")))


def plain_answer(frames: Sequence[Any], asked: Any) -> Any:
    """The first of the frames of its answer to `asked`, with no objects but those of ANSWERED; of an error its text."""
    return _plain(frames, lambda _: _fields(ANSWERED, asked), told=True)


def _fields(table: Mapping[str, frozenset[str]], op: Any) -> frozenset[str]:
    return table.get(op, NONE) if isinstance(op, str) else NONE


def _plain(
    frames: Sequence[Any], fields_of: Callable[[Mapping[Any, Any]], frozenset[str]], told: bool = False
) -> Any:  # fmt: skip
    if not _SUSPECT.search(frames[0]):
        return frames[0]
    message = msgpack.loads(frames[0], use_list=False, **msgpack_opts)

    def read(message: Any) -> Any:
        if not isinstance(message, dict) or not MARKS.isdisjoint(message):
            return _without_objects(message)
        fields = fields_of(message)
        made = {
            name: _kept(value, frames) if name in fields else _without_objects(value)
            for name, value in message.items()
        }
        return _with_text(made, ERROR - fields) if told else made

    made = tuple(map(read, message)) if isinstance(message, tuple) else read(message)
    return msgpack.dumps(made, use_bin_type=True) if made != message else frames[0]


def _with_text(answer: dict[Any, Any], fields: frozenset[str]) -> dict[Any, Any]:
    """An answer in whose error there are no bytes either, which clients would unpickle."""
    text = answer.get("exception_text")
    for name in fields & answer.keys():
        if answer[name] is not None:
            answer[name] = text if name == "exception" and isinstance(text, str) else NOT_READ
    return answer


def _kept(value: Any, frames: Sequence[Any]) -> Any:
    """An object, or a dictionary of some."""
    if isinstance(value, dict) and MARKS.isdisjoint(value):
        return {name: _one(each, frames) for name, each in value.items()}
    return _one(value, frames)


def _one(value: Any, frames: Sequence[Any]) -> Any:
    number = value.get(OBJECT) if isinstance(value, dict) and len(value) == 1 else None
    if type(number) is int and 0 < number < len(frames) and _NAMED not in bytes(frames[number]):
        return value
    return _without_objects(value)


def _without_objects(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_without_objects, value))
    if not isinstance(value, dict):
        return value
    if not MARKS.isdisjoint(value):
        return NOT_READ
    return {name: _without_objects(each) for name, each in value.items()}
