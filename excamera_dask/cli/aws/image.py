"""`excamera lambda build`: an image of this very installation, with its kernels compiled, in ECR."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from excamera_dask.cli.aws.options import (
    ARCHITECTURES,
    aws_clients,
    json_option,
    make_place,
    place_options,
)
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import notice, print_json


@click.command(short_help="Build the workers' image and push it to ECR.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the build context in this folder.",
)
@click.option(
    "--context-only",
    is_flag=True,
    help="Only write the build context to --output; needs neither engine nor AWS.",
)
@click.option("--no-push", is_flag=True, help="Build the image, but leave it on this machine.")
@click.option(
    "--architecture",
    type=ARCHITECTURES,
    default="x86_64",
    show_default=True,
    help="Of the function; another than this machine's needs emulation in the engine.",
)
@click.option(
    "--repository",
    default="excamera",
    show_default=True,
    help="Repository in ECR, made if it is not there.",
)
@click.option("--base", help="Another base image than Debian slim with this Python.")
@click.option("--engine", help="docker, podman or a path; by default the first that answers.")
@click.option("--force", is_flag=True, help="Build and push even if ECR has this image.")
@click.option(
    "--package",
    type=click.Choice(["image", "zip"]),
    default="image",
    show_default=True,
    help="Form of the function's code.",
)
@json_option
@place_options
def build(
    region: str | None,
    profile: str | None,
    endpoint_url: str | None,
    output: Path | None,
    context_only: bool,
    no_push: bool,
    architecture: str,
    repository: str,
    base: str | None,
    engine: str | None,
    force: bool,
    package: str,
    as_json: bool,
) -> None:
    """Build the image of the workers from what is installed here: same Python, same versions, same sources.

    The kernels are compiled in it for the processor level that every Lambda has, and loaded once as a worker would.

    \b
    excamera lambda build
    excamera lambda build --architecture arm64
    excamera lambda build --context-only -o context/      then: docker build context/
    """  # fmt: skip
    from excamera_dask.lambda_image import recipe, vpxenc_version
    from executors.aws_lambda.deploy import image

    if package == "zip":
        _refuse_zip()
    if context_only and output is None:
        raise click.UsageError("--context-only needs -o DIR for the context")
    made = recipe()
    if vpxenc_version() not in (None, *_known_libvpx()):
        notice(f"note: the image has Debian {made.debian}'s vpxenc, not {vpxenc_version()} as here")
    with _folder(output) as folder:
        context = image.write_context(made, folder, architecture, base)
        result: dict[str, Any] = {
            "tag": context.tag,
            "architecture": architecture,
            "versions": dict(context.versions),
            "context": str(folder) if output else None,
            "image": None,
        }
        if not context_only:
            path = image.find_engine(engine)
            place = make_place(region, profile, endpoint_url)
            if no_push:
                result["image"] = f"{repository}:{context.tag}"
                image.build_image(path, context, result["image"])
            else:
                result["image"] = _build_and_push(path, context, place, repository, force)
    _tell(result, as_json, context_only)


def _known_libvpx() -> tuple[str, ...]:
    from excamera_dask.lambda_image import DEBIAN_OF_LIBVPX

    return tuple(DEBIAN_OF_LIBVPX)


def _build_and_push(engine: str, context: Any, place: Any, repository: str, force: bool) -> str:
    from executors.aws_lambda.deploy import image, registry

    with aws_clients(place) as client:
        ecr = client("ecr")
        address = registry.ensure_repository(ecr, repository, {})
        present = registry.find_image(ecr, repository, context.tag)
        if present is not None and not force:
            notice(f"{repository}:{context.tag} is in ECR already; --force builds it anew")
            return present.uri
        name = f"{address}:{context.tag}"
        image.build_image(engine, context, name)
        image.push_image(engine, name, *registry.login(ecr))
        pushed = registry.find_image(ecr, repository, context.tag)
    return name if pushed is None else pushed.uri


def _refuse_zip() -> None:
    """Tell by how much this installation exceeds what a function without an image may have."""
    from excamera_dask.lambda_image import DISTRIBUTION
    from executors.aws_lambda.deploy.image import ZIP_LIMIT, unpacked_size

    sizes = unpacked_size(DISTRIBUTION)
    total, limit = sum(sizes.values()), ZIP_LIMIT >> 20
    largest = ", ".join(f"{name} {size >> 20}" for name, size in list(sizes.items())[:3])
    if total > ZIP_LIMIT:
        raise Failure(
            f"a zip may unpack to {limit} MiB, this installation has {total >> 20} ({largest}, ...): build an image"
        )
    raise Failure("zip packages are not made here: build an image, which starts as fast")


@contextlib.contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    if output is not None:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="excamera-image-") as folder:
        yield Path(folder)


def _tell(result: dict[str, Any], as_json: bool, context_only: bool) -> None:
    if as_json:
        print_json(result)
    elif context_only:
        notice(
            f"{result['context']}: complete; build it with docker build -t excamera:{result['tag']} {result['context']}"
        )
    else:
        notice(f"{result['image']}: excamera lambda deploy takes it from here")
