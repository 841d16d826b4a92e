"""The event log: one JSON object a line, only ever appended to.

    {"v": 1, "at": 1700000000.5, "clock": "coordinator", "seen": 1700000000.5, "invocation": "worker-3-0",
     "from": "invoked", "to": "connected", "event": "LinkUp", "detail": {}, "request_id": "..."}

`at` is by `clock`, `seen` is the coordinator's time. Lines of the whole fleet have no invocation, from and to. Each batch of
lines is one write, so what was written survives the death of the process, and at most the last line is cut short by
that of the machine. A log that has grown large goes on in a new file: events.0001.jsonl is the oldest part, events.jsonl
the one being written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from executors.aws_lambda.fleet.actions import LogEntry
from executors.aws_lambda.fleet.states import State
from executors.aws_lambda.records.errors import EventLogError

VERSION = 1
NAME = "events.jsonl"
PART_BYTES = 64 << 20
_PART = re.compile(r"events\.(\d+)\.jsonl")


class EventLog:
    """Writes entries into a folder. A disk that is full ends the log, not the cluster: `error` tells."""

    def __init__(self, folder: Path, *, part_bytes: int = PART_BYTES) -> None:
        self.folder = folder
        self.path = folder / NAME
        self.error: str | None = None
        self._part_bytes = part_bytes
        try:
            self._file = self._open()
            self._size = os.fstat(self._file).st_size
            if self._size and not self._ends_with_a_line():
                self._append(b"\n")
        except OSError as error:
            raise EventLogError(
                f"{self.path}: cannot write the event log ({error.strerror})"
            ) from None

    def write(self, entries: Iterable[LogEntry]) -> None:
        """Append entries, in one write."""
        data = b"".join(to_line(entry) for entry in entries)
        if not data or self._file < 0:
            return
        try:
            if self._size + len(data) > self._part_bytes and self._size:
                self._next_part()
            self._append(data)
        except OSError as error:
            self.error = f"{self.path}: {error.strerror or error}"

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._size += len(data)

    def _ends_with_a_line(self) -> bool:
        return os.pread(self._file, 1, self._size - 1) == b"\n"

    def _next_part(self) -> None:
        numbers = [number for number, _ in _parts(self.folder)]
        os.rename(self.path, self.folder / f"events.{max(numbers, default=0) + 1:04}.jsonl")
        os.close(self._file)
        self._file = -1
        self._file = self._open()
        self._size = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One line of an event log, as read."""

    at: float
    clock: str
    seen: float
    invocation: str | None
    origin: str | None
    to: str | None
    event: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    request_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it is in the log."""
        return _plain(self)


def to_line(entry: LogEntry | Record) -> bytes:
    """An entry as a line of the log."""
    return json.dumps(_plain(entry), separators=(",", ":"), default=str).encode() + b"\n"


def _plain(entry: LogEntry | Record) -> dict[str, Any]:
    return {
        "v": VERSION,
        "at": entry.at,
        "clock": entry.clock,
        "seen": entry.seen,
        "invocation": entry.invocation,
        "from": entry.origin,
        "to": entry.to,
        "event": entry.event,
        "detail": entry.detail,
        "request_id": entry.request_id,
    }


OnDamage = Callable[[EventLogError], object]
"""Takes the error of a line that is no log's, or of a later version; the line is left out."""


def refuse(error: EventLogError) -> NoReturn:
    """Leaves no line out."""
    raise error


def read_log(folder: Path, on_damage: OnDamage = refuse) -> Iterator[Record]:
    """All entries of a folder's log in order; a last line that is cut short is left out.

    Raises: EventLogError for lines that are no log's, or of a later version, unless `on_damage` takes it.
    """
    for path in log_files(folder):
        with path.open("rb") as file:
            yield from _records(file, path, on_damage)


def log_files(folder: Path) -> list[Path]:
    """The parts of a folder's log, oldest first."""
    parts = [path for _, path in sorted(_parts(folder))]
    current = folder / NAME
    return [*parts, current] if current.exists() else parts


class LogReader:
    """Reads a log that is still being written: each `read` gives what is new; `on_damage` as of `read_log`."""

    def __init__(self, folder: Path, on_damage: OnDamage = refuse) -> None:
        self.folder = folder
        self._on_damage = on_damage
        self._identity: int | None = None
        self._offset = 0
        self._lines = 0

    def read(self) -> list[Record]:
        """The whole lines that have come since the last call."""
        found: list[Record] = []
        for path in self._unread():
            with path.open("rb") as file:
                if self._identity != os.fstat(file.fileno()).st_ino:
                    self._identity, self._offset = os.fstat(file.fileno()).st_ino, 0
                    self._lines = 0
                file.seek(self._offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            lines = whole.splitlines(keepends=True)
            found += _records(lines, path, self._on_damage, self._lines)
            self._lines += len(lines)
        return found

    def _unread(self) -> list[Path]:
        """The file that was read last, by whatever name it has now, and those after it."""
        files = log_files(self.folder)
        for place, path in enumerate(files):
            if self._identity is not None and path.stat().st_ino == self._identity:
                return files[place:]
        return files


def _records(
    lines: Iterable[bytes], path: Path, on_damage: OnDamage, before: int = 0
) -> Iterator[Record]:
    for number, line in enumerate(lines, before + 1):
        if not line.endswith(b"\n"):
            return  # still being written, or cut short
        if line == b"\n":
            continue
        try:
            value = json.loads(line)
        except ValueError:
            continue  # the machine died here, and a later run went on behind it
        try:
            yield _record(value, path, number)
        except EventLogError as error:
            on_damage(error)


def _record(value: Any, path: Path, number: int) -> Record:
    if not isinstance(value, dict) or not isinstance(value.get("v"), int):
        raise EventLogError(f"{path}: line {number} is not of an event log")
    if value["v"] > VERSION:
        raise EventLogError(
            f"{path}: written by a later release (version {value['v']} of the log): update excamera-dask"
        )
    try:
        record = Record(
            float(value["at"]),
            str(value["clock"]),
            float(value["seen"]),
            value["invocation"],
            value["from"],
            value["to"],
            str(value["event"]),
            dict(value["detail"] or {}),
            value["request_id"],
        )
        _check(record)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise EventLogError(f"{path}: line {number} is not of an event log") from None
    return record


_NUMBERS = ("dollars", "running", "workers")
_NUMBERS_OR_NONE = ("remaining", "started")
_TEXTS = ("key", "stage", "log_stream", "error")


def _check(record: Record) -> None:
    """Raises ValueError or KeyError for a record of which no history can be made."""
    detail = record.detail
    needed = ("dollars", "running") if record.event == "Spend" else ()
    numbers = [record.at, record.seen, *(detail[name] for name in needed)]
    numbers += [detail[name] for name in _NUMBERS if name in detail]
    numbers += [detail[name] for name in _NUMBERS_OR_NONE if detail.get(name) is not None]
    names = [record.invocation, record.request_id, *map(detail.get, _TEXTS)]
    if not all(map(isfinite, numbers)):
        raise ValueError("a number that is none")
    if not all(name is None or isinstance(name, str) for name in names):
        raise ValueError("a name that is none")
    for state in (record.origin, record.to):
        if state is not None:
            State(state)


def _parts(folder: Path) -> list[tuple[int, Path]]:
    matches = ((_PART.fullmatch(path.name), path) for path in folder.glob("events.*.jsonl"))
    return [(int(match[1]), path) for match, path in matches if match]
