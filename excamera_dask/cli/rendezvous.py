"""`excamera rendezvous`: a relay of its own, through which workers that accept no connections reach each other."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from excamera_dask.cli.options.values import Number
from excamera_dask.cli.terminal.streams import give_stdout_up


@click.command(short_help="Run a relay for workers that cannot accept connections.")
@click.option("--host", default="0.0.0.0", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8785,
    show_default=True,
    help="0: any free one.",
)
@click.option("--advertise", metavar="HOST", help="The host under which peers reach it.")
@click.option(
    "--authority",
    type=click.Path(file_okay=False, path_type=Path),
    default="rendezvous",
    show_default=True,
    help="Folder of the authority and the relay's certificate; made if missing, keys for the owner alone.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=NUMBER",
    help="A limit, such as streams_per_link=500.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the address and statistics as JSON lines."
)
@click.option(
    "--interval",
    type=Number(min=0.1),
    default=10.0,
    show_default=True,
    help="Seconds between two lines of statistics.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    help="How many workers it must have room for; it does not start where it may not open enough files.",
)
@click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    help="Where to tell health and figures (/health, /metrics for Prometheus), without HOST on this machine alone; "
    "nowhere by default.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="Of the relay's own messages.",
)
def rendezvous(
    host: str,
    port: int,
    advertise: str | None,
    authority: Path,
    limits: tuple[str, ...],
    as_json: bool,
    interval: float,
    workers: int,
    metrics: str | None,
    log_level: str,
) -> None:
    """Relay messages between workers, scheduler and client until Ctrl-C.

    \b
    excamera rendezvous --advertise relay.example.org
    excamera rendezvous --authority ~/.config/relay --json | jq .connections
    """
    from executors.rendezvous.standalone import Settings, as_line, parse_limits, serve

    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(message)s")

    def say(value: dict[str, Any]) -> None:
        try:
            tell(value)
            sys.stdout.flush()
        except BaseException:
            give_stdout_up()
            raise

    def tell(value: dict[str, Any]) -> None:
        if as_json:
            click.echo(as_line(value))
        elif value["event"] == "listening":
            click.echo(f"relay at rdv://{value['address']}, authority in {value['authority']}")
        elif value["event"] == "stats":
            click.echo(
                f"{value['connections']} links, {value['streams']} streams, "
                f"{value['bytes'] / 1e6:.0f} MB, {sum(value['refused'].values())} refused"
            )

    chosen = parse_limits(limits)
    serve(Settings(authority, host, port, advertise, chosen, interval, workers, metrics), say)
