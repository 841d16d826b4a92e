"""What a fleet does about the difference between what there is and what is wanted, and what it can pay for."""

from __future__ import annotations

import math

from executors.aws_lambda.fleet import actions as act
from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.effects import NOT_NEEDED, Lifecycle
from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.patience import Patience
from executors.aws_lambda.fleet.settings import FleetSettings
from executors.aws_lambda.fleet.states import State

MOMENT = 0.001
"""Seconds between two looks at the least."""


class Balance(Lifecycle):
    """Invokes what is missing, lets go of what is too much, stops when the money ends."""

    def __init__(self, settings: FleetSettings) -> None:
        super().__init__(settings)
        self._wake: float | None = None
        """When to look again, where only time is in the way."""
        self._retry_queue: dict[str, Invocation] = {}
        """Throttled calls that may be made again as soon as there is a token."""
        self._next_spend = -math.inf
        self._poor_told = False
        self._retries_told = False
        self._no_relay = Patience(settings.notice_after, settings.outage_timeout)
        self._no_worker = Patience(settings.notice_after, settings.outage_timeout)

    def _apply(self, one: Invocation, event: ev.InvocationEvent) -> None:
        raise NotImplementedError

    def _arm(self, one: Invocation) -> None:
        raise NotImplementedError

    # Balance: what is there against what is wanted

    def has_room_for(self, invocation: Invocation) -> bool:
        """One that comes late is used if a worker is still missing, rather than one that may yet come."""
        room = self.settings.concurrency is None or self._exposed() < self.settings.concurrency
        return self.stopping is None and room and self.roster.at_work < self.target

    def _exposed(self) -> int:
        """Execution environments that may exist."""
        return self.roster.live + self.ghosts

    def _balance(self) -> None:
        if self.stopping is not None:
            return
        target, held, at_work = self.target, self.roster.count, self.roster.at_work
        surplus = self.settings.overprovision
        keep = target if at_work >= target else math.ceil(target * surplus)
        if held > keep:
            self._release(held - keep)
        want = at_work + int((target - at_work) * surplus + 0.5) if at_work < target else target
        if held < want or self._retry_queue:
            self._invoke(want - held, want)

    def _release(self, count: int) -> None:
        """Let the least useful go: what is not there yet, then the idle, then who has worked longest."""
        held = self.roster.held
        order = (
            (State.THROTTLED, True), (State.INVOKED, True), (State.REQUESTED, True), (State.CONNECTED, True),
            (State.READY, False), (State.RUNNING, False),
        )  # fmt: skip
        for state, newest in order:
            pool = held[state]
            while pool and count:
                name = next(reversed(pool)) if newest else next(iter(pool))
                self._apply(pool[name], ev.Retire(name, NOT_NEEDED, at=self.now))
                count -= 1

    def _invoke(self, count: int, want: int) -> None:
        """Ask for as many as are missing and may be asked for now; `_wake` is set where only time is in the way."""
        self.slots.grow(want)
        if self.relay_lost_at is not None:  # they could not connect
            return
        limit = self.settings.retries_per_window
        limit = max(20, want) if limit is None else limit
        while self._retry_queue or count > 0:
            if not self._retry_queue:
                if self._is_held_back():
                    return
                wait = self._waits_for_place(limit)
                if wait is not None:
                    self._wait_until(wait)
                    self._judge_hopes(wait)
                    return
                if self._recall():
                    count -= 1
                    continue
            if self.outage.next_at > self.now:
                self._wait_until(self.outage.next_at)
                return
            if not self.bucket.take(self.now):
                self._wait_until(self.bucket.next_at(self.now))
                return
            self.outage.tried(self.now)
            if self._retry_queue:
                one = self._retry_queue.pop(next(iter(self._retry_queue)))
                self._apply(one, ev.RetryDue(one.name, at=self.now))
            else:
                self._request()
                count -= 1

    def _is_held_back(self) -> bool:
        """Other things than time are in the way of one more invocation."""
        settings = self.settings
        if settings.concurrency is not None and self._exposed() >= settings.concurrency:
            return True
        if settings.canaries and not self.ever_connected and self.roster.live >= settings.canaries:
            return True
        return settings.budget is not None and not self._can_afford_one_more(settings.budget)

    def _waits_for_place(self, limit: int) -> float | None:
        """When a place is free and a retry allowed, if that is later than now."""
        place = self.slots.next_free()
        if place is None:
            return math.inf
        wait, slot = place
        if self.slots.failures(slot, self.now):  # those that never went wrong come first
            allowed = self.retries.next_at(self.now, limit)
            wait = wait if allowed is None else max(wait, allowed)
        return wait if wait > self.now else None

    def _wait_until(self, when: float) -> None:
        when = max(when, self.now + MOMENT)
        if when != math.inf:
            self._wake = when if self._wake is None else min(self._wake, when)

    def _judge_hopes(self, wait: float) -> None:
        """Retries are used up: give up if nobody has ever got ready, else say so."""
        if wait <= self.now + self.settings.backoff_limit or wait == math.inf:
            return
        ended = reversed(self.roster.by_name.values())
        last = next((one for one in ended if one.error or one.reason), None)
        why = (last.error or last.reason) if last is not None else "no reason known"
        if not self.roster.live:
            count = sum(self.roster.ended.values())
            none_ready = f"none of {count} invocations got ready"
            none_left = "too many invocations went wrong and no worker is left"
            self.give_up(f"{none_left if self.ever_ready else none_ready}: {why}")
        elif self.ever_ready and not self._retries_told:
            self._retries_told = True
            self._tell(
                f"too many invocations went wrong, the last one: {why}; "
                f"none is replaced for {wait - self.now:.0f} s, {self.roster.at_work} workers are left"
            )

    def _recall(self) -> bool:
        """One that was dismissed and has not shown up yet is wanted after all."""
        if not self.roster.dismissed:
            return False
        taken = self.slots.take(self.now)
        assert taken is not None
        one = next(reversed(self.roster.dismissed.values()))
        one.slot, one.slot_held = taken[0], True
        one.reason = ""
        self.roster.mark(one)
        self._log_own(one, "Recall", {"slot": one.slot})
        return True

    def _request(self) -> None:
        taken = self.slots.take(self.now)
        assert taken is not None
        self._retries_told = False
        slot, serial = taken
        if self.slots.failures(slot, self.now):
            self.retries.note(self.now)
        one = Invocation(f"{self.settings.prefix}-{slot}-{serial}", slot, serial, self.now)
        self.roster.add(one)
        self._do(act.Invoke(one.name, slot))
        self._log_born(one)
        self._arm(one)

    def _watch_hopes(self) -> None:
        """Say it where nobody comes, or nobody can be heard, and end it where that goes on."""
        if self.stopping is not None:
            return
        lost = self.relay_lost_at is not None
        self._be_patient(self._no_relay, lost, "the rendezvous cannot be reached")
        missing = self.target > 0 and not self.roster.at_work and not lost
        self._be_patient(self._no_worker, missing, "no worker is there")

    def _be_patient(self, patience: Patience, lasts: bool, what: str) -> None:
        told = patience.told
        line, over = patience.look(lasts, self.now)
        if line or over:
            text = f"{what} for {patience.passed(self.now):.0f} s"
            if patience is self._no_worker:
                text += f" ({self._states_in_words()}); the last answer: {self._last_answer.rstrip('.')}"
            if over:
                self.give_up(text)
            else:
                self._tell(f"{text}; waiting, for {self.settings.outage_timeout:g} s at most")
        elif told and not lasts and patience is self._no_relay:
            self._tell("the rendezvous can be reached again")
        self._wait_until(patience.next_at)

    def _states_in_words(self) -> str:
        held = ((state, len(pool)) for state, pool in self.roster.held.items())
        return ", ".join(f"{count} {state}" for state, count in held if count) or "none asked for"

    # Money

    def _reserve(self) -> float:
        """Dollars that letting everybody go may still cost."""
        unseen = self.roster.unseen
        seconds = (
            self.ledger.running * self.settings.budget_drain + unseen * self.settings.unseen_seconds
        )
        seconds += max(0.0, self.ghost_ends - self.ghosts * self.now)
        return seconds * self.ledger.rate + unseen * self.ledger.request

    def _can_afford_one_more(self, budget: float) -> bool:
        more = self.settings.unseen_seconds + self.settings.budget_drain
        cost = self.spent + self._reserve() + self.ledger.request + more * self.ledger.rate
        if cost <= budget:
            return True
        if self.roster.live == 0:
            self.give_up(
                f"the budget of ${budget:g} does not pay for one more worker (${self.spent:.4f} are spent)"
            )
        elif not self._poor_told:
            self._poor_told = True
            self._tell(
                f"the budget of ${budget:g} pays for no more than {self.roster.live} workers now"
            )
        return False

    def _watch_budget(self) -> None:
        budget = self.settings.budget
        if self.now >= self._next_spend and self.ledger.running:
            self._next_spend = self.now + self.settings.spend_interval
            spent = {"dollars": round(self.spent, 9), "running": self.ledger.running}
            self._log_own(None, "Spend", spent)
        if budget is None or self.stopping is not None:
            return
        left = budget - self.spent - self._reserve()
        if left <= 0:
            self.drain_timeout = min(self.drain_timeout, self.settings.budget_drain / 2)
            self.exit_grace = min(self.exit_grace, self.settings.budget_drain / 2)
            self.give_up(f"the budget of ${budget:g} is used up (${self.spent:.4f} are spent)")
        elif self.ledger.running and self.ledger.rate:
            self._wait_until(self.now + left / (self.ledger.running * self.ledger.rate))
