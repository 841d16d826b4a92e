"""The event log and the folders of clusters: nothing is lost but a line cut short, and nobody's files are taken for another's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fleet_simulation import Weather, World, tasks

from executors.aws_lambda.fleet.actions import LogEntry
from executors.aws_lambda.records import EventLogError, UnknownCluster
from executors.aws_lambda.records.clusters import (
    ClusterExists,
    ClusterFolder,
    known_clusters,
    state_folder,
)
from executors.aws_lambda.records.errors import DamagedCard
from executors.aws_lambda.records.event_log import EventLog, LogReader, log_files, read_log
from executors.aws_lambda.records.history import History, read_history
from executors.aws_lambda.records.timeline import Timeline, percentile


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own."""
    monkeypatch.setenv("EXCAMERA_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def entry(number: int) -> LogEntry:
    return LogEntry(
        float(number), "coordinator", float(number), f"worker-{number}-0", "invoked", "connected", "LinkUp",
        {"text": "line\nbreak \u00e9"}, "id",
    )  # fmt: skip


def numbers(folder: Path) -> list[float]:
    return [record.at for record in read_log(folder)]


# The log


def test_entries_come_back_as_they_were_written(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.write([entry(1), entry(2)])
    found = list(read_log(tmp_path))
    assert [record.invocation for record in found] == ["worker-1-0", "worker-2-0"]
    one = found[0]
    assert (one.at, one.clock, one.seen) == (1.0, "coordinator", 1.0)
    assert (one.origin, one.to, one.event, one.request_id) == (
        "invoked",
        "connected",
        "LinkUp",
        "id",
    )
    assert found[0].detail == {"text": "line\nbreak \u00e9"}


def test_each_line_is_a_json_object_with_its_version(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.write([entry(1)])
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert list(json.loads(line)) == [
        "v", "at", "clock", "seen", "invocation", "from", "to", "event", "detail", "request_id"
    ]  # fmt: skip


@pytest.mark.parametrize("kept", range(0, 40, 3))
def test_a_last_line_cut_short_is_left_out_and_written_behind(tmp_path: Path, kept: int) -> None:
    with EventLog(tmp_path) as log:
        log.write([entry(1), entry(2)])
    path = tmp_path / "events.jsonl"
    data = path.read_bytes()
    whole = data.index(b"\n") + 1
    path.write_bytes(data[: whole + kept])
    assert numbers(tmp_path) == [1.0]
    with EventLog(tmp_path) as log:
        log.write([entry(3)])
    assert numbers(tmp_path) == [1.0, 3.0]


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_fleet_log import entry
from executors.aws_lambda.records.event_log import EventLog
log = EventLog(Path(sys.argv[1]))
number = 0
while True:
    log.write([entry(number), entry(number + 1)])
    number += 2
    print(number, flush=True)
"""


def test_what_was_written_survives_kill_9(tmp_path: Path) -> None:
    code = WRITER.format(tests=str(Path(__file__).parent))
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = 0
        while told < 200:
            told = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read().split()
    told = int(rest[-1]) if rest else told
    found = numbers(tmp_path)
    assert len(found) >= told and found == [float(n) for n in range(len(found))]


def test_a_large_log_goes_on_in_a_new_part(tmp_path: Path) -> None:
    reader = LogReader(tmp_path)
    seen = []
    with EventLog(tmp_path, part_bytes=1000) as log:
        for number in range(40):
            log.write([entry(number)])
            if number % 7 == 0:
                seen += [record.at for record in reader.read()]
    seen += [record.at for record in reader.read()]
    assert len(log_files(tmp_path)) > 5
    assert numbers(tmp_path) == seen == [float(n) for n in range(40)]


def test_a_reader_gives_each_line_once_and_whole(tmp_path: Path) -> None:
    reader = LogReader(tmp_path)
    assert reader.read() == []
    with EventLog(tmp_path) as log:
        log.write([entry(1)])
    data = (tmp_path / "events.jsonl").read_bytes()
    assert [record.at for record in reader.read()] == [1.0]
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(data[:30])
        file.flush()
        assert reader.read() == []
        file.write(data[30:])
        file.flush()
        assert [record.at for record in reader.read()] == [1.0]


def test_other_files_and_later_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"hello": 1}\n')
    with pytest.raises(EventLogError, match="line 1 is not of an event log"):
        list(read_log(tmp_path))
    path.write_text('{"v": 2, "at": 1}\n')
    with pytest.raises(EventLogError, match="update excamera-dask"):
        list(read_log(tmp_path))


def damaged_lines() -> dict[str, str]:
    line: dict[str, Any] = {
        "v": 1, "at": 1.0, "clock": "coordinator", "seen": 1.0, "invocation": "worker-0-0",
        "from": "ready", "to": "running", "event": "Running", "detail": {}, "request_id": None,
    }  # fmt: skip
    spend = {**line, "invocation": None, "from": None, "to": None, "event": "Spend"}
    changes: dict[str, dict[str, Any]] = {
        "no version": {"v": None},
        "a later version": {"v": 99},
        "no time": {"at": "noon"},
        "no number": {"seen": float("nan")},
        "no state": {"to": "dancing"},
        "a list of details": {"detail": [1]},
        "a key that is none": {"detail": {"key": ["x"]}},
        "dollars that are none": {"to": "failed", "detail": {"dollars": "much"}},
        "an invocation that is none": {"invocation": {}},
    }
    lines = {what: json.dumps({**line, **change}) for what, change in changes.items()}
    return {**lines, "nothing spent": json.dumps(spend), "no object": "[]", "a number": "5"}


@pytest.mark.parametrize("what", damaged_lines())
def test_a_damaged_line_is_left_out_if_somebody_takes_its_error(tmp_path: Path, what: str) -> None:
    with EventLog(tmp_path) as log:
        log.write([entry(1)])
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(damaged_lines()[what] + "\n")
    with EventLog(tmp_path) as log:
        log.write([entry(2)])
    with pytest.raises(EventLogError, match=r"events\.jsonl: (line 2|written by a later)"):
        list(read_log(tmp_path))
    told: list[EventLogError] = []
    records = list(read_log(tmp_path, told.append))
    assert [record.at for record in records] == [1.0, 2.0] and len(told) == 1
    assert read_history(records).latest is not None
    assert [record.at for record in LogReader(tmp_path, told.append).read()] == [1.0, 2.0]


def test_a_full_disk_ends_the_log_and_not_the_cluster(tmp_path: Path) -> None:
    os.symlink("/dev/full", tmp_path / "events.jsonl")
    with EventLog(tmp_path) as log:
        log.write([entry(1)])
        assert log.error is not None and "No space left" in log.error


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(EventLogError, match="cannot write the event log"):
        EventLog(tmp_path / "missing")


# Folders


def test_a_cluster_of_this_process_is_alive_until_it_ends(state: Path) -> None:
    folder = ClusterFolder.create("film", started=1.0, region="eu-west-1")
    folder.write([entry(1)])
    folder.update(relay="10.0.0.5:41234")
    again = ClusterFolder.open("film")
    assert (
        again.is_alive() and again.card.relay == "10.0.0.5:41234" and again.card.pid == os.getpid()
    )
    assert (state / "clusters" / "film").stat().st_mode & 0o077 == 0, (
        "its log is nobody else's business"
    )
    folder.end(9.0, "closed")
    assert not ClusterFolder.open("film").is_alive()
    assert [one.card.name for one in known_clusters()] == ["film"]


def test_a_pid_that_another_process_has_now_is_not_the_coordinator() -> None:
    folder = ClusterFolder.create("film", started=1.0)
    folder.update(process_started=folder.card.process_started - 100.0)
    assert not ClusterFolder.open("film").is_alive()


def test_a_cluster_on_another_host_is_not_said_to_be_alive() -> None:
    folder = ClusterFolder.create("film", started=1.0)
    folder.update(host="elsewhere")
    assert not ClusterFolder.open("film").is_alive()


def test_a_name_can_be_used_again_when_its_cluster_has_ended() -> None:
    ClusterFolder.create("film", started=1.0)
    with pytest.raises(ClusterExists, match="runs already"):
        ClusterFolder.create("film", started=2.0)
    for started in (2.0, 3.0):
        ClusterFolder.open("film").end(started, "closed")
        ClusterFolder.create("film", started=started)
    assert [(one.card.name, one.card.started) for one in known_clusters()] == [
        ("film", 3.0), ("film~2", 2.0), ("film~1", 1.0)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", "../escape", "a/b", ".hidden", "x" * 200])
def test_names_that_are_no_folder_names_are_refused(name: str) -> None:
    with pytest.raises(UnknownCluster):
        ClusterFolder.create(name, started=1.0)


@pytest.mark.parametrize(
    "change",
    [
        "{",
        "[]",
        "\xff",
        {"started": "x"},
        {"started": None},
        {"started": 1e300},
        {"ended": "x"},
        {"pid": "x"},
        {"process_started": None},
        {"host": 5},
        {"settings": []},
        {"settings": {"timeout": "x"}},
        {"region": ["us"]},
    ],
)
def test_a_damaged_card_is_told_and_stands_in_nobodys_way(state: Path, change: Any) -> None:
    ClusterFolder.create("good", started=1.0)
    card = ClusterFolder.create("film", started=1.0).path / "cluster.json"
    text = change
    if isinstance(change, dict):
        text = json.dumps({**json.loads(card.read_text()), **change})
    card.write_text(text, encoding="latin-1")
    told: list[DamagedCard] = []
    assert [one.card.name for one in known_clusters(told.append)] == ["good"]
    assert str(card) in str(told[0]) and len(told) == 1
    with pytest.raises(DamagedCard, match="film"):
        ClusterFolder.open("film")
    ClusterFolder.create("film", started=2.0)
    assert [one.card.name for one in known_clusters()] == ["film", "good"]


def test_a_folder_without_a_card_is_no_cluster(state: Path) -> None:
    (state / "clusters" / "film").mkdir(parents=True)
    assert known_clusters() == []
    with pytest.raises(UnknownCluster, match="'film' is known"):
        ClusterFolder.open("film")


def test_the_state_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXCAMERA_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert state_folder() == Path("/somewhere/excamera-dask/clusters")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert state_folder() == Path("/home/someone/.local/state/excamera-dask/clusters")


# What a log tells


@pytest.fixture(scope="module")
def world() -> World:
    """A run with losses, doubles, slow workers and clocks that are wrong by minutes."""
    weather = Weather(breaks=0.2, doubled=0.1, slow=0.1, throttled=0.2, clock_error=300.0)
    world = World(weather=weather, seed=11, tasks=tasks(80))
    world.scale(20)
    world.run(200, lambda: len(set(world.done)) == 160)
    world.stop()
    world.run(60, lambda: world.is_over)
    return world


def test_the_history_agrees_with_the_fleet(world: World) -> None:
    history = read_history(world.entries)
    assert {name: course.state for name, course in history.courses.items()} == {
        one.name: one.state for one in world.fleet.books.roster
    }
    assert history.counts() == {k: v for k, v in world.fleet.snapshot().counts.items() if v}
    assert history.live() == []
    assert history.target == 20 and history.stopped == "stopped by the user"
    assert Timeline(history).dollars == pytest.approx(world.fleet.spent, rel=0.01)


def test_the_workers_clocks_are_set_right(world: World) -> None:
    history = read_history(world.entries)
    for course in history.courses.values():
        times = [
            t
            for t in (course.requested, course.connected, course.ready, course.ended)
            if t is not None
        ]
        assert times == sorted(times)
        for before, after in zip(course.spans, course.spans[1:], strict=False):
            assert before.end is not None and before.start <= before.end <= after.start
    stages = Timeline(history).stages()
    assert percentile(stages["encode"], 50) == pytest.approx(2.0, abs=1e-5)
    assert percentile(stages["rebase"], 50) == pytest.approx(0.5, abs=1e-5)


def test_a_log_can_be_followed_line_by_line(world: World) -> None:
    history = History()
    live = []
    for line in world.entries:
        history.add(line)
        live.append(len(history.live()))
    assert max(live) >= 20 and live[-1] == 0


def test_a_timeline_covers_each_workers_life_without_a_gap(world: World) -> None:
    timeline = Timeline(read_history(world.entries), "film")
    assert len(timeline.rows) == len(timeline.history.courses)
    for row in timeline.rows:
        for before, after in zip(row.bars, row.bars[1:], strict=False):
            assert after.start == pytest.approx(before.end, abs=1e-6), (row, before, after)
    kinds = {bar.kind for row in timeline.rows for bar in row.bars}
    assert {"starts", "loads", "encode", "rebase"} <= kinds <= set(timeline.kinds())


def test_two_tasks_at_once_are_two_spans() -> None:
    from executors.aws_lambda.fleet import FleetSettings
    from executors.aws_lambda.fleet import events as ev

    world = World(FleetSettings(threads=2))
    world.scale(1)
    assert world.run(20, world.settled)
    name, at = "worker-0-0", world.now
    for event in (
        ev.Running(name, "a", "encode", 1, at=at),
        ev.Running(name, "b", "rebase", 2, at=at + 1),
        ev.Done(name, "a", at=at + 3),
        ev.Idle(name, at=at + 4),
    ):
        world.now = event.at
        world.tell(event)
    spans = read_history(world.entries).courses[name].spans
    assert [(s.stage, s.start - at, s.end - at) for s in spans if s.end] == [
        ("encode", 0.0, 3.0), ("rebase", 1.0, 4.0)
    ]  # fmt: skip


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (1, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]
    assert percentile([7.0], 5) == 7.0


def test_the_history_of_nothing() -> None:
    timeline = Timeline(read_history([]))
    assert timeline.rows == () and "0 invocations (none)" in timeline.to_text()
