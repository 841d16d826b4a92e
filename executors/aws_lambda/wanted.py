"""What a Lambda cluster is asked to be: keywords, or else Dask's configuration, as the values of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from executors.aws_lambda.backend import Backend, FunctionSpec
from executors.aws_lambda.config import setting
from executors.aws_lambda.deploy.versions import installed
from executors.aws_lambda.fleet import FleetSettings
from executors.aws_lambda.option_values import check_names
from executors.aws_lambda.options import TABLE
from executors.aws_lambda.relays import RelaySpec

Spec = TypeVar("Spec", FunctionSpec, RelaySpec)


class Wanted(dict[str, Any]):
    """The options of `options.TABLE`, each checked, by name. Raises InvalidOption, TypeError for one that there is not."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        try:
            check_names("LambdaCluster", given, TABLE)
        except ValueError as error:
            raise TypeError(f"unexpected keyword argument: {error}") from None
        super().__init__({name: _value(name, given) for name in TABLE})

    @property
    def function(self) -> FunctionSpec:
        """What the function must be."""
        return self._of(FunctionSpec)

    @property
    def relays(self) -> RelaySpec:
        """Which relays."""
        return self._of(RelaySpec)

    @property
    def threads(self) -> int:
        """Tasks that one worker runs at once."""
        return int(self["worker_options"].get("nthreads") or 1)

    def _of(self, kind: type[Spec]) -> Spec:
        return kind(**{field.name: self[field.name] for field in fields(kind)})

    def fleet_settings(self, backend: Backend, prefix: str) -> FleetSettings:
        """How a fleet of that function is to behave; prefix: of its invocations' names."""
        options: dict[str, Any] = {
            "memory": backend.memory,
            "timeout": backend.timeout,
            "ephemeral_storage": backend.ephemeral_storage,
            "architecture": backend.architecture,
            "region": backend.region,
            "concurrency": backend.concurrency,
            "overprovision": self["overprovision"],
            "idle_timeout": self["idle_timeout"],
            "budget": self["budget"],
            "appear_timeout": self["start_timeout"],
            "deadline_margin": self["margin"],
            "threads": self.threads,
            "prefix": prefix,
        }
        return FleetSettings(**{**options, **self["fleet_options"]})


def _value(name: str, given: Mapping[str, Any]) -> Any:
    value = given.get(name)
    if value is None and name in given and TABLE[name].none:
        return None
    if name == "versions" and value is None:
        return installed()
    return setting(name.replace("_", "-"), value)
