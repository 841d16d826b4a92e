"""Options that the commands about AWS share, and how they speak to it: every refusal becomes one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from executors.aws_lambda.deploy.session import Place

Command = TypeVar("Command", bound=Callable[..., Any])
ARCHITECTURES = click.Choice(["x86_64", "arm64"])
NAME = "excamera"


class FunctionName(click.ParamType):
    """A name that Lambda and CloudFormation both take."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,39}", str(value)):
            self.fail(
                f"{value!r} is no name of a function: a letter, then letters, digits and hyphens, 40 at most",
                param,
                ctx,
            )
        return str(value)


class S3Url(click.ParamType):
    """An address s3://bucket/key or s3://bucket/prefix/."""

    name = "s3://BUCKET/..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", str(value)):
            self.fail(f"{value!r} is not an address such as s3://bucket/name", param, ctx)
        return str(value)


class Tag(click.ParamType):
    """A pair KEY=VALUE."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        key, sign, text = str(value).partition("=")
        if not sign or not key or key.startswith("aws:"):
            self.fail(f"{value!r} is not a tag such as project=film", param, ctx)
        return key, text


def place_options(command: Command) -> Command:
    """Add the options that say where in AWS."""
    for option in (
        click.option("--endpoint-url", help="Another server of AWS's API than AWS, for tests."),
        click.option("--profile", help="Profile of AWS's configuration; by default AWS_PROFILE."),
        click.option("--region", help="AWS region; by default AWS_REGION or the profile's."),
    ):
        command = option(command)
    return command


def name_option(command: Command) -> Command:
    """Add the option that names the function."""
    option = click.option(
        "--name", "function_name", type=FunctionName(), default=NAME, show_default=True,
        help="Name of the function, and of its stack.",
    )  # fmt: skip
    return option(command)


def json_option(command: Command) -> Command:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(
        command
    )


def make_place(region: str | None, profile: str | None, endpoint_url: str | None) -> Place:
    """What the options of `place_options` say."""
    from executors.aws_lambda.deploy.session import Place

    return Place(region, profile, endpoint_url)


@contextlib.contextmanager
def aws_clients(place: Place) -> Iterator[Callable[[str], Any]]:
    """Within the block, boto3 clients by service name; what AWS refuses is raised as AwsRefused.

    They wait longer than those of the checks: a deployment is not to fail over one lost packet.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from executors.aws_lambda.deploy.session import (
        PATIENT,
        AwsRefused,
        client,
        explain,
        open_session,
    )

    session = open_session(place)
    try:
        yield lambda service: client(session, service, place, PATIENT)
    except (BotoCoreError, ClientError) as error:
        raise AwsRefused(explain(error, place)) from None
