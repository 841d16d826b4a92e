"""A real relay with real TLS in the test's own event loop, and a wire on which a test says whatever it likes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from executors.rendezvous import Authority, Credential, Limits
from executors.rendezvous.credentials import make_relay_key, relay_server_name
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.server import RelayServer
from executors.rendezvous.tls import link_context, relay_context


def run(story: Callable[[], Awaitable[None]], timeout: float = 60.0) -> None:
    """Run one asynchronous test."""

    async def limited() -> None:
        async with asyncio.timeout(timeout):
            await story()

    asyncio.run(limited())


class Served:
    """A relay that runs."""

    def __init__(self, server: RelayServer, address: str, authority: Authority) -> None:
        self.server = server
        self.address = address
        self.authority = authority

    async def count(self, kind: str, least: int = 1) -> int:
        """How often the relay has refused for this reason; waits for it to happen."""
        async with asyncio.timeout(20):
            while self.server.core.stats.refused[kind] < least:
                await asyncio.sleep(0.01)
        return self.server.core.stats.refused[kind]


@asynccontextmanager
async def serving(
    authority: Authority, limits: Limits | None = None, port: int = 0
) -> AsyncIterator[Served]:
    """A relay of `authority` on loopback."""
    key, request = make_relay_key()
    context = relay_context(authority.certify_relay(request), key, authority.certificate)
    server = RelayServer(context, limits)
    host, port = await server.start("127.0.0.1", port)
    try:
        yield Served(server, f"{host}:{port}", authority)
    finally:
        await server.stop()


class Wire:
    """A TLS connection to a relay, without a link: frames in and out as the test wants them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(
        cls, address: str, credential: Credential, context: ssl.SSLContext | None = None
    ) -> Wire:
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(
            host,
            int(port),
            ssl=context or link_context(credential),
            server_hostname=relay_server_name(credential.authority),
        )
        return cls(reader, writer)

    def send(self, frame: bytes) -> None:
        self.writer.write(frame)

    def hello(self, name: str, *, session: str = "s" * 32, epoch: int = 1) -> None:
        hello = {"versions": [f.VERSION], "name": name, "session": session, "epoch": epoch}
        self.send(f.serialize_json(f.HELLO, hello))

    async def receive(self) -> tuple[f.Header, bytes]:
        """The next frame that is not a ping."""
        while True:
            header = f.parse_header(await self.reader.readexactly(f.HEADER_SIZE))
            payload = await self.reader.readexactly(header.length)
            if header.kind != f.PING:
                return header, payload

    async def refusal(self) -> f.Code:
        """The code with which the relay refuses; the connection must end after it."""
        header, _ = await self.receive()
        assert header.kind == f.REFUSED
        assert await self.reader.read() == b""
        return f.Code(header.code)

    async def ended(self) -> bool:
        """True once the relay has closed the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except OSError:
            pass
        return True

    def close(self) -> None:
        self.writer.transport.abort()
