"""Small tasks on `LambdaCluster` against Dask's `LocalCluster`: tasks a second, and whose processor time it is.

Usage: python benchmarks/small_tasks.py [--tasks 2000] [--workers 2] [--rounds 5]

Each round hands out so many tasks that do nothing and gathers their results, on workers on this machine; the rounds of the
two clusters alternate. `here` is the process with client and scheduler (on Lambda also the coordinator), `relay` that of the
rendezvous, `workers` all others: the workers, and the local Lambda that runs them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
from collections import Counter
from typing import Any

import psutil
from distributed import Client, LocalCluster

from executors.aws_lambda import LambdaCluster

RELAY = "executors.rendezvous"


def same(value: int) -> int:
    """A task that does nothing."""
    return value


def spent() -> Counter[str]:
    """Processor seconds until now, of this process and of those that it has started."""
    own = psutil.Process(os.getpid())
    seconds: Counter[str] = Counter()
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            kind = "relay" if RELAY in process.cmdline() else "workers"
            times = process.cpu_times()
            seconds["here" if process == own else kind] += times.user + times.system
    return seconds


def one_round(client: Client, tasks: int) -> dict[str, float]:
    """Tasks a second, and milliseconds of processor time a task by whose it is."""
    before, begun = spent(), time.perf_counter()
    client.gather(client.map(same, range(tasks), pure=False))
    wall, used = time.perf_counter() - begun, spent() - before
    return {"a second": tasks / wall, **{who: 1000 * used[who] / tasks for who in sorted(used)}}


def measure(tasks: int, workers: int, rounds: int) -> dict[str, dict[str, float]]:
    """The medians of all rounds."""
    with contextlib.ExitStack() as stack:
        made: dict[str, Any] = {
            "local": LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None),
            "lambda": LambdaCluster(workers, backend="local"),
        }
        clients = {}
        for name, cluster in made.items():
            stack.enter_context(cluster)
            clients[name] = stack.enter_context(Client(cluster, set_as_default=False))
            clients[name].wait_for_workers(workers)
            one_round(clients[name], tasks)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in made}
        for _ in range(rounds):
            for name, client in clients.items():
                found[name].append(one_round(client, tasks))
    return {
        name: {
            key: round(statistics.median(each.get(key, 0.0) for each in all_), 2) for key in all_[0]
        }
        for name, all_ in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for name, figures in measure(given.tasks, given.workers, given.rounds).items():
        print(json.dumps({"cluster": name, **figures}))


if __name__ == "__main__":
    main()
