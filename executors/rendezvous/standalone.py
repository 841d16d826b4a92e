"""A relay on its own, for `python -m executors.rendezvous` and `excamera rendezvous`.

Its folder holds the authority (`authority.pem`, `authority.key`) and the relay's certificate (`relay.pem`,
`relay.key`); what is missing is made, keys with mode 0600. A relay that finds its own certificate does not need the
key of the authority, which may then stay on another machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from executors.rendezvous.credentials import (
    CERTIFICATE_FILE,
    KEY_FILE,
    Authority,
    make_relay_key,
    write_private,
)
from executors.rendezvous.descriptors import check_limit, fitted, raise_limit
from executors.rendezvous.errors import InvalidAddress, InvalidCredential, RendezvousError
from executors.rendezvous.metrics import MetricsServer
from executors.rendezvous.process import reachable_host
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.protocol.names import RelayAddress
from executors.rendezvous.server import RelayServer
from executors.rendezvous.tls import relay_context

logger = logging.getLogger(__name__)

RELAY_CERTIFICATE_FILE = "relay.pem"
RELAY_KEY_FILE = "relay.key"
RENEW_BEFORE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a standalone relay is told; `advertise` is the host under which peers reach it.

    workers: for so many it must have room; metrics: `host:port` of its health and figures, None for nowhere.
    """

    folder: Path
    host: str = "0.0.0.0"
    port: int = 8785
    advertise: str | None = None
    limits: Limits = field(default_factory=Limits)
    interval: float = 10.0  # seconds between two lines of statistics
    workers: int = 0
    metrics: str | None = None


def serve(settings: Settings, say: Callable[[dict[str, Any]], None]) -> None:
    """Serve until SIGINT or SIGTERM; `say` gets the address, then statistics. Raises RendezvousError.

    Where `say` fails, nothing more is said, and the relay goes on: peers depend on it, not on who reads of it.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, _Teller(say)))


class _Teller:
    """Says what there is to say until nobody listens any more."""

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self._say: Callable[[dict[str, Any]], None] | None = say

    def __call__(self, value: dict[str, Any]) -> None:
        if self._say is None:
            return
        try:
            self._say(value)
        except Exception as error:  # a closed pipe, a full disk
            self._say = None
            logger.warning("nobody takes the statistics any more: %s", error)


async def _serve(settings: Settings, say: Callable[[dict[str, Any]], None]) -> None:
    allowed = raise_limit()
    check_limit(settings.workers, allowed)
    watched = _metrics_address(settings.metrics)
    server = RelayServer(
        relay_context(*load_relay(settings.folder)), fitted(settings.limits, allowed)
    )
    try:
        host, port = await server.start(settings.host, settings.port)
    except OSError as error:
        raise RendezvousError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        ) from error
    metrics = MetricsServer(server.stats)
    if watched is not None:
        try:
            where = RelayAddress(*await metrics.start(watched.host, watched.port))
        except OSError as error:
            await server.stop()
            raise RendezvousError(
                f"cannot listen on {watched} for metrics: {error.strerror or error}"
            ) from error
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    address = RelayAddress(settings.advertise or reachable_host(host), port)
    told = {"event": "listening", "address": str(address), "authority": str(settings.folder)}
    say(told if watched is None else {**told, "metrics": f"http://{where}/metrics"})
    while not stop.is_set():
        try:
            async with asyncio.timeout(settings.interval):
                await stop.wait()
        except TimeoutError:
            say({"event": "stats", **server.stats()})
    say({"event": "stopped", **server.stats()})
    await metrics.stop()
    await server.stop()


def _metrics_address(text: str | None) -> RelayAddress | None:
    """`host:port`, or a port of loopback alone."""
    if text is None:
        return None
    try:
        return RelayAddress.parse(f"127.0.0.1:{text}" if text.isdecimal() else text)
    except InvalidAddress as error:
        raise RendezvousError(
            f"{text!r} is no place for metrics: give port or host:port"
        ) from error


def load_relay(folder: Path) -> tuple[str, str, str]:
    """(certificate, key, authority's certificate), all PEM, from `folder`; makes what is missing."""
    certificate, key = folder / RELAY_CERTIFICATE_FILE, folder / RELAY_KEY_FILE
    authority_file = folder / CERTIFICATE_FILE
    if all(path.exists() for path in (certificate, key, authority_file)) and _is_good(certificate):
        return certificate.read_text(), key.read_text(), authority_file.read_text()
    if not (folder / KEY_FILE).exists():
        if authority_file.exists():
            raise InvalidCredential(
                f"{folder}: the relay's certificate is missing or old, and {KEY_FILE}, which could sign one, is not here"
            )
        Authority.create().save(folder)
        logger.warning("made a new authority in %s", folder)
    authority = Authority.load(folder)
    private, request = make_relay_key()
    write_private(key, private)
    certificate.write_text(authority.certify_relay(request))
    return certificate.read_text(), private, authority.certificate


def _is_good(path: Path) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidCredential(f"{path}: not a certificate: {error}") from error
    return certificate.not_valid_after_utc > datetime.now(UTC) + RENEW_BEFORE


def parse_limits(pairs: tuple[str, ...] | list[str]) -> Limits:
    """Limits from `NAME=NUMBER` pairs; raises RendezvousError for one that is none."""
    known = {each.name: each.type for each in fields(Limits)}
    limits = Limits()
    for pair in pairs:
        name, _, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if name not in known:
            raise RendezvousError(f"no limit {name!r}: there are {', '.join(sorted(known))}")
        try:
            number = int(text) if known[name] == "int" else float(text)
        except ValueError as error:
            raise RendezvousError(f"limit {name}: {text!r} is not a number") from error
        if not 0 <= number < float("inf"):
            raise RendezvousError(f"limit {name}: {text} is out of range")
        limits = replace(limits, **{name: number})  # type: ignore[arg-type]
    return limits


def as_line(value: dict[str, Any]) -> str:
    """One JSON line."""
    return json.dumps(value)
