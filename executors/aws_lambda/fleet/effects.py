"""The effects that the transition table names: what one invocation's events do, and the actions they ask for."""

from __future__ import annotations

from executors.aws_lambda.fleet import actions as act
from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.books import DUPLICATE_SECONDS, Books, Outcome
from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.pacing import jitter, pause
from executors.aws_lambda.fleet.states import TERMINAL, UNSEEN, State

NOT_NEEDED = "not needed any more"


class Lifecycle(Books):
    """What happens to single invocations; `Fleet` adds what happens to all of them."""

    # Lambda's answer

    def accepted(self, one: Invocation, event: ev.Invoked) -> Outcome:
        self.outage.end()
        one.invoked_at = self.now
        one.request_id = event.request_id or one.request_id
        self._last_answer = "Lambda accepted the call"
        return State.INVOKED

    def unanswered(self, one: Invocation, event: ev.InvokeUnanswered) -> Outcome:
        self.outage.end()
        one.invoked_at = self.now
        self._last_answer = event.error or "none"
        return State.INVOKED

    def named(self, one: Invocation, event: ev.Invoked) -> Outcome:
        one.request_id = one.request_id or event.request_id
        return None

    def throttled(self, one: Invocation, event: ev.InvokeThrottled) -> Outcome:
        self.outage.end()
        one.attempts += 1
        self._last_answer = f"throttled ({event.reason or 'too many requests'})"
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

    def unsent(self, one: Invocation, event: ev.InvokeUnsent) -> Outcome:
        one.unsent += 1
        self._last_answer = event.error
        if one.dismissed or self.stopping is not None:
            one.reason = NOT_NEEDED
            return State.FINISHED
        if self.outage.since is None:
            self._tell(f"Lambda cannot be reached ({event.error}); trying again until it can be")
        self.outage.begin(self.now)
        one.retry_at = self.now + self.settings.backoff
        return State.THROTTLED

    def asked_again(self, one: Invocation, event: ev.RetryDue) -> Outcome:
        one.retry_at = None
        self._do(act.Invoke(one.name, one.slot, one.attempts + one.unsent))
        return State.REQUESTED

    def refused(self, one: Invocation, event: ev.InvokeRefused) -> Outcome:
        self._last_answer = one.error = event.error
        if event.fatal:
            self.give_up(event.error)
        return State.FAILED

    def never_came(self, one: Invocation, event: ev.Overdue) -> Outcome:
        one.reason = event.what
        self._last_answer = event.what
        self._presume(one)
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
            if one.started_at is None and not one.presumed:
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
        reason = "the function's time is nearly up"
        return self._drain(one, reason, outlived=self._is_outlived(one))

    def leaves(self, one: Invocation, event: ev.Draining) -> Outcome:
        self._heard(one)
        reason = event.reason or "leaves by itself"
        return self._drain(one, reason, told=True, outlived=self._is_outlived(one))

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
        self._last_answer = one.error = event.error
        one.blamed = event.task
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
        one.blamed = event.task
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
