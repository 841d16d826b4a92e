"""Log groups and streams as CloudWatch Logs has them, kept in files: one JSON object a line, a file a stream."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote

from executors.local_lambda.quotas import LOG_TAIL


@dataclasses.dataclass(frozen=True)
class LogEvent:
    """One line: milliseconds since 1970, the text without its end, and where it stands."""

    timestamp: int
    message: str
    stream: str
    number: int


class LogStore:
    """All log groups, in a folder each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def stream(self, group: str, name: str) -> LogStream:
        """A new stream to write to."""
        path = self._path(group, name)
        path.parent.mkdir(exist_ok=True)
        return LogStream(path)

    def groups(self) -> list[str]:
        """The names of all groups."""
        return sorted(unquote(path.name) for path in self.folder.iterdir())

    def streams(self, group: str) -> list[str]:
        """The names of the streams of a group, in order; none if there is no such group."""
        folder = self.folder / _file_name(group)
        files = folder.glob("*.jsonl") if folder.is_dir() else ()
        return sorted(unquote(path.stem) for path in files)

    def exists(self, group: str, stream: str | None = None) -> bool:
        """True if there is such a group, and such a stream in it."""
        path = self._path(group, stream) if stream else self.folder / _file_name(group)
        return path.exists()

    def read(self, group: str, stream: str) -> Iterator[LogEvent]:
        """The events of a stream, in the order in which they were written."""
        path = self._path(group, stream)
        if path.exists():
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file):
                    if line.endswith("\n"):
                        timestamp, message = json.loads(line)
                        yield LogEvent(timestamp, message, stream, number)

    def _path(self, group: str, stream: str) -> Path:
        return self.folder / _file_name(group) / f"{_file_name(stream)}.jsonl"


class LogStream:
    """Where one environment writes; it remembers the tail of the current invocation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._partial = b""
        self._tail = bytearray()

    def begin(self) -> None:
        """Forget the tail: another invocation begins."""
        self._tail.clear()

    def feed(self, data: bytes) -> None:
        """Take output of the processes, in any pieces."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self.write(line.decode("utf-8", "replace"))

    def flush(self) -> None:
        """Write down a last line that has no end."""
        if self._partial:
            line, self._partial = self._partial, b""
            self.write(line.decode("utf-8", "replace"))

    def write(self, message: str) -> None:
        """Write one event, now. The runtime separates the lines of one event by carriage returns."""
        message = message.replace("\r", "\n")
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        print(json.dumps([int(time.time() * 1000), message]), file=self._file, flush=True)
        self._tail += message.encode() + b"\n"
        del self._tail[:-LOG_TAIL]

    def tail(self) -> bytes:
        """The last 4 KB of this invocation's log."""
        return bytes(self._tail)

    def close(self) -> None:
        """Write what is left, and close the file; another write opens it again."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None


def _file_name(name: str) -> str:
    return quote(name, safe="[]$ ")
