"""The child's side of `RelayProcess`: orders on standard input, answers on standard output, one JSON line each."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from typing import Any

from executors.rendezvous.credentials import make_relay_key
from executors.rendezvous.descriptors import check_limit, fitted, raise_limit
from executors.rendezvous.errors import RendezvousError
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.server import RelayServer
from executors.rendezvous.tls import relay_context


async def serve_parent() -> None:
    """Serve until standard input ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    order = await _read(reader)
    if order is None:
        return
    allowed = raise_limit()
    try:
        check_limit(order["workers"], allowed)
    except RendezvousError as error:
        _write({"error": str(error)})
        return
    key, request = make_relay_key()
    _write({"request": request})
    answer = await _read(reader)
    if answer is None:
        return
    server = RelayServer(
        relay_context(answer["certificate"], key, answer["authority"]),
        fitted(Limits(**order["limits"]), allowed),
    )
    try:
        host, port = await server.start(order["host"], order["port"])
    except OSError as error:
        _write({"error": str(error)})
        return
    _write({"host": host, "port": port})
    gc.collect()
    gc.freeze()
    while (message := await _read(reader)) is not None:
        if message.get("op") == "stats":
            _write(server.stats())
    await server.stop()


async def _read(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    line = await reader.readline()
    value = json.loads(line) if line else None
    return value if isinstance(value, dict) else None


def _write(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
