"""Find out within seconds what would stop a job, before anything is started or paid for."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NamedTuple

import botocore.exceptions as failures

from executors.aws_lambda.deploy import quotas
from executors.aws_lambda.deploy.errors import DeploymentError
from executors.aws_lambda.deploy.role_access import role_refusals
from executors.aws_lambda.deploy.session import (
    AwsRefused,
    Place,
    client,
    code_of,
    explain,
    is_denied,
    open_session,
)
from executors.aws_lambda.deploy.storage_access import check_input, check_output
from executors.aws_lambda.deploy.versions import VARIABLE, from_text, mismatch

PATIENCE = 9.0
"""Seconds for all checks together; whatever has not answered by then is a problem of its own."""
LARGEST_SKEW = 60.0
"""Seconds that this machine's clock may be off: workers' credentials live for minutes."""


now = time.time


class ConfigurationRefused(DeploymentError):
    """Something that the job needs is not as it must be; one line with the fix."""


class Finding(NamedTuple):
    """What one check found; `fix` says what to do where it is not ok."""

    check: str
    ok: bool
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.fix}" if self.fix else self.text


Problem = Finding
"""A Finding that is not ok."""


@dataclass(frozen=True)
class Target:
    """What a job is about to use. versions: the client's, {} to leave them out; memory: MB; timeout: s; 0 is any.

    inputs, outputs: s3:// URLs that this client reads, and writes; worker_inputs, worker_outputs: those that the function
    does; relay: host:port that must answer, if anything.
    """

    function_name: str = "excamera"
    place: Place = field(default_factory=Place)
    workers: int = 1
    memory: int = 0
    timeout: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    worker_inputs: tuple[str, ...] = ()
    worker_outputs: tuple[str, ...] = ()
    relay: str | None = None

    @property
    def asks_role(self) -> bool:
        """Whether the function itself reads or writes objects."""
        return bool(self.worker_inputs or self.worker_outputs)


def require(target: Target, patience: float = PATIENCE) -> None:
    """Raise ConfigurationRefused with the first problem's line, if there is one."""
    for problem in preflight(target, patience):
        raise ConfigurationRefused(str(problem))


def preflight(target: Target, patience: float = PATIENCE) -> list[Problem]:
    """What would stop the job; [] when nothing is known to. Takes `patience` seconds at most."""
    return [finding for finding in examine(target, patience) if not finding.ok]


def examine(target: Target, patience: float = PATIENCE) -> list[Finding]:
    """All checks, in the order in which they should be mended; those that cannot be made any more are left out."""
    deadline = time.monotonic() + patience
    first = _within(deadline, {"credentials": lambda: _connect(target)})["credentials"]
    if isinstance(first, Finding):
        return [first, *_local_checks(target, deadline)]
    clients, found = first
    checks: dict[str, Callable[[], Any]] = {
        "function": lambda: _function(target, clients),
        "quota": lambda: _quota(target, clients),
    }
    for url in target.inputs:
        checks[f"input {url}"] = partial(_storage, target, clients, url, check_input)
    for url in target.outputs:
        checks[f"output {url}"] = partial(_storage, target, clients, url, check_output)
    if target.asks_role:
        checks["role"] = lambda: _role(target, clients)
    if target.relay:
        checks["relay"] = lambda: _relay(target.relay or "")
    for result in _within(deadline, checks, optional=("role",)).values():
        found += [result] if isinstance(result, Finding) else result
    return found


def _local_checks(target: Target, deadline: float) -> list[Finding]:
    if not target.relay:
        return []
    return list(_within(deadline, {"relay": lambda: _relay(target.relay or "")}).values())


def _within(
    deadline: float, checks: Mapping[str, Callable[[], Any]], optional: Collection[str] = ()
) -> dict[str, Any]:
    """The checks' results, side by side; a Finding says of each that did not answer in time, or failed.

    optional: names of those that are left out when they do not answer.
    """
    results: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def run(name: str, check: Callable[[], Any]) -> None:
        try:
            results.put((name, check()))
        except AwsRefused as error:
            text, _, fix = str(error).partition(": ")
            results.put((name, Finding(name, False, text, fix)))
        except Exception as error:
            results.put((name, Finding(name, False, f"{name}: {type(error).__name__}: {error}")))

    for name, check in checks.items():
        # daemons: one that hangs in a name server or a proxy must not keep the process from ending
        threading.Thread(target=run, args=(name, check), daemon=True).start()
    found: dict[str, Any] = {}
    while len(found) < len(checks):
        try:
            name, result = results.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        found[name] = result
    silent = Finding("", False, "", "check the network, name servers and proxies")
    return {
        name: found.get(name, silent._replace(check=name, text=f"{name}: no answer in time"))
        for name in checks
        if name in found or name not in optional
    }


def _connect(target: Target) -> tuple[dict[str, Any], list[Finding]]:
    session = open_session(target.place)
    services = ["lambda"]
    if target.inputs or target.outputs or target.asks_role:
        services.append("s3")
    if target.asks_role:
        services.append("iam")
    clients = {name: client(session, name, target.place) for name in services}
    method = session.get_credentials().method
    found = [
        Finding("credentials", True, f"credentials found ({method})"),
        Finding("region", True, f"region {session.region_name}"),
    ]
    return clients, found


def _function(target: Target, clients: Mapping[str, Any]) -> list[Finding]:
    """Whether the function is there, ready, large enough, and has the client's versions; and whose clock is right."""
    name, region = target.function_name, clients["lambda"].meta.region_name
    try:
        configuration = clients["lambda"].get_function_configuration(FunctionName=name)
    except failures.ClientError as error:
        if code_of(error) == "ResourceNotFoundException":
            fix = f"run excamera lambda deploy --region {region}, or name the region that has it"
            return [Finding("function", False, f"there is no function {name} in {region}", fix)]
        raise AwsRefused(explain(error, target.place)) from None
    except failures.BotoCoreError as error:
        raise AwsRefused(explain(error, target.place)) from None
    skew = _skew(configuration)
    return [*_judge(target, configuration), _versions(target, configuration), *skew]


def _judge(target: Target, configuration: Mapping[str, Any]) -> list[Finding]:
    name = target.function_name
    state = configuration.get("State", "Active")
    if state != "Active":
        reason = configuration.get("StateReason") or "no reason given"
        fix = "wait a minute" if state == "Pending" else "run excamera lambda deploy"
        return [Finding("function", False, f"function {name} is {state.lower()} ({reason})", fix)]
    found = []
    for what, needed, unit, option in (
        ("MemorySize", target.memory, "MB of memory", "--memory"),
        ("Timeout", target.timeout, "s", "--timeout"),
    ):
        if configuration.get(what, needed) < needed:
            text = f"function {name} has {configuration[what]} {unit}, this job needs {needed}"
            fix = f"run excamera lambda deploy {option} {needed}"
            found.append(Finding("function", False, text, fix))
    if found:
        return found
    size = f"{configuration.get('MemorySize')} MB, {configuration.get('Timeout')} s"
    return [Finding("function", True, f"function {name} is there ({size})")]


def _versions(target: Target, configuration: Mapping[str, Any]) -> Finding:
    variables = configuration.get("Environment", {}).get("Variables", {})
    theirs = from_text(variables.get(VARIABLE, ""))
    if not target.versions:
        return Finding("versions", True, "versions not compared")
    line = mismatch(theirs, target.versions, who=f"function {target.function_name}")
    if line is None:
        return Finding("versions", True, "the function has the versions of this client")
    text, _, fix = line.partition(": ")
    return Finding("versions", False, text, fix)


def _skew(answer: Mapping[str, Any]) -> list[Finding]:
    """How far this machine's clock is from AWS's, by the date of an answer."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if not date:
        return []
    skew = now() - parsedate_to_datetime(date).timestamp()
    if abs(skew) <= LARGEST_SKEW:
        return [Finding("clock", True, f"clock within {max(1, round(abs(skew)))} s of AWS's")]
    way = "ahead of" if skew > 0 else "behind"
    text = f"the clock of this machine is {abs(skew):.0f} s {way} AWS's"
    return [Finding("clock", False, text, "set it (timedatectl set-ntp true)")]


def _quota(target: Target, clients: Mapping[str, Any]) -> list[Finding]:
    """Whether as many invocations may run at once as the job has workers; nothing where that cannot be asked."""
    try:
        limits = quotas.read_limits(clients["lambda"], target.function_name)
    except (failures.ClientError, failures.BotoCoreError) as error:
        if isinstance(error, failures.ClientError) and is_denied(error):
            return [Finding("quota", True, "quota unknown (no right to GetAccountSettings)")]
        return []  # the function's own check tells what is wrong
    line = limits.refusal(target.workers)
    if line is None:
        text = f"{limits.available} concurrent invocations allowed, {target.workers} wanted"
        return [Finding("quota", True, text)]
    text, _, fix = line.partition(": ")
    return [Finding("quota", False, text, fix)]


def _storage(
    target: Target, clients: Mapping[str, Any], url: str, check: Callable[[Any, str], str | None]
) -> Finding:
    name = check.__name__.removeprefix("check_")
    try:
        line = check(clients["s3"], url)
    except (failures.ClientError, failures.BotoCoreError) as error:
        line = explain(error, target.place)
    if line is None:
        return Finding(name, True, f"{url} can be {'read' if name == 'input' else 'written'}")
    text, _, fix = line.rpartition(": ")
    return Finding(name, False, text, fix)


def _role(target: Target, clients: Mapping[str, Any]) -> list[Finding]:
    """Whether the function's role has the rights that the job needs, where the caller may ask IAM that."""
    asked = (target.function_name, target.worker_inputs, target.worker_outputs)
    refusals = role_refusals(clients, *asked)
    if refusals is None:
        text = "rights of the function's role unknown (IAM cannot be asked for them)"
        return [Finding("role", True, text)]
    found = []
    for line in refusals:
        text, _, fix = line.rpartition(": ")
        found.append(Finding("role", False, text, fix))
    fine = Finding("role", True, "the function's role may read and write what it must")
    return found or [fine]


def _relay(address: str) -> Finding:
    """Whether a TCP connection to the relay can be made from here."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except (OSError, ValueError) as error:
        text = f"the relay at {address} does not answer ({_reason(error)})"
        fix = "start it (excamera rendezvous), and open its port in the security group"
        return Finding("relay", False, text, fix)
    return Finding("relay", True, f"the relay at {address} answers")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return (getattr(error, "strerror", None) or str(error)).lower()
