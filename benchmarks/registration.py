"""How fast light workers register: real TLS, real hello, and a control comm each to a listener `coordinator`.

Usage: python benchmarks/registration.py [--workers 1000] [--processes 2]

Each worker has a credential and a TLS connection of its own; they live together in a few processes, which start (and
import) before the clock does. The time is from the first connection to the coordinator's last answer. Memory is what the
relay's process has grown by, a worker, when all are connected and idle.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil
import uvloop
from distributed.comm import CommClosedError, connect, listen

from executors.rendezvous import Authority, Credential, RelayProcess, RendezvousSecurity

AT_ONCE = 200  # connections that one process has under way


async def light_workers(relay: str) -> None:
    """A process of light workers: credentials on standard input, `connected`, then wait until told to end."""
    credentials = [Credential.from_dict(value) for value in json.loads(sys.stdin.readline())]
    gate = asyncio.Semaphore(AT_ONCE)
    alive: list[Any] = []

    async def one(credential: Credential) -> None:
        async with gate:
            security = RendezvousSecurity(relay, credential, connect_timeout=60)
            await security.link()
            address = f"rdv://{relay}/coordinator"
            comm = await connect(address, timeout=60, **security.get_connection_args("worker"))
            await comm.write({"op": "connected", "invocation": credential.name})
            await comm.read()
            alive.append((security, comm))

    print("ready", flush=True)
    begun = sum(os.times()[:2])
    sys.stdin.readline()
    await asyncio.gather(*map(one, credentials))
    print("connected", sum(os.times()[:2]) - begun, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for security, comm in alive:
        comm.abort()
        (await security.link()).abort()


async def register(workers: int, processes: int) -> dict[str, float]:
    """Seconds and bytes for so many workers."""
    authority = Authority.create()
    relay = await RelayProcess.start(authority)
    before = psutil.Process(relay.pid)
    memory, cpu = before.memory_info().rss, sum(before.cpu_times()[:2])
    boss = RendezvousSecurity(
        relay.address, authority.issue("boss", names=["coordinator"], role="controller")
    )
    seen: set[str] = set()

    async def welcome(comm: Any) -> None:
        message = await comm.read()
        seen.add(message["invocation"])
        await comm.write({"op": "welcome"})
        with contextlib.suppress(CommClosedError):
            await comm.read()

    address = f"rdv://{relay.address}/coordinator"
    listener = await listen(address, welcome, **boss.get_listen_args("scheduler"))
    begin = time.perf_counter()
    credentials = [authority.issue(f"worker-{i}").to_dict() for i in range(workers)]
    issued = time.perf_counter() - begin
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            "--child",
            relay.address,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(processes)
    ]
    for number, child in enumerate(children):
        child.stdin.write(json.dumps(credentials[number::processes]).encode() + b"\n")
    for child in children:
        await child.stdout.readline()
    own = sum(os.times()[:2])
    begin = time.perf_counter()
    for child in children:
        child.stdin.write(b"go\n")
    said = [(await child.stdout.readline()).split() for child in children]
    seconds = time.perf_counter() - begin
    assert len(seen) == workers, f"{workers - len(seen)} workers are missing"
    cpus = {
        "relay_cpu_s": sum(before.cpu_times()[:2]) - cpu,
        "coordinator_cpu_s": sum(os.times()[:2]) - own,
        "workers_cpu_s": sum(float(each[1]) for each in said),
    }
    await asyncio.sleep(3)
    grown = before.memory_info().rss - memory
    for child in children:
        child.stdin.write(b"end\n")
        await child.wait()
    listener.stop()
    await boss.close()
    await relay.stop()
    return {
        "workers": workers,
        "seconds": round(seconds, 2),
        "relay_bytes_a_worker": round(grown / workers),
        "issue_ms_a_credential": round(1e3 * issued / workers, 2),
        **{key: round(value, 2) for key, value in cpus.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="*", default=[1000, 4000])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.child:
        uvloop.run(light_workers(options.child))
        return
    for workers in options.workers:
        print(json.dumps(uvloop.run(register(workers, options.processes))))


if __name__ == "__main__":
    main()
