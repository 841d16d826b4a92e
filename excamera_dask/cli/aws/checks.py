"""`excamera lambda policy|quotas|cost|doctor`: rights, limits, dollars, and whether a job could run now."""

from __future__ import annotations

from typing import Any

import click

from excamera_dask.cli.aws.options import (
    ARCHITECTURES,
    S3Url,
    aws_clients,
    json_option,
    make_place,
    name_option,
    place_options,
)
from excamera_dask.cli.options.values import Number
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import notice, print_json


@click.command(short_help="Print the exact rights that someone needs.")
@click.argument("whose", type=click.Choice(["deployer", "client", "function", "boundary"]))
@name_option
@click.option("--region", default="*", show_default=True, help="Region of the function.")
@click.option("--account", default="*", show_default=True, help="Number of the AWS account.")
@click.option("--partition", default="aws", show_default=True, help="aws, aws-cn or aws-us-gov.")
@click.option("--repository", default="excamera", show_default=True, help="Repository in ECR.")
@click.option("--input", "input_url", type=S3Url(), help="Prefix of the inputs.")
@click.option("--output", "output_url", type=S3Url(), help="Prefix of the outputs.")
@click.option(
    "--instance", is_flag=True, help="With the EC2 instance for coordinator and rendezvous."
)
def policy(
    whose: str,
    function_name: str,
    region: str,
    account: str,
    partition: str,
    repository: str,
    input_url: str | None,
    output_url: str | None,
    instance: bool,
) -> None:
    """Print an IAM policy as JSON: of who builds and deploys, of who runs jobs (client, coordinator), of the
    function, and the boundary that the roles of the two latter never go beyond, without which no deployer can make them.

    \b
    excamera lambda policy client --input s3://films/in/ --output s3://films/out/ > policy.json
    """  # fmt: skip
    from executors.aws_lambda.deploy import policies

    names = policies.Names(
        function_name, region, account, repository, input_url, output_url, partition
    )
    if whose == "deployer":
        print_json(policies.deployer_policy(names, instance))
    elif whose == "client":
        print_json(policies.client_policy(names))
    elif whose == "boundary":
        print_json(policies.boundary_policy(names, instance))
    else:
        print_json(policies.worker_policy(names))


@click.command(short_help="How many workers may run at once, and how to be allowed more.")
@name_option
@click.option(
    "-w",
    "--workers",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Workers of the job in mind.",
)
@click.option("--raise", "ask", is_flag=True, help="Ask AWS for a quota of so many, if it is less.")
@json_option
@place_options
def quotas(
    region: str | None,
    profile: str | None,
    endpoint_url: str | None,
    function_name: str,
    workers: int,
    ask: bool,
    as_json: bool,
) -> None:
    """Tell how many invocations may run at once, how fast they may start, and whether that is enough.

    A new account has 10 to 1,000 for all functions of a region together; raising it costs nothing and takes a day or two.
    """  # fmt: skip
    from executors.aws_lambda.deploy import quotas as limits

    with aws_clients(make_place(region, profile, endpoint_url)) as client:
        found = limits.read_limits(client("lambda"), function_name)
        refusal = found.refusal(workers)
        asked = None
        if ask and found.account < workers:
            asked = limits.request_raise(client("service-quotas"), workers)
    ramp = limits.ramp_seconds(workers)
    if as_json:
        told = {
            "workers": workers,
            "ramp_seconds": ramp,
            "enough": refusal is None,
            "problem": refusal,
        }
        print_json({**found.to_dict(), **told, "request": asked})
        return
    reserved = "none" if found.reserved is None else str(found.reserved)
    click.echo(
        f"account in {found.region}: {found.account} concurrent invocations, {found.unreserved} unreserved"
    )
    click.echo(f"function {function_name}: {reserved} reserved")
    click.echo(
        f"{workers} workers: all started within {ramp:g} s of the first (1,000 more every 10 s)"
    )
    if asked is not None:
        notice(f"asked AWS for {workers}: request {asked}")
    elif refusal is not None:
        raise Failure(refusal)


@click.command(short_help="Dollars of a job.")
@click.option("-w", "--workers", type=click.IntRange(min=1), required=True, help="Invocations.")
@click.option("--seconds", type=Number(min=0), required=True, help="Mean time of an invocation.")
@click.option(
    "--memory", type=click.IntRange(128, 10240), default=1769, show_default=True, help="MB of each."
)
@click.option(
    "--storage",
    type=click.IntRange(512, 10240),
    default=512,
    show_default=True,
    help="MB of /tmp of each.",
)
@click.option(
    "--architecture",
    type=ARCHITECTURES,
    default="x86_64",
    show_default=True,
    help="Of the function.",
)
@click.option("--region", default="us-east-1", show_default=True, help="Whose prices.")
@click.option(
    "--s3-reads", "reads", type=click.IntRange(min=0), default=0, help="GET requests to S3."
)
@click.option(
    "--s3-writes", "writes", type=click.IntRange(min=0), default=0, help="PUT requests to S3."
)
@click.option("--download", "downloaded", type=Number(min=0), default=0.0, help="GB out of AWS.")
@click.option("--relayed", type=Number(min=0), default=0.0, help="GB through a relay on EC2.")
@click.option("--instance", help="EC2 type of coordinator and rendezvous.")
@click.option("--instance-hours", type=Number(min=0), default=0.0, help="Its time.")
@json_option
def cost(as_json: bool, **options: Any) -> None:
    """Price a job from what it uses; excamera plan --executor lambda finds out how much that is.

    \b
    excamera lambda cost -w 1000 --seconds 60
    excamera lambda cost -w 1000 --seconds 60 --instance c7i.large --instance-hours 0.5 --s3-writes 3600
    """  # fmt: skip
    from executors.aws_lambda.deploy.cost import GB, Usage
    from executors.aws_lambda.deploy.cost import cost as price

    hours = options.pop("instance_hours")
    for name in ("downloaded", "relayed"):
        options[name] = round(options[name] * GB)
    found = price(Usage(**options, instance_seconds=3600 * hours))
    if as_json:
        print_json(found.to_dict())
        return
    for line in found.lines:
        click.echo(f"{line.what:<20} {line.amount:>14,.2f} {line.unit:<9} ${line.dollars:.4f}")
    click.echo(f"{'together':<45} ${found.dollars:.4f}")
    for source in found.sources:
        notice(f"prices: {source}; taxes and free tiers left out")


@click.command(short_help="Whether a job could run now, and what to mend if not.")
@name_option
@click.option(
    "-w",
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Workers of the job.",
)
@click.option("--memory", type=click.IntRange(min=0), default=0, help="MB that a worker must have.")
@click.option("--input", "inputs", type=S3Url(), multiple=True, help="A video to read; repeatable.")
@click.option(
    "--output", "outputs", type=S3Url(), multiple=True, help="A video to write; repeatable."
)
@click.option("--relay", metavar="HOST:PORT", help="A relay that must answer from here.")
@json_option
@place_options
def doctor(
    region: str | None,
    profile: str | None,
    endpoint_url: str | None,
    function_name: str,
    workers: int,
    memory: int,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    relay: str | None,
    as_json: bool,
) -> None:
    """Check credentials, region, function, versions, clock, quota, videos, role and relay, within ten seconds.

    \b
    excamera lambda doctor -w 1000 --input s3://films/in/a.mkv --output s3://films/out/a.webm

    Exits 1 when something would stop a job; each line that begins with FAIL ends with what to do.
    """  # fmt: skip
    from excamera_dask.lambda_image import versions
    from executors.aws_lambda.deploy import Target, examine

    place = make_place(region, profile, endpoint_url)
    target = Target(
        function_name,
        place,
        workers,
        memory,
        versions=versions(),
        inputs=inputs,
        outputs=outputs,
        worker_inputs=inputs,
        worker_outputs=outputs,
        relay=relay,
    )
    findings = examine(target)
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding}")
    wrong = sum(not finding.ok for finding in findings)
    if wrong:
        raise Failure(f"{wrong} of {len(findings)} checks failed")
