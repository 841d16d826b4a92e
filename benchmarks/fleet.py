"""What the coordinator's core costs: microseconds an event, for a fleet of any size.

Usage: python benchmarks/fleet.py [WORKERS...]

Brings up so many workers (1,000 and 4,000 by default), lets each run tasks and send heartbeats, loses a tenth of them and stops.
Every action is made, and every transition's line is formatted for the event log, but nothing is sent or written.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator

from executors.aws_lambda.fleet import Fleet, FleetSettings
from executors.aws_lambda.fleet import actions as act
from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.records.event_log import to_line

TASKS = 5
BEATS = 10
START = 1_700_000_000.0


class Bench:
    """A fleet, and the time that its events take by phase."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        settings = FleetSettings(
            burst=workers, concurrency=2 * workers, budget=1e6, idle_timeout=600.0
        )
        self.fleet = Fleet(settings)
        self.now = START
        self.names: list[str] = []

    def phases(self) -> Iterator[tuple[str, list[ev.Event]]]:
        """The events of each phase, made before it is timed."""
        yield "target", [ev.TargetChanged(self.workers, at=self.now)]
        yield "start", list(self._start())
        yield "tasks", list(self._tasks())
        yield "heartbeats", list(self._beats())
        yield (
            "losses",
            [ev.LinkDown(name, "reset", at=self._tick(0.001)) for name in self.names[::10]],
        )
        yield "stop", [ev.Stop(at=self._tick(1.0))]
        yield "farewells", [ev.Finished(name, at=self._tick(1e-4)) for name in self.names]

    def run(self) -> dict[str, float]:
        """Microseconds an event by phase, and of formatting a line of the log."""
        found = {}
        lines: list[act.LogEntry] = []
        for phase, happening in self.phases():
            actions = []
            begin = time.perf_counter()
            for event in happening:
                actions += self.fleet.handle(event)
            found[phase] = 1e6 * (time.perf_counter() - begin) / len(happening)
            self.names += [a.name for a in actions if isinstance(a, act.Invoke)]
            lines += [a for a in actions if isinstance(a, act.LogEntry)]
        begin = time.perf_counter()
        for line in lines:
            to_line(line)
        found["log_line"] = 1e6 * (time.perf_counter() - begin) / len(lines)
        begin = time.perf_counter()
        self.fleet.snapshot()
        found["snapshot"] = 1e6 * (time.perf_counter() - begin)
        return found

    def _tick(self, seconds: float) -> float:
        self.now += seconds
        return self.now

    def _start(self) -> Iterator[ev.Event]:
        for name in self.names:
            yield ev.Invoked(name, "request", at=self._tick(1e-5))
        for name in self.names:
            yield ev.LinkUp(name, at=self._tick(1e-5))
            yield ev.Connected(name, "request", "stream", True, 1769, 890.0, at=self.now)
            yield ev.Ready(name, f"rdv://relay/{name}", at=self.now)

    def _tasks(self) -> Iterator[ev.Event]:
        for number in range(TASKS):
            for name in self.names:
                yield ev.Running(
                    name, f"('encode', {number})", "encode", number, at=self._tick(1e-4)
                )

    def _beats(self) -> Iterator[ev.Event]:
        for _ in range(BEATS):
            for name in self.names:
                yield ev.Heartbeat(name, 100 << 20, at=self._tick(1e-4))


def main() -> None:
    for workers in map(int, sys.argv[1:] or ["1000", "4000"]):
        runs = []
        for _ in range(3):
            gc.collect()
            runs.append(Bench(workers).run())
        median = {
            phase: round(statistics.median(run[phase] for run in runs), 1) for phase in runs[0]
        }
        print(json.dumps({"workers": workers, "microseconds": median}))


if __name__ == "__main__":
    main()
