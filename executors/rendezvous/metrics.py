"""Health and figures of a relay for those who watch it: a small HTTP server on a port of its own.

`/health` answers 200 while the relay serves, `/metrics` is Prometheus's text format. Nothing can be changed through it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

PREFIX = "excamera_relay_"
COUNTERS = {
    "frames": "Frames passed on.",
    "bytes": "Bytes of the frames passed on.",
    "opened": "Streams opened.",
    "registered": "Names registered.",
    "resumed": "Links that came back.",
    "bulk": "Bulk connections taken.",
    "gone": "Peers that have gone.",
    "held": "Streams stored for peers that were not there yet.",
}
LABELLED = {
    "refused": ("reason", "Connections and frames refused."),
    "resets": ("reason", "Streams reset by the relay."),
}
GAUGES = {
    "connections": "TLS connections.",
    "bulk_connections": "Bulk connections.",
    "handshaking": "Connections before the end of their TLS handshake.",
    "names": "Names that are registered.",
    "streams": "Streams.",
    "held_bytes": "Bytes stored for peers that are not there yet.",
    "queued_bytes": "Bytes that wait for peers to take them.",
}
READ_TIMEOUT = 5.0
LONGEST_REQUEST = 8 * 1024
AT_ONCE = 32


def as_prometheus(stats: Mapping[str, Any]) -> str:
    """Statistics of a relay in Prometheus's text format, version 0.0.4."""
    lines: list[str] = []
    for name, help_text in COUNTERS.items():
        lines += _family(f"{name}_total", "counter", help_text, {"": stats[name]})
    for name, (label, help_text) in LABELLED.items():
        values = {f'{{{label}="{key.lower()}"}}': value for key, value in stats[name].items()}
        lines += _family(f"{name}_total", "counter", help_text, values)
    for name, help_text in GAUGES.items():
        lines += _family(name, "gauge", help_text, {"": stats[name]})
    return "\n".join([*lines, ""])


def _family(name: str, kind: str, help_text: str, values: Mapping[str, Any]) -> list[str]:
    head = [f"# HELP {PREFIX}{name} {help_text}", f"# TYPE {PREFIX}{name} {kind}"]
    return head + [f"{PREFIX}{name}{labels} {value}" for labels, value in values.items()]


class MetricsServer:
    """Serves `stats`; close it with `stop`."""

    def __init__(self, stats: Callable[[], Mapping[str, Any]]) -> None:
        self._stats = stats
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address that was bound. Raises OSError."""
        self._server = await asyncio.start_server(
            self._serve, host or None, port, limit=LONGEST_REQUEST
        )
        bound = self._server.sockets[0].getsockname()
        return bound[0], bound[1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= AT_ONCE:
                async with asyncio.timeout(READ_TIMEOUT):
                    request = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(request))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            status, body = "405 Method Not Allowed", "only GET\n"
        elif path == b"/metrics":
            status, body = "200 OK", as_prometheus(self._stats()) + _of_process()
        elif path == b"/health":
            status, body = "200 OK", "ok\n"
        else:
            status, body = "404 Not Found", "there are /health and /metrics\n"
        data = body.encode()
        kind = "text/plain; version=0.0.4; charset=utf-8"
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        return head.encode() + (b"" if method == b"HEAD" else data)


def _of_process() -> str:
    """Memory, processor time and descriptors of this process, under the names that Prometheus has for them."""
    import psutil

    process = psutil.Process(os.getpid())
    with process.oneshot():
        times, memory = process.cpu_times(), process.memory_info().rss
        lines = [
            "# TYPE process_resident_memory_bytes gauge",
            f"process_resident_memory_bytes {memory}",
            "# TYPE process_cpu_seconds_total counter",
            f"process_cpu_seconds_total {times.user + times.system:.2f}",
            "# TYPE process_open_fds gauge",
            f"process_open_fds {process.num_fds()}",
        ]
    return "\n".join([*lines, ""])
