"""The clusters of this machine: a folder each, with what the cluster is and what happened to it.

    $XDG_STATE_HOME/excamera-dask/clusters/NAME/cluster.json    settings, process, addresses
    $XDG_STATE_HOME/excamera-dask/clusters/NAME/events.jsonl    the event log

XDG_STATE_HOME is ~/.local/state by default; EXCAMERA_STATE_DIR replaces $XDG_STATE_HOME/excamera-dask.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from executors.aws_lambda.fleet.actions import LogEntry
from executors.aws_lambda.fleet.errors import FleetError
from executors.aws_lambda.records.errors import DamagedCard, EventLogError, UnknownCluster
from executors.aws_lambda.records.event_log import EventLog, OnDamage, Record, read_log, refuse

CARD = "cluster.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,99}")
_CLOCK_SLACK = 2.0


class ClusterExists(FleetError):
    """A cluster of that name runs already."""


@dataclass(frozen=True)
class ClusterCard:
    """What a cluster is: who coordinates it, where, with which settings. Times are seconds since the epoch."""

    name: str
    pid: int
    host: str
    started: float
    process_started: float
    function: str | None = None
    region: str | None = None
    relay: str | None = None
    scheduler: str | None = None
    dashboard: str | None = None
    backend: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    ended: float | None = None
    end_reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in cluster.json."""
        return asdict(self)


class ClusterFolder:
    """The files of one cluster."""

    def __init__(self, path: Path, card: ClusterCard) -> None:
        self.path = path
        self.card = card
        self._log: EventLog | None = None

    # For the cluster itself

    @classmethod
    def create(cls, name: str, **facts: Any) -> ClusterFolder:
        """Make the folder of a cluster that this process coordinates; `facts` are fields of its card.

        What an earlier cluster of the same name left is kept as NAME~1, NAME~2 ...

        Raises: ClusterExists if that one still runs, EventLogError if nothing can be written there.
        """
        path = _folder_of(name)
        try:
            _make_room(path)
            path.mkdir(parents=True, mode=0o700)
            process = psutil.Process()
            card = ClusterCard(
                name=name,
                pid=process.pid,
                host=socket.gethostname(),
                process_started=process.create_time(),
                **facts,
            )
            folder = cls(path, card)
            folder._write_card()
        except OSError as error:
            raise EventLogError(
                f"{path}: cannot keep the cluster's log there ({error.strerror})"
            ) from None
        return folder

    def update(self, **facts: Any) -> None:
        """Change fields of the card."""
        self.card = replace(self.card, **facts)
        with contextlib.suppress(OSError):  # the cluster matters more than its card
            self._write_card()

    def write(self, entries: Iterable[LogEntry]) -> None:
        """Append to the event log."""
        if self._log is None:
            self._log = EventLog(self.path)
        self._log.write(entries)

    def end(self, at: float, reason: str) -> None:
        """The cluster has ended in an orderly way."""
        self.update(ended=at, end_reason=reason)
        if self._log is not None:
            self._log.close()

    # For those who look at it

    @classmethod
    def open(cls, name: str) -> ClusterFolder:
        """A known cluster.

        Raises: UnknownCluster, DamagedCard.
        """
        path = _folder_of(name)
        card = _read_card(path)
        if card is None:
            raise UnknownCluster(
                f"no cluster {name!r} is known on this machine (excamera cluster list shows those that are)"
            )
        return cls(path, card)

    def is_alive(self) -> bool:
        """True if its coordinator runs, on this machine; it may be of another host if the folder is shared."""
        card = self.card
        if card.ended is not None or card.host != socket.gethostname():
            return False
        try:
            started = psutil.Process(card.pid).create_time()
        except psutil.Error:
            return False
        return abs(started - card.process_started) < _CLOCK_SLACK

    def read(self, on_damage: OnDamage = refuse) -> Iterable[Record]:
        """The entries of its event log, as of `read_log`."""
        return read_log(self.path, on_damage)

    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())

    def remove(self) -> None:
        """Remove its files."""
        if self._log is not None:
            self._log.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def _write_card(self) -> None:
        text = json.dumps(self.card.to_dict(), indent=1, default=str)
        handle, temporary = tempfile.mkstemp(prefix=f".{CARD}.", dir=self.path)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
            os.replace(temporary, self.path / CARD)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise


def state_folder() -> Path:
    """Where the clusters of this machine and user are kept."""
    own = os.environ.get("EXCAMERA_STATE_DIR")
    if own:
        return Path(own) / "clusters"
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "excamera-dask" / "clusters"


def known_clusters(
    on_damage: Callable[[DamagedCard], object] = lambda error: None,
) -> list[ClusterFolder]:
    """All clusters with a readable card, the latest first; `on_damage` takes the errors of the others."""
    try:
        paths = sorted(path for path in state_folder().iterdir() if path.is_dir())
    except OSError:
        return []
    found = []
    for path in paths:
        try:
            card = _read_card(path)
        except DamagedCard as error:
            on_damage(error)
        else:
            found += [ClusterFolder(path, card)] if card is not None else []
    return sorted(found, key=lambda folder: -folder.card.started)


def _folder_of(name: str) -> Path:
    if _NAME.fullmatch(name) is None:
        raise UnknownCluster(
            f"{name!r} is no name for a cluster: use up to 100 letters, digits and . _ ~ -"
        )
    return state_folder() / name


def _make_room(path: Path) -> None:
    if not path.exists():
        return
    with contextlib.suppress(DamagedCard):
        _check_not_alive(path)
    number = 1
    while path.with_name(f"{path.name}~{number}").exists():
        number += 1
    path.rename(path.with_name(f"{path.name}~{number}"))


def _check_not_alive(path: Path) -> None:
    card = _read_card(path)
    if card is not None and ClusterFolder(path, card).is_alive():
        raise ClusterExists(
            f"a cluster {path.name!r} runs already (process {card.pid}): use another name, or close that one"
        )


def _read_card(path: Path) -> ClusterCard | None:
    """The card in a folder; None where there is none. Raises: DamagedCard."""
    try:
        text = (path / CARD).read_text()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DamagedCard(f"{path / CARD}: cannot be read ({error})") from None
    try:
        value = json.loads(text)
        names = {entry.name for entry in fields(ClusterCard)}
        known = {name: value[name] for name in names & set(value)}
        card = ClusterCard(**{**known, "name": path.name})
        _check(card)
    except (ValueError, TypeError, OverflowError):
        raise DamagedCard(
            f"{path / CARD}: is damaged; remove the folder {path} if its log is not needed any more"
        ) from None
    return card


_TEXTS = ("host", "function", "region", "relay", "scheduler", "dashboard", "backend", "end_reason")


def _check(card: ClusterCard) -> None:
    """Raises ValueError, TypeError or OverflowError for fields that have values of another kind."""
    times = (card.started, card.process_started, 0 if card.ended is None else card.ended)
    for moment in times:
        datetime.fromtimestamp(moment)
    if any(not isinstance(getattr(card, name), str | None) for name in _TEXTS):
        raise TypeError("a text that is none")
    if not isinstance(card.pid, int) or not isinstance(card.settings, dict):
        raise TypeError("a process or settings that are none")
    for name in ("timeout", "spend_interval"):
        float(card.settings.get(name, 0))
