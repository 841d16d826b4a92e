"""Gates at which tasks wait, in whatever process they run, until the test opens them."""

from __future__ import annotations

import contextlib
import socket


class Gate:
    """A port of this machine that nobody answers at; closed at the latest with the block."""

    def __enter__(self) -> Gate:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        return self

    def open(self) -> None:
        """Let all pass that wait, and whoever comes later."""
        self._listener.close()

    def __exit__(self, *error: object) -> None:
        self.open()


def wait_at(port: int) -> None:
    """Until the gate of that port is open."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as waiting:
        waiting.recv(1)
