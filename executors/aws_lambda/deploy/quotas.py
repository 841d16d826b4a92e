"""How many invocations may run at once, how fast they may start, and how to be allowed more."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import botocore.exceptions as failures

from executors.aws_lambda.deploy.session import code_of

RAMP = 1000
"""Execution environments that a function may gain ..."""
RAMP_SECONDS = 10.0
"""... in this time, in every region (AWS Lambda developer guide, "Lambda scaling behavior")."""
QUOTA_CODE = "L-B99A9384"
"""Service Quotas' name of Lambda's "Concurrent executions"."""


@dataclass(frozen=True)
class Limits:
    """What an account may run in a region. reserved: of this function, None without a reservation."""

    region: str
    function_name: str
    account: int
    unreserved: int
    reserved: int | None

    @property
    def available(self) -> int:
        """Invocations of this function that may run at once, if no other function runs."""
        return self.unreserved if self.reserved is None else self.reserved

    def refusal(self, workers: int) -> str | None:
        """One line with the fix where `workers` are too many, else None."""
        if workers <= self.available:
            return None
        if self.reserved is not None:
            return (
                f"{workers} workers are more than the {self.reserved} that function {self.function_name} reserves: "
                f"run excamera lambda deploy --reserved-concurrency {workers}, or take -w {self.reserved}"
            )
        return (
            f"{workers} workers are more than the {self.available} concurrent invocations that this account has in "
            f"{self.region}: ask for more with excamera lambda quotas -w {workers} --raise, or take -w {self.available}"
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "available": self.available}


def read_limits(client: Any, function_name: str) -> Limits:
    """Ask Lambda (a boto3 client) for the account's limits and the function's own. Raises what boto3 raises."""
    settings = client.get_account_settings()["AccountLimit"]
    try:
        answer = client.get_function_concurrency(FunctionName=function_name)
        reserved = answer.get("ReservedConcurrentExecutions")
    except failures.ClientError as error:
        if code_of(error) not in ("ResourceNotFoundException", "AccessDeniedException"):
            raise
        reserved = None
    return Limits(
        client.meta.region_name,
        function_name,
        settings["ConcurrentExecutions"],
        settings["UnreservedConcurrentExecutions"],
        reserved,
    )


def ramp_seconds(workers: int) -> float:
    """Seconds until the last of `workers` may start, when all are asked for at once and none is warm."""
    return max(0, -(-workers // RAMP) - 1) * RAMP_SECONDS


def request_raise(service_quotas: Any, workers: int) -> str:
    """Ask AWS for a quota of `workers` concurrent invocations; returns the request's id. Raises what boto3 raises."""
    answer = service_quotas.request_service_quota_increase(
        ServiceCode="lambda", QuotaCode=QUOTA_CODE, DesiredValue=float(workers)
    )
    return str(answer["RequestedQuota"]["Id"])
