"""One TLS connection of a link, as asyncio sees it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Protocol

READ_BUFFER = 256 * 1024


class Receiver(Protocol):
    """The link whose connection it is."""

    def received(self, protocol: TlsConnection, data: memoryview) -> None: ...
    def lost(self, protocol: TlsConnection) -> None: ...
    def flush(self) -> None: ...


class TlsConnection(asyncio.BufferedProtocol):
    """One connection of a link. All those of a thread read into one buffer: what they read is copied at once."""

    _buffers = threading.local()

    def __init__(self, link: Receiver) -> None:
        self.link = link
        self.transport: Any = None
        self.writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        try:
            return self._buffers.view
        except AttributeError:
            self._buffers.view = memoryview(bytearray(READ_BUFFER))
            return self._buffers.view

    def buffer_updated(self, nbytes: int) -> None:
        self.link.received(self, self._buffers.view[:nbytes])

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self.link.lost(self)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.link.flush()
