"""The packages that a distribution needs, at the very versions that run here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from executors.aws_lambda.deploy.errors import DeploymentError


def pinned_requirements(
    distribution: str, also: Iterable[str] = (), markers: Mapping[str, str] | None = None
) -> list[str]:
    """`name==version` of all that `distribution` needs here, sorted, and of `also` (requirements) where installed.

    also: what is not installed here stays as it is written; markers: the environment of the target where it is another,
    such as {"platform_machine": "aarch64"}. Raises: DeploymentError for a package that is missing here.
    """
    found: dict[str, str] = {}
    waiting = list(_needs(distribution, set(), markers))
    loose = []
    for text in also:
        requirement = Requirement(text)
        if _version(requirement.name) is None:
            loose.append(text)
        else:
            waiting.append(requirement)
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        version = _version(name)
        if version is None:
            raise DeploymentError(f"{name} is missing here: pip install {distribution} brings it")
        found[name] = version
        waiting += _needs(name, requirement.extras, markers)
    return sorted([*(f"{name}=={version}" for name, version in found.items()), *loose])


def _needs(
    distribution: str, extras: Iterable[str], markers: Mapping[str, str] | None
) -> Iterator[Requirement]:
    for text in metadata.requires(distribution) or ():
        requirement = Requirement(text)
        environments = [{**(markers or {}), "extra": extra} for extra in (*extras, "")]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            yield requirement


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
