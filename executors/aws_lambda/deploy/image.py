"""The image of the workers: its build context, and a container engine that builds and pushes it.

The context holds this very installation as a wheel, the versions that run here as requirements, and a Dockerfile; its
digest names the image, so that a client knows which image is its own without asking for more than a tag.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from executors.aws_lambda.deploy.errors import DeploymentError
from executors.aws_lambda.deploy.requirements import pinned_requirements
from executors.aws_lambda.deploy.versions import minor_python
from executors.aws_lambda.deploy.wheel import write_wheel

ARCHITECTURES = ("x86_64", "arm64")
PLATFORMS = {"x86_64": "linux/amd64", "arm64": "linux/arm64"}
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
RUNTIME_CLIENT = "awslambdaric>=3,<5"
ENGINES = ("docker", "podman")
ZIP_LIMIT = 250 << 20
"""Bytes that a function without an image may unpack to."""
RECORD = "build.json"


@dataclass(frozen=True)
class Recipe:
    """What an image holds: a distribution and its packages, Debian's, and commands run while it is built.

    prepare: a command whose results go to /opt/prepared; check: one that writes versions.json there and fails where a
    worker would; start: the function "module:name" that a worker calls first; processors: LLVM's name of the processor
    by architecture; versions: what the image's list will say.
    """

    distribution: str
    packages: tuple[str, ...]
    system_packages: tuple[str, ...]
    processors: Mapping[str, str]
    debian: str
    prepare: str
    check: str
    start: str
    versions: Mapping[str, str]

    def base(self) -> str:
        """Debian slim with the Python that runs here."""
        return f"python:{minor_python()}-slim-{self.debian}"


@dataclass(frozen=True)
class Context:
    """A written build context; `tag` names the image by what is in it."""

    folder: Path
    tag: str
    architecture: str
    versions: Mapping[str, str]


def write_context(
    recipe: Recipe, folder: Path, architecture: str = "x86_64", base: str | None = None
) -> Context:
    """Write everything that building the image takes into `folder`, which is made.

    Raises: DeploymentError for a missing package or an unknown architecture, OSError.
    """
    if architecture not in ARCHITECTURES:
        raise DeploymentError(
            f"architecture {architecture!r}: Lambda has {' and '.join(ARCHITECTURES)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    wheel = write_wheel(recipe.distribution, recipe.packages, folder)
    machine = {"platform_machine": MACHINES[architecture], "sys_platform": "linux"}
    pins = pinned_requirements(recipe.distribution, [RUNTIME_CLIENT], machine)
    (folder / "requirements.txt").write_text("\n".join([*pins, ""]))
    values = {
        "BASE": base or recipe.base(),
        "CPU": recipe.processors[architecture],
        "PREPARE": recipe.prepare,
        "SYSTEM_PACKAGES": " ".join(recipe.system_packages),
        "CHECK": recipe.check,
        "START": recipe.start,
    }
    (folder / "Dockerfile").write_text(dockerfile(values))
    (folder / ".dockerignore").write_text(f"{RECORD}\n")
    digest = hashlib.sha256(architecture.encode())
    for name in ("Dockerfile", "requirements.txt", wheel.name):
        digest.update((folder / name).read_bytes())
    version = recipe.versions.get(recipe.distribution, "0")
    tag = re.sub(r"[^\w.-]", "-", f"{version}-{architecture}-{digest.hexdigest()[:12]}")
    context = Context(folder, tag, architecture, dict(recipe.versions))
    record = {"tag": tag, "architecture": architecture, "versions": context.versions}
    (folder / RECORD).write_text(json.dumps(record, indent=1))
    return context


def unpacked_size(distribution: str) -> dict[str, int]:
    """Bytes of each installed package that `distribution` needs, the largest first: what a zip would unpack to."""
    found: dict[str, int] = {}
    for pin in pinned_requirements(distribution):
        name = pin.partition("==")[0]
        files = metadata.distribution(name).files or ()
        paths = (Path(str(file.locate())) for file in files if file.suffix != ".pyc")
        found[name] = sum(path.stat().st_size for path in paths if path.is_file())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def dockerfile(values: Mapping[str, str]) -> str:
    """The Dockerfile with a default for each of its ARGs."""
    text = (resources.files(__package__) / "Dockerfile").read_text()

    def given(match: re.Match[str]) -> str:
        return f'ARG {match[1]}="{values[match[1]]}"'

    return re.sub(r"^ARG (\w+)$", given, text, flags=re.M)


def find_engine(name: str | None = None) -> str:
    """A container engine that answers: `name`, or the first of docker and podman.

    Raises: DeploymentError with what to do instead.
    """
    for candidate in (name,) if name else ENGINES:
        path = shutil.which(candidate)
        if path is None:
            continue
        try:
            command = [path, "version"]
            if subprocess.run(command, capture_output=True, timeout=20).returncode == 0:
                return path
        except (OSError, subprocess.TimeoutExpired):
            continue
    raise DeploymentError(
        f"no container engine answers here ({name or ' or '.join(ENGINES)}): start one, or write the build context by "
        "--context-only -o DIR and build it where there is one"
    )


def build_image(engine: str, context: Context, name: str) -> None:
    """Build the context as the image `name`; the engine's own output goes to stderr. Raises: DeploymentError."""
    _engine(
        [engine, "build", "--platform", PLATFORMS[context.architecture], "-t", name, "."],
        context.folder,
        f"building {name} failed",
        environment={"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"},  # Lambda takes no lists of images
    )


def push_image(engine: str, name: str, user: str, password: str) -> None:
    """Log in at the registry of `name` and push it. Raises: DeploymentError."""
    registry = name.partition("/")[0]
    command = [engine, "login", "--username", user, "--password-stdin", registry]
    _engine(command, Path.cwd(), f"logging in at {registry} failed", given=password)
    _engine([engine, "push", name], Path.cwd(), f"pushing {name} failed")


def _engine(
    command: list[str],
    folder: Path,
    failure: str,
    given: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        input=given,
        text=True,
        stdout=sys.stderr,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    if done.returncode:
        raise DeploymentError(
            f"{failure}: {Path(command[0]).name} {command[1]} ended with {done.returncode}, its reasons above"
        )
