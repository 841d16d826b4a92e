"""`python -m executors.rendezvous`: a relay on its own."""

from __future__ import annotations

import asyncio
import signal
import sys


def main() -> None:
    """Run the child of a `RelayProcess`."""
    import uvloop

    from executors.rendezvous.child import serve_parent

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when we end
    asyncio.run(serve_parent(), loop_factory=uvloop.new_event_loop) if sys.version_info >= (
        3,
        12,
    ) else uvloop.run(serve_parent())


if __name__ == "__main__":
    main()
