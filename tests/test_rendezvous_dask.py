"""Scheduler, workers and clients of unmodified `distributed` through a relay in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Scheduler, Worker, wait
from rendezvous_relay import run

from executors.rendezvous import (
    Authority,
    Limits,
    Link,
    LinkOptions,
    NameTaken,
    PeerGone,
    RelayProcess,
    RendezvousError,
    RendezvousSecurity,
)

AUTHORITY = Authority.create()


def double(x: int) -> int:
    return 2 * x


def slow_double(x: int) -> int:
    time.sleep(0.02)
    return 2 * x


class Cluster:
    """A relay, a scheduler and a client on it, and the workers of the test."""

    def __init__(self, relay: RelayProcess, stack: AsyncExitStack) -> None:
        self.relay = relay
        self.stack = stack
        self.boss = self.security("coordinator", "scheduler", role="controller")
        self.workers: list[Worker] = []
        self.securities = [self.boss]

    def security(self, name: str, *names: str, **options: Any) -> RendezvousSecurity:
        credential = AUTHORITY.issue(name, names=names, role=options.pop("role", "worker"))
        return RendezvousSecurity(self.relay.address, credential, **options)

    async def begin(self, workers: int) -> None:
        scheduler = Scheduler(protocol="rdv", security=self.boss, dashboard_address=":0")
        self.scheduler = await self.stack.enter_async_context(scheduler)
        for number in range(workers):
            await self.add_worker(f"worker-{number}")
        own = self.security("client", role="client")
        self.securities.append(own)
        self.client: Any = await self.stack.enter_async_context(
            Client(self.scheduler.address, security=own, asynchronous=True)
        )

    async def add_worker(self, name: str) -> Worker:
        own = self.security(name)
        self.securities.append(own)
        worker = Worker(self.scheduler.address, protocol="rdv", security=own, nthreads=1)
        await self.stack.enter_async_context(worker)
        self.workers.append(worker)
        return worker


@asynccontextmanager
async def cluster(workers: int = 2, limits: Limits | None = None) -> AsyncIterator[Cluster]:
    relay = await RelayProcess.start(AUTHORITY, limits=limits)
    try:
        async with AsyncExitStack() as stack:
            made = Cluster(relay, stack)
            await made.begin(workers)
            yield made
        for each in made.securities:
            await each.close()
    finally:
        await relay.stop()


def test_addresses_of_scheduler_and_workers() -> None:
    async def story() -> None:
        async with cluster(1) as made:
            assert made.scheduler.address == f"rdv://{made.relay.address}/scheduler"
            assert made.workers[0].address == f"rdv://{made.relay.address}/worker-0"

    run(story)


def test_tasks_run_and_results_come_back() -> None:
    async def story() -> None:
        async with cluster(2) as made:
            futures = made.client.map(double, range(200))
            assert await made.client.gather(futures) == [2 * x for x in range(200)]
            assert await made.client.submit(sum, futures) == sum(2 * x for x in range(200))

    run(story)


def test_forty_megabytes_from_worker_to_worker() -> None:
    async def story() -> None:
        async with cluster(2) as made:
            first, second = made.workers
            data = os.urandom(40_000_000)
            [future] = await made.client.scatter([data], workers=[first.address])
            there = made.client.submit(bytes, future, workers=[second.address])
            await wait(there)
            stats = await made.relay.stats()
            assert stats["bulk"] >= 2  # the much between them goes sealed, by bulk connections
            assert there.key in second.data and future.key in second.data
            assert second.data[future.key] == data
            assert await made.client.gather(there) == data

    run(story)


def test_retired_worker_leaves_its_results_to_others() -> None:
    async def story() -> None:
        async with cluster(2) as made:
            first, second = made.workers
            kept = made.client.map(
                double, range(20), workers=[first.address], allow_other_workers=True
            )
            await wait(kept)
            await made.client.retire_workers([first.address])
            assert list(made.scheduler.workers) == [second.address]
            assert await made.client.gather(kept) == [2 * x for x in range(20)]

    run(story)


def test_relay_killed_and_restarted_in_the_middle_of_work() -> None:
    """Nobody notices but the links: no worker is lost, no task runs twice."""

    async def story() -> None:
        async with cluster(2) as made:
            futures = made.client.map(slow_double, range(150))
            total = made.client.submit(sum, futures)
            await asyncio.sleep(0.5)
            await made.relay.kill()
            await asyncio.sleep(0.5)
            await made.relay.restart()
            assert await total == sum(2 * x for x in range(150))
            assert {w.address for w in made.workers} == set(made.scheduler.workers)
            assert all(worker.status.name == "running" for worker in made.workers)
            links = [await each.link() for each in made.securities]
            assert [link.reconnections for link in links] == [1] * 4
            late = await made.add_worker("late")
            assert await made.client.submit(double, 21, workers=[late.address]) == 42

    run(story)


def test_cut_connections_do_not_disturb_the_work() -> None:
    async def story() -> None:
        async with cluster(2) as made:
            futures = made.client.map(slow_double, range(100))
            for each in made.securities:
                await asyncio.sleep(0.15)
                (await each.link())._protocol.transport.abort()
            assert await made.client.gather(futures) == [2 * x for x in range(100)]
            assert len(made.scheduler.workers) == 2

    run(story)


def test_tls_for_a_local_client_beside_rdv() -> None:
    async def story() -> None:
        relay = await RelayProcess.start(AUTHORITY)
        try:
            credential = AUTHORITY.issue("coordinator", names=["scheduler"], role="controller")
            boss = RendezvousSecurity(relay.address, credential)
            own = RendezvousSecurity(relay.address, AUTHORITY.issue("worker"))
            local = RendezvousSecurity(relay.address, AUTHORITY.issue("client", role="client"))
            listening = {"protocol": ["rdv", "tls"], "host": [None, "127.0.0.1"], "port": [None, 0]}
            async with (
                Scheduler(**listening, security=boss, dashboard_address=":0") as scheduler,
                Worker(scheduler.address, protocol="rdv", security=own),
                Client(
                    scheduler.listeners[1].contact_address, security=local, asynchronous=True
                ) as client,
            ):
                assert scheduler.listeners[1].contact_address.startswith("tls://")
                assert await client.submit(double, 4) == 8
            await boss.close()
            await own.close()
        finally:
            await relay.stop()

    run(story)


# Peers that disappear

CHILD = """
import asyncio, json, sys
from executors.rendezvous import Credential, RendezvousSecurity
async def main():
    security = RendezvousSecurity(sys.argv[1], Credential.from_dict(json.loads(sys.stdin.readline())))
    link = await security.link()
    streams = []
    await link.listen("child", streams.append)
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def start_child(address: str) -> asyncio.subprocess.Process:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        address,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(json.dumps(AUTHORITY.issue("child").to_dict()).encode() + b"\n")
    assert await child.stdout.readline() == b"ready\n"
    return child


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_killed_or_frozen_peer_is_noticed(how: signal.Signals) -> None:
    async def story() -> None:
        limits = Limits(linger=0.3, ping_interval=0.2, silence=1.0)
        relay = await RelayProcess.start(AUTHORITY, limits=limits)
        child = await start_child(relay.address)
        link = Link(relay.address, AUTHORITY.issue("watcher", role="controller"))
        await link.connect()
        notices = []
        link.on_notice.append(
            lambda notice: notices.append((notice.event, notice.name, notice.why))
        )
        stream = await link.open("child")
        child.send_signal(how)
        with pytest.raises(PeerGone, match="child has gone"):
            await stream.read_into(memoryview(bytearray(1)))
        assert notices == [("gone", "child", "lost" if how == signal.SIGKILL else "silent")]
        with pytest.raises(PeerGone):
            await link.open("child", 60)
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        await link.close()
        await relay.stop()

    run(story)


class Cable:
    """A TCP connection between a link and a relay that can be silenced without a FIN, and restored."""

    def __init__(self, address: str) -> None:
        self.host, self.port = address.split(":")
        self.silent = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> str:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dark = self.silent
        there, back = await asyncio.open_connection(self.host, int(self.port))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if not dark.is_set():
                    sink.write(data)
                    await sink.drain()

        for pair in ((reader, back), (there, writer)):
            self.tasks.append(asyncio.ensure_future(pump(*pair)))

    def cut(self) -> None:
        """What is connected now carries nothing any more; later connections do."""
        self.silent.set()
        self.silent = asyncio.Event()

    def stop(self) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()


def test_silent_cut_is_noticed_and_survived() -> None:
    """No FIN, no RST: the link misses the relay's pings, and is back before the relay gives it up."""

    async def story() -> None:
        relay = await RelayProcess.start(AUTHORITY, limits=Limits(ping_interval=0.2, silence=4.0))
        cable = Cable(relay.address)
        options = LinkOptions.make(ping_interval=0.2, silence=1.0)
        near = Link(await cable.start(), AUTHORITY.issue("near"), options)
        far = Link(relay.address, AUTHORITY.issue("far"))
        await near.connect()
        await far.connect()
        streams = []
        await far.listen("far", streams.append)
        stream = await near.open("far")
        cable.cut()
        await stream.write([memoryview(b"said into the dark")])
        buffer = bytearray(18)
        await streams[0].read_into(memoryview(buffer))
        assert buffer == b"said into the dark"
        assert near.reconnections == 1
        cable.stop()
        await near.close()
        await far.close()
        await relay.stop()

    run(story)


# The relay's process


def test_relay_ends_with_its_parent(tmp_path: Path) -> None:
    story = """
import asyncio
from executors.rendezvous import Authority, RelayProcess
async def main():
    relay = await RelayProcess.start(Authority.create())
    print(relay.pid, relay.address, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""

    async def watch() -> None:
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", story, stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout is not None
        pid, address = (await parent.stdout.readline()).split()
        host, port = address.decode().split(":")
        socket.create_connection((host, int(port))).close()
        parent.kill()
        await parent.wait()
        while Path(f"/proc/{int(pid)}").exists() and "Z" not in _state(int(pid)):
            await asyncio.sleep(0.05)
        with pytest.raises(OSError):
            socket.create_connection((host, int(port)))

    run(watch)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_relay_that_cannot_listen_says_why() -> None:
    async def story() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as taken,
            pytest.raises(RendezvousError, match="in use"),
        ):
            await RelayProcess.start(AUTHORITY, port=taken.getsockname()[1])

    run(story)


def test_link_gives_up_when_no_relay_comes_back() -> None:
    async def story() -> None:
        relay = await RelayProcess.start(AUTHORITY)
        link = Link(relay.address, AUTHORITY.issue("w"), LinkOptions.make(reconnect_timeout=0.5))
        await link.connect()
        await link.listen("w", lambda stream: None)
        stream = await link.open("w")
        await relay.kill()
        error = await asyncio.wait_for(link.closed, 10)
        assert "no relay answers" in str(error)
        with pytest.raises(RendezvousError):
            await stream.read_into(memoryview(bytearray(1)))
        await relay.stop()

    run(story)


def test_second_start_of_an_invocation_is_refused() -> None:
    async def story() -> None:
        async with cluster(1) as made:
            twice = made.security("worker-0")
            with pytest.raises(NameTaken):
                await twice.link()
            assert await made.client.submit(double, 2) == 4

    run(story)
