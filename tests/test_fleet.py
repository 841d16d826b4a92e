"""A fleet through everything that Lambda, the network and the workers can do to it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter

import pytest
from fleet_simulation import START, Execution, Task, Weather, World, tasks
from rich.console import Console

from executors.aws_lambda.fleet import (
    Fleet,
    FleetSettings,
    ImpossibleTransition,
    InvalidSettings,
    Prices,
    State,
    UnknownPrice,
    prices,
)
from executors.aws_lambda.fleet import actions as act
from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.breaker import Tally, kind_of_error
from executors.aws_lambda.fleet.pacing import TokenBucket, jitter, pause
from executors.aws_lambda.fleet.pricing import dearest, regions
from executors.aws_lambda.fleet.slots import Slots
from executors.aws_lambda.fleet.snapshot import dollars, span
from executors.aws_lambda.fleet.stragglers import WINDOW, StageTimes


def up(world: World, workers: int) -> World:
    """A world in which so many workers are ready."""
    world.scale(workers)
    assert world.run(120, world.settled)
    return world


def names(found: list[act.Action]) -> list[str]:
    return [action.name for action in found]  # type: ignore[attr-defined]


# Growing and shrinking


def test_a_fleet_grows_to_its_target_and_to_no_more() -> None:
    world = up(World(), 40)
    assert len(world.of(act.Invoke)) == 40
    assert world.fleet.snapshot().counts["ready"] == 40


def test_invocations_follow_lambdas_ramp() -> None:
    world = World()
    asked: list[float] = []
    world.on_action = lambda action: (
        asked.append(world.now - START) if isinstance(action, act.Invoke) else None
    )
    world.scale(3000)
    assert sum(time == 0 for time in asked) == 1000
    world.run(10.001)
    assert len(asked) == 2000
    assert all(1000 + 100 * time + 1e-3 >= place for place, time in enumerate(asked, 1))
    world.run(10)
    assert len(asked) == 3000


def test_no_more_than_the_concurrency_may_exist() -> None:
    world = World(FleetSettings(concurrency=30), Weather(breaks=0.2), tasks=tasks(500))
    world.scale(50)
    world.run(60)
    assert world.most_live == 30
    assert world.fleet.workers >= 25


def test_what_hangs_still_takes_its_share_of_the_concurrency() -> None:
    world = up(World(FleetSettings(concurrency=3, timeout=200.0)), 3)
    victim = world.running()[0]
    world.hang(victim)
    world.run(100)
    assert world.fleet.workers == 2 and len(world.running()) == 3
    assert world.run(200, lambda: victim.ended is not None)
    assert world.run(90, lambda: world.fleet.workers == 3)


def test_a_smaller_target_lets_those_go_first_that_are_not_there_yet() -> None:
    world = World(weather=Weather(cold=(1.0, 10.0)))
    world.scale(20)
    world.run(5)
    ready = {one.name for one in world.fleet.books.roster if one.state is State.READY}
    assert 4 < len(ready) < 16
    world.scale(len(ready))
    assert world.run(60, world.settled)
    assert {one.name for one in world.fleet.books.roster if one.state is State.READY} == ready


def test_a_smaller_target_lets_the_idle_go_before_the_busy() -> None:
    world = up(World(tasks=tasks(3, {"encode": 500.0})), 10)
    busy = {one.name for one in world.fleet.books.roster if one.state is State.RUNNING}
    assert len(busy) == 3
    world.scale(3)
    world.run(10)
    assert {one.name for one in world.fleet.books.roster if one.state is State.RUNNING} == busy
    assert world.fleet.books.roster.live == 3


def test_what_was_dismissed_is_told_to_exit_when_it_shows_up() -> None:
    world = World(weather=Weather(cold=(5.0, 5.0)))
    world.scale(4)
    world.run(1)
    world.scale(1)
    assert world.run(20, world.settled)
    assert len(world.of(act.Exit)) == 3
    assert len(world.invocations(State.FINISHED)) == 3


def test_a_surplus_is_invoked_and_goes_when_the_target_is_ready() -> None:
    world = World(FleetSettings(overprovision=1.1), Weather(cold=(0.5, 8.0)))
    world.scale(100)
    assert len(world.of(act.Invoke)) == 110
    assert world.run(30, lambda: world.fleet.workers == 100)
    assert world.now - START < 8.0, "the slowest tenth was not waited for"
    assert world.run(30, world.settled)
    assert len(world.of(act.Invoke)) == 110


def test_one_lost_worker_is_replaced_by_one() -> None:
    world = up(World(FleetSettings(overprovision=1.2)), 50)
    before = len(world.of(act.Invoke))
    world.kill(world.running()[0])
    assert world.run(30, world.settled)
    assert len(world.of(act.Invoke)) == before + 1


def test_idle_workers_go_down_to_the_minimum_and_come_back_for_work() -> None:
    world = up(World(FleetSettings(idle_timeout=20.0, minimum=2)), 6)
    world.run(40)
    assert world.fleet.workers == world.fleet.target == 2
    world.tell(ev.WorkArrived(100, at=world.now))
    assert world.fleet.target == 6
    assert world.run(20, world.settled)
    world.run(40)
    world.scale(4)
    assert world.run(20, world.settled) and world.fleet.workers == 4


def test_an_idle_worker_that_holds_what_nobody_else_has_stays_and_is_asked_again() -> None:
    world = up(World(FleetSettings(idle_timeout=20.0)), 3)
    kept = world.running()[1].name
    world.holding.add(kept)
    world.run(300)
    assert [one.name for one in world.running()] == [kept]
    assert len(world.of(act.Invoke)) == 3, "nobody was invoked to compute anything again"
    world.holding.clear()
    world.run(40)
    assert not world.running() and world.fleet.target == 0
    world.tell(ev.IdleMayGo(kept, at=world.now))
    assert world.fleet.target == 0


def test_a_retired_worker_is_replaced_unless_the_target_is_lowered() -> None:
    world = up(World(), 5)
    first, second, *_ = names(world.of(act.Invoke))
    world.tell(ev.Retire(first, at=world.now))
    assert world.run(20, world.settled) and world.fleet.workers == 5
    world.tell(ev.Retire(second, lower_target=True, at=world.now))
    assert world.run(20, world.settled) and world.fleet.workers == 4


def test_a_draining_worker_is_told_to_exit_when_the_scheduler_is_done_with_it() -> None:
    world = up(World(), 1)
    name = world.running()[0].name
    done = world.fleet.handle(ev.Retire(name, "scaled down", lower_target=True, at=world.now))
    assert act.Drain(name, "scaled down") in done
    assert act.RetireFromScheduler(name, f"rdv://relay/{name}") in done
    done = world.fleet.handle(ev.Drained(name, at=world.now))
    assert act.Exit(name, "scaled down") in done
    assert not world.fleet.handle(ev.Drained(name, at=world.now)), "told once"


def test_a_worker_that_drains_too_long_is_told_to_exit_and_then_cut_off() -> None:
    world = up(World(FleetSettings(drain_timeout=20.0), tasks=tasks(1, {"encode": 500.0})), 1)
    one = world.running()[0]
    world.weather.deaf = True
    world.tell(ev.Retire(one.name, "scaled down", lower_target=True, at=world.now))
    world.run(19)
    assert not world.of(act.Exit)
    world.run(2)
    assert names(world.of(act.Exit)) == [one.name] and not world.of(act.Cut)
    world.run(5)
    assert names(world.of(act.Cut)) == [one.name] == names(world.of(act.RemoveFromScheduler))
    assert world.fleet.get(one.name).state is State.EXPIRED


# Throttles


def test_throttled_calls_are_made_again_ever_later_and_in_the_end_all_succeed() -> None:
    world = World(weather=Weather(throttled=0.6))
    world.scale(30)
    assert world.run(300, world.settled)
    assert max(action.attempt for action in world.of(act.Invoke)) > 2
    assert len(world.of(act.Notice)) == 1


def test_the_pause_after_a_throttle_follows_the_jitter_that_comes_with_it() -> None:
    for share, wait in ((0.0, 2.0), (1.0 - 1e-9, 4.0)):
        fleet = Fleet(FleetSettings(backoff=4.0, rate=1e6))
        (invoke,) = names(
            [a for a in fleet.handle(ev.TargetChanged(1, at=100.0)) if isinstance(a, act.Invoke)]
        )
        fleet.handle(ev.InvokeThrottled(invoke, jitter=share, at=100.0))
        assert fleet.get(invoke).state is State.THROTTLED
        assert not [
            a for a in fleet.handle(ev.Tick(at=100.0 + wait - 0.01)) if isinstance(a, act.Invoke)
        ]
        again = [
            a for a in fleet.handle(ev.Tick(at=100.0 + wait + 0.01)) if isinstance(a, act.Invoke)
        ]
        assert again == [act.Invoke(invoke, 0, 1)]


def test_a_throttle_ends_the_burst() -> None:
    fleet = Fleet(FleetSettings(burst=50, rate=1.0))
    fleet.handle(ev.TargetChanged(10, at=100.0))
    fleet.handle(ev.InvokeThrottled("worker-0-0", at=100.0))
    done = fleet.handle(ev.TargetChanged(20, at=100.0))
    assert not [action for action in done if isinstance(action, act.Invoke)]
    assert fleet.next_tick() == pytest.approx(101.0, abs=0.6)


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.0, "$0.0000"), (0.0042, "$0.0042"), (0.0999, "$0.0999"), (1.734, "$1.73")],
)
def test_small_sums_keep_the_digits_that_tell(amount: float, text: str) -> None:
    assert dollars(amount) == text


def test_while_lambda_cannot_be_reached_one_call_at_a_time_tries() -> None:
    world = World(weather=Weather(offline=True))
    world.scale(50)
    world.run(1)
    assert len(world.of(act.Invoke)) <= 52
    world.run(59)
    assert len(world.of(act.Invoke)) <= 50 + 16
    assert world.fleet.snapshot().counts == {"throttled": 50} | dict.fromkeys(
        [state for state in State if state is not State.THROTTLED], 0
    )
    told = [action.text for action in world.of(act.Notice)]  # type: ignore[attr-defined]
    assert told[0] == "Lambda cannot be reached (Could not connect); trying again until it can be"
    world.weather = Weather()
    assert world.run(10, world.settled), "it goes on as soon as a call gets through"
    assert not world.invocations(State.FAILED) and not world.invocations(State.EXPIRED)


def test_a_fleet_without_workers_gives_up_on_an_outage_without_end() -> None:
    world = World(weather=Weather(offline=True))
    world.scale(3)
    world.run(299)
    assert world.fleet.stopping is None
    world.run(10)
    assert world.fleet.stopping == (
        "no worker is there for 300 s (3 throttled); the last answer: Could not connect"
    )
    assert world.is_over


def test_workers_that_are_there_work_on_through_an_outage() -> None:
    world = up(World(), 3)
    world.weather = Weather(offline=True)
    world.scale(5)
    world.run(400)
    assert world.fleet.stopping is None and world.fleet.workers == 3


def test_a_call_that_is_throttled_without_end_fails_with_that_reason() -> None:
    world = World(FleetSettings(throttle_retries=3, retries_per_slot=1), Weather(throttled=1.0))
    world.scale(2)
    world.run(200, lambda: world.fleet.stopping is not None)
    assert {one.error for one in world.fleet.books.roster if one.error} == {
        "throttled 4 times: Rate Exceeded"
    }
    assert "throttled" in world.fleet.stopping


def test_the_jitter_is_even_and_always_the_same() -> None:
    values = [jitter(1, f"worker-{n}", 1) for n in range(2000)]
    assert values == [jitter(1, f"worker-{n}", 1) for n in range(2000)]
    assert min(values) >= 0 and max(values) < 1
    assert abs(sum(values) / len(values) - 0.5) < 0.03
    assert values != [jitter(2, f"worker-{n}", 1) for n in range(2000)]


def test_pauses_double_up_to_their_limit() -> None:
    assert [pause(n, 0.5, 30.0, 1.0) for n in (1, 2, 3, 7, 1000)] == [0.5, 1.0, 2.0, 30.0, 30.0]


def test_a_token_bucket_at_times_since_the_epoch() -> None:
    bucket = TokenBucket(3, 100.0)
    now = 1_700_000_000.0
    taken = 0
    while now < 1_700_000_001.0:
        if bucket.take(now):
            taken += 1
        else:
            later = bucket.next_at(now)
            assert later > now
            now = later
    assert 102 <= taken <= 103


# Event invocations come late, twice or never


def test_what_never_shows_up_is_replaced() -> None:
    world = World(FleetSettings(appear_timeout=30.0), Weather(never_run=1.0))
    world.scale(5)
    world.run(20)
    world.weather.never_run = 0.0
    assert world.run(60, world.settled)
    assert len(world.invocations(State.EXPIRED)) == 5


def late(world: World) -> Execution:
    """One invocation of three is delayed beyond the patience of the fleet; the others are up."""
    world.weather.delayed = 1.0
    world.scale(1)
    world.run(1)
    world.weather.delayed = 0.0
    return world


def test_what_comes_late_is_told_to_exit_if_it_was_replaced() -> None:
    world = late(World(weather=Weather(delay=100.0)))
    assert world.run(80, world.settled)
    world.run(100)
    assert len(world.executions) == 2
    assert [(a.name, a.reason) for a in world.of(act.Exit)] == [("worker-0-0", "came too late")]
    assert [one.name for one in world.running()] == ["worker-0-1"]


def test_what_comes_late_is_used_while_a_worker_is_missing() -> None:
    world = late(World(weather=Weather(delay=70.0)))
    world.weather.cold = (30.0, 30.0)
    world.run(75)
    assert [one.name for one in world.fleet.books.roster if one.state is State.READY] == [
        "worker-0-0"
    ]
    assert world.run(60, lambda: world.fleet.books.roster.live == 1)
    assert [one.name for one in world.running()] == ["worker-0-0"], "the replacement was sent away"


def test_a_second_execution_is_a_duplicate() -> None:
    world = World(weather=Weather(doubled=1.0))
    world.scale(3)
    assert world.run(30, lambda: len(world.invocations(State.DUPLICATE)) == 3)
    assert world.settled()
    twin = world.fleet.get("worker-0-0~2")
    assert twin.request_id == world.fleet.get("worker-0-0").request_id
    assert len(world.running()) == 3


def test_a_second_execution_after_the_first_has_ended_is_told_to_exit() -> None:
    world = up(World(), 1)
    world.scale(0)
    world.run(10)
    assert world.invocations(State.FINISHED) == ["worker-0-0"]
    done = world.fleet.handle(ev.Connected("worker-0-0", "again", at=world.now))
    assert act.Exit("worker-0-0", "ran before") in done
    assert world.invocations(State.DUPLICATE) == ["worker-0-0~2"]


def test_an_unknown_name_is_told_to_exit() -> None:
    fleet = Fleet()
    assert fleet.handle(ev.Heartbeat("worker-9-9", at=1.0)) == []
    assert fleet.handle(ev.Connected("worker-9-9", at=1.0)) == [
        act.Exit("worker-9-9", "not known here")
    ]


def test_a_worker_may_connect_before_lambda_has_answered() -> None:
    world = World(weather=Weather(answer=0.0))
    world.scale(1)
    fleet = world.fleet
    fleet.handle(ev.LinkUp("worker-0-0", at=world.now))
    fleet.handle(ev.Connected("worker-0-0", at=world.now))
    fleet.handle(ev.Invoked("worker-0-0", "request-7", at=world.now))
    one = fleet.get("worker-0-0")
    assert one.state is State.CONNECTED and one.request_id == "request-7"


def test_a_call_without_an_answer_may_have_been_accepted() -> None:
    world = up(World(weather=Weather(unanswered=1.0)), 5)
    assert len(world.executions) == 5


# Workers go wrong


def test_killed_workers_are_replaced_at_once() -> None:
    world = up(World(tasks=tasks(100)), 20)
    for one in world.running()[:7]:
        world.kill(one)
    assert world.run(5, world.settled)
    assert len(world.invocations(State.LOST)) == 7
    assert world.run(300, lambda: len(set(world.done)) == 200)


def test_a_worker_that_hangs_is_forgotten_cut_off_and_replaced_and_still_paid_for() -> None:
    world = up(World(FleetSettings(heartbeat_timeout=30.0, timeout=120.0, deadline_margin=20.0)), 3)
    victim = world.running()[0]
    world.hang(victim)
    world.run(36, lambda: bool(world.of(act.Cut)))
    assert names(world.of(act.RemoveFromScheduler)) == [victim.name] == names(world.of(act.Cut))
    assert world.fleet.get(victim.name).state is State.LOST
    assert world.run(20, world.settled)
    assert world.fleet.books.ghosts == 1
    world.stop()
    assert world.run(130, lambda: not world.running() and world.fleet.books.ghosts == 0)
    assert world.estimate() == pytest.approx(world.real_dollars())


def test_a_hanging_worker_that_ends_is_paid_for_until_then_only() -> None:
    world = up(World(), 1)
    victim = world.running()[0]
    world.hang(victim)
    world.run(40)
    world.scale(0)
    world.tell(ev.LinkDown(victim.name, at=world.now))
    assert world.fleet.books.ghosts == 0
    spent = world.estimate()
    world.run(100)
    assert world.estimate() == pytest.approx(spent, rel=0.2)


def dismissed(world: World) -> list[str]:
    """Workers that were told to leave because they were slow."""
    return [action.name for action in world.of(act.Drain) if action.reason == "slow"]


def test_a_slow_worker_is_let_go_once_another_has_done_its_task() -> None:
    world = up(World(FleetSettings(straggler_factor=4.0), Weather(slow=0.0), tasks=tasks(200)), 20)
    world.run(10)
    slow = world.running()[0]
    slow.slowness = 50.0
    world.run(60)
    assert dismissed(world) == [slow.name]
    found, *again = world.of(act.Speculate)
    assert found.name == slow.name and found.median == pytest.approx(2.0)
    assert found.seconds == pytest.approx(8.0) and found.stage == "encode"
    assert len(again) <= 2, "nobody was idle at first"
    assert len(world.done) == len(set(world.done)) == 400


@pytest.mark.parametrize("workers", [1, 2, 6])
@pytest.mark.parametrize("seconds", [12.0, 100.0, 700.0])
@pytest.mark.parametrize("long", [1, 5, 40])
def test_tasks_that_take_longer_than_usual_end(workers: int, seconds: float, long: int) -> None:
    """As where a film turns from black to noise: nobody is at fault, so nobody is let go, and no work is lost."""
    short = tasks(30, {"encode": 0.3})
    later = [Task(f"('encode', {n})", "encode", n, seconds) for n in range(100, 100 + long)]
    world = up(World(FleetSettings(timeout=1e6), tasks=[*short, *later]), workers)
    alone = 30 * 0.3 + seconds * math.ceil(long / workers)
    assert world.run(1.5 * alone + 10, lambda: len(world.done) == 30 + long)
    assert not [one for one in dismissed(world) if one not in world.second_runs]
    assert len(world.second_runs) <= 4 * workers + long
    assert len(world.of(act.Invoke)) <= workers + len(world.second_runs)
    assert world.fleet.books.stragglers.patience("encode") > 5.0 or long < 20


def test_patience_with_a_task_doubles_whoever_runs_it() -> None:
    world = up(World(FleetSettings(timeout=1e6), tasks=tasks(30, {"encode": 0.1})), 4)
    world.run(20)
    world.weather.slow, asked = 1.0, []
    world.on_action = lambda action: (
        asked.append(world.now) if isinstance(action, act.Speculate) else None
    )
    first = world.running()[0]
    first.task = Task("('encode', 99)", "encode", 99, 1e5)
    world._run(first, first.task)
    began = world.now
    world.run(1000)
    waits = [later - earlier for earlier, later in itertools.pairwise([began, *asked])]
    assert waits[0] == pytest.approx(5.0)
    rounds = sorted({round(math.log2(wait / 5.0)) for wait in waits if wait > 1})
    assert rounds == list(range(len(rounds))) and len(rounds) > 4
    assert len(asked) < 20


def test_what_was_cut_off_counts_as_a_sample_of_its_stage() -> None:
    world = up(
        World(FleetSettings(timeout=1e6, retries_per_slot=99), tasks=tasks(9, {"encode": 1.0})), 3
    )
    world.run(20)
    times = world.fleet.books.stragglers
    before = times.median("encode")
    for number in range(20):
        one = next(each for each in world.running() if each.ready and each.task is None)
        one.task = Task(f"('encode', {100 + number})", "encode", number, 50.0)
        world._run(one, one.task)
        world.run(3.0)
        one.task = None  # nobody gives it to another
        world.kill(one)
        world.run(5.0, world.settled)
    assert before < times.median("encode") == pytest.approx(3.0)


def test_what_ends_early_says_nothing_of_the_time_that_its_stage_takes() -> None:
    world = up(World(tasks=tasks(30, {"encode": 2.0})), 3)
    world.run(60)
    times = world.fleet.books.stragglers
    for _ in range(100):
        times.add_cut("encode", 0.1)
    assert times.median("encode") == pytest.approx(2.0)


def test_what_nobody_allowed_to_be_repeated_is_left_alone() -> None:
    free = [dataclasses.replace(one, repeatable=False) for one in tasks(60, {"mine": 0.5})]
    last = Task("mine-99", "mine", 99, 500.0, repeatable=False)
    world = up(World(tasks=[*free, last]), 3)
    world.run(400)
    assert not world.of(act.Speculate) and not world.of(act.Drain)


def test_waiting_is_not_slowness() -> None:
    world = up(World(tasks=tasks(40, {"encode": 1.0})), 4)
    world.run(20)
    name = world.running()[0].name
    world.tell(ev.Waiting(name, "('encode', 99)", "encode", 99, at=world.now))
    world.run(100)
    assert not world.of(act.Speculate)
    shot = next(one for one in world.fleet.snapshot().invocations if one.name == name)
    assert (shot.state, shot.waiting, shot.stage, shot.number) == ("running", True, "encode", 99)


def test_the_target_holds_across_the_time_limit_of_the_function() -> None:
    settings = FleetSettings(timeout=120.0, deadline_margin=20.0, replace_ahead=10.0)
    world = up(World(settings), 10)
    least = 10
    for _ in range(400):
        world.run(1)
        at_work = sum(one.state in (State.READY, State.RUNNING) for one in world.fleet.books.roster)
        least = min(least, at_work)
    assert least == 10
    assert not world.invocations(State.FAILED), "none was ended by Lambda"
    assert len(world.executions) >= 50


def test_only_where_its_time_is_up_a_worker_is_taken_to_be_outlived_by_its_task() -> None:
    settings = FleetSettings(timeout=120.0, deadline_margin=20.0, replace_ahead=10.0)
    world = up(World(settings, tasks=tasks(1, {"encode": 1e6})), 2)
    idle = next(one.name for one in world.running() if one.task is None)
    world.tell(ev.Retire(idle, at=world.now))
    world.run(110)
    found = {action.name: action.outlived for action in world.of(act.RetireFromScheduler)}  # type: ignore[attr-defined]
    assert found.pop(idle) is False and next(iter(found.values())) is True


def test_a_task_that_began_late_does_not_outlive_its_worker() -> None:
    settings = FleetSettings(timeout=120.0, deadline_margin=20.0, replace_ahead=10.0)
    world = up(World(settings, tasks=tasks(100, {"encode": 15.0})), 2)
    world.run(400)
    found = [action.outlived for action in world.of(act.RetireFromScheduler)]  # type: ignore[attr-defined]
    assert len(found) >= 4 and not any(found)


@pytest.mark.parametrize(
    ("timeout", "second"),
    [
        (48.0, 0.0),
        (60.0, 0.0),
        (90.0, 0.0),
        (120.0, 0.0),
        (900.0, 0.0),
        (900.0, 440.0),
        (900.0, 250.0),
    ],
)
def test_a_task_longer_than_any_worker_is_blamed_however_late_each_gets_it(
    timeout: float, second: float
) -> None:
    """Workers of which each has had half its time when the task comes to it would move it on for ever."""
    settings = FleetSettings(timeout=timeout, deadline_margin=20.0, replace_ahead=15.0)
    world = World(settings, tasks=tasks(1, {"encode": 1e6}))
    world.scale(1)
    if second:
        world.run(second)
        world.scale(2)
    world.run(10 * timeout)
    found = [action.outlived for action in world.of(act.RetireFromScheduler)]  # type: ignore[attr-defined]
    assert sum(found) >= 4, found


def test_a_task_that_ended_is_forgotten_as_one_that_was_cut_short() -> None:
    cut_short = Tally(remembered=2)
    assert cut_short.add("a", 20.0) == 20.0 and cut_short.add("a", 5.0) == 25.0
    cut_short.forget("a")
    assert cut_short.add("a", 1.0) == 1.0
    cut_short.add("b", 1.0)
    cut_short.add("c", 1.0)
    assert cut_short.add("a", 1.0) == 1.0, "the oldest is forgotten first"


def test_with_no_room_for_replacements_the_limit_comes_first() -> None:
    settings = FleetSettings(
        timeout=120.0, deadline_margin=20.0, replace_ahead=10.0, concurrency=10
    )
    world = up(World(settings), 10)
    world.run(400)
    assert world.most_live == 10
    assert world.run(60, world.settled)


def test_a_function_that_lambda_ends_in_mid_task_is_replaced() -> None:
    settings = FleetSettings(timeout=60.0, deadline_margin=0.5, replace_ahead=0.0, exit_grace=0.0)
    world = up(World(settings, Weather(deaf=True), tasks=tasks(1, {"encode": 500.0})), 1)
    world.run(60, lambda: len(world.executions) == 2)
    assert world.run(10, lambda: world.fleet.workers == 1)


def test_a_failure_is_told_with_its_log_tail_and_replaced() -> None:
    world = up(World(), 2)
    world.tell(
        ev.Failed(
            "worker-0-0",
            "Runtime exited: signal: killed (out of memory)",
            "last\nlines",
            at=world.now,
        )
    )
    one = world.fleet.get("worker-0-0")
    assert one.state is State.FAILED and one.log_tail == "last\nlines"
    entry = next(entry for entry in reversed(world.entries) if entry.to == State.FAILED)
    assert entry.detail["error"].endswith("(out of memory)") and entry.detail["log_tail"]
    assert world.run(20, world.settled) and world.fleet.stopping is None


def test_a_lost_relay_costs_no_worker_that_comes_back() -> None:
    world = up(World(FleetSettings(reconnect_grace=15.0)), 20)
    world.lose_relay(back_after=5.0)
    world.run(60)
    assert world.settled() and len(world.executions) == 20


def test_workers_that_do_not_come_back_after_their_relay_are_replaced() -> None:
    world = up(World(FleetSettings(reconnect_grace=15.0)), 20)
    world.lose_relay(back_after=5.0, share_back=0.5)
    world.run(14)
    assert not world.invocations(State.LOST)
    world.run(30)
    lost = len(world.invocations(State.LOST))
    assert 0 < lost < 20 and world.fleet.workers == 20


@pytest.mark.parametrize("seconds", [2.0, 20.0, 45.0, 120.0])
def test_after_an_outage_of_the_relay_the_work_goes_on(seconds: float) -> None:
    world = up(World(tasks=tasks(120, {"encode": 10.0})), 10)
    world.run(5)
    before = len(world.of(act.Invoke))
    world.lose_relay_for(seconds)
    world.run(seconds - 0.01)
    assert len(world.of(act.Invoke)) == before, "nobody could connect"
    assert not world.invocations(State.LOST) and not world.invocations(State.EXPIRED)
    told = [action.text for action in world.of(act.Notice)]  # type: ignore[attr-defined]
    assert bool(told) == (seconds > 15)
    assert world.run(400, lambda: len(set(world.done)) == 120)
    assert world.run(60, world.settled)
    if seconds < 30:
        assert len(world.executions) == 10, "everybody came back"
    assert world.real_dollars() * 0.999 <= world.estimate()
    if told:
        assert told[0].startswith("the rendezvous cannot be reached for 15 s; waiting")
        assert "the rendezvous can be reached again" in [
            action.text for action in world.of(act.Notice)  # type: ignore[attr-defined]
        ]  # fmt: skip


def test_an_outage_of_the_relay_without_end_ends_in_one_line_and_costs_no_more_than_is_told() -> (
    None
):
    world = up(World(tasks=tasks(500, {"encode": 10.0})), 10)
    world.lose_relay_for(1e6)
    world.run(299)
    assert world.fleet.stopping is None
    world.run(5)
    assert world.fleet.stopping == "the rendezvous cannot be reached for 300 s"
    world.run(1000)
    assert not world.running() and world.is_over
    assert world.real_dollars() <= world.estimate()


@pytest.mark.parametrize("budget", [None, 0.01])
def test_invocations_that_never_answer_are_counted(budget: float | None) -> None:
    """Each runs for as long as it looks for the relay; the estimate is no less than the bill, and the budget holds."""
    world = World(FleetSettings(budget=budget), Weather(unreachable=True))
    world.scale(5)
    world.run(1000)
    assert world.fleet.stopping is not None
    assert len(world.executions) > 5
    assert 0 < world.real_dollars() <= world.estimate() < 2 * world.real_dollars()
    assert budget is None or world.estimate() <= budget


@pytest.mark.parametrize("seconds", [1.0, 10.0, 30.0, 55.0, 130.0])
def test_those_not_heard_of_yet_are_counted_when_all_is_stopped(seconds: float) -> None:
    world = World(FleetSettings(), Weather(unreachable=True))
    world.scale(100)
    world.run(seconds)
    world.tell(ev.Tick(at=world.now))
    assert world.real_dollars() <= world.fleet.spent
    world.stop(drain=False)
    at_the_end = world.fleet.spent
    world.run(200)
    assert world.real_dollars() <= at_the_end <= 2 * world.real_dollars()
    parts = sum(world.fleet.books.cost_of(one) for one in world.fleet.books.roster)
    assert parts == pytest.approx(world.fleet.spent)


def test_those_that_connect_soon_cost_what_they_run_for() -> None:
    world = World(FleetSettings(), Weather(cold=(3.0, 3.0)))
    world.scale(100)
    world.run(20)
    world.tell(ev.Tick(at=world.now))
    assert world.fleet.workers == 100
    assert world.fleet.spent == pytest.approx(world.real_dollars(), rel=0.01)


# Nobody comes


@pytest.mark.parametrize(
    ("weather", "answer"),
    [
        (Weather(throttled=1.0), "throttled (Rate Exceeded)"),
        (Weather(offline=True), "Could not connect"),
        (Weather(never_run=1.0), "Lambda accepted the call"),
        (Weather(never_run=1.0, unanswered=1.0), "read timeout"),
        (Weather(unreachable=True), "Lambda accepted the call"),
        (Weather(cold=(1e6, 1e6)), "Lambda accepted the call"),
        (Weather(load=(1e6, 1e6)), "Lambda accepted the call"),
    ],
)
def test_where_nobody_comes_it_is_told_with_the_last_answer_and_ends(
    weather: Weather, answer: str
) -> None:
    world = World(weather=weather)
    when: list[tuple[float, str]] = []
    world.on_action = lambda action: (
        when.append((world.now - START, action.text)) if isinstance(action, act.Notice) else None
    )
    world.scale(3)
    world.run(310)
    assert world.fleet.stopping is not None
    told = [(at, text) for at, text in when if text.startswith("no worker is there")]
    assert [round(at) for at, _ in told] in ([15, 45, 105, 225], [15, 45, 105], [15, 45], [15])
    assert f"; the last answer: {answer}; waiting" in told[0][1]
    assert "\n" not in world.fleet.stopping
    world.run(1000)
    assert world.is_over


def test_where_somebody_comes_nothing_is_told() -> None:
    world = World(weather=Weather(cold=(5.0, 14.0)))
    world.scale(3)
    world.run(400)
    assert not world.of(act.Notice) and world.fleet.stopping is None


def test_the_coordinators_own_pause_is_not_held_against_the_workers() -> None:
    world = up(World(FleetSettings(heartbeat_timeout=30.0)), 5)
    world.now += 300.0  # a laptop that slept
    world.tell(ev.Tick(at=world.now))
    assert not world.invocations(State.LOST)
    world.tell(ev.Heartbeat("worker-0-0", at=world.now))
    for _ in range(40):
        world.now += 1.0
        world.tell(ev.Tick(at=world.now))
    assert len(world.invocations(State.LOST)) == 5


# Giving up


def test_the_first_invocations_that_fail_alike_end_it_with_that_one_line() -> None:
    error = "Runtime.ImportModuleError: Unable to import module 'handler': No module named 'av' (RequestId: 4f2a1b3c-77)"
    world = World(weather=Weather(fails=error, fails_when="started"))
    world.scale(500)
    world.run(60, lambda: world.is_over)
    (stop,) = world.of(act.StopAll)
    assert stop.reason == f"the first 5 invocations failed alike: {error}"
    assert len(world.of(act.Invoke)) == 500, "nothing was invoked after that"


def test_with_canaries_a_bad_image_costs_few_invocations() -> None:
    world = World(
        FleetSettings(canaries=3), Weather(fails="ImportError: libvpx.so.7", fails_when="started")
    )
    world.scale(1000)
    world.run(60, lambda: world.fleet.stopping is not None)
    assert "ImportError: libvpx.so.7" in world.of(act.StopAll)[0].reason
    assert len(world.of(act.Invoke)) <= 8


def test_with_canaries_the_others_follow_the_first_that_connects() -> None:
    world = World(FleetSettings(canaries=2))
    world.scale(50)
    assert len(world.of(act.Invoke)) == 2
    assert world.run(20, world.settled) and len(world.of(act.Invoke)) == 50


def test_different_errors_do_not_end_it() -> None:
    world = World(FleetSettings(breaker=3))
    world.scale(10)
    for number, error in enumerate(["alpha went", "beta went", "gamma went", "delta went"]):
        world.tell(ev.Failed(f"worker-{number}-0", error, at=world.now))
    assert world.fleet.stopping is None
    assert world.run(30, world.settled)


def test_once_a_worker_was_ready_failures_are_those_of_single_invocations() -> None:
    world = up(World(FleetSettings(breaker=3)), 1)
    world.weather.fails = "ImportError: a bad deployment"
    world.scale(6)
    world.run(30)
    assert len(world.invocations(State.FAILED)) > 3 and world.fleet.stopping is None


def test_errors_are_compared_without_their_numbers() -> None:
    first = "RequestId: 8c1d34aa-11 Error: out of memory at 0x7f3a after 812 MB"
    assert kind_of_error(first) == kind_of_error(
        "RequestId: 01ffcc29-9 Error: out of memory at 0x11 after 90 MB"
    )
    assert kind_of_error("Traceback\n  line\nImportError: av\n") == "ImportError: av"
    assert kind_of_error("") == ""


def test_a_call_that_every_other_would_share_the_fate_of_ends_it_at_once() -> None:
    world = World(
        weather=Weather(refuses="the function excamera does not exist in us-east-1", fatal=True)
    )
    world.scale(200)
    assert world.run(5, lambda: world.is_over)
    assert world.of(act.StopAll) == [
        act.StopAll("the function excamera does not exist in us-east-1")
    ]


def test_if_nobody_ever_connects_it_ends_after_a_bounded_number_of_calls() -> None:
    world = World(FleetSettings(appear_timeout=30.0), Weather(never_run=1.0))
    world.scale(100)
    assert world.run(600, lambda: world.is_over)
    assert "got ready: accepted by Lambda, but not connected within 30 s" in world.fleet.stopping
    assert len(world.of(act.Invoke)) <= 201


def test_if_nobody_ever_gets_ready_it_ends_too() -> None:
    world = World(FleetSettings(ready_timeout=20.0), Weather(load=(1e9, 1e9)))
    world.scale(10)
    assert world.run(600, lambda: world.fleet.stopping is not None)
    assert "got ready: connected, but not ready within 20 s" in world.fleet.stopping
    assert len(world.of(act.Invoke)) <= 10 + 20


def test_what_was_dismissed_is_recalled_when_it_is_wanted_again() -> None:
    world = World(weather=Weather(cold=(5.0, 6.0)))
    world.scale(8)
    world.run(1)
    world.scale(2)
    world.scale(6)
    assert world.run(20, world.settled)
    assert len(world.of(act.Invoke)) == 8 and len(world.of(act.Exit)) == 2


def test_retries_are_bounded_for_one_place_and_for_the_fleet() -> None:
    world = up(World(FleetSettings(retries_per_slot=2, retries_per_window=5)), 4)
    kept = world.running()[0]
    for _ in range(30):
        for one in world.running():
            if one is not kept:
                world.kill(one)
        world.run(10)
    lost = len(world.invocations(State.LOST))
    assert lost == 3 + 5, "each of the three, and five replacements"
    (told,) = world.of(act.Notice)
    assert "too many invocations went wrong, the last one: connection reset" in told.text
    world.run(600)
    assert world.run(60, world.settled), "a new window gives new retries"


def test_where_no_worker_is_left_and_none_may_come_it_ends() -> None:
    world = up(World(FleetSettings(retries_per_slot=1)), 2)
    while world.fleet.stopping is None and world.now < START + 300:
        for one in world.running():
            world.kill(one)
        world.run(5)
    assert world.fleet.stopping == (
        "too many invocations went wrong and no worker is left: connection reset"
    )


@pytest.mark.parametrize("way", ["killed", "killed at once", "out of memory"])
@pytest.mark.parametrize("crashing", [2, 30])
def test_tasks_that_end_their_worker_hold_up_no_other(way: str, crashing: int) -> None:
    """The scheduler gives each up after as many workers as Dask allows; all others are done meanwhile."""
    bad = [Task(f"bad-{n}", "bad", n, 0.2, repeatable=False) for n in range(crashing)]
    world = up(World(FleetSettings(), tasks=[]), 3)
    deaths: Counter[str] = Counter()
    finish = world._finish_task

    def end_or_finish(one: Execution, task: Task) -> None:
        if task not in bad or one.ended is not None or one.task is not task:
            finish(one, task)
            return
        deaths[task.key] += 1
        if deaths[task.key] > 3:
            one.task = None  # Dask's allowed-failures
        if way == "out of memory":
            world._end(one, ev.Failed, "out of memory: 1700 of 1769 MB in use")
        else:
            world.kill(one)

    world._finish_task = end_or_finish  # type: ignore[method-assign]
    if way == "killed at once":  # nothing was heard of the task; the scheduler knows
        say, tell = world._say, world.tell

        def told_nothing(one: Execution, event: ev.InvocationEvent) -> None:
            if not (isinstance(event, ev.Running) and event.key.startswith("bad")):
                say(one, event)

        def blaming(event: ev.Event) -> None:
            if isinstance(event, ev.LinkDown) and event.why == "connection reset":
                latest = next(key for key in reversed(order) if key.startswith("bad"))
                event = dataclasses.replace(event, task=latest)
            tell(event)

        order: list[str] = []
        note = world._run
        world._run = lambda one, task: (order.append(task.key), note(one, task))[1]  # type: ignore
        world._say, world.tell = told_nothing, blaming  # type: ignore[method-assign]
    world.tasks.extend([*bad, *tasks(60, {"good": 1.0})])
    for one in world.running():
        world.work(one)
    good = 60 * 1.0 / 3
    assert world.run(good + 4 * crashing * 4.0 + 30, lambda: len(world.done) == 60), world.fleet
    assert set(deaths.values()) == {4} and len(deaths) == crashing
    assert world.fleet.stopping is None and not world.of(act.Notice)
    assert world.run(30, world.settled), "nobody waits for a place"


def test_stopping_drains_and_leaves_nothing_running() -> None:
    world = up(World(tasks=tasks(100)), 20)
    world.stop()
    assert world.run(60, lambda: world.is_over)
    assert not world.running() and not world.links


def test_stopping_at_once_does_not_wait_for_tasks() -> None:
    world = up(World(tasks=tasks(100, {"encode": 300.0})), 20)
    world.stop(drain=False)
    assert world.run(1, lambda: world.is_quiet and not world.running())


def test_what_comes_after_the_stop_is_told_to_exit() -> None:
    world = World(weather=Weather(cold=(3.0, 9.0)))
    world.scale(20)
    world.run(5)
    world.stop(drain=False)
    assert world.run(60, lambda: world.is_over)
    assert len(world.executions) == 20 and not world.running()


# Money


def test_the_estimate_is_what_lambda_bills() -> None:
    world = up(World(FleetSettings(memory=3008, ephemeral_storage=2048), tasks=tasks(100)), 10)
    world.run(100)
    world.stop()
    world.run(60, lambda: world.is_over)
    assert world.estimate() == pytest.approx(world.real_dollars(), abs=1e-12)
    assert sum(world.fleet.books.cost_of(one) for one in world.fleet.books.roster) == pytest.approx(
        world.estimate()
    )


def test_lambdas_own_figure_corrects_the_estimate() -> None:
    settings = FleetSettings(prices=Prices(1.0, 0.25, 0.0), memory=1024)
    world = up(World(settings), 1)
    world.run(50)
    world.tell(ev.Finished("worker-0-0", billed=7.0, at=world.now))
    assert world.fleet.books.cost_of(world.fleet.get("worker-0-0")) == pytest.approx(7.25)


def test_it_stops_before_the_budget_is_exceeded() -> None:
    world = World(FleetSettings(budget=0.02), tasks=tasks(5000))
    world.scale(20)
    assert world.run(600, lambda: world.is_over)
    assert 0.014 < world.real_dollars() <= 0.02
    (stop,) = world.of(act.StopAll)
    assert stop.reason.startswith("the budget of $0.02 is used up")
    assert not world.running()


def test_what_hangs_until_its_time_is_up_is_kept_in_reserve() -> None:
    settings = FleetSettings(budget=1000.0, prices=Prices(1.0, 0.0, 0.0), memory=1024)
    world = up(World(settings), 1)
    world.hang(world.running()[0])
    assert world.run(300, lambda: world.fleet.stopping is not None)
    world.run(1000)
    assert not world.running()
    assert 900.0 < world.real_dollars() <= 1000.0


def test_a_budget_that_pays_for_fewer_workers_gives_fewer_and_says_so() -> None:
    world = World(FleetSettings(budget=0.02), tasks=tasks(5000))
    world.scale(1000)
    assert len(world.of(act.Invoke)) < 50
    assert "pays for no more than" in world.of(act.Notice)[0].text
    world.run(600, lambda: world.is_over)
    assert world.real_dollars() <= 0.02


def test_a_budget_that_pays_for_nobody_is_refused() -> None:
    world = World(FleetSettings(budget=0.0001))
    world.scale(1)
    assert not world.of(act.Invoke)
    assert "does not pay for one more worker" in world.of(act.StopAll)[0].reason


def test_prices_of_the_table() -> None:
    virginia = prices("us-east-1")
    assert virginia == Prices(0.0000166667, 0.0000002, 0.0000000309)
    assert prices("eu-central-1", "arm64").gb_second == 0.0000133334
    # Three million invocations of 120 ms with 1,536 MB cost 9.00 dollars for the time and 0.60 for the requests.
    assert 3e6 * virginia.invocation(0.12, 1536) == pytest.approx(9.00 + 0.60, abs=0.01)
    assert virginia.per_second(1024, 512 + 1024) == pytest.approx(
        virginia.gb_second + virginia.storage_gb_second
    )
    for region in regions():
        assert prices(region, "arm64").gb_second < prices(region).gb_second


def test_an_unknown_region_is_guessed_dearly_unless_there_is_a_budget() -> None:
    with pytest.raises(UnknownPrice, match="moon-north-1"):
        Fleet(FleetSettings(region="moon-north-1", budget=1.0))
    fleet = Fleet(FleetSettings(region="moon-north-1", memory=1024))
    assert (
        fleet.books.ledger.rate
        == dearest().gb_second
        == max(prices(r).gb_second for r in regions())
    )
    own = Fleet(FleetSettings(region="moon-north-1", budget=1.0, prices=Prices(1e-5, 1e-7, 0.0)))
    assert own.books.ledger.request == 1e-7


# Clocks, threads, views, settings


def test_workers_clocks_are_logged_and_not_believed() -> None:
    world = up(World(weather=Weather(clock_error=1000.0), tasks=tasks(20)), 5)
    world.run(20)
    foreign = [entry for entry in world.entries if entry.clock != ev.COORDINATOR]
    assert foreign and all(entry.clock == entry.invocation for entry in foreign)
    assert all(abs(entry.seen - START) < 60 for entry in world.entries)
    assert any(abs(entry.at - entry.seen) > 10 for entry in foreign)
    assert world.estimate() == pytest.approx(world.real_dollars())


def test_a_worker_of_two_threads_is_idle_when_both_tasks_are_done() -> None:
    world = up(World(FleetSettings(threads=2)), 1)
    name, at = "worker-0-0", world.now
    world.tell(ev.Running(name, "a", "encode", 1, at=at))
    world.tell(ev.Running(name, "b", "encode", 2, at=at))
    world.tell(ev.Done(name, "a", at=at))
    assert world.fleet.get(name).state is State.RUNNING
    world.tell(ev.Done(name, "b", at=at))
    assert world.fleet.get(name).state is State.READY


def test_a_snapshot_shows_stage_piece_memory_and_cost() -> None:
    world = up(World(tasks=tasks(3, {"encode": 300.0})), 4)
    world.run(10)
    shot = world.fleet.snapshot()
    assert shot.counts["running"] == 3 and shot.counts["ready"] == 1
    one = next(view for view in shot.invocations if view.state == "running")
    assert one.stage == "encode" and one.number in (0, 1, 2) and one.rss == 100 << 20
    assert one.cost > 0 and one.remaining == pytest.approx(890, abs=10)
    page = shot._repr_html_()
    assert page.count("<tr>") == 5 and "4 of 4 workers" in page and "100 MiB" in page
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(shot)
    assert "encode" in console.export_text()
    assert shot.to_dict()["counts"]["running"] == 3


def test_what_users_wrote_does_not_become_html() -> None:
    world = up(World(), 1)
    world.tell(ev.Failed("worker-0-0", "<script>alert(1)</script>", at=world.now))
    assert "<script>" not in world.fleet.snapshot()._repr_html_()


def test_a_large_fleet_is_shown_in_part() -> None:
    page = up(World(), 100).fleet.snapshot()._repr_html_()
    assert page.count("<tr>") == 41 and "and 60 more" in page


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (187, "3:07"), (3723, "1:02:03")])
def test_spans_of_time_for_people(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"memory": 0}, "memory must be positive"),
        ({"minimum": -1}, "minimum must not be negative"),
        ({"budget": 0.0}, "budget must be positive"),
        ({"breaker": "many"}, "breaker must be a number, not 'many'"),
        ({"timeout": None}, "timeout must be a number, not None"),
        ({"overprovision": 0.9}, "overprovision must be at least 1"),
        ({"straggler_factor": 1.0}, "straggler_factor must be more than 1"),
        ({"timeout": 40.0}, "leaves no time to work"),
        ({"concurrency": 3, "minimum": 4}, "more than the concurrency"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        FleetSettings(**wrong)


def test_settings_are_plain_values() -> None:
    settings = FleetSettings(prices=Prices(1.0, 2.0, 3.0))
    assert settings.to_dict()["prices"] == {
        "gb_second": 1.0,
        "request": 2.0,
        "storage_gb_second": 3.0,
    }
    assert {field.name for field in dataclasses.fields(settings)} == set(settings.to_dict())


def test_a_negative_target_is_refused_and_a_foreign_event_is_an_error() -> None:
    with pytest.raises(InvalidSettings):
        Fleet().handle(ev.TargetChanged(-1, at=0.0))
    with pytest.raises(ImpossibleTransition):
        Fleet().handle(ev.Event(at=0.0))


# Parts


def test_medians_are_those_of_the_latest_tasks() -> None:
    times = StageTimes()
    for second in range(1000):
        times.add(float(second % 100))
        latest = sorted(float(s % 100) for s in range(max(0, second + 1 - WINDOW), second + 1))
        assert times.median() == latest[len(latest) // 2]
    assert len(times) == WINDOW


def test_a_place_that_fails_too_often_waits_for_the_window() -> None:
    slots = Slots(retries=2, window=100.0)
    slots.grow(1)
    for failure in range(3):
        assert slots.take(float(failure)) == (0, failure)
        slots.fail(0, float(failure))
        slots.release(0)
    assert slots.take(99.0) is None and slots.next_free() == (100.0, 0)
    assert slots.take(100.0) == (0, 3)


def test_old_invocations_are_forgotten() -> None:
    world = up(
        World(FleetSettings(remembered=10, retries_per_window=1000, retries_per_slot=100)), 5
    )
    for _ in range(20):
        for one in world.running():
            world.kill(one)
        assert world.run(60, world.settled)
    assert len(list(world.fleet.books.roster)) == 15
    assert world.fleet.snapshot().counts["lost"] == 100
