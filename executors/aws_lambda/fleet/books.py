"""What a fleet knows: roster, places, costs, failures, timers; and what the effects of several events have in common."""

from __future__ import annotations

import math
from typing import Any

from executors.aws_lambda.fleet import actions as act
from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.breaker import Breaker, RetryLimit, Tally
from executors.aws_lambda.fleet.errors import UnknownPrice
from executors.aws_lambda.fleet.events import detail_of
from executors.aws_lambda.fleet.invocation import Invocation, Roster, Task
from executors.aws_lambda.fleet.ledger import Ledger
from executors.aws_lambda.fleet.pacing import Outage, TokenBucket, jitter, pause
from executors.aws_lambda.fleet.patience import Patience
from executors.aws_lambda.fleet.pricing import Prices, dearest, prices
from executors.aws_lambda.fleet.settings import FleetSettings
from executors.aws_lambda.fleet.slots import Slots
from executors.aws_lambda.fleet.states import State
from executors.aws_lambda.fleet.stragglers import Stragglers

Outcome = State | None
"""The state that an effect leads to; None: the invocation stays where it is."""

LEAVES_WITHIN = 60.0
"""Seconds in which a worker that has lost its coordinator has left by itself, unless it hangs."""
OUTLIVED, OUTLIVED_SECONDS = 0.6, 10.0
"""Share of a worker's time, and time, that a task must have run for to be taken to need more than all of it."""
DUPLICATE_SECONDS = 1.0
"""What a second execution is taken to run before it has been turned away."""


class Books:
    """The state of a fleet, a value: changes of it leave it in order, and note what is to be done."""

    def __init__(self, settings: FleetSettings) -> None:
        price = settings.prices or _prices(settings)
        self.settings = settings
        self.now = 0.0
        self.asked = 0
        """Workers asked for."""
        self.target = 0
        """Workers wanted now: less than asked for after idle ones were retired."""
        self.stopping: str | None = None
        self.roster = Roster(settings.remembered)
        self.slots = Slots(settings.retries_per_slot, settings.retry_window)
        self.bucket = TokenBucket(settings.burst, settings.rate)
        self.outage = Outage(settings.backoff, settings.outage_pause)
        self.ledger = Ledger(
            price.per_second(settings.memory, settings.ephemeral_storage), price.request
        )
        self.stragglers = Stragglers(
            settings.straggler_factor, settings.straggler_seconds, settings.straggler_samples
        )
        self.breaker = Breaker(settings.breaker)
        self.retries = RetryLimit(settings.retry_window)
        self.crashes = Tally()  # workers that died while they ran a task
        self.cut_short = Tally()  # seconds that one ran before the time of its worker was up
        self.unheard = 0
        """Invocations that Lambda has accepted, as far as is known, and nothing was heard of yet."""
        self.unheard_since = 0.0
        """The sum of the times since when."""
        self.ghosts = 0
        """Invocations that were given up and may run on, unseen, until their time is up."""
        self.ghost_ends = 0.0
        """The sum of those times."""
        self.timers: list[tuple[float, int, Invocation]] = []
        """A heap of when to look at which invocation (`timers.arm`)."""
        self.armed = 0
        self.wake: float | None = None
        """When to look at them all again, where only time is in the way."""
        self.retry_queue: dict[str, Invocation] = {}
        """Throttled calls that may be made again as soon as there is a token."""
        self.all_must_go = False
        """Whether the fleet stops, and those at work have yet to be let go."""
        self.next_spend = -math.inf
        self.no_relay = Patience(settings.notice_after, settings.outage_timeout)
        self.no_worker = Patience(settings.notice_after, settings.outage_timeout)
        self.relay_lost_at: float | None = None
        self.ever_connected = False
        self.ever_ready = False
        self.drain_timeout = settings.drain_timeout
        self.exit_grace = settings.exit_grace
        self.actions: list[act.Action] = []
        """What is to be done about the event that is being handled, in order."""
        self.told: set[str] = set()
        """What has been told once, and need not be told again."""
        self.last_answer = "none"
        """The latest that was heard of invocations that are to come, in words."""

    @property
    def exposed(self) -> int:
        """Execution environments that may exist."""
        return self.roster.live + self.ghosts

    @property
    def has_room(self) -> bool:
        """Whether one that comes late is used: a worker is still missing, and it may run beside the others."""
        limit = self.settings.concurrency
        room = limit is None or self.exposed < limit
        return self.stopping is None and room and self.roster.at_work < self.target

    def give_up(self, reason: str) -> None:
        """Stop everything, for this one reason."""
        if self.stopping is None:
            self.do(act.StopAll(reason))
            self.stop(ev.Stop(reason, at=self.now))

    def stop(self, event: ev.Stop) -> None:
        """Nothing is invoked any more, and all must go; the first reason counts."""
        self.all_must_go = True
        self.wake = None
        if self.stopping is None:
            self.stopping = event.reason
            detail = {"reason": event.reason, "dollars": round(self.spent, 9)}
            self.log(event, None, None, None, detail)

    def do(self, action: act.Action) -> None:
        self.actions.append(action)

    @property
    def spent(self) -> float:
        """Estimated dollars until now."""
        return self.ledger.spent(self.now) + self.unheard_cost

    @property
    def unheard_cost(self) -> float:
        """Dollars that those may have cost which have yet to be heard of: they may run since they were accepted, in vain."""
        seconds = self.unheard * self.settings.unseen_seconds
        if self.stopping is None:  # else they all will have, once they find nobody
            seconds = min(seconds, self.unheard * self.now - self.unheard_since)
        return self.ledger.request * self.unheard + self.ledger.rate * seconds

    def cost_of(self, one: Invocation) -> float:
        """Estimated dollars of one invocation until now."""
        if one.started_at is None:
            return self._cost_unseen(one)
        end = one.ended_at if one.ended_at is not None else self.now
        return self.ledger.request + self.ledger.rate * max(0.0, end - one.started_at)

    def _cost_unseen(self, one: Invocation) -> float:
        seconds = self.settings.unseen_seconds
        if one.state is State.INVOKED and one.invoked_at is not None and self.stopping is None:
            seconds = min(seconds, self.now - one.invoked_at)
        elif one.state is not State.INVOKED and not one.presumed:
            return 0.0
        return self.ledger.request + self.ledger.rate * seconds

    def expect(self, one: Invocation, is_expected: bool) -> None:
        """It has been accepted and is yet to be heard of, or that is over."""
        assert one.invoked_at is not None
        sign = 1 if is_expected else -1
        self.unheard += sign
        self.unheard_since += sign * one.invoked_at

    def lower_target(self, event: ev.Retire) -> None:
        if event.lower_target:
            self.target = max(0, self.target - 1)

    def heard(self, one: Invocation) -> None:
        """A sign of life; with the first one its costs begin."""
        one.last_seen = self.now
        if one.linked_at is None:
            one.linked_at = self.now
            self.ever_connected = True
            self.start_billing(one, self.now)
            one.deadline = self.now + self.settings.timeout

    def became_ready(self, one: Invocation) -> None:
        if one.ready_at is None:
            one.ready_at = self.now
            self.ever_ready = True

    def note_task(self, one: Invocation, event: ev.Running | ev.Waiting) -> None:
        waiting = isinstance(event, ev.Waiting)
        known = one.tasks.get(event.key)
        if known is not None and known.waiting == waiting:
            return
        if known is None and self.settings.threads == 1:
            self.end_tasks(one)
        elif known is not None and not known.waiting:
            self.end_task(known)
        repeatable = isinstance(event, ev.Running) and event.repeatable
        one.tasks[event.key] = Task(
            event.key, event.stage, event.number, self.now, waiting, repeatable
        )

    def end_tasks(self, one: Invocation) -> None:
        for task in one.tasks.values():
            self.end_task(task)
        one.tasks.clear()

    def end_task(self, task: Task | None) -> None:
        if task is None:
            return
        self.cut_short.forget(task.key)
        if task.repeatable:
            self.stragglers.add(task.stage, self.now - task.since)

    def drain(
        self, one: Invocation, reason: str, told: bool = False, outlived: bool = False
    ) -> Outcome:
        one.reason = reason
        one.drain_until = self.now + self.drain_timeout
        if one.deadline is not None:
            one.drain_until = max(self.now, min(one.drain_until, one.deadline - self.exit_grace))
        self.free_slot(one)
        if not told:
            self.do(act.Drain(one.name, reason))
        if one.address is not None or one.ready_at is not None:
            self.do(act.RetireFromScheduler(one.name, one.address, outlived))
        return State.DRAINING

    def is_outlived(self, one: Invocation) -> bool:
        """Whether it ran one task for most of its time, so that the next worker would fare alike.

        So would it with a task that several workers ran for a worker's whole time together, however late each got it.
        """
        if one.ready_at is None:
            return False
        much = max(OUTLIVED_SECONDS, OUTLIVED * (self.now - one.ready_at))
        outlived = False
        for task in one.tasks.values():
            if not task.waiting:
                passed = self.now - task.since
                in_all = self.cut_short.add(task.key, passed)
                outlived |= passed >= much or in_all >= self.settings.timeout
        return outlived

    def send_away(self, one: Invocation, reason: str) -> Outcome:
        """It holds nothing: it may go at once."""
        self.free_slot(one)
        self.tell_exit(one, reason)
        return State.DRAINING

    def tell_exit(self, one: Invocation, reason: str) -> None:
        one.reason = one.reason or reason
        one.exit_told = self.now
        self.do(act.Exit(one.name, reason))

    def tell_to_leave(self, one: Invocation) -> None:
        if one.exit_told is not None or one.ready_at is None:
            self.tell_exit(one, one.reason)
        else:
            self.do(act.Drain(one.name, one.reason))

    def cut_off(self, one: Invocation) -> None:
        """It does not answer. It may run on unseen until its time is up, and is paid for until then."""
        if one.address is not None or one.ready_at is not None:
            blame = one.state is not State.DRAINING and not one.misses_relay
            self.do(act.RemoveFromScheduler(one.name, one.address, one.reason, blame))
        if one.exit_told is None:
            self.tell_exit(one, one.reason)
        self.do(act.Cut(one.name, one.reason))
        one.cut = True
        if one.started_at is not None and one.deadline is not None and one.deadline > self.now:
            one.ghost_until = one.deadline
            if one.misses_relay:  # without a relay it leaves by itself
                one.ghost_until = min(one.deadline, self.now + LEAVES_WITHIN)
            self.ghosts += 1
            self.ghost_ends += one.ghost_until

    def free_slot(self, one: Invocation, at: float | None = None) -> None:
        if one.slot_held:
            one.slot_held = False
            self.slots.release(one.slot, at)

    def presume(self, one: Invocation) -> None:
        """Nothing was ever heard of it; Lambda may have run it in vain, until it gave up."""
        one.presumed = True
        self.ledger.add(self.settings.unseen_seconds, 1)

    def unpresume(self, one: Invocation) -> None:
        """What it really cost is known now, or will be."""
        if one.presumed:
            one.presumed = False
            self.ledger.add(-self.settings.unseen_seconds, -1)

    def start_billing(self, one: Invocation, at: float) -> None:
        self.unpresume(one)
        if one.started_at is None:
            one.started_at = at
            self.ledger.start(at)

    def settle(self, one: Invocation, billed: float | None) -> None:
        """Correct the costs of one that has ended, or ends now, by the seconds that Lambda bills."""
        if billed is None:
            return
        self.unpresume(one)
        if one.started_at is None:  # it ended without having been seen
            self.ledger.add(billed, 1)
            one.started_at = self.now - billed
            one.ended_at = self.now
        elif one.ended_at is None:
            self.ledger.move_start(one.started_at, self.now - billed)
            one.started_at = self.now - billed
        else:
            self.ledger.add(billed - (one.ended_at - one.started_at))
            one.started_at = one.ended_at - billed

    def end_ghost(self, one: Invocation) -> None:
        assert one.started_at is not None and one.ghost_until is not None
        self.ghost_ends -= one.ghost_until
        one.ended_at = min(self.now, one.ghost_until)
        self.ledger.stop(one.started_at, one.ended_at)
        one.ghost_until = None
        self.ghosts -= 1

    def close(self, one: Invocation, state: State) -> None:
        """It has just ended: its place is free, its costs end, and what went wrong is remembered."""
        blamed = one.blamed
        for task in one.tasks.values():
            if not task.waiting:
                blamed = blamed or task.key
            if task.repeatable:
                self.stragglers.add_cut(task.stage, self.now - task.since)
        one.tasks.clear()
        if one.ended_at is None and one.ghost_until is None:
            one.ended_at = self.now
            if one.started_at is not None:
                self.ledger.stop(one.started_at, self.now)
        wrong = state in (State.LOST, State.FAILED, State.EXPIRED) and one.slot_held
        if not wrong:
            self.free_slot(one)
            return
        if blamed is not None and one.ready_at is not None:
            again = int(self.crashes.add(blamed, 1)) - 1  # how often is the scheduler's to bound
        else:
            self.slots.fail(one.slot, self.now)
            again = self.slots.failures(one.slot, self.now) - (1 if state is State.LOST else 0)
        wait = 0.0
        if again > 0:
            share = jitter(self.settings.seed, one.name, again)
            wait = pause(again, self.settings.backoff, self.settings.backoff_limit, share)
        self.free_slot(one, self.now + wait)
        if one.error is not None and one.ready_at is None:
            self.judge(one.error)

    def judge(self, error: str) -> None:
        if self.ever_ready:
            return
        count = self.breaker.fail(error)
        if count is not None:
            self.give_up(f"the first {count} invocations failed alike: {error.strip()}")

    def log(
        self,
        event: ev.Event,
        one: Invocation | None,
        origin: State | None,
        to: State | None,
        detail: dict[str, Any],
    ) -> None:
        self._log(event.at, event.clock, one, origin, to, type(event).__name__, detail)

    def _log(
        self, at: float, clock: str, one: Invocation | None, origin: State | None, to: State | None,
        kind: str, detail: dict[str, Any],
    ) -> None:  # fmt: skip
        name, request_id = (None, None) if one is None else (one.name, one.request_id)
        self.do(act.LogEntry(at, clock, self.now, name, origin, to, kind, detail, request_id))

    def note(self, one: Invocation, event: ev.InvocationEvent) -> None:
        """A line for what is worth knowing, but changes no state."""
        self.log(event, one, one.state, one.state, detail_of(event))

    def log_born(self, one: Invocation) -> None:
        """The first line of an invocation."""
        self._log(self.now, ev.COORDINATOR, one, None, one.state, "Invoke", {"slot": one.slot})

    def tell(self, text: str) -> None:
        """A line for the user, and for the log."""
        self.do(act.Notice(text))
        self.log_own(None, "Notice", {"text": text})

    def log_own(self, one: Invocation | None, kind: str, detail: dict[str, Any]) -> None:
        """A line for what the fleet does by itself."""
        state = None if one is None else one.state
        self._log(self.now, ev.COORDINATOR, one, state, state, kind, detail)

    def add_twin(
        self, one: Invocation, event: ev.InvocationEvent, request_id: str | None, why: str
    ) -> None:
        one.twins += 1
        twin = Invocation(f"{one.name}~{one.twins + 1}", one.slot, one.serial, self.now)
        twin.state = State.DUPLICATE
        twin.slot_held = False
        twin.request_id = request_id
        twin.reason = why
        twin.started_at = twin.ended_at = self.now
        self.roster.add(twin)
        self.ledger.add(DUPLICATE_SECONDS, 1)
        self.log(event, twin, None, State.DUPLICATE, {"of": one.name, "why": why})


def _prices(settings: FleetSettings) -> Prices:
    try:
        return prices(settings.region, settings.architecture)
    except UnknownPrice:
        if settings.budget is not None:
            raise
        return dearest(settings.architecture)
