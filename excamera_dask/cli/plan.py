"""`excamera plan`: what an encode would do, how long it would take and what it would cost, before anything is spent."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from excamera_dask.cli.aws.options import make_place, name_option, place_options
from excamera_dask.cli.encode import method_options
from excamera_dask.cli.options.named import named
from excamera_dask.cli.options.reading import reading_options
from excamera_dask.cli.options.values import Times
from excamera_dask.cli.terminal.output import notice, print_json

if TYPE_CHECKING:
    from excamera_dask.estimate import Estimate
    from excamera_dask.planning import Plan

DEFAULT_MEMORY = 1769
PROBES = 3
PROBE_CHUNKS = 2


@click.command(short_help="What an encode would do, take and cost.")
@click.argument("source", metavar="IN")
@method_options
@click.option(
    "--skip",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Frames of IN to leave out first.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Frames to encode at most.")
@click.option(
    "--force-key-frames",
    "key_frame_times",
    type=Times(),
    default=(),
    help="Times of the output, as seconds or H:MM:SS.",
)
@reading_options
@click.option(
    "--probe", is_flag=True, help="Encode a few frames of IN here first: a far better estimate."
)
@click.option(
    "--memory",
    type=click.IntRange(128, 10240),
    help="MB of each function; by default as deployed, or 1769.",
)
@click.option("--offline", is_flag=True, help="Do not ask AWS for the function and its limits.")
@click.option(
    "--json/--text", "as_json", default=None, help="By default JSON, but text on a terminal."
)
@name_option
@place_options
def plan(
    source: str,
    executor: str,
    workers: int | None,
    probe: bool,
    memory: int | None,
    offline: bool,
    as_json: bool | None,
    function_name: str,
    region: str | None,
    profile: str | None,
    endpoint_url: str | None,
    **options: Any,
) -> None:
    """Tell how IN would be cut, and what its encode would take: chunks, batches, tasks, seconds.

    With --executor lambda also workers, limits of the account, and dollars. Nothing is started or paid for. Times are an
    estimate; what it takes for granted is told with it.

    \b
    excamera plan in.mp4
    excamera plan film.mkv --executor lambda -w 1000 --probe
    excamera plan s3://films/in/a.mkv --executor lambda -w 1000 --json | jq .cost.dollars
    """  # fmt: skip
    import excamera_dask
    from excamera_dask import estimate as estimates
    from excamera_dask.cli.terminal.display import NoticeDisplay

    method = named(options)
    made = excamera_dask.plan(source, on_event=NoticeDisplay(), **method)
    model = _probe(source, made, method) if probe else None
    result: dict[str, Any] = {}
    if executor == "lambda":
        place = make_place(region, profile, endpoint_url)
        made = estimates.loaded_apart(made)
        count = workers or _useful_workers(made)
        function = {} if offline else _ask_aws(place, function_name, count, made.job.source.path)
        size = memory or function.get("memory") or DEFAULT_MEMORY
        found = estimates.estimate(made, estimates.lambda_machine(count, size), model)
        result |= _lambda_part(found, count, size, function, place.region)
    else:
        count = workers or _local_workers(executor)
        found = estimates.estimate(made, estimates.local_machine(count), model)
    cut = {"source": source, **_cut(made), "executor": executor, "workers": count}
    result = cut | {"estimate": found.to_dict()} | result
    if as_json or (as_json is None and not sys.stdout.isatty()):
        print_json(result)
    else:
        _print_text(made, result, found)


def _cut(made: Plan) -> dict[str, Any]:
    batches = made.batches
    return {
        "chunk_frames": made.chunk_frames,
        "batch_chunks": made.batch_chunks,
        "frames": made.frame_count,
        "chunks": len(made.chunks),
        "batches": len(batches),
        "key_frames": made.key_frames,
        "load_spans": len(made.spans),
        "tasks": made.task_count,
        "longest_chain": max(map(len, batches), default=0) if made.is_chained else 0,
        "raw_bytes": made.frame_count * made.frame_bytes,
    }


def _useful_workers(made: Plan) -> int:
    """As many as there are chunks: more would have nothing to do."""
    return max(1, len(made.chunks))


def _local_workers(executor: str) -> int:
    import os

    return (
        1
        if executor == "sync"
        else int(os.environ.get("EXCAMERA_WORKERS", 0)) or len(os.sched_getaffinity(0))
    )


def _probe(source: str, made: Plan, method: dict[str, Any]) -> dict[str, float]:
    """Seconds a megapixel of each stage, the mean over a few chunks at several places of the film."""
    import statistics
    import tempfile
    from pathlib import Path

    import excamera_dask
    from excamera_dask.estimate import STAGES, read_model, seconds_a_megapixel
    from excamera_dask.kernels.warm_up import compile_kernels, load_kernels

    frames = min(made.frame_count, PROBE_CHUNKS * made.chunk_frames)
    places = _probe_places(made, frames)
    notice(f"encoding {frames} frames at {len(places)} places, to see how long they take")
    compile_kernels(notice)
    load_kernels()
    found = []
    with tempfile.TemporaryDirectory(prefix="excamera-probe-") as folder:
        out = Path(folder) / "probe.webm"
        for place in places:
            chosen = {"skip": method.get("skip", 0) + place, "limit": frames, "key_frame_times": ()}
            report = excamera_dask.encode(
                source, out, executor="sync", resume=False, **{**method, **chosen}
            )
            found.append(seconds_a_megapixel(report))
    means = {stage: statistics.mean(one[stage] for one in found) for stage in STAGES}
    return means | {"load": read_model()["load"]}  # the probes' includes finding their place


def _probe_places(made: Plan, frames: int) -> list[int]:
    """Frames at which to probe, spread over the film."""
    middles = ((2 * number + 1) * made.frame_count // (2 * PROBES) for number in range(PROBES))
    return sorted({max(0, min(middle, made.frame_count - frames)) for middle in middles})


def _ask_aws(place: Any, function_name: str, workers: int, source: str) -> dict[str, Any]:
    """What the deployed function has, its limits, and what stands in the way; {"problems": [...]} without it."""
    from excamera_dask.lambda_image import versions
    from executors.aws_lambda.deploy import Target, examine

    inputs = (source,) if source.startswith("s3://") else ()
    target = Target(function_name, place, workers, versions=versions(), worker_inputs=inputs)
    findings = examine(target)
    found: dict[str, Any] = {"problems": [str(one) for one in findings if not one.ok]}
    if any(one.check == "function" and one.ok for one in findings):
        found |= _function(place, function_name)
    return found


def _function(place: Any, function_name: str) -> dict[str, Any]:
    import contextlib

    from botocore.exceptions import BotoCoreError, ClientError

    from executors.aws_lambda.deploy.quotas import read_limits
    from executors.aws_lambda.deploy.session import client, open_session

    session = open_session(place)
    aws = client(session, "lambda", place)
    found: dict[str, Any] = {"region": session.region_name}
    with contextlib.suppress(BotoCoreError, ClientError):
        function = aws.get_function_configuration(FunctionName=function_name)
        architecture = function.get("Architectures", ["x86_64"])[0]
        found |= {
            "memory": function["MemorySize"],
            "timeout": function["Timeout"],
            "architecture": architecture,
        }
        found["limits"] = read_limits(aws, function_name).to_dict()
    return found


def _lambda_part(
    found: Estimate, workers: int, memory: int, function: dict[str, Any], region: str | None
) -> dict[str, Any]:
    """Limits and dollars of a job on Lambda. Every worker is paid until the end, as if none were sent home early."""
    from executors.aws_lambda.deploy.cost import Usage, cost
    from executors.aws_lambda.deploy.quotas import ramp_seconds

    where = region or function.get("region") or "us-east-1"
    usage = Usage(
        workers=workers,
        seconds=found.worker_seconds / workers,
        memory=memory,
        architecture=function.get("architecture", "x86_64"),
        region=where,
        reads=found.loads,
        writes=found.chunks,
    )
    return {
        "memory": memory,
        "region": where,
        "quota": {
            "needed": workers,
            "ramp_seconds": ramp_seconds(workers),
            **(function.get("limits") or {}),
        },
        "problems": function.get("problems", ["AWS was not asked (--offline)"]),
        "cost": cost(usage).to_dict(),
    }


def _print_text(made: Plan, result: dict[str, Any], found: Estimate) -> None:
    click.echo(str(made))
    click.echo(f"{result['executor']}, {result['workers']} workers: about {_clock(found.seconds)}")
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found.stage_seconds.items())
    click.echo(f"  seconds of all workers: {stages}; longest chain {found.chain_seconds:.1f}")
    if "cost" in result:
        from executors.aws_lambda.fleet.snapshot import dollars

        price = dollars(result["cost"]["dollars"])
        click.echo(
            f"  at most {price} ({result['memory']} MB a worker, prices of {result['region']})"
        )
        for problem in result["problems"]:
            click.echo(f"  in the way: {problem}")
    for text in found.assumptions:
        click.echo(f"  supposed: {text}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
