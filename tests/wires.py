"""A TCP connection's way that can be cut and mended: between a client and a server that knows nothing of it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class Wire:
    """Passes connections on; while it is cut they are refused, and those that there were are closed."""

    def __init__(self) -> None:
        self._target = ("", 0)
        self._port = 0
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()

    @contextlib.contextmanager
    def leading_to(self, endpoint: str) -> Iterator[str]:
        """The URL at which the server at `endpoint` is reached through the wire."""
        parts = urlsplit(endpoint)
        self._target = (parts.hostname or "", parts.port or 80)
        self.mend()
        try:
            yield f"http://127.0.0.1:{self._port}"
        finally:
            self.cut()

    def mend(self) -> None:
        """Let connections through, at the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Refuse connections and close those that there are."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                self._open |= {near, far}
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            self._open.discard(end)
