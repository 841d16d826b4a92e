"""`excamera lambda`: build the workers' image, deploy the function, look at what is deployed, take it away."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from excamera_dask.cli.aws.checks import cost, doctor, policy, quotas
from excamera_dask.cli.aws.image import build
from excamera_dask.cli.aws.local_lambda import local
from excamera_dask.cli.aws.options import (
    ARCHITECTURES,
    FunctionName,
    S3Url,
    Tag,
    aws_clients,
    json_option,
    make_place,
    name_option,
    place_options,
)
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import notice, print_json

DAYS = ["1", "3", "5", "7", "14", "30", "60", "90", "180", "365"]


@click.group("lambda", short_help="Workers on AWS Lambda: build, deploy, check, price.")
def aws_lambda() -> None:
    """Workers on AWS Lambda: build their image, deploy the function, check it, price a job.

    \b
    excamera lambda build                  the image of this installation, pushed to ECR
    excamera lambda deploy --input s3://films/in/ --output s3://films/out/
    excamera lambda doctor -w 1000         whether a job of 1,000 workers could run
    excamera plan s3://films/in/a.mkv --executor lambda -w 1000
    excamera encode s3://films/in/a.mkv -o s3://films/out/a.webm --executor lambda -w 1000
    """


@click.command(short_help="Make or change the function and what belongs to it.")
@name_option
@click.option("--image", help="Image by its address in ECR; by default this installation's.")
@click.option("--repository", help="Repository in ECR (excamera).")
@click.option("--architecture", type=ARCHITECTURES, help="Of the function (x86_64).")
@click.option(
    "--memory", type=click.IntRange(128, 10240), help="MB; 1769, which are one whole processor."
)
@click.option(
    "--timeout", type=click.IntRange(1, 900), help="Seconds that a worker may live (900)."
)
@click.option(
    "--storage", type=click.IntRange(512, 10240), help="MB of /tmp (512, which cost nothing)."
)
@click.option(
    "--reserved-concurrency",
    type=click.IntRange(min=0),
    help="Invocations kept for this function, and its limit.",
)
@click.option("--retention", type=click.Choice(DAYS), help="Days that logs are kept (7).")
@click.option("--input", "input_url", type=S3Url(), help="All that workers may read: a prefix.")
@click.option("--output", "output_url", type=S3Url(), help="All that workers may write: a prefix.")
@click.option(
    "--tag", "tags", type=Tag(), multiple=True, help="Tag of everything that is made; repeatable."
)
@click.option(
    "--instance", help="Also an EC2 instance of this type for coordinator and rendezvous."
)
@click.option(
    "--relay-cidr",
    help="Addresses from which workers reach the instance's relay, such as 10.0.0.0/16.",
)
@click.option(
    "--relay-port",
    type=click.IntRange(1024, 65535),
    help="The one open port of the instance (8785).",
)
@click.option(
    "--permissions-boundary", "boundary", help="ARN of a policy that no role made here goes beyond."
)
@click.option("--vpc", help="VPC of the instance; by default the default one.")
@click.option("--subnet", help="Subnet of the instance.")
@click.option(
    "--without",
    type=click.Choice(["input", "output", "reservation", "instance"]),
    multiple=True,
    help="Take this away again; repeatable.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the template and its parameters as JSON; change nothing."
)
@json_option
@place_options
def deploy(
    region: str | None,
    profile: str | None,
    endpoint_url: str | None,
    as_json: bool,
    dry_run: bool,
    image: str | None,
    **options: Any,
) -> None:
    """Make the function with its role, log and limits as one CloudFormation stack, or change what is given of it.

    The role can write the function's log, read --input, read and write --output, and nothing else. When something fails,
    everything is as before.

    \b
    excamera lambda deploy --input s3://films/in/ --output s3://films/out/
    excamera lambda deploy --memory 3008 --reserved-concurrency 1000 --tag project=film
    excamera lambda deploy --instance c7i.large --relay-cidr 0.0.0.0/0
    excamera lambda deploy --without instance
    """
    from executors.aws_lambda.deploy import stack

    if dry_run:
        deployment = _deployment(options, image or "IMAGE")
        print_json({"parameters": deployment.parameters(), "template": stack.template()})
        return
    with aws_clients(make_place(region, profile, endpoint_url)) as client:
        cloudformation = client("cloudformation")
        present = stack.describe(cloudformation, options["function_name"])
        before = stack.parameters_of(present or {})
        found = image or _own_image(
            client("ecr"),
            options["repository"] or before.get("Repository", "excamera"),
            options["architecture"] or before.get("Architecture", "x86_64"),
        )
        deployment = _deployment(options, found)
        outputs = stack.deploy(cloudformation, deployment, notice)
    if as_json:
        print_json({"function": deployment.function_name, "image": found, **outputs})
        return
    done = {"UNCHANGED": "is as it was", "CREATE_COMPLETE": "is there"}
    notice(f"function {deployment.function_name} {done.get(outputs['Status'], 'is changed')}")
    if "RelayAddress" in outputs:
        notice(f"the relay's address will be {outputs['RelayAddress']}")


def _deployment(options: dict[str, Any], image: str) -> Any:
    from excamera_dask.lambda_image import image_versions
    from executors.aws_lambda.deploy.stack import Deployment

    names = (
        "function_name",
        "architecture",
        "repository",
        "memory",
        "timeout",
        "storage",
        "reserved_concurrency",
    )
    return Deployment(
        image=image,
        versions=image_versions(),
        retention=int(options["retention"]) if options["retention"] else None,
        input=options["input_url"],
        output=options["output_url"],
        instance=_instance(options),
        boundary=options["boundary"],
        tags=dict(options["tags"]),
        without=frozenset(options["without"]),
        **{name: options[name] for name in names},
    )  # fmt: skip


def _instance(options: dict[str, Any]) -> Any:
    from executors.aws_lambda.deploy.stack import Instance

    if not options["instance"]:
        return None
    if not options["relay_cidr"]:
        raise click.UsageError(
            "--instance needs --relay-cidr: the addresses from which workers reach its relay (functions outside a VPC: "
            "0.0.0.0/0, TLS with certificates on both sides guards the port)"
        )
    return Instance(
        options["instance"],
        options["relay_cidr"],
        options["relay_port"] or 8785,
        options["vpc"] or "",
        options["subnet"] or "",
    )


def _own_image(ecr: Any, repository: str, architecture: str) -> str:
    """The image in ECR that was built from just this installation."""
    import tempfile

    from excamera_dask.lambda_image import recipe
    from executors.aws_lambda.deploy.image import write_context
    from executors.aws_lambda.deploy.registry import find_image

    with tempfile.TemporaryDirectory(prefix="excamera-image-") as folder:
        tag = write_context(recipe(), Path(folder), architecture).tag
    image = find_image(ecr, repository, tag)
    if image is None:
        raise Failure(
            f"there is no image {repository}:{tag} of this installation in {ecr.meta.region_name}: "
            f"run excamera lambda build{'' if architecture == 'x86_64' else f' --architecture {architecture}'}"
        )
    return image.uri


@click.command("list", short_help="The functions that were deployed from here.")
@json_option
@place_options
def list_functions(
    region: str | None, profile: str | None, endpoint_url: str | None, as_json: bool
) -> None:
    """List the functions of this account and region that excamera made."""
    from executors.aws_lambda.deploy import stack

    with aws_clients(make_place(region, profile, endpoint_url)) as client:
        rows = [_row(found) for found in stack.list_stacks(client("cloudformation"))]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        size = f"{row['memory']} MB, {row['timeout']} s, {row['architecture']}"
        click.echo(f"{row['name']:<24} {row['status']:<20} {size}, excamera-dask {row['version']}")
    if not rows:
        notice("no functions here: excamera lambda deploy makes one")


def _row(found: dict[str, Any]) -> dict[str, Any]:
    from executors.aws_lambda.deploy import stack
    from executors.aws_lambda.deploy.versions import DISTRIBUTION, from_text

    parameters, outputs = stack.parameters_of(found), stack.outputs_of(found)
    versions = from_text(parameters.get("Versions", ""))
    return {
        "name": found["StackName"],
        "status": found["StackStatus"],
        "memory": int(parameters.get("MemorySize", 0)),
        "timeout": int(parameters.get("Timeout", 0)),
        "architecture": parameters.get("Architecture"),
        "image": parameters.get("ImageUri"),
        "version": versions.get(DISTRIBUTION, "unknown"),
        "versions": versions,
        "relay": outputs.get("RelayAddress"),
    }


@click.command(short_help="Take a function away, with all that was made for it.")
@click.argument("function_name", metavar="NAME", type=FunctionName())
@click.option("-y", "yes", is_flag=True, help="Do not ask.")
@click.option(
    "--images",
    "repository",
    is_flag=False,
    flag_value="excamera",
    help="Also delete this repository of images; without a value, excamera.",
)
@place_options
def delete(
    region: str | None,
    profile: str | None,
    endpoint_url: str | None,
    function_name: str,
    yes: bool,
    repository: str | None,
) -> None:
    """Delete the function NAME, its role, its log, and the instance if it has one.

    What excamera did not make is left alone: buckets, videos, and any stack without its mark.
    """  # fmt: skip
    from executors.aws_lambda.deploy import stack
    from executors.aws_lambda.deploy.registry import delete_repository

    if not yes and not _is_confirmed(function_name):
        raise Failure(f"function {function_name}: kept as it was; -y deletes without asking")
    with aws_clients(make_place(region, profile, endpoint_url)) as client:
        stack.delete(client("cloudformation"), function_name, notice)
        notice(f"function {function_name} is gone")
        if repository:
            gone = delete_repository(client("ecr"), repository)
            notice(
                f"repository {repository} "
                + ("is gone" if gone else "was not made by excamera: kept")
            )


def _is_confirmed(function_name: str) -> bool:
    """What a person at a terminal says; elsewhere nobody does."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return click.confirm(f"Delete function {function_name}, with its role and log?", err=True)


for command in (build, deploy, list_functions, delete, policy, quotas, cost, doctor, local):
    aws_lambda.add_command(command)
