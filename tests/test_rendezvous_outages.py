"""Links whose relay is away for longer than anything has patience for, and whatever answers in its place meanwhile."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from rendezvous_relay import run, serving

from executors.aws_lambda import relays
from executors.rendezvous import Authority, RelayProcess
from executors.rendezvous.link import Link
from executors.rendezvous.options import LinkOptions

AUTHORITY = Authority.create()
QUICK = {
    "connect_timeout": 0.4, "ping_interval": 0.1, "silence": 0.3, "resume_timeout": 0.5,
    "listen_patience": 5.0,
}  # fmt: skip


def controllers_options() -> LinkOptions:
    return LinkOptions.make(**QUICK, reconnect_timeout=math.inf)


@asynccontextmanager
async def nobody(port: int) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def another_program(port: int) -> AsyncIterator[None]:
    """It has taken the port, and closes each connection as soon as something is said."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", port):
        yield


@asynccontextmanager
async def a_silent_one(port: int) -> AsyncIterator[None]:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", port):
        yield


@asynccontextmanager
async def a_talker(port: int) -> AsyncIterator[None]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n" * 100)
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", port):
        yield


@asynccontextmanager
async def a_relay_of_others(port: int) -> AsyncIterator[None]:
    async with serving(Authority.create(), port=port):
        yield


@pytest.mark.parametrize(
    "meanwhile", [nobody, another_program, a_silent_one, a_talker, a_relay_of_others]
)
def test_a_controllers_link_comes_back_whoever_had_the_port_meanwhile(meanwhile: object) -> None:
    async def story() -> None:
        states: list[bool] = []
        async with serving(AUTHORITY) as served:
            address, port = served.address, int(served.address.rpartition(":")[2])
            credential = AUTHORITY.issue("boss", names=("desk",), role="controller")
            link = Link(address, credential, controllers_options())
            link.on_state.append(states.append)
            await link.connect(timeout=20)
            arrived: asyncio.Queue[str] = asyncio.Queue()
            await link.listen("desk", lambda stream: arrived.put_nowait(stream.peer))
        async with meanwhile(port):  # type: ignore[operator]
            await asyncio.sleep(1.5)
            assert not link.closed.done() and states == [False]
        async with serving(AUTHORITY, port=port):
            async with asyncio.timeout(10):
                while states != [False, True]:
                    await asyncio.sleep(0.02)
            worker = Link(address, AUTHORITY.issue("w"), LinkOptions.make(**QUICK))
            await worker.connect(timeout=20)
            await worker.open("desk", 5.0)
            assert await arrived.get() == "w", "its names are registered again"
            await worker.close()
            await link.close()
        assert states == [False, True]

    run(story)


def test_a_goodbye_that_openssl_fails_at_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What broke is another connection of the same thread, whose error OpenSSL has left behind."""

    def fails(_: ssl.SSLObject) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    async def story() -> None:
        async with serving(AUTHORITY) as relay:
            links = [Link(relay.address, AUTHORITY.issue(name)) for name in ("a", "b")]
            for link in links:
                await link.connect(timeout=20)
            with monkeypatch.context() as patched:
                patched.setattr(ssl.SSLObject, "unwrap", fails)
                await links[0].close()
                assert links[0].closed.result() is None
                while len(relay.server.core.connections) > 1:
                    await asyncio.sleep(0.01)
            await links[1].close()

    run(story)


def test_a_relay_that_stands_still_is_lost_and_found() -> None:
    async def story() -> None:
        relay = await RelayProcess.start(AUTHORITY)
        states: list[bool] = []
        link = Link(relay.address, AUTHORITY.issue("w"), controllers_options())
        link.on_state.append(states.append)
        await link.connect(timeout=20)
        os.kill(relay.pid, signal.SIGSTOP)
        while not states:
            await asyncio.sleep(0.02)
        await asyncio.sleep(1.0)
        assert states == [False] and not link.closed.done()
        os.kill(relay.pid, signal.SIGCONT)
        async with asyncio.timeout(10):
            while states != [False, True]:
                await asyncio.sleep(0.02)
        await link.close()
        await relay.stop()

    run(story)


def test_a_relay_is_started_again_once_its_port_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "RESTART_PAUSE", 0.05)
    monkeypatch.setattr(relays, "LOOK", 0.02)

    async def story() -> None:
        told: list[str] = []
        relay = await RelayProcess.start(AUTHORITY)
        port = int(relay.address.rpartition(":")[2])
        keeping = asyncio.create_task(relays._keep(relay, told.append))
        async with _taken_after(relay, port):
            async with asyncio.timeout(20):
                while len(told) < 2:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)
            assert len(told) == 2 and "in use" in told[1] and "trying again" in told[1]
        async with asyncio.timeout(20):
            while not relay.is_running:
                await asyncio.sleep(0.02)
        link = Link(relay.address, AUTHORITY.issue("w"))
        await link.connect(timeout=20.0)
        await link.close()
        keeping.cancel()
        await relay.stop()

    run(story)


@asynccontextmanager
async def _taken_after(relay: RelayProcess, port: int) -> AsyncIterator[None]:
    """The relay is killed, and its port is taken before it can be started again."""
    os.kill(relay.pid, signal.SIGKILL)
    while True:
        try:
            server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
            break
        except OSError:
            await asyncio.sleep(0)
    async with server:
        yield


def test_certificates_hold_where_a_clock_is_set_back() -> None:
    for made in (AUTHORITY.certificate, AUTHORITY.issue("w").certificate):
        certificate = x509.load_pem_x509_certificate(made.encode())
        assert certificate.not_valid_before_utc < datetime.now(UTC) - timedelta(hours=23)
