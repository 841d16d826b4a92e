"""The coordinator's core: events in, actions out.

It holds the target against a Lambda that starts workers late, twice or never, and loses them; it
has no clock, no socket and no chance of its own, so the same events always give the same actions.

Follow an event: `Fleet.handle`, `applying.apply`, its row in `transitions.TABLE`, its effect in effects.py.
"""

from __future__ import annotations

import heapq

from executors.aws_lambda.fleet import actions as act
from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.applying import apply
from executors.aws_lambda.fleet.balance import balance, watch_budget, watch_hopes
from executors.aws_lambda.fleet.books import Books
from executors.aws_lambda.fleet.errors import ImpossibleTransition, InvalidSettings
from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.settings import FleetSettings
from executors.aws_lambda.fleet.snapshot import Snapshot, take_snapshot
from executors.aws_lambda.fleet.states import State
from executors.aws_lambda.fleet.timers import arm, due

PAUSE = 2.0
"""Seconds that a Tick may be late before the coordinator's own pause is not held against the workers."""


class Fleet:
    """The invocations of one cluster, and what is to be done about them.

    Hand every event to `handle` and carry out what it returns, in order; send a `Tick` at `next_tick()` at the latest.
    `books` is all that it knows.
    """

    def __init__(self, settings: FleetSettings | None = None) -> None:
        self.books = Books(settings or FleetSettings())

    def handle(self, event: ev.Event, now: float | None = None) -> list[act.Action]:
        """What an event asks for.

        now: the coordinator's time, for events by another clock; without it, it stands still for them.

        Raises: ImpossibleTransition for what only an error of the caller can have caused.
        """
        books = self.books
        if now is None and event.clock == ev.COORDINATOR:
            now = event.at
        if now is not None and now > books.now:
            _forgive_pause(books, self.next_tick(), now)
            books.now = now
        _fire_timers(books)
        if not isinstance(event, ev.InvocationEvent):
            _handle_all(books, event)
        elif event.name in books.roster.by_name:
            apply(books, books.roster.by_name[event.name], event)
        else:
            _meet_stranger(books, event)
        books.wake = None
        watch_hopes(books)
        watch_budget(books)
        balance(books)
        if books.all_must_go:
            _let_all_go(books)
        done, books.actions = books.actions, []
        return done

    def next_tick(self) -> float | None:
        """When the next Tick is due at the latest, by the coordinator's clock; None: only after another event."""
        times = [self.books.timers[0][0]] if self.books.timers else []
        if self.books.wake is not None:
            times.append(self.books.wake)
        return min(times, default=None)

    @property
    def asked(self) -> int:
        """Workers asked for."""
        return self.books.asked

    @property
    def target(self) -> int:
        """Workers wanted now."""
        return self.books.target

    @property
    def stopping(self) -> str | None:
        """Why it stops, once it does."""
        return self.books.stopping

    @property
    def spent(self) -> float:
        """Estimated dollars until now."""
        return self.books.spent

    @property
    def workers(self) -> int:
        """Workers that are ready or running and stay for now."""
        return self.books.roster.at_work

    def get(self, name: str) -> Invocation | None:
        """An invocation by its name."""
        return self.books.roster.by_name.get(name)

    def snapshot(self) -> Snapshot:
        """What there is to see now."""
        return take_snapshot(self.books)

    def _repr_html_(self) -> str:
        return self.snapshot()._repr_html_()


# Events of the fleet as a whole


def _handle_all(books: Books, event: ev.Event) -> None:
    match event:
        case ev.TargetChanged(workers=workers):
            if workers < 0:
                raise InvalidSettings(f"a fleet cannot have {workers} workers")
            books.asked = books.target = workers
            books.log(event, None, None, None, {"workers": workers})
        case ev.WorkArrived(tasks=tasks):
            busy = len(books.roster.held[State.RUNNING])
            books.target = max(books.target, min(books.asked, busy + tasks))
        case ev.IdleMayGo(worker=name):
            one = books.roster.by_name.get(name)
            if one is not None and one.state is State.READY and _has_more_than_least(books):
                apply(books, one, ev.Retire(name, "idle", lower_target=True, at=books.now))
        case ev.RelayLost():
            if books.relay_lost_at is None:
                books.relay_lost_at = books.now
                books.log(event, None, None, None, {})
        case ev.RelayBack():
            if books.relay_lost_at is not None:
                _regain_relay(books, event)
        case ev.Stop(drain=drain):
            books.stop(event)
            _let_all_go(books)
            if not drain:
                _send_the_draining(books)
        case ev.Tick():
            pass
        case _:
            raise ImpossibleTransition(f"{type(event).__name__} is no event for a fleet")


def _meet_stranger(books: Books, event: ev.InvocationEvent) -> None:
    """A name of another fleet, or one that was forgotten long ago."""
    if isinstance(event, ev.Connected):
        books.do(act.Exit(event.name, "not known here"))


def _regain_relay(books: Books, event: ev.RelayBack) -> None:
    """Workers have some time to come back, from now on."""
    books.relay_lost_at = None
    books.log(event, None, None, None, {})
    roster = books.roster
    for pool in (*roster.held.values(), roster.leaving, roster.draining):
        for one in pool.values():
            if one.linked_at is not None:
                one.last_seen = one.link_lost_at = books.now
                arm(books, one)


def _let_all_go(books: Books) -> None:
    """Once the fleet stops: whoever has not been let go yet."""
    books.all_must_go = False
    pools = (*books.roster.held.values(), books.roster.leaving)
    for one in [one for pool in pools for one in pool.values()]:
        apply(books, one, ev.Retire(one.name, books.stopping or "", at=books.now))


def _send_the_draining(books: Books) -> None:
    """They are not waited for."""
    for one in list(books.roster.draining.values()):
        if one.exit_told is None:
            books.tell_exit(one, books.stopping or "")
            arm(books, one)


# Time


def _forgive_pause(books: Books, planned: float | None, now: float) -> None:
    """The coordinator itself stood still: what its workers said meanwhile has yet to be read."""
    if planned is None or now - planned <= PAUSE or planned < books.now:
        return
    for pool in (*books.roster.held.values(), books.roster.leaving):
        for one in pool.values():
            if one.linked_at is not None:
                one.last_seen += now - planned
                if one.link_lost_at is not None:
                    one.link_lost_at += now - planned


def _fire_timers(books: Books) -> None:
    while books.timers and books.timers[0][0] <= books.now:
        at, _, one = heapq.heappop(books.timers)
        if one.timer_at != at:
            continue
        one.timer_at = None
        when, what = due(one, books)
        if when <= books.now:
            _fire(books, one, what)
        arm(books, one)


def _fire(books: Books, one: Invocation, what: ev.InvocationEvent | str) -> None:
    match what:
        case "ghost":
            books.end_ghost(one)
        case "retry":
            one.retry_at = None
            books.retry_queue[one.name] = one
        case "leave":
            books.free_slot(one)
            books.roster.mark(one, leaving=True)
            books.log_own(one, "Leave", {})
        case "idle":
            _ask_idle(books, one)
        case "slow":
            _speculate(books, one)
        case ev.InvocationEvent():
            apply(books, one, what)


def _ask_idle(books: Books, one: Invocation) -> None:
    """Whether data would be lost is for whoever runs the scheduler to say; if so, it is asked again later."""
    one.idle_since = books.now
    if _has_more_than_least(books):
        books.do(act.AskIdle(one.name))


def _has_more_than_least(books: Books) -> bool:
    return books.stopping is None and books.target > books.settings.minimum


def _speculate(books: Books, one: Invocation) -> None:
    for task in one.tasks.values():
        at = books.stragglers.slow_at(task) if task.repeatable else None
        if at is None or at > books.now:
            continue
        books.stragglers.was_slow(task.key, books.now)
        passed = books.now - task.since
        median = books.stragglers.median(task.stage)
        stage = task.stage or ""
        books.do(act.Speculate(one.name, task.key, stage, passed, median))
        detail = {"key": task.key, "stage": stage, "seconds": passed, "median": median}
        books.log_own(one, "Speculate", detail)
