"""`excamera lambda local`: a server of Lambda's API on this machine, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from excamera_dask.cli.options.values import Number
from excamera_dask.cli.terminal.failures import Failure
from excamera_dask.cli.terminal.output import notice, print_json

WORKER = "executors.aws_lambda.handler.handle"


@click.command("local", short_help="Run a Lambda on this machine, for development and tests.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=0,
    help="Port on loopback; 0: any free one.",
    show_default=True,
)
@click.option(
    "--function",
    "functions",
    multiple=True,
    metavar="NAME[=MODULE.HANDLER]",
    help="Create this function; without a handler it is the worker of --executor lambda.",
)
@click.option(
    "--code",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the handlers' modules  [default: what this Python has installed]",
)
@click.option(
    "--memory",
    type=click.IntRange(128, 10_240),
    default=1769,
    show_default=True,
    help="MB of each function.",
)
@click.option(
    "--timeout",
    type=click.IntRange(1, 900),
    default=900,
    show_default=True,
    help="Seconds of each function.",
)
@click.option(
    "--ephemeral-storage",
    type=click.IntRange(512, 10_240),
    default=512,
    show_default=True,
    help="MB in /tmp.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Executions at once.",
)
@click.option(
    "--time-scale",
    type=Number(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds here for a second of AWS's delays.",
)
@click.option(
    "--region",
    help="Region that it claims to be  [default: the one that your store is asked in, else us-east-1]",
)
@click.option(
    "--network",
    type=click.Choice(["host", "isolated"]),
    default="host",
    show_default=True,
    help="isolated: nothing comes into environments (root).",
)
@click.option(
    "--cpu-share", is_flag=True, help="Give environments the CPU that their memory buys on Lambda."
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep logs and code there  [default: a temporary folder]",
)
def local(
    functions: tuple[str, ...],
    code: Path | None,
    memory: int,
    timeout: int,
    ephemeral_storage: int,
    **settings: Any,
) -> None:
    """Serve Lambda's Invoke API, function management and logs on loopback, for unmodified boto3.

    \b
    excamera lambda local --port 9001 --function excamera
    export AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...
    excamera encode in.mp4 -o out.webm --executor lambda --backend http://127.0.0.1:9001
    aws lambda invoke --endpoint-url http://127.0.0.1:9001 --function-name f out.json

    Prints its URL and keys as JSON once it answers, runs until Ctrl-C, and leaves no process behind. It serves those who sign
    with these keys, which are new at each start.
    """
    from excamera_dask.lambda_jobs import credentials_of, seen_by_workers, store_access
    from excamera_dask.storage.access import DEFAULT_REGION
    from executors.local_lambda import LocalLambda

    wanted = dict(map(parse_function, functions))
    try:
        access = store_access()
        settings |= {"visible": seen_by_workers(), "credentials": credentials_of(access)}
        settings["region"] = settings["region"] or (access.region if access else DEFAULT_REGION)
        with LocalLambda(**settings) as server:
            for text in server.notices:
                notice(f"note: {text}")
            for name, handler in wanted.items():
                server.create_function(
                    name,
                    handler,
                    code=code,
                    memory=memory,
                    timeout=timeout,
                    ephemeral_storage=ephemeral_storage,
                    environment=_means(handler, access),
                )
            print_json(
                {
                    "endpoint_url": server.endpoint_url,
                    "region": server.settings.region,
                    "access_key_id": server.keys.access_key,
                    "secret_access_key": server.keys.secret_key,
                    "functions": sorted(wanted),
                    "logs": str(server.directory),
                }
            )
            server.wait()
    except KeyboardInterrupt:
        return
    raise Failure("the local Lambda has ended by itself; its messages are above")


def _means(handler: str, access: Any) -> dict[str, str]:
    """Variables that a worker needs here, and the versions that clients compare with theirs."""
    if handler != WORKER:
        return {}
    from excamera_dask.lambda_image import versions
    from excamera_dask.lambda_jobs import worker_environment
    from executors.aws_lambda.deploy.versions import VARIABLE, to_text

    return {**worker_environment(access), VARIABLE: to_text(versions())}


def parse_function(text: str) -> tuple[str, str]:
    """NAME=MODULE.HANDLER, or NAME alone for the worker."""
    from executors.local_lambda.functions import FUNCTION_NAME, NO_FUNCTION_NAME

    name, _, handler = text.partition("=")
    handler = handler or WORKER
    if not name or "." not in handler:
        raise click.BadParameter(
            f"{text!r} is not NAME or NAME=MODULE.HANDLER", param_hint="--function"
        )
    if not FUNCTION_NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r} {NO_FUNCTION_NAME}", param_hint="--function")
    return name, handler
