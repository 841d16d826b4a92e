"""What a Lambda cluster is asked to be: keywords, or else Dask's configuration, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from executors.aws_lambda.backend import Backend, FunctionSpec
from executors.aws_lambda.config import CONFIGURED, setting
from executors.aws_lambda.deploy.versions import installed
from executors.aws_lambda.fleet import FleetSettings
from executors.aws_lambda.relays import RelaySpec


@dataclass(frozen=True)
class ClusterOptions:
    """The keywords of `LambdaCluster`, which tells their meaning."""

    function: FunctionSpec
    relays: RelaySpec
    backend: str
    backend_options: dict[str, Any]
    worker_options: dict[str, Any]
    scheduler_options: dict[str, Any]
    fleet_options: dict[str, Any]
    idle_timeout: float | None
    overprovision: float
    budget: float | None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> ClusterOptions:
        """From keywords, None where they were not given. Raises InvalidOption."""

        def chosen(name: str) -> Any:
            return setting(name.replace("_", "-"), given[name])

        versions, security = given["versions"], given["security"]
        return cls(
            function=FunctionSpec(
                region=chosen("region"),
                function_name=chosen("function_name"),
                memory=chosen("memory"),
                timeout=chosen("timeout"),
                ephemeral_storage=chosen("ephemeral_storage"),
                architecture=chosen("architecture"),
                environment=chosen("environment"),
                tags=chosen("tags"),
                versions=dict(installed() if versions is None else versions),
                inputs=tuple(given["inputs"]),
                outputs=tuple(given["outputs"]),
            ),
            relays=RelaySpec(
                given=chosen("relay"),
                authority=security if security is not None else setting("security"),
                count=chosen("relays"),
                host=chosen("host"),
                port=chosen("port"),
                advertise=chosen("advertise"),
            ),
            backend=chosen("backend"),
            backend_options=chosen("backend_options"),
            worker_options=chosen("worker_options"),
            scheduler_options=chosen("scheduler_options"),
            fleet_options=chosen("fleet_options"),
            idle_timeout=_idle_timeout(given["idle_timeout"]),
            overprovision=chosen("overprovision"),
            budget=chosen("budget"),
        )

    def fleet_settings(self, backend: Backend, prefix: str) -> FleetSettings:
        """How a fleet of that function is to behave; prefix: of its invocations' names."""
        options: dict[str, Any] = {
            "memory": backend.memory,
            "timeout": backend.timeout,
            "ephemeral_storage": backend.ephemeral_storage,
            "architecture": backend.architecture,
            "region": backend.region,
            "concurrency": backend.concurrency,
            "overprovision": self.overprovision,
            "idle_timeout": self.idle_timeout,
            "budget": self.budget,
            "appear_timeout": setting("start-timeout"),
            "deadline_margin": setting("margin"),
            "threads": int(self.worker_options.get("nthreads", 1)),
            "prefix": prefix,
        }
        return FleetSettings(**{**options, **self.fleet_options})


def _idle_timeout(given: Any) -> float | None:
    """Seconds; None for never, which the configuration may say too."""
    if given is None:
        return None
    found: float | None = setting("idle-timeout", None if given == CONFIGURED else given)
    return found
