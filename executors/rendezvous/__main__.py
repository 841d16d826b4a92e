"""`python -m executors.rendezvous`: a relay on its own."""

from __future__ import annotations

import asyncio
import signal


def main() -> None:
    """Run the child of a `RelayProcess`."""
    import uvloop

    from executors.rendezvous.child import serve_parent

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when we end
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_parent())


if __name__ == "__main__":
    main()
