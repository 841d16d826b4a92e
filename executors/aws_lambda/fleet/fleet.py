"""The coordinator's core: events in, actions out.

It holds the target against a Lambda that starts workers late, twice or never, and loses them; it
has no clock, no socket and no chance of its own, so the same events always give the same actions.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

from executors.aws_lambda.fleet import actions as act
from executors.aws_lambda.fleet import events as ev
from executors.aws_lambda.fleet.balance import Balance
from executors.aws_lambda.fleet.books import Outcome
from executors.aws_lambda.fleet.errors import ImpossibleTransition, InvalidSettings
from executors.aws_lambda.fleet.events import detail_of
from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.settings import FleetSettings
from executors.aws_lambda.fleet.snapshot import Snapshot, take_snapshot
from executors.aws_lambda.fleet.states import TERMINAL, State
from executors.aws_lambda.fleet.timers import due
from executors.aws_lambda.fleet.transitions import IGNORE, IMPOSSIBLE, TABLE, Kind

Effect = Callable[[Invocation, Any], Outcome]

PAUSE = 2.0
"""Seconds that a Tick may be late before the coordinator's own pause is not held against the workers."""


class Fleet(Balance):
    """The invocations of one cluster, and what is to be done about them.

    Hand every event to `handle` and carry out what it returns, in order; send a `Tick` at `next_tick()` at the latest.
    """

    def __init__(self, settings: FleetSettings | None = None) -> None:
        super().__init__(settings or FleetSettings())
        self._timers: list[tuple[float, int, Invocation]] = []
        self._sequence = 0
        self._effects: dict[tuple[State, Kind], Effect | None] = {
            pair: None if rule.do in (IGNORE, IMPOSSIBLE) else getattr(self, rule.do)
            for pair, rule in TABLE.items()
        }

    # From outside

    def handle(self, event: ev.Event, now: float | None = None) -> list[act.Action]:
        """What an event asks for.

        now: the coordinator's time, for events by another clock; without it, it stands still for them.

        Raises: ImpossibleTransition for what only an error of the caller can have caused.
        """
        if now is None and event.clock == ev.COORDINATOR:
            now = event.at
        if now is not None and now > self.now:
            self._forgive_pause(now)
            self.now = now
        self._fire_timers()
        if isinstance(event, ev.InvocationEvent):
            one = self.roster.by_name.get(event.name)
            if one is not None:
                self._apply(one, event)
            else:
                self._meet_stranger(event)
        else:
            self._handle_all(event)
        self._wake = None
        self._watch_hopes()
        self._watch_budget()
        self._balance()
        done, self._actions = self._actions, []
        return done

    def next_tick(self) -> float | None:
        """When the next Tick is due at the latest, by the coordinator's clock; None: only after another event."""
        times = [self._timers[0][0]] if self._timers else []
        if self._wake is not None:
            times.append(self._wake)
        return min(times, default=None)

    @property
    def is_over(self) -> bool:
        """True once the fleet was stopped and has let everybody go."""
        return self.stopping is not None and self.roster.live == 0

    @property
    def is_quiet(self) -> bool:
        """True once it was stopped and no worker that ever connected is left; some may never come."""
        return self.stopping is not None and self.roster.live == len(self.roster.dismissed)

    @property
    def workers(self) -> int:
        """Workers that are ready or running and stay for now."""
        return self.roster.at_work

    def get(self, name: str) -> Invocation | None:
        """An invocation by its name."""
        return self.roster.by_name.get(name)

    def snapshot(self) -> Snapshot:
        """What there is to see now."""
        return take_snapshot(self)

    def _repr_html_(self) -> str:
        return self.snapshot()._repr_html_()

    # Events

    def _handle_all(self, event: ev.Event) -> None:
        match event:
            case ev.TargetChanged(workers=workers):
                if workers < 0:
                    raise InvalidSettings(f"a fleet cannot have {workers} workers")
                self.asked = self.target = workers
                self._log(event, None, None, None, {"workers": workers})
            case ev.WorkArrived(tasks=tasks):
                busy = len(self.roster.held[State.RUNNING])
                self.target = max(self.target, min(self.asked, busy + tasks))
            case ev.IdleMayGo(worker=name):
                self._let_idle_go(self.roster.by_name.get(name))
            case ev.RelayLost():
                self._lose_relay(event)
            case ev.RelayBack():
                self._regain_relay(event)
            case ev.Stop(reason=reason, drain=drain):
                self._stop(event, reason, drain)
            case ev.Tick():
                pass
            case _:
                raise ImpossibleTransition(f"{type(event).__name__} is no event for a fleet")

    def _apply(self, one: Invocation, event: ev.InvocationEvent) -> None:
        pair = (one.state, type(event))
        rule = TABLE[pair]
        effect = self._effects[pair]
        if effect is None:
            if rule.do == IMPOSSIBLE:
                raise ImpossibleTransition(
                    f"{type(event).__name__} for {one.name}, which is {one.state}: sent twice?"
                )
            return
        outcome = effect(one, event)
        if outcome is not None:
            assert outcome in rule.to, (one, event, outcome)
            self._move(one, outcome, event)
        if type(event) is not ev.Heartbeat:
            self._arm(one)

    def _move(self, one: Invocation, state: State, event: ev.InvocationEvent) -> None:
        origin = one.state
        was_over = origin in TERMINAL
        self.roster.move(one, state)
        one.since = self.now
        if origin is State.THROTTLED:
            self._retry_queue.pop(one.name, None)
        detail = detail_of(event)
        if len(one.tasks) > 1:
            detail["beside"] = len(one.tasks) - 1
        if state in TERMINAL:
            if not was_over:
                self._close(one, state)
            detail.update(self._outcome_of(one))
        self._log(event, one, origin, state, detail)

    def _outcome_of(self, one: Invocation) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if one.reason:
            found["reason"] = one.reason
        if one.error is not None:
            found["error"] = one.error
        if one.started_at is not None:
            found["started"] = one.started_at
            found["dollars"] = round(self.cost_of(one), 9)
        return found

    def _meet_stranger(self, event: ev.InvocationEvent) -> None:
        """A name of another fleet, or one that was forgotten long ago."""
        if isinstance(event, ev.Connected):
            self._do(act.Exit(event.name, "not known here"))

    def _lose_relay(self, event: ev.Event) -> None:
        if self.relay_lost_at is None:
            self.relay_lost_at = self.now
            self._log(event, None, None, None, {})

    def _regain_relay(self, event: ev.Event) -> None:
        """Workers have some time to come back, from now on."""
        if self.relay_lost_at is None:
            return
        self.relay_lost_at = None
        self._log(event, None, None, None, {})
        for pool in (*self.roster.held.values(), self.roster.leaving, self.roster.draining):
            for one in pool.values():
                if one.linked_at is not None:
                    one.last_seen = one.link_lost_at = self.now
                    self._arm(one)

    # Time

    def _forgive_pause(self, now: float) -> None:
        """The coordinator itself stood still: what its workers said meanwhile has yet to be read."""
        planned = self.next_tick()
        if planned is None or now - planned <= PAUSE or planned < self.now:
            return
        for pool in (*self.roster.held.values(), self.roster.leaving):
            for one in pool.values():
                if one.linked_at is not None:
                    one.last_seen += now - planned
                    if one.link_lost_at is not None:
                        one.link_lost_at += now - planned

    def _fire_timers(self) -> None:
        while self._timers and self._timers[0][0] <= self.now:
            at, _, one = heapq.heappop(self._timers)
            if one.timer_at != at:
                continue
            one.timer_at = None
            self._fire(one)
            self._arm(one)

    def _fire(self, one: Invocation) -> None:
        when, kind = due(one, self)
        if when > self.now:
            return
        match kind:
            case "ghost":
                self._end_ghost(one)
            case "retry":
                one.retry_at = None
                self._retry_queue[one.name] = one
            case "leave":
                self._free_slot(one)
                self.roster.mark(one, leaving=True)
                self._log_own(one, "Leave", {})
            case "idle":
                self._retire_idle(one)
            case "slow":
                self._speculate(one)
            case _:
                assert isinstance(kind, ev.InvocationEvent)
                self._apply(one, kind)

    def _arm(self, one: Invocation) -> None:
        when = due(one, self)[0]
        if when != math.inf and (one.timer_at is None or when < one.timer_at):
            one.timer_at = when
            self._sequence += 1
            heapq.heappush(self._timers, (when, self._sequence, one))

    def _retire_idle(self, one: Invocation) -> None:
        """Whether data would be lost is for whoever runs the scheduler to say; if so, it is asked again later."""
        one.idle_since = self.now
        if self._has_more_than_least():
            self._do(act.AskIdle(one.name))

    def _has_more_than_least(self) -> bool:
        return self.stopping is None and self.target > self.settings.minimum

    def _let_idle_go(self, one: Invocation | None) -> None:
        if one is not None and one.state is State.READY and self._has_more_than_least():
            self._apply(one, ev.Retire(one.name, "idle", lower_target=True, at=self.now))

    def _speculate(self, one: Invocation) -> None:
        for task in one.tasks.values():
            at = self.stragglers.slow_at(task) if task.repeatable else None
            if at is None or at > self.now:
                continue
            self.stragglers.was_slow(task.key, self.now)
            passed = self.now - task.since
            median = self.stragglers.median(task.stage)
            stage = task.stage or ""
            self._do(act.Speculate(one.name, task.key, stage, passed, median))
            detail = {"key": task.key, "stage": stage, "seconds": passed, "median": median}
            self._log_own(one, "Speculate", detail)

    # The end

    def give_up(self, reason: str) -> None:
        """Stop everything, for this one reason."""
        if self.stopping is None:
            self._do(act.StopAll(reason))
            self._stop(ev.Stop(reason, at=self.now), reason, drain=True)

    def _stop(self, event: ev.Event, reason: str, drain: bool) -> None:
        first = self.stopping is None
        self.stopping = self.stopping or reason
        self._wake = None
        if first:
            self._log(event, None, None, None, {"reason": reason, "dollars": round(self.spent, 9)})
        pools = [
            *self.roster.held.values(),
            self.roster.leaving,
        ]
        for one in [one for pool in pools for one in pool.values()]:
            self._apply(one, ev.Retire(one.name, reason, at=self.now))
        if not drain:
            for one in list(self.roster.draining.values()):
                if one.exit_told is None:
                    self._tell_exit(one, reason)
                    self._arm(one)
