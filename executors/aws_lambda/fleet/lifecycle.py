"""The effects that the transition table names: what one invocation's events do, and the actions they ask for."""

from __future__ import annotations

from typing import Any

from executors.aws_lambda.fleet import actions as act
from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.breaker import Breaker, RetryLimit
from executors.aws_lambda.fleet.details import detail_of
from executors.aws_lambda.fleet.errors import UnknownPrice
from executors.aws_lambda.fleet.invocation import Invocation, Roster, Task
from executors.aws_lambda.fleet.ledger import Ledger
from executors.aws_lambda.fleet.pacing import TokenBucket, jitter, pause
from executors.aws_lambda.fleet.pricing import Prices, dearest, prices
from executors.aws_lambda.fleet.settings import FleetSettings
from executors.aws_lambda.fleet.slots import Slots
from executors.aws_lambda.fleet.states import TERMINAL, UNSEEN, State
from executors.aws_lambda.fleet.stragglers import Stragglers

Outcome = State | None
"""The state that an effect leads to; None: the invocation stays where it is."""

NOT_NEEDED = "not needed any more"
DUPLICATE_SECONDS = 1.0
"""What a second execution is taken to run before it has been turned away."""


class Lifecycle:
    """What happens to single invocations; `Fleet` adds what happens to all of them."""

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
        self.ledger = Ledger(
            price.per_second(settings.memory, settings.ephemeral_storage), price.request
        )
        self.stragglers = Stragglers(
            settings.straggler_factor, settings.straggler_seconds, settings.straggler_samples
        )
        self.breaker = Breaker(settings.breaker)
        self.retries = RetryLimit(settings.retry_window)
        self.ghosts = 0
        self.ever_connected = False
        self.ever_ready = False
        self.drain_timeout = settings.drain_timeout
        self.exit_grace = settings.exit_grace
        self._actions: list[act.Action] = []
        self._throttle_told = False

    # What the fleet does for all

    def give_up(self, reason: str) -> None:
        """Stop everything, for this one reason."""
        raise NotImplementedError

    def has_room_for(self, invocation: Invocation) -> bool:
        """Whether one that comes late is still of use."""
        raise NotImplementedError

    def _do(self, action: act.Action) -> None:
        self._actions.append(action)

    # Lambda's answer

    def accepted(self, one: Invocation, event: ev.Invoked) -> Outcome:
        one.invoked_at = self.now
        one.request_id = event.request_id or one.request_id
        return State.INVOKED

    def unanswered(self, one: Invocation, event: ev.InvokeUnanswered) -> Outcome:
        one.invoked_at = self.now
        return State.INVOKED

    def named(self, one: Invocation, event: ev.Invoked) -> Outcome:
        one.request_id = one.request_id or event.request_id
        return None

    def throttled(self, one: Invocation, event: ev.InvokeThrottled) -> Outcome:
        one.attempts += 1
        self.bucket.empty(self.now)
        if one.dismissed or self.stopping is not None:
            one.reason = NOT_NEEDED
            return State.FINISHED
        if one.attempts > self.settings.throttle_retries:
            one.error = f"throttled {one.attempts} times: {event.reason or 'too many requests'}"
            return State.FAILED
        if not self._throttle_told:
            self._throttle_told = True
            self._tell(
                f"Lambda throttles invocations ({event.reason or 'too many requests'}); "
                f"trying again, up to {self.settings.backoff_limit:g} s apart"
            )
        share = event.jitter
        if share is None:
            share = jitter(self.settings.seed, one.name, one.attempts)
        wait = pause(one.attempts, self.settings.backoff, self.settings.backoff_limit, share)
        one.retry_at = self.now + wait
        return State.THROTTLED

    def asked_again(self, one: Invocation, event: ev.RetryDue) -> Outcome:
        one.retry_at = None
        self._do(act.Invoke(one.name, one.slot, one.attempts))
        return State.REQUESTED

    def refused(self, one: Invocation, event: ev.InvokeRefused) -> Outcome:
        one.error = event.error
        if event.fatal:
            self.give_up(event.error)
        return State.FAILED

    def never_came(self, one: Invocation, event: ev.Overdue) -> Outcome:
        one.reason = event.what
        return State.EXPIRED

    # The worker shows up

    def linked(self, one: Invocation, event: ev.InvocationEvent) -> Outcome:
        self._heard(one)
        if not one.dismissed and self.stopping is None:
            return State.CONNECTED
        if isinstance(event, ev.Connected):
            return self._send_away(one, self.stopping or NOT_NEEDED)
        one.reason = self.stopping or NOT_NEEDED  # it is told as soon as it can be
        one.drain_until = self.now + self.drain_timeout
        self._free_slot(one)
        return State.DRAINING

    def connected(self, one: Invocation, event: ev.Connected) -> Outcome:
        self.introduced(one, event)
        return self.linked(one, event)

    def introduced(self, one: Invocation, event: ev.Connected) -> Outcome:
        self._heard(one)
        one.link_lost_at = None
        one.request_id = event.request_id or one.request_id
        one.log_stream = event.log_stream or one.log_stream
        one.cold = event.cold
        one.memory = event.memory
        if event.remaining is not None:
            one.deadline = self.now + event.remaining
            assert one.started_at is not None
            started = min(self.now, one.deadline - self.settings.timeout)
            started = max(started, one.requested_at)
            self.ledger.move_start(one.started_at, started)
            one.started_at = started
        if one.state is State.DRAINING:  # it had no way to hear it before
            self._tell_to_leave(one)
        if one.state not in UNSEEN and one.state not in TERMINAL:
            self._note(one, event)
        return None

    def linked_again(self, one: Invocation, event: ev.LinkUp) -> Outcome:
        one.last_seen = self.now
        one.link_lost_at = None
        return None

    def came_late(self, one: Invocation, event: ev.InvocationEvent) -> Outcome:
        """An invocation that had been given up is used if a worker is still missing."""
        if one.cut or one.linked_at is not None or not self.has_room_for(one):
            return None
        one.ended_at = None
        one.reason = ""
        self._heard(one)
        return State.CONNECTED

    def introduced_late(self, one: Invocation, event: ev.Connected) -> Outcome:
        outcome = self.came_late(one, event)
        if outcome is None:
            self._do(act.Exit(one.name, "came too late"))
            if one.started_at is None:
                self.ledger.add(DUPLICATE_SECONDS, 1)
        else:
            self.introduced(one, event)
        return outcome

    def turned_away(self, one: Invocation, event: ev.Connected) -> Outcome:
        self._do(act.Exit(one.name, "given up before: " + one.reason))
        return None

    def not_ready(self, one: Invocation, event: ev.Overdue) -> Outcome:
        one.reason = event.what
        self._cut_off(one)
        return State.EXPIRED

    # It works

    def ready(self, one: Invocation, event: ev.Ready) -> Outcome:
        self._heard(one)
        one.address = event.address
        if one.dismissed or self.stopping is not None:
            return self._drain(one, self.stopping or NOT_NEEDED)
        self._became_ready(one)
        one.idle_since = self.now
        return State.READY

    def ready_again(self, one: Invocation, event: ev.Ready) -> Outcome:
        one.last_seen = self.now
        one.address = event.address or one.address
        return None

    def ready_too_late(self, one: Invocation, event: ev.Ready) -> Outcome:
        """It got ready while it was told to leave."""
        one.last_seen = self.now
        one.address = event.address
        self._do(act.RetireFromScheduler(one.name, one.address))
        return None

    def works(self, one: Invocation, event: ev.Running | ev.Waiting) -> Outcome:
        self._heard(one)
        if one.dismissed or self.stopping is not None:
            return self._drain(one, self.stopping or NOT_NEEDED)
        self._became_ready(one)
        one.idle_since = None
        self._note_task(one, event)
        return State.RUNNING

    def task_done(self, one: Invocation, event: ev.Done) -> Outcome:
        one.last_seen = self.now
        self._end_task(one.tasks.pop(event.key, None))
        if one.tasks:
            return State.RUNNING
        one.idle_since = self.now
        return State.READY

    def idles(self, one: Invocation, event: ev.Idle) -> Outcome:
        one.last_seen = one.idle_since = self.now
        self._end_tasks(one)
        return State.READY

    def drains_on(self, one: Invocation, event: ev.InvocationEvent) -> Outcome:
        one.last_seen = self.now
        if isinstance(event, (ev.Running, ev.Waiting)):
            self._note_task(one, event)
        elif isinstance(event, ev.Done):
            self._end_task(one.tasks.pop(event.key, None))
        else:
            self._end_tasks(one)
        self._note(one, event)
        return None

    def beats(self, one: Invocation, event: ev.InvocationEvent) -> Outcome:
        one.last_seen = self.now
        if isinstance(event, ev.Heartbeat) and event.rss is not None:
            one.rss = event.rss
        return None

    # It is let go

    def dismissed(self, one: Invocation, event: ev.Retire) -> Outcome:
        if not one.dismissed:
            self._lower_target(event)
            self._free_slot(one)
            one.reason = event.reason
            self.roster.mark(one, dismissed=True)
        return None

    def cancelled(self, one: Invocation, event: ev.Retire) -> Outcome:
        one.reason = event.reason
        self._lower_target(event)
        return State.FINISHED

    def retired(self, one: Invocation, event: ev.Retire) -> Outcome:
        if not one.leaving:
            self._lower_target(event)
        if one.state is State.CONNECTED:
            return self._send_away(one, event.reason)
        return self._drain(one, event.reason)

    def time_nearly_up(self, one: Invocation, event: ev.TimeNearlyUp) -> Outcome:
        return self._drain(one, "the function's time is nearly up")

    def leaves(self, one: Invocation, event: ev.Draining) -> Outcome:
        self._heard(one)
        return self._drain(one, event.reason or "leaves by itself", told=True)

    def drained(self, one: Invocation, event: ev.Drained) -> Outcome:
        if one.exit_told is None:
            self._tell_exit(one, one.reason or "drained")
        return None

    def drains_too_long(self, one: Invocation, event: ev.DrainOverdue) -> Outcome:
        if one.exit_told is None:
            self._tell_exit(one, "drained too long")
            return None
        self._cut_off(one)
        return State.EXPIRED

    # It ends

    def finished(self, one: Invocation, event: ev.Finished) -> Outcome:
        one.reason = event.reason or one.reason
        self._settle(one, event.billed)
        return State.FINISHED

    def failed(self, one: Invocation, event: ev.Failed) -> Outcome:
        one.error = event.error
        one.log_tail = event.log_tail
        billed = event.billed
        if billed is None and one.started_at is None and one.invoked_at is not None:
            billed = min(self.now - one.invoked_at, self.settings.unseen_seconds)
        self._settle(one, billed)
        return State.FAILED

    def link_down(self, one: Invocation, event: ev.LinkDown) -> Outcome:
        if event.relay_lost:
            one.link_lost_at = self.now
            self._note(one, event)
            return None
        one.reason = event.why or "connection lost"
        return State.LOST

    def gone(self, one: Invocation, event: ev.LinkDown) -> Outcome:
        return None if event.relay_lost else State.FINISHED

    def silent(self, one: Invocation, event: ev.Silent) -> Outcome:
        one.reason = event.what
        self._cut_off(one)
        return State.LOST

    def finished_after_all(self, one: Invocation, event: ev.Finished) -> Outcome:
        self.settled(one, event)
        return State.FINISHED

    def failed_after_all(self, one: Invocation, event: ev.Failed) -> Outcome:
        self.settled(one, event)
        one.error = event.error
        one.log_tail = event.log_tail
        if one.ready_at is None:
            self._judge(event.error)
        return State.FAILED

    def settled(self, one: Invocation, event: ev.InvocationEvent) -> Outcome:
        """What was taken to run on has ended."""
        if one.ghost_until is not None:
            self._end_ghost(one)
        if isinstance(event, (ev.Finished, ev.Failed)):
            self._settle(one, event.billed)
        if isinstance(event, ev.Failed):
            one.error = one.error or event.error
            one.log_tail = one.log_tail or event.log_tail
        return None

    # Lambda ran it twice

    def doubled(self, one: Invocation, event: ev.Refused) -> Outcome:
        self._add_twin(one, event, event.request_id, event.why)
        return None

    def doubled_late(self, one: Invocation, event: ev.Connected) -> Outcome:
        self._do(act.Exit(one.name, "ran before"))
        self._add_twin(one, event, event.request_id, "ran before")
        return None

    def _add_twin(
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
        self._log(event, twin, None, State.DUPLICATE, {"of": one.name, "why": why})

    # Parts of the above

    def _lower_target(self, event: ev.Retire) -> None:
        if event.lower_target:
            self.target = max(0, self.target - 1)

    def _heard(self, one: Invocation) -> None:
        """A sign of life; with the first one its costs begin."""
        one.last_seen = self.now
        if one.linked_at is None:
            one.linked_at = self.now
            self.ever_connected = True
            self._start_billing(one, self.now)
            one.deadline = self.now + self.settings.timeout

    def _became_ready(self, one: Invocation) -> None:
        if one.ready_at is None:
            one.ready_at = self.now
            self.ever_ready = True
            self.breaker.succeed()

    def _note_task(self, one: Invocation, event: ev.Running | ev.Waiting) -> None:
        waiting = isinstance(event, ev.Waiting)
        known = one.tasks.get(event.key)
        if known is not None and known.waiting == waiting:
            return
        if known is None and self.settings.threads == 1:
            self._end_tasks(one)
        elif known is not None and not known.waiting:
            self._end_task(known)
        one.tasks[event.key] = Task(event.key, event.stage, event.number, self.now, waiting)

    def _end_tasks(self, one: Invocation) -> None:
        for task in one.tasks.values():
            self._end_task(task)
        one.tasks.clear()

    def _end_task(self, task: Task | None) -> None:
        if task is not None and not task.waiting:
            self.stragglers.add(task.stage, self.now - task.since)

    def _drain(self, one: Invocation, reason: str, told: bool = False) -> Outcome:
        one.reason = reason
        one.drain_until = self.now + self.drain_timeout
        if one.deadline is not None:
            one.drain_until = max(self.now, min(one.drain_until, one.deadline - self.exit_grace))
        self._free_slot(one)
        if not told:
            self._do(act.Drain(one.name, reason))
        if one.address is not None or one.ready_at is not None:
            self._do(act.RetireFromScheduler(one.name, one.address))
        return State.DRAINING

    def _send_away(self, one: Invocation, reason: str) -> Outcome:
        """It holds nothing: it may go at once."""
        self._free_slot(one)
        self._tell_exit(one, reason)
        return State.DRAINING

    def _tell_exit(self, one: Invocation, reason: str) -> None:
        one.reason = one.reason or reason
        one.exit_told = self.now
        self._do(act.Exit(one.name, reason))

    def _tell_to_leave(self, one: Invocation) -> None:
        if one.exit_told is not None or one.ready_at is None:
            self._tell_exit(one, one.reason)
        else:
            self._do(act.Drain(one.name, one.reason))

    def _cut_off(self, one: Invocation) -> None:
        """It does not answer. It may run on unseen until its time is up, and is paid for until then."""
        if one.address is not None or one.ready_at is not None:
            self._do(act.RemoveFromScheduler(one.name, one.address, one.reason))
        if one.exit_told is None:
            self._tell_exit(one, one.reason)
        self._do(act.Cut(one.name, one.reason))
        one.cut = True
        if one.started_at is not None and one.deadline is not None and one.deadline > self.now:
            one.ghost_until = one.deadline
            self.ghosts += 1

    def _free_slot(self, one: Invocation, at: float | None = None) -> None:
        if one.slot_held:
            one.slot_held = False
            self.slots.release(one.slot, at)

    def _start_billing(self, one: Invocation, at: float) -> None:
        if one.started_at is None:
            one.started_at = at
            self.ledger.start(at)

    def _settle(self, one: Invocation, billed: float | None) -> None:
        """Correct the costs of one that has ended, or ends now, by the seconds that Lambda bills."""
        if billed is None:
            return
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

    def _end_ghost(self, one: Invocation) -> None:
        assert one.started_at is not None and one.ghost_until is not None
        one.ended_at = min(self.now, one.ghost_until)
        self.ledger.stop(one.started_at, one.ended_at)
        one.ghost_until = None
        self.ghosts -= 1

    def _close(self, one: Invocation, state: State) -> None:
        """It has just ended: its place is free, its costs end, and what went wrong is remembered."""
        one.tasks.clear()
        if one.started_at is not None and one.ended_at is None and one.ghost_until is None:
            one.ended_at = self.now
            self.ledger.stop(one.started_at, self.now)
        elif one.ended_at is None and one.ghost_until is None:
            one.ended_at = self.now
        wrong = state in (State.LOST, State.FAILED, State.EXPIRED) and one.slot_held
        if not wrong:
            self._free_slot(one)
            return
        self.slots.fail(one.slot, self.now)
        again = self.slots.failures(one.slot, self.now) - (1 if state is State.LOST else 0)
        wait = 0.0
        if again > 0:
            share = jitter(self.settings.seed, one.name, again)
            wait = pause(again, self.settings.backoff, self.settings.backoff_limit, share)
        self._free_slot(one, self.now + wait)
        if one.error is not None and one.ready_at is None:
            self._judge(one.error)

    def _judge(self, error: str) -> None:
        count = self.breaker.fail(error)
        if count is not None and not self.ever_ready:
            self.give_up(f"the first {count} invocations failed alike: {error.strip()}")

    def _log(
        self,
        event: ev.Event,
        one: Invocation | None,
        origin: State | None,
        to: State | None,
        detail: dict[str, Any],
    ) -> None:
        name = request_id = None
        if one is not None:
            name, request_id = one.name, one.request_id
        kind = type(event).__name__
        self._do(
            act.LogEntry(
                event.at, event.clock, self.now, name, origin, to, kind, detail, request_id
            )
        )

    def _note(self, one: Invocation, event: ev.InvocationEvent) -> None:
        """A line for what is worth knowing, but changes no state."""
        self._log(event, one, one.state, one.state, detail_of(event))

    def _tell(self, text: str) -> None:
        """A line for the user, and for the log."""
        self._do(act.Notice(text))
        self._log_own(None, "Notice", {"text": text})

    def _log_own(self, one: Invocation | None, kind: str, detail: dict[str, Any]) -> None:
        """A line for what the fleet does by itself."""
        name = state = request_id = None
        if one is not None:
            name, state, request_id = one.name, one.state, one.request_id
        self._do(
            act.LogEntry(
                self.now, ev.COORDINATOR, self.now, name, state, state, kind, detail, request_id
            )
        )


def _prices(settings: FleetSettings) -> Prices:
    try:
        return prices(settings.region, settings.architecture)
    except UnknownPrice:
        if settings.budget is not None:
            raise
        return dearest(settings.architecture)
