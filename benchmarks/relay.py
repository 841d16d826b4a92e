"""What a relay costs: bytes a second of one core, and a hop of a chain of tasks against the same over tls://.

Usage: python benchmarks/relay.py [--megabytes 2000] [--hops 60] [--rounds 5] [--sizes 10000 1000000 ...]

Throughput is payload over the CPU time of the relay's process, since other cores (and other programs) move the ends.
For the hops two workers in processes of their own hand a value to and fro, each task on the other worker; scheduler and
client are here. The rounds of rdv:// and tls:// alternate, and the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dask.config
import psutil
import uvloop
from distributed import Client, Scheduler, Security, Worker

from executors.rendezvous import Authority, Credential, RelayProcess, RendezvousSecurity, Stream

MEGABYTE = 1 << 20
# a chain hands on 250 kB at 720p, 4.5 MB at 2160p
SIZES = [10_000, 250_000, 1_000_000, 4_500_000, 10_000_000]


# Throughput


async def send(relay: str, credential: Credential, megabytes: int) -> None:
    security = RendezvousSecurity(relay, credential)
    link = await security.link()
    stream = await link.open("receive", 30)
    data = memoryview(os.urandom(MEGABYTE))
    for _ in range(megabytes):
        await stream.write([data])
    await security.close()


async def receive(relay: str, credential: Credential, megabytes: int) -> None:
    security = RendezvousSecurity(relay, credential)
    link = await security.link()
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    tasks = []

    async def read(stream: Stream) -> None:
        buffer = memoryview(bytearray(MEGABYTE))
        for _ in range(megabytes):
            await stream.read_into(buffer)
        await stream.close()
        done.set_result(None)

    await link.listen("receive", lambda stream: tasks.append(asyncio.ensure_future(read(stream))))
    await done
    await security.close()


async def throughput(megabytes: int) -> dict[str, float]:
    authority = Authority.create()
    relay = await RelayProcess.start(authority)
    process = psutil.Process(relay.pid)
    before, begin = sum(process.cpu_times()[:2]), time.perf_counter()
    ends = []
    for role in ("receive", "send"):
        order = {
            "relay": relay.address,
            "credential": authority.issue(role).to_dict(),
            "megabytes": megabytes,
        }
        ends.append(await start(role, order))
    for end in ends:
        await end.wait()
    seconds, cpu = time.perf_counter() - begin, sum(process.cpu_times()[:2]) - before
    await relay.stop()
    return {
        "megabytes": megabytes,
        "MB_a_core_second": round(megabytes * MEGABYTE / 1e6 / cpu),
        "MB_a_second_wall": round(megabytes * MEGABYTE / 1e6 / seconds),
    }


# Hops


def pass_on(value: bytes) -> bytes:
    return bytes(bytearray(value))


async def work(address: str, security: Security, protocol: str) -> None:
    worker = await Worker(
        address, security=security, protocol=protocol, nthreads=1, dashboard=False
    )
    await worker.finished()
    if isinstance(security, RendezvousSecurity):
        await security.close()


@asynccontextmanager
async def cluster(protocol: str, folder: Path) -> AsyncIterator[tuple[Any, list[str]]]:
    """A client, and the addresses of two workers."""
    relay, own, closing = None, None, []
    if protocol == "rdv":
        authority = Authority.create()
        relay = await RelayProcess.start(authority)
        securities = [
            RendezvousSecurity(relay.address, authority.issue(name, names=names, role=role))
            for name, names, role in (
                ("boss", ["scheduler"], "controller"),
                ("client", [], "client"),
            )
        ]
        orders = [
            {"relay": relay.address, "credential": authority.issue(f"worker-{i}").to_dict()}
            for i in (1, 2)
        ]
        closing = list(securities)
        scheduler_options = {"protocol": "rdv"}
    else:
        own = Security.temporary()
        securities = [own, own]
        (folder / "tls.json").write_text(
            json.dumps({name: getattr(own, name) for name in TLS_FIELDS})
        )
        orders = [{"tls": str(folder / "tls.json")}] * 2
        scheduler_options = {"protocol": "tls", "host": "127.0.0.1", "port": 0}
    async with Scheduler(
        **scheduler_options, security=securities[0], dashboard_address="127.0.0.1:0"
    ) as scheduler:
        workers = [await start("work", {"address": scheduler.address, **order}) for order in orders]
        async with Client(scheduler.address, security=securities[1], asynchronous=True) as client:
            await client.wait_for_workers(2)
            yield client, list(scheduler.workers)
        await scheduler.retire_workers(list(scheduler.workers))
    for worker in workers:
        await worker.wait()
    for each in closing:
        await each.close()
    if relay is not None:
        await relay.stop()


TLS_FIELDS = (
    "tls_ca_file", "tls_client_cert", "tls_client_key", "tls_scheduler_cert", "tls_scheduler_key", "tls_worker_cert",
    "tls_worker_key",
)  # fmt: skip


async def chain(client: Any, workers: list[str], size: int, hops: int) -> float:
    """Seconds a hop."""
    value = client.submit(os.urandom, size, workers=[workers[0]], pure=False)
    await value
    begin = time.perf_counter()
    for number in range(hops):
        value = client.submit(pass_on, value, workers=[workers[(number + 1) % 2]], pure=False)
    await value
    return (time.perf_counter() - begin) / hops


async def compare(sizes: Sequence[int], hops: int, rounds: int) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as name:
        async with cluster("tls", Path(name)) as tls, cluster("rdv", Path(name)) as rdv:
            found = []
            for size in sizes:
                took: dict[str, list[float]] = {"tls": [], "rdv": []}
                for _ in range(rounds):
                    for protocol, made in (("tls", tls), ("rdv", rdv)):
                        took[protocol].append(await chain(*made, size, hops))
                medians = {key: statistics.median(value) for key, value in took.items()}
                best = {key: min(value) for key, value in took.items()}
                found.append(
                    {
                        "bytes": size,
                        "tls_ms_a_hop": round(1e3 * medians["tls"], 2),
                        "rdv_ms_a_hop": round(1e3 * medians["rdv"], 2),
                        "ratio": round(medians["rdv"] / medians["tls"], 2),
                        "ratio_of_the_best": round(best["rdv"] / best["tls"], 2),
                    }
                )
            return found


async def start(role: str, order: dict[str, Any]) -> asyncio.subprocess.Process:
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--child", role, stdin=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(order).encode() + b"\n")
    return child


def run_child(role: str) -> None:
    order = json.loads(sys.stdin.readline())
    if role == "work":
        security: Security
        if "tls" in order:
            security = Security(
                require_encryption=True, **json.loads(Path(order["tls"]).read_text())
            )
        else:
            credential = Credential.from_dict(order["credential"])
            security = RendezvousSecurity(order["relay"], credential)
        protocol = "tls" if "tls" in order else "rdv"
        with dask.config.set({"distributed.worker.daemon": False}):
            asyncio.run(work(order["address"], security, protocol))
        return
    end = send if role == "send" else receive
    credential = Credential.from_dict(order["credential"])
    uvloop.run(end(order["relay"], credential, order["megabytes"]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--hops", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # comms end as the clusters do
    if options.child:
        run_child(options.child)
        return
    print(json.dumps(asyncio.run(throughput(options.megabytes))))
    for line in asyncio.run(compare(options.sizes, options.hops, options.rounds)):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
