"""How fast light workers register with a real Lambda cluster: coordinator, fleet, scheduler, relay, TLS, credentials.

Usage: python benchmarks/fleet_registration.py [--workers 1000 4000] [--upto tls link coordinator scheduler]

Everything is what a job on Lambda has, but for Lambda: the invocations' payloads are handed to a few processes (which
start, and import, before the clock does), each of which is thousands of workers that never run a task. A worker goes as
far as `--upto` says; the seconds are from the first connection until the coordinator has all of them ready.

    tls          a TLS connection to the relay with the worker's own certificate, and nothing more
    link         registered at the relay
    coordinator  a control stream to the coordinator: connected, ready
    scheduler    between these two, registered with Dask's scheduler as a distributed.Worker does it

`invoke_seconds` are for making the payloads with a credential each and invoking with them. Processor seconds are of the
time in which they register; `idle_cpu` is what coordinator and relay then take of a core for heartbeats. With --profile
the coordinator's own time is printed by function.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import io
import json
import logging
import os
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import psutil
import uvloop
from distributed import versions
from distributed.comm import connect

from executors.aws_lambda import cluster as lambda_cluster
from executors.aws_lambda.backend import Backend
from executors.aws_lambda.deploy.versions import installed
from executors.aws_lambda.payload import Payload
from executors.rendezvous import Credential, RelayAddress, RendezvousSecurity
from executors.rendezvous.credentials import relay_server_name
from executors.rendezvous.tls import link_context

STEPS = ("tls", "link", "coordinator", "scheduler")
AT_ONCE = 200  # workers of one process that are under way
MEMORY = 1769 << 20
BEAT = 5.0
IDLE = 12.0


# The workers


class LightWorkers:
    """The workers of one process; orders come on standard input."""

    def __init__(self, upto: str, payloads: list[Payload]) -> None:
        self.upto = upto
        self.payloads = payloads
        self.gate = asyncio.Semaphore(AT_ONCE)
        self.alive: list[Any] = []
        self.beats: list[asyncio.Task[None]] = []
        self.facts = versions.get_versions()
        self.ours = installed()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        print("prepared", flush=True)
        sys.stdin.readline()
        begun = sum(os.times()[:2])
        await asyncio.gather(*map(self.start, self.payloads))
        print(sum(os.times()[:2]) - begun, flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        for beat in self.beats:
            beat.cancel()
        for each in self.alive:
            each.abort()

    async def start(self, payload: Payload) -> None:
        async with self.gate:
            credential = Credential.from_dict(payload.credential)
            if self.upto == "tls":
                return await self.shake_hands(payload, credential)
            security = RendezvousSecurity(payload.relay, credential, connect_timeout=60)
            link = await security.link()
            self.alive.append(link)
            if self.upto != "link":
                await self.register(payload, security)
        return None

    async def shake_hands(self, payload: Payload, credential: Credential) -> None:
        relay = RelayAddress.parse(payload.relay)
        _, writer = await asyncio.open_connection(
            relay.host,
            relay.port,
            ssl=link_context(credential),
            server_hostname=relay_server_name(credential.authority),
        )
        self.alive.append(writer.transport)

    async def register(self, payload: Payload, security: RendezvousSecurity) -> None:
        """As `executors.aws_lambda.life` and `distributed.Worker` do it."""
        arguments = security.get_connection_args("worker")
        control = await connect(payload.coordinator, timeout=60, **arguments)
        await control.write(
            {
                "op": "connected",
                "invocation": payload.invocation,
                "request_id": f"request-{payload.invocation}",
                "log_stream": "",
                "function_version": "1",
                "cold": True,
                "memory": MEMORY,
                "versions": self.ours,
                "clock": time.time(),
                "remaining": 900.0,
                "pid": os.getpid(),
            }
        )
        assert (await control.read())["op"] == "work"
        address = f"rdv://{payload.relay}/{payload.invocation}"
        if self.upto == "scheduler":
            await self.join(payload, address, arguments)
        await control.write({"op": "ready", "worker_address": address})
        self.beats.append(asyncio.create_task(beat(control)))
        self.alive.append(control)

    async def join(self, payload: Payload, address: str, arguments: dict[str, Any]) -> None:
        comm = await connect(payload.scheduler, timeout=60, **arguments)
        now = time.time()
        await comm.write(
            {
                "op": "register-worker",
                "reply": False,
                "address": address,
                "status": "running",
                "nthreads": 1,
                "name": payload.invocation,
                "now": now,
                "resources": {},
                "memory_limit": MEMORY,
                "local_directory": "/tmp",
                "services": {},
                "nanny": None,
                "pid": os.getpid(),
                "versions": self.facts,
                "metrics": METRICS,
                "extra": {},
                "stimulus_id": f"worker-connect-{now}",
                "server_id": f"Worker-{payload.invocation}",
            },
            serializers=["msgpack"],
        )
        answer = await comm.read(deserializers=["msgpack"])
        assert answer["status"] == "OK", answer
        self.alive.append(comm)


METRICS = {
    "task_counts": {}, "bandwidth": {"total": 100_000_000, "workers": {}, "types": {}}, "digests_total_since_heartbeat": {},
    "managed_bytes": 0, "spilled_bytes": {"memory": 0, "disk": 0}, "transfer": {
        "incoming_bytes": 0, "incoming_count": 0, "incoming_count_total": 0,
        "outgoing_bytes": 0, "outgoing_count": 0, "outgoing_count_total": 0,
    }, "event_loop_interval": 0.02, "cpu": 0.0, "memory": 150 << 20, "time": 0.0,
    "host_net_io": {"read_bps": 0.0, "write_bps": 0.0}, "host_disk_io": {"read_bps": 0.0, "write_bps": 0.0}, "num_fds": 30,
}  # fmt: skip
"""What `distributed.Worker.get_metrics` tells when a worker is new."""


async def beat(control: Any) -> None:
    with contextlib.suppress(OSError):
        while True:
            await asyncio.sleep(BEAT)
            await control.write({"op": "heartbeat", "rss": 150 << 20})


async def work() -> None:
    order = json.loads(sys.stdin.readline())
    payloads = [Payload.from_event(json.loads(text)) for text in order["payloads"]]
    await LightWorkers(order["upto"], payloads).run()


# The cluster


class Invocations:
    """In the place of boto3's client: keeps the payloads of what is invoked."""

    def __init__(self) -> None:
        self.payloads: list[str] = []

    def invoke(self, Payload: bytes, InvocationType: str, **_: Any) -> dict[str, Any]:
        if InvocationType != "Event":
            return {"Payload": io.BytesIO(json.dumps({"versions": installed()}).encode())}
        self.payloads.append(Payload.decode())
        return {
            "ResponseMetadata": {
                "RequestId": f"request-{len(self.payloads)}",
                "HTTPStatusCode": 202,
            }
        }


class Bench:
    """A cluster, and the processes of its workers."""

    def __init__(self, workers: int, upto: str, processes: int, profile: bool) -> None:
        self.workers, self.upto, self.processes = workers, upto, processes
        self.profile = cProfile.Profile() if profile else None
        self.client = Invocations()
        self.figures: dict[str, Any] = {"workers": workers, "upto": upto}

    async def run(self) -> dict[str, Any]:
        backend = Backend(
            name="light workers", client=self.client, function_name="light", region="us-east-1", memory=MEMORY >> 20,
            timeout=900.0, ephemeral_storage=512, architecture="x86_64", concurrency=None, relay_host="127.0.0.1",
        )  # fmt: skip
        options = {"burst": self.workers, "appear_timeout": 600.0, "ready_timeout": 600.0}
        with mock.patch.object(lambda_cluster, "open_backend", lambda *_: backend):
            cluster = await lambda_cluster.LambdaCluster(
                0, asynchronous=True, fleet_options=options, idle_timeout=3600
            )
        try:
            await self._measure(cluster)
        finally:
            await cluster.close()
        return self.figures

    async def _measure(self, cluster: Any) -> None:
        await self._invoke(cluster)
        children = [await self._child(number) for number in range(self.processes)]
        for child in children:
            await child.stdout.readline()
        relay = psutil.Process(cluster.relays[0].pid)
        memory = relay.memory_info().rss
        before = self._cpu(relay)
        begin = time.perf_counter()
        if self.profile is not None:
            self.profile.enable()
        for child in children:
            child.stdin.write(b"go\n")
        said = [float(await child.stdout.readline()) for child in children]
        while not self._all_there(cluster):
            await asyncio.sleep(0.005)
        seconds = time.perf_counter() - begin
        if self.profile is not None:
            self.profile.disable()
        own, relays = self._cpu(relay)
        self.figures |= {
            "seconds": round(seconds, 2),
            "coordinator_cpu_s": round(own - before[0], 2),
            "relay_cpu_s": round(relays - before[1], 2),
            "workers_cpu_s": round(sum(said), 2),
        }
        if self.upto != "tls":
            await self._rest(relay, memory)
        for child in children:
            child.stdin.write(b"end\n")
        for child in children:
            await child.wait()

    async def _invoke(self, cluster: Any) -> None:
        begin = time.perf_counter()
        await cluster.scale(self.workers)
        while len(
            self.client.payloads
        ) < self.workers or cluster.coordinator.fleet.snapshot().counts.get("requested"):
            await asyncio.sleep(0.02)
        self.figures["invoke_seconds"] = round(time.perf_counter() - begin, 2)

    async def _child(self, number: int) -> Any:
        child = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--child", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )  # fmt: skip
        payloads = self.client.payloads[number :: self.processes]
        assert child.stdin is not None
        child.stdin.write(json.dumps({"upto": self.upto, "payloads": payloads}).encode() + b"\n")
        await child.stdin.drain()
        return child

    def _all_there(self, cluster: Any) -> bool:
        if self.upto in ("tls", "link"):
            return True
        if self.upto == "scheduler" and len(cluster.scheduler.workers) < self.workers:
            return False
        return bool(cluster.coordinator.fleet.workers >= self.workers)

    async def _rest(self, relay: psutil.Process, memory: int) -> None:
        """What they cost while nothing is to be done."""
        await asyncio.sleep(2)
        self.figures["relay_bytes_a_worker"] = round(
            (relay.memory_info().rss - memory) / self.workers
        )
        before, begin = self._cpu(relay), time.perf_counter()
        await asyncio.sleep(IDLE)
        passed = time.perf_counter() - begin
        own, relays = (
            (now - then) / passed for now, then in zip(self._cpu(relay), before, strict=True)
        )
        self.figures["idle_cpu"] = {"coordinator": round(own, 3), "relay": round(relays, 3)}

    def _cpu(self, relay: psutil.Process) -> tuple[float, float]:
        return sum(os.times()[:2]), sum(relay.cpu_times()[:2])

    def print_profile(self) -> None:
        if self.profile is not None:
            stats = pstats.Stats(self.profile, stream=sys.stderr)
            stats.sort_stats("tottime").print_stats(30)
            stats.sort_stats("cumtime").print_stats(60)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="*", default=[1000, 4000])
    parser.add_argument("--upto", nargs="*", choices=STEPS, default=list(STEPS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.WARNING)  # as the command has it
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if given.child:
        uvloop.run(work())
        return
    run: Callable[[Any], Any] = asyncio.run if given.loop == "asyncio" else uvloop.run
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EXCAMERA_STATE_DIR"] = folder
        for workers in given.workers:
            for upto in given.upto * given.rounds:
                bench = Bench(workers, upto, given.processes, given.profile)
                figures = run(bench.run())
                print(json.dumps(figures | {"load": round(os.getloadavg()[0], 1)}), flush=True)
                bench.print_profile()


if __name__ == "__main__":
    main()
