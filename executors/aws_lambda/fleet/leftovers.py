"""What a coordinator that died may have left running on Lambda."""

from __future__ import annotations

from dataclasses import dataclass

from executors.aws_lambda.fleet.clusters import ClusterFolder
from executors.aws_lambda.fleet.history import Course, read_history

LONGEST = 900.0
"""Seconds that any Lambda function runs at most."""


@dataclass(frozen=True)
class Leftover:
    """An invocation that may still run; `until`: when Lambda ends it at the latest, in seconds since the epoch."""

    name: str
    state: str
    request_id: str | None
    log_stream: str | None
    until: float


def leftovers(folder: ClusterFolder, now: float) -> list[Leftover]:
    """Invocations that had not ended when the log ends, and whose time is not up; none if the cluster ended in order."""
    if folder.card.ended is not None:
        return []
    timeout = float(folder.card.settings.get("timeout", LONGEST))
    live = read_history(folder.read()).live()
    found = [
        Leftover(one.name, str(one.state), one.request_id, one.log_stream, _ends_by(one, timeout))
        for one in live
    ]
    return [one for one in found if one.until > now]


def _ends_by(course: Course, timeout: float) -> float:
    """One that never connected is taken to have begun when Lambda accepted it; it may come later, and ends at once then."""
    if course.connected is not None:
        return course.connected + (course.remaining if course.remaining is not None else timeout)
    begun = course.invoked if course.invoked is not None else course.requested
    return (begun or 0.0) + timeout
