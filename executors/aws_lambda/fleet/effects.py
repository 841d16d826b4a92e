"""The effects in the transition table: what one invocation's events do to the books, and the state that they lead to."""

from __future__ import annotations

from executors.aws_lambda.fleet import actions as act
from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.books import DUPLICATE_SECONDS, Books, Outcome
from executors.aws_lambda.fleet.errors import ImpossibleTransition
from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.pacing import jitter, pause
from executors.aws_lambda.fleet.states import TERMINAL, UNSEEN, State

NOT_NEEDED = "not needed any more"


# What does nothing


def ignored(books: Books, one: Invocation, event: ev.InvocationEvent) -> Outcome:
    """News that comes too late to matter."""
    return None


def impossible(books: Books, one: Invocation, event: ev.InvocationEvent) -> Outcome:
    """An error of ours."""
    raise ImpossibleTransition(
        f"{type(event).__name__} for {one.name}, which is {one.state}: sent twice?"
    )


# Lambda's answer


def accepted(books: Books, one: Invocation, event: ev.Invoked) -> Outcome:
    books.outage.end()
    one.invoked_at = books.now
    one.request_id = event.request_id or one.request_id
    books.last_answer = "Lambda accepted the call"
    return State.INVOKED


def unanswered(books: Books, one: Invocation, event: ev.InvokeUnanswered) -> Outcome:
    books.outage.end()
    one.invoked_at = books.now
    books.last_answer = event.error or "none"
    return State.INVOKED


def named(books: Books, one: Invocation, event: ev.Invoked) -> Outcome:
    one.request_id = one.request_id or event.request_id
    return None


def throttled(books: Books, one: Invocation, event: ev.InvokeThrottled) -> Outcome:
    books.outage.end()
    one.attempts += 1
    books.last_answer = f"throttled ({event.reason or 'too many requests'})"
    books.bucket.empty(books.now)
    if one.dismissed or books.stopping is not None:
        one.reason = NOT_NEEDED
        return State.FINISHED
    if one.attempts > books.settings.throttle_retries:
        one.error = f"throttled {one.attempts} times: {event.reason or 'too many requests'}"
        return State.FAILED
    if "throttled" not in books.told:
        books.told.add("throttled")
        books.tell(
            f"Lambda throttles invocations ({event.reason or 'too many requests'}); "
            f"trying again, up to {books.settings.backoff_limit:g} s apart"
        )
    share = event.jitter
    if share is None:
        share = jitter(books.settings.seed, one.name, one.attempts)
    wait = pause(one.attempts, books.settings.backoff, books.settings.backoff_limit, share)
    one.retry_at = books.now + wait
    return State.THROTTLED


def unsent(books: Books, one: Invocation, event: ev.InvokeUnsent) -> Outcome:
    one.unsent += 1
    books.last_answer = event.error
    if one.dismissed or books.stopping is not None:
        one.reason = NOT_NEEDED
        return State.FINISHED
    if books.outage.since is None:
        books.tell(f"Lambda cannot be reached ({event.error}); trying again until it can be")
    books.outage.begin(books.now)
    one.retry_at = books.now + books.settings.backoff
    return State.THROTTLED


def asked_again(books: Books, one: Invocation, event: ev.RetryDue) -> Outcome:
    one.retry_at = None
    books.do(act.Invoke(one.name, one.slot, one.attempts + one.unsent))
    return State.REQUESTED


def refused(books: Books, one: Invocation, event: ev.InvokeRefused) -> Outcome:
    books.last_answer = one.error = event.error
    if event.fatal:
        books.give_up(event.error)
    return State.FAILED


def never_came(books: Books, one: Invocation, event: ev.Overdue) -> Outcome:
    one.reason = event.what
    books.last_answer = event.what
    books.presume(one)
    return State.EXPIRED


# The worker shows up


def linked(books: Books, one: Invocation, event: ev.InvocationEvent) -> Outcome:
    books.heard(one)
    if not one.dismissed and books.stopping is None:
        return State.CONNECTED
    if isinstance(event, ev.Connected):
        return books.send_away(one, books.stopping or NOT_NEEDED)
    one.reason = books.stopping or NOT_NEEDED  # it is told as soon as it can be
    one.drain_until = books.now + books.drain_timeout
    books.free_slot(one)
    return State.DRAINING


def connected(books: Books, one: Invocation, event: ev.Connected) -> Outcome:
    introduced(books, one, event)
    return linked(books, one, event)


def introduced(books: Books, one: Invocation, event: ev.Connected) -> Outcome:
    books.heard(one)
    one.link_lost_at = None
    one.request_id = event.request_id or one.request_id
    one.log_stream = event.log_stream or one.log_stream
    one.cold = event.cold
    one.memory = event.memory
    if event.remaining is not None:
        one.deadline = books.now + event.remaining
        assert one.started_at is not None
        started = min(books.now, one.deadline - books.settings.timeout)
        started = max(started, one.requested_at)
        books.ledger.move_start(one.started_at, started)
        one.started_at = started
    if one.state is State.DRAINING:  # it had no way to hear it before
        books.tell_to_leave(one)
    if one.state not in UNSEEN and one.state not in TERMINAL:
        books.note(one, event)
    return None


def linked_again(books: Books, one: Invocation, event: ev.LinkUp) -> Outcome:
    one.last_seen = books.now
    one.link_lost_at = None
    return None


def came_late(books: Books, one: Invocation, event: ev.InvocationEvent) -> Outcome:
    """An invocation that had been given up is used if a worker is still missing."""
    if one.cut or one.linked_at is not None or not books.has_room:
        return None
    one.ended_at = None
    one.reason = ""
    books.heard(one)
    return State.CONNECTED


def introduced_late(books: Books, one: Invocation, event: ev.Connected) -> Outcome:
    outcome = came_late(books, one, event)
    if outcome is None:
        books.do(act.Exit(one.name, "came too late"))
        if one.started_at is None and not one.presumed:
            books.ledger.add(DUPLICATE_SECONDS, 1)
    else:
        introduced(books, one, event)
    return outcome


def turned_away(books: Books, one: Invocation, event: ev.Connected) -> Outcome:
    books.do(act.Exit(one.name, "given up before: " + one.reason))
    return None


def not_ready(books: Books, one: Invocation, event: ev.Overdue) -> Outcome:
    one.reason = event.what
    books.cut_off(one)
    return State.EXPIRED


# It works


def ready(books: Books, one: Invocation, event: ev.Ready) -> Outcome:
    books.heard(one)
    one.address = event.address
    if one.dismissed or books.stopping is not None:
        return books.drain(one, books.stopping or NOT_NEEDED)
    books.became_ready(one)
    one.idle_since = books.now
    return State.READY


def ready_again(books: Books, one: Invocation, event: ev.Ready) -> Outcome:
    one.last_seen = books.now
    one.address = event.address or one.address
    return None


def ready_too_late(books: Books, one: Invocation, event: ev.Ready) -> Outcome:
    """It got ready while it was told to leave."""
    one.last_seen = books.now
    one.address = event.address
    books.do(act.RetireFromScheduler(one.name, one.address))
    return None


def works(books: Books, one: Invocation, event: ev.Running | ev.Waiting) -> Outcome:
    books.heard(one)
    if one.dismissed or books.stopping is not None:
        return books.drain(one, books.stopping or NOT_NEEDED)
    books.became_ready(one)
    one.idle_since = None
    books.note_task(one, event)
    return State.RUNNING


def task_done(books: Books, one: Invocation, event: ev.Done) -> Outcome:
    one.last_seen = books.now
    books.end_task(one.tasks.pop(event.key, None))
    if one.tasks:
        return State.RUNNING
    one.idle_since = books.now
    return State.READY


def idles(books: Books, one: Invocation, event: ev.Idle) -> Outcome:
    one.last_seen = one.idle_since = books.now
    books.end_tasks(one)
    return State.READY


def drains_on(books: Books, one: Invocation, event: ev.InvocationEvent) -> Outcome:
    one.last_seen = books.now
    match event:
        case ev.Running() | ev.Waiting():
            books.note_task(one, event)
        case ev.Done():
            books.end_task(one.tasks.pop(event.key, None))
        case _:
            books.end_tasks(one)
    books.note(one, event)
    return None


def beats(books: Books, one: Invocation, event: ev.InvocationEvent) -> Outcome:
    one.last_seen = books.now
    if isinstance(event, ev.Heartbeat) and event.rss is not None:
        one.rss = event.rss
    return None


# It is let go


def dismissed(books: Books, one: Invocation, event: ev.Retire) -> Outcome:
    if not one.dismissed:
        books.lower_target(event)
        books.free_slot(one)
        one.reason = event.reason
        books.roster.mark(one, dismissed=True)
    return None


def cancelled(books: Books, one: Invocation, event: ev.Retire) -> Outcome:
    one.reason = event.reason
    books.lower_target(event)
    return State.FINISHED


def retired(books: Books, one: Invocation, event: ev.Retire) -> Outcome:
    if not one.leaving:
        books.lower_target(event)
    if one.state is State.CONNECTED:
        return books.send_away(one, event.reason)
    return books.drain(one, event.reason)


def time_nearly_up(books: Books, one: Invocation, event: ev.TimeNearlyUp) -> Outcome:
    reason = "the function's time is nearly up"
    return books.drain(one, reason, outlived=books.is_outlived(one))


def leaves(books: Books, one: Invocation, event: ev.Draining) -> Outcome:
    books.heard(one)
    reason = event.reason or "leaves by itself"
    return books.drain(one, reason, told=True, outlived=books.is_outlived(one))


def drained(books: Books, one: Invocation, event: ev.Drained) -> Outcome:
    if one.exit_told is None:
        books.tell_exit(one, one.reason or "drained")
    return None


def drains_too_long(books: Books, one: Invocation, event: ev.DrainOverdue) -> Outcome:
    if one.exit_told is None:
        books.tell_exit(one, "drained too long")
        return None
    books.cut_off(one)
    return State.EXPIRED


# It ends


def finished(books: Books, one: Invocation, event: ev.Finished) -> Outcome:
    one.reason = event.reason or one.reason
    books.settle(one, event.billed)
    return State.FINISHED


def failed(books: Books, one: Invocation, event: ev.Failed) -> Outcome:
    books.last_answer = one.error = event.error
    one.blamed = event.task
    one.log_tail = event.log_tail
    billed = event.billed
    if billed is None and one.started_at is None and one.invoked_at is not None:
        billed = min(books.now - one.invoked_at, books.settings.unseen_seconds)
    books.settle(one, billed)
    return State.FAILED


def link_down(books: Books, one: Invocation, event: ev.LinkDown) -> Outcome:
    if event.relay_lost:
        one.link_lost_at = books.now
        books.note(one, event)
        return None
    one.reason = event.why or "connection lost"
    one.blamed = event.task
    return State.LOST


def gone(books: Books, one: Invocation, event: ev.LinkDown) -> Outcome:
    return None if event.relay_lost else State.FINISHED


def silent(books: Books, one: Invocation, event: ev.Silent) -> Outcome:
    one.reason = event.what
    books.cut_off(one)
    return State.LOST


def finished_after_all(books: Books, one: Invocation, event: ev.Finished) -> Outcome:
    settled(books, one, event)
    return State.FINISHED


def failed_after_all(books: Books, one: Invocation, event: ev.Failed) -> Outcome:
    settled(books, one, event)
    one.error = event.error
    one.log_tail = event.log_tail
    if one.ready_at is None:
        books.judge(event.error)
    return State.FAILED


def settled(books: Books, one: Invocation, event: ev.InvocationEvent) -> Outcome:
    """What was taken to run on has ended."""
    if one.ghost_until is not None:
        books.end_ghost(one)
    if isinstance(event, (ev.Finished, ev.Failed)):
        books.settle(one, event.billed)
    if isinstance(event, ev.Failed):
        one.error = one.error or event.error
        one.log_tail = one.log_tail or event.log_tail
    return None


# Lambda ran it twice


def doubled(books: Books, one: Invocation, event: ev.Refused) -> Outcome:
    books.add_twin(one, event, event.request_id, event.why)
    return None


def doubled_late(books: Books, one: Invocation, event: ev.Connected) -> Outcome:
    books.do(act.Exit(one.name, "ran before"))
    books.add_twin(one, event, event.request_id, "ran before")
    return None
