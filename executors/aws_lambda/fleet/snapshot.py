"""What there is to see of a fleet at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from executors.aws_lambda.fleet.invocation import Invocation
from executors.aws_lambda.fleet.states import LIVE, State

if TYPE_CHECKING:
    from executors.aws_lambda.fleet.fleet import Fleet


@dataclass(frozen=True, slots=True)
class InvocationView:
    """One invocation: `seconds` in its state, `rss` in bytes, `cost` in dollars until now."""

    name: str
    state: str
    seconds: float
    stage: str | None = None
    key: str | None = None
    number: int | None = None
    waiting: bool = False
    rss: int | None = None
    cost: float = 0.0
    address: str | None = None
    log_stream: str | None = None
    request_id: str | None = None
    remaining: float | None = None
    reason: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A fleet at the time `at`: what is asked for, what there is, what it costs."""

    at: float
    asked: int
    target: int
    at_work: int
    counts: Mapping[str, int]
    spent: float
    budget: float | None
    dollars_per_hour: float
    stopping: str | None
    invocations: tuple[InvocationView, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def _repr_html_(self) -> str:
        from executors.aws_lambda.fleet.views import to_html

        return to_html(self)

    def __rich__(self) -> Any:
        from executors.aws_lambda.fleet.views import to_rich

        return to_rich(self)


def take_snapshot(fleet: Fleet) -> Snapshot:
    """The live invocations and the latest that ended, and the counts of all."""
    counts = dict.fromkeys(map(str, State), 0)
    for one in fleet.roster:
        if one.state in LIVE:
            counts[one.state] += 1
    for state, count in fleet.roster.ended.items():
        counts[state] = count
    return Snapshot(
        at=fleet.now,
        asked=fleet.asked,
        target=fleet.target,
        at_work=fleet.roster.at_work,
        counts=counts,
        spent=fleet.spent,
        budget=fleet.settings.budget,
        dollars_per_hour=3600 * fleet.ledger.rate * fleet.ledger.running,
        stopping=fleet.stopping,
        invocations=tuple(_view(one, fleet) for one in fleet.roster),
    )


def _view(one: Invocation, fleet: Fleet) -> InvocationView:
    task = next(iter(one.tasks.values()), None)
    return InvocationView(
        name=one.name,
        state=str(one.state),
        seconds=max(0.0, fleet.now - (task.since if task else one.since)),
        stage=task.stage if task else None,
        key=task.key if task else None,
        number=task.number if task else None,
        waiting=task.waiting if task else False,
        rss=one.rss,
        cost=fleet.cost_of(one),
        address=one.address,
        log_stream=one.log_stream,
        request_id=one.request_id,
        remaining=None if one.deadline is None else one.deadline - fleet.now,
        reason=one.reason,
        error=one.error,
    )
