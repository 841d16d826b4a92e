"""A Lambda that exists only as events in time: the environment in which the fleet's tests let it live.

It starts workers late, twice or never, throttles, kills at the time limit, loses links, and keeps its own account of
what is really billed. All chance comes from one seed.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from executors.aws_lambda.fleet import Fleet, FleetSettings, State
from executors.aws_lambda.fleet import actions as act
from executors.aws_lambda.fleet import events as ev

START = 1_700_000_000.0
"""Seconds since the epoch at which every simulation begins."""


@dataclass
class Weather:
    """How well Lambda and the network behave; shares are of invocations, times are seconds."""

    answer: float = 0.03
    cold: tuple[float, float] = (0.4, 1.5)
    load: tuple[float, float] = (0.2, 0.6)
    never_run: float = 0.0
    doubled: float = 0.0
    delayed: float = 0.0
    delay: float = 180.0
    throttled: float = 0.0
    unanswered: float = 0.0
    offline: bool = False
    capacity: int | None = None
    breaks: float = 0.0
    breaks_after: tuple[float, float] = (1.0, 60.0)
    hangs: float = 0.0
    slow: float = 0.0
    slowness: float = 10.0
    refuses: str | None = None
    fatal: bool = False
    fails: str | None = None
    fails_when: str = "connected"
    heartbeat: float = 5.0
    deaf: bool = False
    unreachable: bool = False
    clock_error: float = 0.0


@dataclass(eq=False)
class Execution:
    """One execution of an invocation, as Lambda sees it."""

    name: str
    request_id: str
    started: float
    slowness: float = 1.0
    ended: float | None = None
    linked: bool = False
    ready: bool = False
    hung: bool = False
    draining: bool = False
    task: Task | None = None
    clock_error: float = 0.0


@dataclass(frozen=True)
class Task:
    key: str
    stage: str
    number: int
    seconds: float
    repeatable: bool = True


class World:
    """Feeds a fleet with what its actions bring about."""

    def __init__(
        self,
        settings: FleetSettings | None = None,
        weather: Weather | None = None,
        seed: int = 0,
        tasks: Iterable[Task] = (),
    ) -> None:
        self.fleet = Fleet(settings or FleetSettings())
        self.settings = self.fleet.books.settings
        self.weather = weather or Weather()
        self.random = random.Random(seed)
        self.now = START
        self.tasks: deque[Task] = deque(tasks)
        self.done: list[str] = []
        self.second_runs: list[str] = []
        """Workers that were given a second run of a slow task."""
        self.actions: list[act.Action] = []
        self.entries: list[act.LogEntry] = []
        self.executions: list[Execution] = []
        self.links: dict[str, Execution] = {}
        self.barred: set[str] = set()
        self.holding: set[str] = set()
        """Workers that hold the only copy of something."""
        self.queue: deque[tuple[str, str]] = deque()
        self.seconds_billed = 0.0
        self.requests = 0
        self.most_live = 0
        self.on_action: Callable[[act.Action], None] | None = None
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0

    # Time

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + seconds, self._sequence, what))

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; True as soon as `until` holds."""
        end = self.now + seconds
        while True:
            if until is not None and until():
                return True
            tick = self.fleet.next_tick()
            happening = self._heap[0][0] if self._heap else end
            at = min(end, happening, max(self.now, tick) if tick is not None else end)
            self.now = at
            if at >= end:
                return until is not None and until()
            if tick is not None and tick <= at:
                self.tell(ev.Tick(at=self.now))
            else:
                heapq.heappop(self._heap)[2]()

    def tell(self, event: ev.Event) -> None:
        """Hand the fleet an event and do what it asks for."""
        done = self.fleet.handle(event, self.now)
        self.most_live = max(self.most_live, self.fleet.books.roster.live)
        for action in done:
            self.actions.append(action)
            if self.on_action is not None:
                self.on_action(action)
            self._carry_out(action)

    def scale(self, workers: int) -> None:
        self.tell(ev.TargetChanged(workers, at=self.now))

    def stop(self, drain: bool = True) -> None:
        self.tell(ev.Stop("stopped by the user", drain=drain, at=self.now))

    # What the tests ask

    def settled(self) -> bool:
        """As many workers as wanted are at work, and nothing else lives."""
        fleet = self.fleet
        return fleet.workers == fleet.target == fleet.books.roster.live

    @property
    def is_over(self) -> bool:
        """The fleet was stopped and has let everybody go."""
        return self.fleet.stopping is not None and self.fleet.books.roster.live == 0

    @property
    def is_quiet(self) -> bool:
        """It was stopped and no worker that ever connected is left; some may never come."""
        roster = self.fleet.books.roster
        return self.fleet.stopping is not None and roster.live == len(roster.dismissed)

    def of(self, kind: type[act.Action]) -> list[act.Action]:
        return [action for action in self.actions if isinstance(action, kind)]

    def invocations(self, state: State) -> list[str]:
        return [one.name for one in self.fleet.books.roster if one.state is state]

    def running(self) -> list[Execution]:
        return [one for one in self.executions if one.ended is None]

    def real_dollars(self) -> float:
        """What Lambda will bill for what has run until now."""
        seconds = self.seconds_billed + sum(self.now - one.started for one in self.running())
        return (
            seconds * self.fleet.books.ledger.rate + self.requests * self.fleet.books.ledger.request
        )

    def estimate(self) -> float:
        """What the fleet believes to have spent until now."""
        return self.fleet.books.ledger.spent(self.now)

    # Actions

    def _carry_out(self, action: act.Action) -> None:
        match action:
            case act.LogEntry():
                self.entries.append(action)
            case act.Invoke(name=name):
                self.later(self.weather.answer, lambda: self._answer(name))
            case act.Drain(name=name):
                self._to_worker(name, self._drain)
            case act.Exit(name=name):
                self._to_worker(name, lambda one: self._end(one, ev.Finished, "told to exit"))
            case act.RetireFromScheduler(name=name):
                self.later(0.05, lambda: self._retire(name))
            case act.AskIdle(name=name):
                if name not in self.holding:
                    self.later(0.0, lambda: self.tell(ev.IdleMayGo(name, at=self.now)))
            case act.Speculate(name=name, key=key):
                self.later(0.05, lambda: self._run_too(name, key))
            case act.Cut(name=name):
                self.barred.add(name)
                one = self.links.pop(name, None)
                if one is not None:
                    one.linked = False

    def _to_worker(self, name: str, what: Callable[[Execution], None]) -> None:
        def arrive() -> None:
            one = self.links.get(name)
            if one is not None and not one.hung and one.ended is None and not self.weather.deaf:
                what(one)

        self.later(0.01, arrive)

    def _drain(self, one: Execution) -> None:
        one.draining = True
        self._say(one, ev.Draining(one.name, at=self.now))

    def _retire(self, name: str) -> None:
        one = self.links.get(name)
        if one is None or one.task is None or one.hung:
            self.tell(ev.Drained(name, at=self.now))
        else:
            self.later(0.05, lambda: self._retire(name))

    # Lambda

    def _answer(self, name: str) -> None:
        weather, at = self.weather, self.now
        if weather.offline:
            self.tell(ev.InvokeUnsent(name, "Could not connect", at=at))
        elif weather.refuses is not None:
            self.tell(ev.InvokeRefused(name, weather.refuses, fatal=weather.fatal, at=at))
        elif self._chance(weather.throttled):
            self.tell(ev.InvokeThrottled(name, "Rate Exceeded", at=at))
        else:
            request_id = f"{self.random.getrandbits(64):016x}"
            copies = 0 if self._chance(weather.never_run) else 1
            copies += self._chance(weather.doubled)
            for copy in range(copies):
                wait = self.random.uniform(*weather.cold) + 3.0 * copy
                wait += weather.delay if self._chance(weather.delayed) else 0.0
                self.later(wait, lambda: self._enqueue(name, request_id))
            if self._chance(weather.unanswered):
                self.tell(ev.InvokeUnanswered(name, "read timeout", at=at))
            else:
                self.tell(ev.Invoked(name, request_id, at=at))

    def _enqueue(self, name: str, request_id: str) -> None:
        self.queue.append((name, request_id))
        self._start_queued()

    def _start_queued(self) -> None:
        capacity = self.weather.capacity
        while self.queue and (capacity is None or len(self.running()) < capacity):
            self._start(*self.queue.popleft())

    def _start(self, name: str, request_id: str) -> None:
        weather = self.weather
        one = Execution(name, request_id, self.now)
        one.slowness = weather.slowness if self._chance(weather.slow) else 1.0
        one.clock_error = self.random.uniform(-1, 1) * weather.clock_error
        self.executions.append(one)
        self.requests += 1
        self.later(self.settings.timeout, lambda: self._time_out(one))
        if weather.fails is not None and weather.fails_when == "started":
            self.later(0.1, lambda: self._end(one, ev.Failed, weather.fails or "", silent=False))
            return
        self.later(0.02, lambda: self._link(one))

    def _link(self, one: Execution) -> None:
        if self.weather.unreachable:  # it tries for a while, and leaves
            if self.now - one.started < 20:
                self.later(0.5, lambda: self._link(one))
            else:
                self._vanish(one)
            return
        if one.name in self.links or one.name in self.barred:
            self.tell(ev.Refused(one.name, "registered already", one.request_id, at=self.now))
            self._end(one, ev.Finished, "refused", silent=True)
            return
        self.links[one.name] = one
        one.linked = True
        self.tell(ev.LinkUp(one.name, at=self.now))
        left = self.settings.timeout - (self.now - one.started)
        self._say(
            one,
            ev.Connected(
                one.name,
                one.request_id,
                f"stream/{one.request_id}",
                True,
                remaining=left,
                at=self.now,
            ),
        )
        self._beat(one)
        weather = self.weather
        if weather.fails is not None and weather.fails_when == "connected":
            self.later(0.1, lambda: self._end(one, ev.Failed, weather.fails or ""))
            return
        if self._chance(weather.breaks):
            self.later(self.random.uniform(*weather.breaks_after), lambda: self.kill(one))
        if self._chance(weather.hangs):
            self.later(self.random.uniform(*weather.breaks_after), lambda: self.hang(one))
        self.later(self.random.uniform(*weather.load), lambda: self._ready(one))

    def _ready(self, one: Execution) -> None:
        if one.ended is None and not one.hung:
            one.ready = True
            self._say(one, ev.Ready(one.name, f"rdv://relay/{one.name}", at=self.now))
            self.work(one)

    def _beat(self, one: Execution) -> None:
        if one.ended is None and one.linked and not one.hung:
            self._say(one, ev.Heartbeat(one.name, rss=100 << 20, at=self.now))
            self.later(self.weather.heartbeat, lambda: self._beat(one))

    def _time_out(self, one: Execution) -> None:
        if one.ended is None:
            self._end(one, ev.Failed, f"Task timed out after {self.settings.timeout:g} seconds")

    def _end(
        self, one: Execution, kind: type[ev.Finished | ev.Failed], why: str, silent: bool = False
    ) -> None:
        if one.ended is not None:
            return
        one.ended = self.now
        self.seconds_billed += self.now - one.started
        self._give_back(one)
        if not silent and not one.hung and one.name not in self.barred:
            self._say(one, kind(one.name, why, at=self.now))
        self._unlink(one, "closed")
        self._start_queued()

    def _unlink(self, one: Execution, why: str) -> None:
        if self.links.get(one.name) is one:
            del self.links[one.name]
            one.linked = False
            self.tell(ev.LinkDown(one.name, why, at=self.now))

    # Workers

    def work(self, one: Execution) -> None:
        """Take the next task, if the worker may."""
        if one.ended is not None or one.hung:
            return
        if one.draining:
            self._end(one, ev.Finished, "drained")
            return
        if not one.ready:
            return
        if not self.tasks or one.task is not None:
            return
        task = one.task = self.tasks.popleft()
        self._run(one, task)

    def _run(self, one: Execution, task: Task) -> None:
        told = (task.key, task.stage, task.number, task.repeatable)
        self._say(one, ev.Running(one.name, *told, at=self.now))
        self.later(task.seconds * one.slowness, lambda: self._finish_task(one, task))

    def _run_too(self, name: str, key: str) -> None:
        """An idle worker, if there is one, takes a second run of a slow task; what nobody waits for is let go."""
        first = self.links.get(name)
        task = None if first is None else first.task
        if first is None or task is None or task.key != key:
            return
        if key in self.done:
            self.tell(ev.Retire(name, "slow", at=self.now))
            return
        for one in self.links.values():
            if one.ready and one.task is None and not one.draining and not one.hung:
                one.task = task
                self.second_runs.append(one.name)
                self._run(one, task)
                return

    def _wake_one(self) -> None:
        """A task came back: an idle worker takes it."""
        for one in self.links.values():
            if one.ready and one.task is None and not one.draining:
                self.later(0.01, lambda one=one: self.work(one))
                return

    def _finish_task(self, one: Execution, task: Task) -> None:
        if one.ended is not None or one.hung or one.task is not task:
            return
        one.task = None
        if task.key not in self.done:
            self.done.append(task.key)
            for other in list(self.links.values()):
                if other.task is task and other.name not in self.second_runs:
                    self.tell(ev.Retire(other.name, "slow", at=self.now))
        if not self.tasks or one.draining:
            self._say(one, ev.Idle(one.name, at=self.now))
        self.work(one)

    def _give_back(self, one: Execution) -> None:
        if one.task is not None:
            if one.task.key not in self.done:
                self.tasks.appendleft(one.task)
                self._wake_one()
            one.task = None

    def kill(self, one: Execution) -> None:
        """The process dies without a word."""
        if one.ended is None:
            one.ended = self.now
            self.seconds_billed += self.now - one.started
            self._give_back(one)
            self._unlink(one, "connection reset")
            self._start_queued()

    def _vanish(self, one: Execution) -> None:
        """It ends, and nobody hears of it."""
        if one.ended is None:
            one.ended = self.now
            self.seconds_billed += self.now - one.started
            self._give_back(one)

    def lose_relay_for(self, seconds: float) -> None:
        """The coordinator hears nothing any more; workers stay for 30 s, and invocations that begin find no relay."""
        links, self.links = self.links, {}
        self.weather.unreachable = True
        self.tell(ev.RelayLost(at=self.now))
        for one in links.values():
            one.linked = False
            if seconds < 30:
                self.later(seconds + 0.5, lambda one=one: self._come_back(one))
            else:
                self.later(30.0, lambda one=one: self._vanish(one))
        self.later(seconds, self._regain_relay)

    def _regain_relay(self) -> None:
        self.weather.unreachable = False
        self.tell(ev.RelayBack(at=self.now))

    def hang(self, one: Execution) -> None:
        """The worker says nothing any more, but its connection stays."""
        if one.ended is None:
            one.hung = True
            self._give_back(one)

    def lose_relay(self, back_after: float, share_back: float = 1.0) -> None:
        """All links go down at once; workers come back by themselves."""
        links, self.links = self.links, {}
        for one in links.values():
            one.linked = False
            self.tell(ev.LinkDown(one.name, "relay lost", relay_lost=True, at=self.now))
            if self._chance(share_back):
                self.later(back_after, lambda one=one: self._come_back(one))

    def _come_back(self, one: Execution) -> None:
        if one.ended is None and one.name not in self.barred:
            self.links[one.name] = one
            one.linked = True
            if self._chance(0.5):  # notices can be lost with the relay
                self.tell(ev.LinkUp(one.name, at=self.now))
            self._beat(one)
            self.work(one)

    def _say(self, one: Execution, event: ev.InvocationEvent) -> None:
        """A message of the worker's own, by its own clock."""
        self.fleet_event(event, one)

    def fleet_event(self, event: ev.InvocationEvent, one: Execution) -> None:
        if one.clock_error:
            import dataclasses

            event = dataclasses.replace(event, at=event.at + one.clock_error, clock=one.name)
        self.tell(event)

    def _chance(self, share: float) -> bool:
        return share > 0 and self.random.random() < share


def tasks(count: int, stages: dict[str, float] | None = None) -> list[Task]:
    """`count` pieces of work in each stage, of so many seconds a task."""
    found = []
    for stage, seconds in (stages or {"encode": 2.0, "rebase": 0.5}).items():
        found += [Task(f"('{stage}', {number})", stage, number, seconds) for number in range(count)]
    return found
