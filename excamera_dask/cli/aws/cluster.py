"""`excamera cluster`: the Lambda clusters of this machine, what became of their workers, and what they leave behind."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from excamera_dask.cli.options.values import OutputFile
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import claim_output, notice, print_json, whole_file

if TYPE_CHECKING:
    from executors.aws_lambda.records.clusters import ClusterFolder
    from executors.aws_lambda.records.errors import EventLogError
    from executors.aws_lambda.records.event_log import Record
    from executors.aws_lambda.records.leftovers import Leftover

POLL = 0.2
PICTURES = (".png", ".svg", ".pdf")
PAGES = (".html", ".json")


@click.group(short_help="Lambda clusters of this machine: list, logs, timeline, clean.")
def cluster() -> None:
    """Look at the Lambda clusters that were started on this machine.

    \b
    excamera cluster list                        which there are, and what they cost
    excamera cluster logs NAME --follow          what happens to the workers
    excamera cluster timeline NAME -o t.html     who did what when
    excamera cluster clean --all                 forget those that have ended

    Their files are in $XDG_STATE_HOME/excamera-dask/clusters (~/.local/state by default).
    """


@cluster.command("list", short_help="The clusters known here: alive or not, workers, money.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON on stdout.")
def list_clusters(as_json: bool) -> None:
    """List the clusters that were started on this machine, the latest first.

    \b
    excamera cluster list
    excamera cluster list --json | jq '.[] | select(.alive) | .name'
    """
    from executors.aws_lambda.records.clusters import known_clusters

    found = [_summary(folder) for folder in known_clusters(_tell)]
    if as_json:
        print_json(found)
        return
    if not found:
        notice("no clusters are known on this machine")
        return
    for one in found:
        click.echo(_summary_line(one))


@cluster.command(short_help="What happened to a cluster's workers, line by line.")
@click.argument("name", metavar="NAME")
@click.option("-f", "--follow", is_flag=True, help="Go on until the cluster has ended.")
@click.option(
    "--worker",
    metavar="W",
    help="Only this worker (worker-17-0, or worker-17 for all in its place).",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the lines as they are in the log, as JSON."
)
def logs(name: str, follow: bool, worker: str | None, as_json: bool) -> None:
    """Print the event log of a cluster: each change of each worker's state.

    \b
    excamera cluster logs NAME
    excamera cluster logs NAME --worker worker-17-0
    excamera cluster logs NAME --json | jq 'select(.to == "failed")'
    """
    from executors.aws_lambda.records.clusters import ClusterFolder
    from executors.aws_lambda.records.event_log import LogReader

    folder = ClusterFolder.open(name)
    damage = _Damage(folder)
    reader = LogReader(folder.path, damage)
    began = folder.card.started
    found = 0
    while True:
        alive = folder.is_alive()  # before reading, so that the last lines are not missed
        for record in reader.read():
            if worker is None or _concerns(record, worker):
                found += 1
                _print_record(record, began, as_json)
        damage.tell()
        if not follow or not alive:
            break
        sys.stdout.flush()
        time.sleep(POLL)
        folder = ClusterFolder.open(name)
    if worker is not None and not found:
        raise Failure(f"{name}: its log has no worker {worker}")


@cluster.command(short_help="Forget clusters that have ended.")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--all", "everything", is_flag=True, help="All clusters that do not run any more.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON on stdout.")
def clean(name: str | None, everything: bool, as_json: bool) -> None:
    """Remove the files of clusters whose coordinator does not run any more.

    \b
    excamera cluster clean NAME
    excamera cluster clean --all

    Workers of a coordinator that died end by themselves within a minute, since their connection ends
    with it, and Lambda has no call that would end them sooner; what may still run is told, and until when.
    """
    from executors.aws_lambda.records.clusters import ClusterFolder, known_clusters

    if (name is None) == (not everything):
        raise click.UsageError("name a cluster, or give --all")
    folders = known_clusters(_tell) if name is None else [ClusterFolder.open(name)]
    done = [_clean(folder, must=name is not None) for folder in folders]
    if as_json:
        print_json([one for one in done if one is not None])
    elif not any(done):
        notice("nothing to clean")


@cluster.command(short_help="Who did what when: a picture, a page, JSON, or a summary.")
@click.argument("name", metavar="NAME")
@click.option(
    "-o",
    "--output",
    type=OutputFile(*PAGES, *PICTURES),
    help="A .html page, .json, or a picture (.png, .svg, .pdf: needs matplotlib); without it a summary is printed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the timeline as JSON on stdout.")
def timeline(name: str, output: Path | None, as_json: bool) -> None:
    """Tell when each worker was requested, connected and ready, and which stage it ran.

    \b
    excamera cluster timeline NAME
    excamera cluster timeline NAME -o timeline.html
    excamera cluster timeline NAME --json | jq .latencies
    """
    from executors.aws_lambda.records.clusters import ClusterFolder
    from executors.aws_lambda.records.history import read_history
    from executors.aws_lambda.records.timeline import Timeline

    if output is not None:
        claim_output(output, overwrite=True)
    folder = ClusterFolder.open(name)
    damage = _Damage(folder)
    found = Timeline(read_history(folder.read(damage)), name)
    damage.tell()
    if output is not None:
        _write_timeline(found, output)
    if as_json:
        print_json(found.to_dict())
    elif output is None:
        click.echo(found.to_text())
    else:
        for line in found.to_text().splitlines():
            notice(line)


def _write_timeline(found: Any, output: Path) -> None:
    import json

    from executors.aws_lambda.records.timeline_pages import save_picture, to_html

    with whole_file(output) as file:
        match output.suffix.lower():
            case ".json":
                file.write(json.dumps(found.to_dict()).encode() + b"\n")
            case ".html":
                file.write(to_html(found).encode())
            case suffix:
                save_picture(found, file, suffix[1:])


def _tell(error: Exception) -> None:
    notice(str(error))


class _Damage:
    """What cannot be read in a cluster's log, which is shown without it."""

    def __init__(self, folder: ClusterFolder) -> None:
        self._name = folder.card.name
        self._errors: list[EventLogError] = []
        self._told = 0

    def __call__(self, error: EventLogError) -> None:
        self._errors.append(error)

    def __str__(self) -> str:
        return f"its log is damaged, lines left out: {len(self._errors)}; {self._errors[0]}"

    def tell(self) -> None:
        """Say so, if there is any more than was said."""
        if len(self._errors) > self._told:
            self._told = len(self._errors)
            notice(f"{self._name}: {self}")

    def to_json(self) -> str | None:
        """The same for programs."""
        return str(self) if self._errors else None


def _summary(folder: ClusterFolder) -> dict[str, Any]:
    """What `list` tells of a cluster."""
    from executors.aws_lambda.records.history import read_history
    from executors.aws_lambda.records.timeline import Timeline

    card, damage = folder.card, _Damage(folder)
    history = read_history(folder.read(damage))
    damage.tell()
    alive = folder.is_alive()
    end = card.ended if card.ended is not None else history.latest
    return {
        "name": card.name,
        "alive": alive,
        "status": "alive" if alive else "ended" if card.ended is not None else "dead",
        "pid": card.pid,
        "host": card.host,
        "started": card.started,
        "seconds": round((time.time() if alive else end or card.started) - card.started, 3),
        "function": card.function,
        "region": card.region,
        "backend": card.backend,
        "relay": card.relay,
        "scheduler": card.scheduler,
        "dashboard": card.dashboard,
        "target": history.target,
        "workers": history.counts(),
        "dollars": round(Timeline(history).dollars, 6),
        "stopped": card.end_reason or history.stopped,
        "folder": str(folder.path),
        "bytes": folder.size(),
        "damage": damage.to_json(),
    }


def _summary_line(one: dict[str, Any]) -> str:
    from executors.aws_lambda.fleet.snapshot import span

    where = " ".join(str(one[key]) for key in ("function", "region", "backend") if one[key])
    workers = ", ".join(f"{count} {state}" for state, count in one["workers"].items())
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["started"]))
    parts = [
        f"{one['name']}  {one['status']}",
        f"{started}, {span(one['seconds'])}",
        f"{workers or 'no workers'}",
        f"${one['dollars']:.4f}",
    ]
    if where:
        parts.insert(1, where)
    return "  ".join(parts)


def _concerns(record: Record, worker: str) -> bool:
    name = record.invocation or ""
    return name == worker or name.startswith((f"{worker}-", f"{worker}~"))


def _print_record(record: Record, began: float, as_json: bool) -> None:
    if as_json:
        print_json(record.to_dict())
        return
    change = "" if record.to is None else f"{record.origin or '-'} -> {record.to}"
    if record.to is not None and record.origin == record.to:
        change = record.to
    detail = dict(record.detail)
    tail = str(detail.pop("log_tail", "") or "")
    detail.pop("started", None)
    if detail.get("what") == detail.get("reason"):
        detail.pop("what", None)
    told = "  ".join(f"{key}={_short(value)}" for key, value in detail.items())
    who = record.invocation or "fleet"
    click.echo(
        f"{record.seen - began:10.3f}  {who:<14} {record.event:<15} {change:<22} {told}".rstrip()
    )
    for line in tail.splitlines():
        click.echo(f"{'':12}| {line}")


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


def _clean(folder: ClusterFolder, must: bool) -> dict[str, Any] | None:
    """Remove one cluster's files unless it runs; what was done."""
    from executors.aws_lambda.records.leftovers import leftovers

    card = folder.card
    if folder.is_alive():
        if must:
            raise Failure(f"{card.name}: runs (process {card.pid}); close it first")
        return None
    if card.host != _host() and card.ended is None:
        if must:
            raise Failure(f"{card.name}: was started on {card.host}; clean it there")
        return None
    damage = _Damage(folder)
    left = leftovers(folder, time.time(), damage)
    damage.tell()
    size = folder.size()
    folder.remove()
    done = {"name": card.name, "bytes": size, "leftovers": list(map(asdict, left))}
    notice(f"{card.name}: removed ({size} bytes)")
    if left:
        notice(f"{card.name}: its coordinator died; {_what_comes_of(left)}")
    return done


def _what_comes_of(left: list[Leftover]) -> str:
    """What happens to invocations that nobody controls any more."""
    from executors.aws_lambda.records.leftovers import GIVES_UP_WITHIN

    parts = []
    linked = [one for one in left if one.by is not None]
    if linked:
        by = max(one.by or 0.0 for one in linked)
        verb = "have ended by themselves at" if by <= time.time() else "end by themselves by"
        until = _clock(max(one.until for one in linked))
        parts.append(
            f"{len(linked)} workers {verb} {_clock(by)} (one that hangs: by {until}, its time limit)"
        )
    unseen = len(left) - len(linked)
    if unseen:
        parts.append(
            f"{unseen} invocations that had not connected end within {GIVES_UP_WITHIN:g} s of their start, if they start"
        )
    return "; ".join([*parts, "Lambda has no call to end them sooner"])


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))


def _host() -> str:
    import socket

    return socket.gethostname()
