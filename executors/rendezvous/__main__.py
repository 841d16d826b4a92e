"""`python -m executors.rendezvous`: a relay on its own, or the child of a `RelayProcess`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from executors.rendezvous.child import serve_parent
from executors.rendezvous.errors import RendezvousError
from executors.rendezvous.standalone import Settings, as_line, parse_limits, serve


def main(arguments: list[str] | None = None) -> int:
    """Run a relay until it is told to stop; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(message)s")
    if options.child:
        _serve_parent()
        return 0
    try:
        settings = Settings(
            folder=Path(options.authority),
            host=options.host,
            port=options.port,
            advertise=options.advertise,
            limits=parse_limits(options.limit),
            interval=options.interval,
            workers=options.workers,
            metrics=options.metrics,
        )
        serve(settings, lambda value: print(as_line(value), flush=True))
        _give_stdout_up()
    except RendezvousError as error:
        print(f"rendezvous: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m executors.rendezvous", description=__doc__)
    parser.add_argument("--host", default="0.0.0.0", help="where to listen")
    parser.add_argument("--port", type=int, default=8785, help="0: any free port")
    parser.add_argument("--advertise", help="the host under which peers reach it")
    parser.add_argument("--authority", default="rendezvous", help="folder of certificates and keys")
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=NUMBER")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between statistics")
    parser.add_argument("--workers", type=int, default=0, help="how many it must have room for")
    parser.add_argument("--metrics", metavar="[HOST:]PORT", help="where to tell health and figures")
    parser.add_argument("--log-level", default="warning")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def _give_stdout_up() -> None:
    """Let the interpreter not stumble, when it ends, over what nobody reads."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _serve_parent() -> None:
    import uvloop

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when we end
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_parent())


if __name__ == "__main__":
    sys.exit(main())
