"""What a coordinator that died may have left running on Lambda, which has no call that ends an invocation.

A worker leaves by itself when it has lost its coordinator: it notices that its relay is silent (7.5 s), tries to come back to
it (30 s), closes and waits for its task (10 s). An invocation that begins later tries to reach the relay for 20 s.
"""

from __future__ import annotations

from dataclasses import dataclass

from executors.aws_lambda.fleet.books import LEAVES_WITHIN
from executors.aws_lambda.fleet.settings import FleetSettings
from executors.aws_lambda.fleet.states import UNSEEN
from executors.aws_lambda.records.clusters import ClusterFolder
from executors.aws_lambda.records.event_log import OnDamage, refuse
from executors.aws_lambda.records.history import Course, History, read_history

LONGEST = 900.0
"""Seconds that any Lambda function runs at most."""

GIVES_UP_WITHIN = 20.0
"""Seconds after its start in which an invocation leaves that finds no relay."""


@dataclass(frozen=True)
class Leftover:
    """An invocation that may still run.

    by: when it has left by itself, unless it hangs; None where it had not connected: that has left GIVES_UP_WITHIN seconds
    after its start. until: when Lambda ends it at the latest. Both in seconds since the epoch.
    """

    name: str
    state: str
    request_id: str | None
    log_stream: str | None
    by: float | None
    until: float


def leftovers(folder: ClusterFolder, now: float, on_damage: OnDamage = refuse) -> list[Leftover]:
    """Invocations that had not ended when the log ends, and whose time is not up; none if the cluster ended in order.

    on_damage: as of `read_log`.
    """
    if folder.card.ended is not None:
        return []
    timeout = float(folder.card.settings.get("timeout", LONGEST))
    every = float(folder.card.settings.get("spend_interval", FleetSettings.spend_interval))
    history = read_history(folder.read(on_damage))
    by = min(now, _last_sign(history) + every) + LEAVES_WITHIN
    found = [
        Leftover(
            one.name,
            str(one.state),
            one.request_id,
            one.log_stream,
            None if one.state in UNSEEN else by,
            _ends_by(one, timeout),
        )
        for one in history.live()
    ]
    return [one for one in found if one.until > now]


def _last_sign(history: History) -> float:
    """When the coordinator wrote into its log last; while workers run it tells what is spent every few seconds."""
    return history.latest or 0.0


def _ends_by(course: Course, timeout: float) -> float:
    """One that never connected is taken to have begun when Lambda accepted it; it may come later, and ends at once then."""
    if course.connected is not None:
        return course.connected + (course.remaining if course.remaining is not None else timeout)
    begun = course.invoked if course.invoked is not None else course.requested
    return (begun or 0.0) + timeout
