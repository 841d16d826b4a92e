"""Whatever comes in whatever order: a fleet keeps its limits, asks nothing of what has ended, and recovers."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from fleet_simulation import Weather, World, tasks
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from executors.aws_lambda.fleet import TERMINAL, Fleet, FleetSettings, State
from executors.aws_lambda.fleet import actions as act
from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.states import UNSEEN

LIMIT = 9
NEWS = st.sampled_from(
    [
        lambda n, t: ev.LinkUp(n, at=t),
        lambda n, t: ev.LinkDown(n, "reset", at=t),
        lambda n, t: ev.LinkDown(n, "relay lost", relay_lost=True, at=t),
        lambda n, t: ev.Refused(n, "registered already", at=t),
        lambda n, t: ev.Connected(n, "id", at=t),
        lambda n, t: ev.Connected(n, "id", remaining=100.0, at=t),
        lambda n, t: ev.Ready(n, f"rdv://relay/{n}", at=t),
        lambda n, t: ev.Running(n, "a", "encode", 1, at=t),
        lambda n, t: ev.Running(n, "b", "rebase", 2, at=t),
        lambda n, t: ev.Waiting(n, "b", "rebase", 2, at=t),
        lambda n, t: ev.Done(n, "a", at=t),
        lambda n, t: ev.Idle(n, at=t),
        lambda n, t: ev.Heartbeat(n, rss=1 << 20, at=t),
        lambda n, t: ev.Draining(n, at=t),
        lambda n, t: ev.Drained(n, at=t),
        lambda n, t: ev.Finished(n, "done", at=t),
        lambda n, t: ev.Finished(n, "done", billed=3.0, at=t),
        lambda n, t: ev.Failed(n, "MemoryError", "tail", at=t),
        lambda n, t: ev.Retire(n, at=t),
        lambda n, t: ev.Retire(n, lower_target=True, at=t),
    ]
)


class AnyOrder(RuleBasedStateMachine):
    """Feeds a fleet with anything that Lambda, the relay and the workers could say, in any order."""

    @initialize(
        limit=st.sampled_from([None, LIMIT]),
        surplus=st.sampled_from([1.0, 1.5]),
        idle=st.sampled_from([None, 20.0]),
        canaries=st.sampled_from([0, 1]),
        threads=st.sampled_from([1, 2]),
    )
    def start(
        self, limit: int | None, surplus: float, idle: float | None, canaries: int, threads: int
    ) -> None:
        chosen = FleetSettings(
            concurrency=limit, overprovision=surplus, idle_timeout=idle, canaries=canaries, threads=threads,
            timeout=200.0, burst=8, rate=2.0, retries_per_slot=2, breaker=4, remembered=40,
        )  # fmt: skip
        self.fleet = Fleet(chosen)
        self.now = 1_700_000_000.0
        self.unanswered: list[str] = []
        self.names: list[str] = []

    def tell(self, event: ev.Event) -> list[act.Action]:
        known = {one.name: one.state for one in self.fleet.books.roster}
        done = self.fleet.handle(event, self.now)
        for action in done:
            if isinstance(action, act.Invoke):
                assert action.name not in self.unanswered
                self.unanswered.append(action.name)
                if action.attempt == 0:
                    assert action.name not in self.names, "names are never used again"
                    self.names.append(action.name)
            name = getattr(action, "name", None)
            if name is not None and known.get(name) in TERMINAL:
                answers = isinstance(event, ev.Connected) and event.name == name
                revived = self.fleet.get(name)
                assert answers or (revived is not None and revived.state not in TERMINAL), action
        return done

    # What may happen

    @rule(workers=st.integers(0, 12))
    def scale(self, workers: int) -> None:
        self.tell(ev.TargetChanged(workers, at=self.now))

    @rule(tasks=st.integers(0, 20))
    def work_arrives(self, tasks: int) -> None:
        self.tell(ev.WorkArrived(tasks, at=self.now))

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 31.0, 61.0, 250.0]))
    def wait(self, seconds: float) -> None:
        """Time passes with every Tick in time."""
        end = self.now + seconds
        while True:
            tick = self.fleet.next_tick()
            if tick is None or tick > end:
                break
            self.now = max(self.now, tick)
            self.tell(ev.Tick(at=self.now))
        self.now = end

    @rule(seconds=st.sampled_from([5.0, 100.0]))
    def oversleep(self, seconds: float) -> None:
        """The coordinator itself stands still."""
        self.now += seconds
        self.tell(ev.Tick(at=self.now))

    @precondition(lambda self: self.unanswered)
    @rule(
        data=st.data(),
        answer=st.sampled_from(["ok", "ok", "throttle", "refuse", "nothing", "unsent"]),
    )
    def lambda_answers(self, data: st.DataObject, answer: str) -> None:
        name = data.draw(st.sampled_from(self.unanswered))
        self.unanswered.remove(name)
        match answer:
            case "ok":
                self.tell(ev.Invoked(name, "request", at=self.now))
            case "throttle":
                self.tell(ev.InvokeThrottled(name, at=self.now))
            case "refuse":
                self.tell(ev.InvokeRefused(name, "InvalidParameterValue", at=self.now))
            case "unsent":
                self.tell(ev.InvokeUnsent(name, "Could not connect", at=self.now))
            case "nothing":
                self.tell(ev.InvokeUnanswered(name, "read timeout", at=self.now))

    @precondition(lambda self: self.names)
    @rule(data=st.data(), news=st.lists(NEWS, min_size=1, max_size=4))
    def worker_says(self, data: st.DataObject, news: list) -> None:
        name = data.draw(st.sampled_from(self.names[-20:]))
        for make in news:
            self.tell(make(name, self.now))

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def worker_comes_up(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.names[-20:]))
        self.tell(ev.LinkUp(name, at=self.now))
        self.tell(ev.Connected(name, "id", remaining=180.0, at=self.now))
        self.tell(ev.Ready(name, f"rdv://relay/{name}", at=self.now))

    # What must hold

    @invariant()
    def live_is_bounded(self) -> None:
        limit = self.fleet.books.settings.concurrency
        if limit is not None:
            assert self.fleet.books.roster.live <= limit

    @invariant()
    def books_agree(self) -> None:
        roster = self.fleet.books.roster
        live = [one for one in roster if one.state not in TERMINAL]
        pools = [*roster.held.values(), roster.draining, roster.dismissed, roster.leaving]
        pooled = [one for pool in pools for one in pool.values()]
        assert roster.live == len(live) == len(pooled)
        assert {id(one) for one in pooled} == {id(one) for one in live}
        held = [one for pool in roster.held.values() for one in pool.values()]
        assert roster.count == len(held)
        assert roster.at_work == sum(one.state in (State.READY, State.RUNNING) for one in held)
        assert roster.unseen == sum(one.state in UNSEEN for one in live)
        for state, pool in roster.held.items():
            assert all(one.state is state and not one.dismissed for one in pool.values())
        billed = [one for one in roster if one.started_at is not None and one.ended_at is None]
        assert self.fleet.books.ledger.running == len(billed)
        assert self.fleet.books.ghosts == sum(one.ghost_until is not None for one in roster)
        assert self.fleet.spent >= -1e-9

    @invariant()
    def places_are_held_once(self) -> None:
        held = Counter(one.slot for one in self.fleet.books.roster if one.slot_held)
        assert not held or max(held.values()) == 1
        for slot in held:
            assert (
                self.fleet.books.slots.failures(slot, self.fleet.books.now)
                <= self.fleet.books.settings.retries_per_slot + 1
            )

    @invariant()
    def next_tick_is_ahead(self) -> None:
        tick = self.fleet.next_tick()
        assert tick is None or tick > self.fleet.books.now

    @invariant()
    def no_more_than_wanted_are_asked_for(self) -> None:
        fleet = self.fleet
        most = max(fleet.target, int(fleet.target * fleet.books.settings.overprovision + 1))
        assert fleet.stopping or fleet.books.roster.count <= most

    # And in the end

    def teardown(self) -> None:
        """Lambda behaves from now on: the fleet must come to its target, or to rest if it has given up."""
        fleet = getattr(self, "fleet", None)
        if fleet is None:
            return
        for name in self.unanswered[:]:
            self.behave([act.Invoke(name, 0)])
        for one in [one for one in fleet.books.roster if one.state is State.DRAINING]:
            self.behave(self.tell(ev.Finished(one.name, "drained", at=self.now)))
        self.behave(self.tell(ev.TargetChanged(5, at=self.now)))
        end = self.now + 3000
        while self.now < end:
            if fleet.stopping is not None and fleet.books.roster.live == 0:
                return
            if fleet.workers == fleet.target == fleet.books.roster.live and fleet.target == 5:
                return
            tick = fleet.next_tick()
            self.now = min(self.now + 5, max(self.now, tick) if tick is not None else end)
            self.behave(self.tell(ev.Tick(at=self.now)))
            for pool in (*fleet.books.roster.held.values(), fleet.books.roster.leaving):
                for one in list(pool.values()):
                    self.behave(self.live_on(one))
            if fleet.target != 5 and fleet.stopping is None:
                self.behave(self.tell(ev.TargetChanged(5, at=self.now)))
        raise AssertionError(
            f"did not come to rest: {fleet.snapshot().counts}, target {fleet.target}"
        )

    def live_on(self, one: Invocation) -> list[act.Action]:
        if one.state is State.CONNECTED:
            return self.tell(ev.Ready(one.name, "rdv://relay/x", at=self.now))
        if one.state in (State.READY, State.RUNNING):
            return self.tell(ev.Heartbeat(one.name, at=self.now))
        return []

    def behave(self, done: list[act.Action]) -> None:
        todo = list(done)
        while todo:
            match todo.pop(0):
                case act.Invoke(name=name):
                    if name in self.unanswered:
                        self.unanswered.remove(name)
                    todo += self.tell(ev.Invoked(name, at=self.now))
                    todo += self.tell(ev.LinkUp(name, at=self.now))
                    todo += self.tell(ev.Connected(name, remaining=195.0, at=self.now))
                    todo += self.tell(ev.Ready(name, "rdv://relay/x", at=self.now))
                case act.Drain(name=name) | act.Exit(name=name):
                    todo += self.tell(ev.Finished(name, at=self.now))


AnyOrder.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyOrder = AnyOrder.TestCase


WEATHERS = st.builds(
    Weather,
    never_run=st.sampled_from([0.0, 0.2]),
    doubled=st.sampled_from([0.0, 0.3]),
    delayed=st.sampled_from([0.0, 0.3]),
    throttled=st.sampled_from([0.0, 0.5]),
    unanswered=st.sampled_from([0.0, 0.3]),
    offline=st.sampled_from([False, False, True]),
    breaks=st.sampled_from([0.0, 0.3]),
    hangs=st.sampled_from([0.0, 0.2]),
    slow=st.sampled_from([0.0, 0.2]),
    capacity=st.sampled_from([None, 8]),
    clock_error=st.sampled_from([0.0, 30.0]),
)


@settings(max_examples=40, deadline=None)
@given(weather=WEATHERS, seed=st.integers(0, 1000), surplus=st.sampled_from([1.0, 1.2]))
def test_after_a_storm_the_target_is_reached_and_the_estimate_is_not_below_the_bill(
    weather: Weather, seed: int, surplus: float
) -> None:
    world = World(FleetSettings(overprovision=surplus, timeout=300.0), weather, seed, tasks(60))
    world.scale(12)
    world.run(200)
    world.weather = Weather()
    assert world.run(1500, lambda: world.settled() or world.is_over)
    if world.fleet.stopping is not None:  # nobody was left, and nobody might come
        assert weather.breaks or weather.hangs
        assert (
            "no worker is left: " in world.fleet.stopping
            or "no worker is there" in world.fleet.stopping
        )
    assert world.run(600, lambda: not world.tasks)
    assert world.estimate() >= world.real_dollars() - 1e-9
    world.stop()
    assert world.run(400, lambda: world.is_over and not world.running())


@settings(max_examples=40, deadline=None)
@given(weather=WEATHERS, seed=st.integers(0, 1000), budget=st.sampled_from([0.002, 0.01, 0.05]))
def test_the_budget_is_never_exceeded(weather: Weather, seed: int, budget: float) -> None:
    world = World(FleetSettings(budget=budget, timeout=300.0), weather, seed, tasks(4000))
    world.scale(20)
    world.run(600, lambda: world.is_over and not world.running())
    # these cannot be stopped before Lambda does it
    hung = sum(one.hung for one in world.executions)
    assert world.real_dollars() <= budget + hung * 300.0 * world.fleet.books.ledger.rate
    assert len(world.of(act.StopAll)) <= 1
    world.run(400)
    assert not world.running()


@settings(max_examples=20, deadline=None)
@given(weather=WEATHERS, seed=st.integers(0, 1000))
def test_the_same_events_give_the_same_actions(weather: Weather, seed: int) -> None:
    def once() -> list[act.Action]:
        world = World(FleetSettings(), weather, seed, tasks(20))
        world.scale(6)
        world.run(60)
        return world.actions

    assert once() == once()


def test_an_invocation_says_what_it_is() -> None:
    assert repr(Invocation("worker-0-0", 0, 0, 0.0)) == "<Invocation worker-0-0 requested>"
