"""What a fleet does about the difference between what there is and what is wanted: it invokes what is missing, lets go of what
is too much, and stops when hope or money ends."""

from __future__ import annotations

import math

from executors.aws_lambda.fleet import actions as act
from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.applying import apply
from executors.aws_lambda.fleet.books import Books
from executors.aws_lambda.fleet.effects import NOT_NEEDED
from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.patience import Patience
from executors.aws_lambda.fleet.states import State
from executors.aws_lambda.fleet.timers import arm

MOMENT = 0.001
"""Seconds between two looks at the least."""


# Balance: what is there against what is wanted


def balance(books: Books) -> None:
    if books.stopping is not None:
        return
    target, held, at_work = books.target, books.roster.count, books.roster.at_work
    surplus = books.settings.overprovision
    keep = target if at_work >= target else math.ceil(target * surplus)
    if held > keep:
        _release(books, held - keep)
    want = at_work + int((target - at_work) * surplus + 0.5) if at_work < target else target
    if held < want or books.retry_queue:
        _invoke(books, want - held, want)


def _release(books: Books, count: int) -> None:
    """Let the least useful go: what is not there yet, then the idle, then who has worked longest."""
    held = books.roster.held
    order = (
        (State.THROTTLED, True), (State.INVOKED, True), (State.REQUESTED, True), (State.CONNECTED, True),
        (State.READY, False), (State.RUNNING, False),
    )  # fmt: skip
    for state, newest in order:
        pool = held[state]
        while pool and count:
            name = next(reversed(pool)) if newest else next(iter(pool))
            apply(books, pool[name], ev.Retire(name, NOT_NEEDED, at=books.now))
            count -= 1


def _invoke(books: Books, count: int, want: int) -> None:
    """Ask for as many as are missing and may be asked for now; `books.wake` is set where only time is in the way."""
    books.slots.grow(want)
    if books.relay_lost_at is not None:  # they could not connect
        return
    limit = books.settings.retries_per_window
    limit = max(20, want) if limit is None else limit
    while books.retry_queue or count > 0:
        if not books.retry_queue:
            if _is_held_back(books):
                return
            wait = _waits_for_place(books, limit)
            if wait is not None:
                _wait_until(books, wait)
                _judge_hopes(books, wait)
                return
            if _recall(books):
                count -= 1
                continue
        if books.outage.next_at > books.now:
            _wait_until(books, books.outage.next_at)
            return
        if not books.bucket.take(books.now):
            _wait_until(books, books.bucket.next_at(books.now))
            return
        books.outage.tried(books.now)
        if books.retry_queue:
            one = books.retry_queue.pop(next(iter(books.retry_queue)))
            apply(books, one, ev.RetryDue(one.name, at=books.now))
        else:
            _request(books)
            count -= 1


def _is_held_back(books: Books) -> bool:
    """Other things than time are in the way of one more invocation."""
    settings = books.settings
    if settings.concurrency is not None and books.exposed >= settings.concurrency:
        return True
    if settings.canaries and not books.ever_connected and books.roster.live >= settings.canaries:
        return True
    return settings.budget is not None and not _can_afford_one_more(books, settings.budget)


def _waits_for_place(books: Books, limit: int) -> float | None:
    """When a place is free and a retry allowed, if that is later than now."""
    place = books.slots.next_free()
    if place is None:
        return math.inf
    wait, slot = place
    if books.slots.failures(slot, books.now):  # those that never went wrong come first
        allowed = books.retries.next_at(books.now, limit)
        wait = wait if allowed is None else max(wait, allowed)
    return wait if wait > books.now else None


def _wait_until(books: Books, when: float) -> None:
    when = max(when, books.now + MOMENT)
    if when != math.inf:
        books.wake = when if books.wake is None else min(books.wake, when)


def _judge_hopes(books: Books, wait: float) -> None:
    """Retries are used up: give up if nobody has ever got ready, else say so."""
    if wait <= books.now + books.settings.backoff_limit or wait == math.inf:
        return
    ended = reversed(books.roster.by_name.values())
    last = next((one for one in ended if one.error or one.reason), None)
    why = (last.error or last.reason) if last is not None else "no reason known"
    if not books.roster.live:
        count = sum(books.roster.ended.values())
        none_ready = f"none of {count} invocations got ready"
        none_left = "too many invocations went wrong and no worker is left"
        books.give_up(f"{none_left if books.ever_ready else none_ready}: {why}")
    elif books.ever_ready and "retries" not in books.told:
        books.told.add("retries")
        books.tell(
            f"too many invocations went wrong, the last one: {why}; "
            f"none is replaced for {wait - books.now:.0f} s, {books.roster.at_work} workers are left"
        )


def _recall(books: Books) -> bool:
    """One that was dismissed and has not shown up yet is wanted after all."""
    if not books.roster.dismissed:
        return False
    taken = books.slots.take(books.now)
    assert taken is not None
    one = next(reversed(books.roster.dismissed.values()))
    one.slot, one.slot_held = taken[0], True
    one.reason = ""
    books.roster.mark(one)
    books.log_own(one, "Recall", {"slot": one.slot})
    return True


def _request(books: Books) -> None:
    taken = books.slots.take(books.now)
    assert taken is not None
    books.told.discard("retries")
    slot, serial = taken
    if books.slots.failures(slot, books.now):
        books.retries.note(books.now)
    one = Invocation(f"{books.settings.prefix}-{slot}-{serial}", slot, serial, books.now)
    books.roster.add(one)
    books.do(act.Invoke(one.name, slot))
    books.log_born(one)
    arm(books, one)


def watch_hopes(books: Books) -> None:
    """Say it where nobody comes, or nobody can be heard, and end it where that goes on."""
    if books.stopping is not None:
        return
    lost = books.relay_lost_at is not None
    _be_patient(books, books.no_relay, lost, "the rendezvous cannot be reached")
    missing = books.target > 0 and not books.roster.at_work and not lost
    _be_patient(books, books.no_worker, missing, "no worker is there")


def _be_patient(books: Books, patience: Patience, lasts: bool, what: str) -> None:
    told = patience.told
    line, over = patience.look(lasts, books.now)
    if line or over:
        text = f"{what} for {patience.passed(books.now):.0f} s"
        if patience is books.no_worker:
            text += (
                f" ({_states_in_words(books)}); the last answer: {books.last_answer.rstrip('.')}"
            )
        if over:
            books.give_up(text)
        else:
            books.tell(f"{text}; waiting, for {books.settings.outage_timeout:g} s at most")
    elif told and not lasts and patience is books.no_relay:
        books.tell("the rendezvous can be reached again")
    _wait_until(books, patience.next_at)


def _states_in_words(books: Books) -> str:
    held = ((state, len(pool)) for state, pool in books.roster.held.items())
    return ", ".join(f"{count} {state}" for state, count in held if count) or "none asked for"


# Money


def _reserve(books: Books) -> float:
    """Dollars that letting everybody go may still cost, beside those that are counted as spent."""
    unseen = books.roster.unseen
    seconds = (
        books.ledger.running * books.settings.budget_drain + unseen * books.settings.unseen_seconds
    )
    seconds += max(0.0, books.ghost_ends - books.ghosts * books.now)
    return seconds * books.ledger.rate + unseen * books.ledger.request - books.unheard_cost


def _can_afford_one_more(books: Books, budget: float) -> bool:
    more = books.settings.unseen_seconds + books.settings.budget_drain
    cost = books.spent + _reserve(books) + books.ledger.request + more * books.ledger.rate
    if cost <= budget:
        return True
    if books.roster.live == 0:
        books.give_up(
            f"the budget of ${budget:g} does not pay for one more worker (${books.spent:.4f} are spent)"
        )
    elif "poor" not in books.told:
        books.told.add("poor")
        books.tell(
            f"the budget of ${budget:g} pays for no more than {books.roster.live} workers now"
        )
    return False


def watch_budget(books: Books) -> None:
    budget = books.settings.budget
    if books.now >= books.next_spend and (books.ledger.running or books.unheard):
        books.next_spend = books.now + books.settings.spend_interval
        spent = {"dollars": round(books.spent, 9), "running": books.ledger.running}
        books.log_own(None, "Spend", spent)
    if books.unheard:  # nobody's heartbeats make it look again
        _wait_until(books, books.next_spend)
    if budget is None or books.stopping is not None:
        return
    left = budget - books.spent - _reserve(books)
    if left <= 0:
        books.drain_timeout = min(books.drain_timeout, books.settings.budget_drain / 2)
        books.exit_grace = min(books.exit_grace, books.settings.budget_drain / 2)
        books.give_up(f"the budget of ${budget:g} is used up (${books.spent:.4f} are spent)")
    elif books.ledger.running and books.ledger.rate:
        _wait_until(books, books.now + left / (books.ledger.running * books.ledger.rate))
