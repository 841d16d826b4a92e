"""The options of a Lambda cluster: one table, of which keywords, help, checks, configuration and command are made.

Importing it is cheap, since the command's `--help` needs it.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar, get_type_hints

from executors.aws_lambda.option_values import (
    Check,
    as_it_is,
    cluster_name,
    dollars,
    factor,
    keywords,
    of_fleet,
    of_local_lambda,
    of_scheduler,
    of_worker,
    one_of,
    seconds,
    some_seconds,
    texts,
    whole,
)

if TYPE_CHECKING:
    from executors.rendezvous import Authority

Cluster = TypeVar("Cluster", bound=type)
Time = float | str
"""Seconds, or such as 90s or 5m."""


@dataclass(frozen=True)
class Option:
    """help: what it means; default: its value where nobody gives one; check: what it may be.

    configured: whether `excamera.lambda` in Dask's configuration has it too; none: whether None is a value of its own,
    not the same as leaving it out.
    """

    help: str
    default: Any = None
    check: Check = as_it_is
    configured: bool = True
    none: bool = False

    def __str__(self) -> str:
        """Its meaning with its default."""
        return self.help if self.default in (None, (), {}) else f"{self.help} ({self.default})"


# fmt: off
class LambdaOptions(TypedDict, total=False):
    """Keywords of `LambdaCluster`."""

    backend: Annotated[str | None, Option(
        "aws, a Lambda on this machine (local), or the URL of another server of its API", "aws")]
    backend_options: Annotated[Mapping[str, Any] | None, Option(
        "of the local backend: fields of executors.local_lambda.Settings", {}, keywords(of_local_lambda))]

    region: Annotated[str | None, Option("AWS region; by default as the AWS tools find it")]
    function_name: Annotated[str | None, Option(
        "name of the function, as `excamera lambda deploy` made it", "excamera")]
    memory: Annotated[int | None, Option(
        "MB it must have; by default as it has (local: 1769, one virtual processor)", check=whole(128, 10_240, " MB"))]
    timeout: Annotated[Time | None, Option(
        "how long it may run; by default as it has (local: 900 s)", check=some_seconds)]
    ephemeral_storage: Annotated[int | None, Option(
        "MB of its /tmp; by default as it has", check=whole(512, 10_240, " MB"))]
    architecture: Annotated[str | None, Option(
        "x86_64 or arm64; by default as it has", check=one_of("x86_64", "arm64"))]
    environment: Annotated[Mapping[str, str] | None, Option(
        "its environment variables, on the local backend", {}, texts)]
    tags: Annotated[Mapping[str, str] | None, Option("its tags, on the local backend", {}, texts)]
    versions: Annotated[Mapping[str, str] | None, Option(
        "what its packages must be; by default those that run tasks, as they are here", configured=False)]
    inputs: Annotated[Sequence[str], Option(
        "s3:// URLs that workers will read; where IAM says that its role may not, it is refused", (), configured=False)]
    outputs: Annotated[Sequence[str], Option("the same of what they will write", (), configured=False)]

    relay: Annotated[str | None, Option(
        "HOST:PORT of a rendezvous that runs already, several with commas between; by default one is started here")]
    security: Annotated[Authority | str | Path | None, Option(
        "authority of that rendezvous: its folder, as `excamera rendezvous --authority` made it; in Python also an "
        "Authority")]
    relays: Annotated[int | None, Option(
        "how many to start here otherwise; workers are spread over them", 1, whole(1, 100))]
    host: Annotated[str | None, Option(
        "where those that are started here listen; by default 127.0.0.1 on the local backend, else everywhere")]
    port: Annotated[int | None, Option("the first one's port; 0: any free ones", 0, whole(0, 65_535))]
    advertise: Annotated[str | None, Option(
        "the name or address by which workers reach those that are started here")]

    idle_timeout: Annotated[Time | None, Option(
        "after which time without work a worker is sent home, unless it holds data that nobody else has or can take; "
        "in Python None: never", "60s", seconds, none=True)]
    overprovision: Annotated[float | None, Option(
        "invoke so many times the workers wanted; the surplus goes when enough are there", 1.0, factor)]
    budget: Annotated[float | None, Option(
        "stop before more dollars than this are spent; what is finished is kept", check=dollars)]
    margin: Annotated[Time | None, Option(
        "before the function's time limit, for moving results to other workers", "20s", seconds)]
    start_timeout: Annotated[Time | None, Option(
        "after which time an invocation that nobody has heard of is given up", "90s", some_seconds)]
    worker_options: Annotated[Mapping[str, Any] | None, Option(
        "keywords of distributed.Worker", {}, keywords(of_worker))]
    scheduler_options: Annotated[Mapping[str, Any] | None, Option(
        "keywords of distributed.Scheduler", {}, keywords(of_scheduler))]
    fleet_options: Annotated[Mapping[str, Any] | None, Option(
        "how patient the coordinator is: fields of executors.aws_lambda.fleet.FleetSettings", {}, keywords(of_fleet))]

    name: Annotated[str | None, Option(
        "the cluster's; by default one that no other has", check=cluster_name, configured=False)]
    asynchronous: Annotated[bool, Option("whether it is for use in a running event loop", False, configured=False)]
    loop: Annotated[Any, Option("Tornado's loop to run in; by default one of its own", configured=False)]
    quiet: Annotated[bool, Option("as Dask's other clusters have it", True, configured=False)]
    silence_logs: Annotated[int | str | None, Option(
        "below which level Dask's logs stay off the terminal while it runs; None leaves them as they are",
        logging.WARNING, configured=False, none=True)]
# fmt: on


_PLACES = {"Authority": Any}  # whose import is not cheap
TABLE: dict[str, Option] = {
    "n_workers": Option("invocations wanted", 0, whole(0, 100_000)),
    **{
        name: hint.__metadata__[0]
        for name, hint in get_type_hints(LambdaOptions, None, _PLACES, include_extras=True).items()
    },
}
"""All of them by name; the first one may be given by position."""


def spelt_out(cluster: Cluster) -> Cluster:
    """Give a class that takes `n_workers` and `LambdaOptions` their signature and help; a decorator."""
    hints = {"n_workers": int | None, **get_type_hints(LambdaOptions, None, _PLACES)}
    kinds = [Parameter.POSITIONAL_OR_KEYWORD] + [Parameter.KEYWORD_ONLY] * len(hints)
    cluster.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(name, kind, default=option.default, annotation=hints[name])
            for kind, (name, option) in zip(kinds, TABLE.items(), strict=False)
        ]
    )
    lines = (f"{name}: {option}" for name, option in TABLE.items())
    told = "\n".join(textwrap.fill(line, 100, subsequent_indent="    ") for line in lines)
    cluster.__doc__ = (
        f"{cluster.__doc__}\n    Options, with their defaults:\n\n{textwrap.indent(told, '    ')}\n"
    )
    return cluster
