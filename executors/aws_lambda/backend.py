"""Where invocations run: AWS, another server of Lambda's API, or a Lambda on this machine; checked before it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from executors.aws_lambda.deploy import Place, Target, preflight
from executors.aws_lambda.deploy.quotas import read_limits
from executors.aws_lambda.deploy.session import client as make_client
from executors.aws_lambda.deploy.session import open_session
from executors.aws_lambda.errors import InvalidOption, NotDeployed
from executors.aws_lambda.invoker import invoke_config

AWS, LOCAL = "aws", "local"
HANDLER = "executors.aws_lambda.handler.handle"
LOCAL_MEMORY, LOCAL_TIMEOUT, LOCAL_STORAGE = 1769, 900.0, 512


@dataclass(frozen=True)
class FunctionSpec:
    """The function that a cluster wants; None where it takes what the function has.

    memory, ephemeral_storage: MB; timeout: seconds; versions: what its packages must be; inputs, outputs: s3:// URLs that
    it must be able to read, and to write.
    """

    function_name: str = "excamera"
    region: str | None = None
    memory: int | None = None
    timeout: float | None = None
    ephemeral_storage: int | None = None
    architecture: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backend:
    """A function that can be invoked. memory, ephemeral_storage: MB; relay_host: where a relay started here listens."""

    name: str
    client: Any
    function_name: str
    region: str
    memory: int
    timeout: float
    ephemeral_storage: int
    architecture: str
    concurrency: int | None
    relay_host: str
    close: Callable[[], None] = lambda: None
    logs: Any = None
    """A boto3 client of the functions' logs, if they can be read."""
    local: Any = None
    """The Lambda on this machine, where it is one."""


def open_backend(
    spec: str, function: FunctionSpec, workers: int, options: Mapping[str, Any]
) -> Backend:
    """Start or find what `spec` names, and check that the function will do; options: of the local Lambda.

    Raises: NotDeployed, StartFailed, within ten seconds.
    """
    check_backend(spec)
    if spec == LOCAL:
        return _open_local(function, options)
    return _open_remote(spec, function, workers)


def check_backend(spec: str) -> None:
    """Raises NotDeployed for what names no backend, StartFailed where the local one cannot run."""
    if spec == LOCAL:
        from executors.local_lambda.local import check_available

        check_available()
    if spec not in (AWS, LOCAL) and not _is_url(spec):
        raise InvalidOption(
            f"unknown backend {spec!r}: use aws, local or a URL such as http://host:9001"
        )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _open_remote(spec: str, function: FunctionSpec, workers: int) -> Backend:
    place = Place(region=function.region, endpoint_url=None if spec == AWS else spec)
    target = Target(
        function_name=function.function_name,
        place=place,
        workers=workers,
        memory=function.memory or 0,
        timeout=int(function.timeout or 0),
        versions=function.versions,
        worker_inputs=function.inputs,
        worker_outputs=function.outputs,
    )
    for problem in preflight(target):
        raise NotDeployed(str(problem))
    session = open_session(place)
    client = make_client(session, "lambda", place, invoke_config())
    found = client.get_function_configuration(FunctionName=function.function_name)
    _check_architecture(function, found)
    return Backend(
        name=spec,
        client=client,
        function_name=function.function_name,
        region=client.meta.region_name,
        memory=found["MemorySize"],
        timeout=float(found["Timeout"]),
        ephemeral_storage=found.get("EphemeralStorage", {}).get("Size", LOCAL_STORAGE),
        architecture=found.get("Architectures", ["x86_64"])[0],
        concurrency=_concurrency(client, function.function_name),
        relay_host="0.0.0.0",
        logs=make_client(session, "logs", place),
    )


def _check_architecture(function: FunctionSpec, found: dict[str, Any]) -> None:
    has = found.get("Architectures", ["x86_64"])[0]
    if function.architecture not in (None, has):
        raise NotDeployed(
            f"function {function.function_name} runs on {has}, not {function.architecture}: "
            f"run excamera lambda deploy --architecture {function.architecture}"
        )


def _concurrency(client: Any, name: str) -> int | None:
    """Invocations that may run at once; None where that cannot be asked."""
    try:
        return read_limits(client, name).available
    except Exception:
        return None


def _open_local(function: FunctionSpec, options: Mapping[str, Any]) -> Backend:
    from executors.local_lambda import LocalLambda

    memory = function.memory or LOCAL_MEMORY
    timeout = function.timeout or LOCAL_TIMEOUT
    storage = function.ephemeral_storage or LOCAL_STORAGE
    region = {"region": function.region} if function.region else {}
    local = LocalLambda(**{**region, **options})
    local.start()
    try:
        local.create_function(
            function.function_name,
            HANDLER,
            memory=memory,
            timeout=int(timeout),
            ephemeral_storage=storage,
            environment=function.environment,
            Tags=function.tags,
        )
        place = Place(
            region=function.region or local.settings.region, endpoint_url=local.endpoint_url
        )
        client = local.client("lambda", config=invoke_config(place.region))
        # as it is deployed: the coordinator knows better what to repeat
        client.put_function_event_invoke_config(
            FunctionName=function.function_name, MaximumRetryAttempts=0, MaximumEventAgeInSeconds=60
        )
    except BaseException:
        local.stop()
        raise
    return Backend(
        name=LOCAL,
        client=client,
        function_name=function.function_name,
        region=str(place.region),
        memory=memory,
        timeout=timeout,
        ephemeral_storage=storage,
        architecture=function.architecture or "x86_64",
        concurrency=None,
        relay_host=local.host_address,
        close=local.stop,
        logs=local.client("logs"),
        local=local,
    )
