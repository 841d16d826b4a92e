"""`excamera cluster` on the logs that real runs of the fleet wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fleet_simulation import START, Weather, World, tasks

from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.records.clusters import ClusterFolder

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from excamera_dask.cli import main; sys.exit(main())",
    "cluster",
]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own."""
    monkeypatch.setenv("EXCAMERA_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def cluster(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=100
    )


def run_fleet(seed: int = 5) -> World:
    world = World(weather=Weather(breaks=0.2, slow=0.1, doubled=0.1), seed=seed, tasks=tasks(40))
    world.scale(10)
    world.run(200, lambda: len(set(world.done)) == 80)
    return world


@pytest.fixture
def film() -> World:
    """A cluster that has ended in an orderly way."""
    world = run_fleet()
    world.tell(ev.Failed("worker-0-0", "MemoryError: 3008 MB", "first\nsecond", at=world.now))
    world.run(20, world.settled)
    folder = ClusterFolder.create("film", started=START, function="excamera", region="us-east-1")
    world.stop()
    world.run(60, lambda: world.is_over)
    folder.write(world.entries)
    folder.end(world.now, "closed")
    return world


def abandon(name: str, world: World, **facts: object) -> ClusterFolder:
    """A cluster whose coordinator was killed: its process is gone, and nothing says how it ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        folder = ClusterFolder.create(name, started=START, settings=world.settings.to_dict())
        folder.update(pid=process.pid, **facts)
        process.kill()
    folder.write(world.entries)
    return folder


def test_list_tells_states_and_money(film: World) -> None:
    done = cluster("list")
    assert done.returncode == 0 and not done.stderr
    (line,) = done.stdout.splitlines()
    assert (
        line.startswith("film  ended  excamera us-east-1") and "finished" in line and "$0.0" in line
    )
    (one,) = json.loads(cluster("list", "--json").stdout)
    assert one["alive"] is False and one["status"] == "ended" and one["stopped"] == "closed"
    assert one["workers"] == {k: v for k, v in film.fleet.snapshot().counts.items() if v}
    assert one["dollars"] == pytest.approx(film.fleet.spent, rel=0.01)


def test_list_tells_the_alive_from_the_dead() -> None:
    world = run_fleet()
    alive = ClusterFolder.create("alive", started=time.time())
    alive.write(world.entries)
    abandon("dead", world)
    found = {one["name"]: one["status"] for one in json.loads(cluster("list", "--json").stdout)}
    assert found == {"alive": "alive", "dead": "dead"}


def damage_log(state: Path, name: str, line: str) -> None:
    with (state / "clusters" / name / "events.jsonl").open("a") as file:
        file.write(line + "\n")


def test_a_damaged_line_is_told_and_the_rest_is_shown(film: World, state: Path) -> None:
    abandon("dead", run_fleet())
    usual = cluster("list").stdout
    logs = cluster("logs", "film").stdout
    for name in ("film", "dead"):
        damage_log(state, name, "[1, 2]")
    done = cluster("list", "--json")
    listed = {one["name"]: one["damage"] for one in json.loads(done.stdout)}
    assert set(listed) == {"film", "dead"} and all(
        "lines left out: 1;" in d for d in listed.values()
    )
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 2
    assert cluster("list").stdout == usual
    for command in ("logs", "timeline"):
        done = cluster(command, "film")
        assert done.returncode == 0 and done.stderr.startswith("film: its log is damaged")
    assert cluster("logs", "film").stdout == logs
    done = cluster("clean", "--all")
    assert done.returncode == 0 and "dead: its log is damaged" in done.stderr
    assert not list((state / "clusters").iterdir())


def test_damage_is_told_while_a_log_is_followed(state: Path) -> None:
    """With the line's number in the file, whenever it came."""
    world = run_fleet()
    alive = ClusterFolder.create("alive", started=time.time())
    alive.write(world.entries)
    following = subprocess.Popen(
        [*COMMAND, "logs", "alive", "--follow"],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert following.stdout is not None and following.stderr is not None
    lines = (state / "clusters" / "alive" / "events.jsonl").read_text().count("\n")
    for _ in range(lines):
        following.stdout.readline()
    damage_log(state, "alive", "[1, 2]")
    told = following.stderr.readline()
    following.kill()
    following.communicate()
    assert f"line {lines + 1} is not of an event log" in told


def test_a_damaged_card_is_told_and_the_others_are_shown(film: World, state: Path) -> None:
    card = abandon("dead", run_fleet()).path / "cluster.json"
    card.write_text("{")
    for command in (("list",), ("clean", "--all")):
        done = cluster(*command)
        assert done.returncode == 0 and "film" in done.stdout + done.stderr
        assert f"{card}: is damaged; remove the folder" in done.stderr
    for command in (("logs", "dead"), ("clean", "dead"), ("timeline", "dead")):
        done = cluster(*command)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert "cluster.json: is damaged" in done.stderr


def test_list_of_nothing() -> None:
    done = cluster("list")
    assert done.returncode == 0 and done.stderr == "no clusters are known on this machine\n"
    assert cluster("list", "--json").stdout == "[]\n"


def test_logs_of_all_and_of_one_worker(film: World) -> None:
    everything = cluster("logs", "film").stdout.splitlines()
    assert len(everything) == len(film.entries) + 2, "and two lines of a log tail"
    one = cluster("logs", "film", "--worker", "worker-0-0").stdout
    assert "invoked -> connected" in one and "worker-1-0" not in one
    assert "error=MemoryError: 3008 MB" in one and "| second" in one
    place = cluster("logs", "film", "--worker", "worker-0").stdout
    assert len(place) > len(one) and "worker-0-1" in place


def test_logs_as_json_are_those_of_the_file(film: World, state: Path) -> None:
    lines = cluster("logs", "film", "--json").stdout.splitlines()
    kept = (state / "clusters" / "film" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(line) for line in kept]


def test_logs_follow_until_the_cluster_ends(film: World) -> None:
    folder = ClusterFolder.create("live", started=time.time())
    folder.write(film.entries[:100])
    with subprocess.Popen(
        [*COMMAND, "logs", "live", "--follow"],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    ) as process:
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(50)]
        folder.write(film.entries[100:])
        folder.end(time.time(), "closed")
        rest = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert len(first) + len(rest) == len(film.entries) + 2


def test_following_can_be_interrupted(film: World) -> None:
    folder = ClusterFolder.create("live", started=time.time())
    folder.write(film.entries)
    process = subprocess.Popen(
        [*COMMAND, "logs", "live", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and error.strip() == "excamera: interrupted"


def test_timeline_as_text_and_json(film: World) -> None:
    text = cluster("timeline", "film").stdout
    assert text.startswith("film: ") and "start-up, s" in text and "encode" in text
    found = json.loads(cluster("timeline", "film", "--json").stdout)
    assert found["version"] == 1 and len(found["invocations"]) == len(list(film.fleet.books.roster))
    assert found["latencies"]["start"]["p50"] == pytest.approx(1.4, abs=0.5)
    assert found["stages"]["encode"]["count"] >= 40


@pytest.mark.parametrize(
    ("name", "magic"),
    [
        ("t.html", b"<!doctype html>"),
        ("t.json", b'{"version": 1'),
        ("t.png", b"\x89PNG"),
        ("t.svg", b"<?xml"),
    ],
)
def test_timeline_into_files(film: World, tmp_path: Path, name: str, magic: bytes) -> None:
    done = cluster("timeline", "film", "-o", tmp_path / name)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).read_bytes().startswith(magic)
    assert not done.stdout and "start-up" in done.stderr


def test_a_page_shows_every_bar_with_its_worker(film: World, tmp_path: Path) -> None:
    cluster("timeline", "film", "-o", tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text()
    found = json.loads(cluster("timeline", "film", "--json").stdout)
    assert page.count("<rect") == sum(len(one["bars"]) for one in found["invocations"])
    assert "worker-0-0 (failed): encode" in page


def test_without_matplotlib_a_picture_is_refused_in_one_line(film: World, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None; from excamera_dask.cli import main;"
        f"sys.exit(main(['cluster', 'timeline', 'film', '-o', {str(tmp_path / 't.png')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'excamera-dask[plot]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.glob("*.png"))


def test_clean_removes_what_has_ended_and_nothing_else(film: World, state: Path) -> None:
    abandon("dead", run_fleet())
    ClusterFolder.create("alive", started=time.time())
    done = cluster("clean", "--all", "--json")
    assert {one["name"] for one in json.loads(done.stdout)} == {"film", "dead"}
    assert [path.name for path in (state / "clusters").iterdir()] == ["alive"]


def test_clean_tells_what_a_dead_coordinator_left_running() -> None:
    world = run_fleet()
    shift = time.time() - world.now
    world.entries = [_later(entry, shift) for entry in world.entries]
    abandon("dead", world)
    done = cluster("clean", "dead", "--json")
    (one,) = json.loads(done.stdout)
    assert {left["name"] for left in one["leftovers"]} == {e.name for e in world.running()}
    assert all(time.time() < left["until"] < time.time() + 900 for left in one["leftovers"])
    linked = [left for left in one["leftovers"] if left["by"] is not None]
    unseen = len(one["leftovers"]) - len(linked)
    assert linked and all(left["by"] < left["until"] for left in linked)
    assert f"its coordinator died; {len(linked)} workers end by themselves by" in done.stderr
    assert (f"{unseen} invocations that had not connected" in done.stderr) == bool(unseen)
    assert done.stderr.endswith("; Lambda has no call to end them sooner\n")


def test_clean_tells_of_workers_that_have_ended_by_themselves_meanwhile() -> None:
    world = run_fleet()
    shift = time.time() - world.now - 120
    world.entries = [_later(entry, shift) for entry in world.entries]
    abandon("dead", world)
    done = cluster("clean", "dead")
    assert f"{len(world.running())} workers have ended by themselves at" in done.stderr


def test_clean_tells_nothing_of_invocations_whose_time_is_up() -> None:
    abandon("dead", run_fleet())
    (one,) = json.loads(cluster("clean", "dead", "--json").stdout)
    assert one["leftovers"] == [], "the log is of years ago"


def test_clean_refuses_a_cluster_that_runs() -> None:
    ClusterFolder.create("alive", started=time.time())
    done = cluster("clean", "alive")
    assert done.returncode == 1 and done.stderr.startswith("excamera: alive: runs (process ")


def _later(entry: object, shift: float) -> object:
    import dataclasses

    return dataclasses.replace(entry, at=entry.at + shift, seen=entry.seen + shift)  # type: ignore[type-var, attr-defined]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["logs", "nowhere"], 1, "no cluster 'nowhere' is known"),
        (["logs", "../x"], 1, "is no name for a cluster"),
        (["logs", "film", "--worker", "worker-77"], 1, "has no worker worker-77"),
        (["timeline", "nowhere"], 1, "no cluster 'nowhere'"),
        (["timeline", "film", "-o", "t.txt"], 2, "must end in .html, .json, .png"),
        (["timeline", "film", "-o", "/nonexistent/t.json"], 1, "does not exist"),
        (["clean"], 2, "name a cluster, or give --all"),
        (["clean", "film", "--all"], 2, "name a cluster, or give --all"),
    ],
)
def test_mistakes_are_told_in_one_line(
    film: World, arguments: list[str], code: int, words: str
) -> None:
    done = cluster(*arguments)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("excamera: ")
    assert words in done.stderr


def test_the_lists_come_without_the_heavy_imports() -> None:
    code = (
        "import sys; from excamera_dask.cli import main; main(['cluster', 'list']);"
        "print([m for m in ('numba', 'av', 'matplotlib', 'boto3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
