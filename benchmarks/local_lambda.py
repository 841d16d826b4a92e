"""What the local Lambda costs: cold and warm starts, memory, many environments at once.

    python benchmarks/local_lambda.py [--environments 300] [--heavy 32]

Prints JSON. Times include boto3 unless they say otherwise. A bare environment imports nothing but AWS's runtime
client, a heavy one also numpy, numba and distributed, as the workers do.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from botocore.awsrequest import AWSRequest

from executors.local_lambda import LocalLambda

BARE = """\
import time

def handle(event, context):
    time.sleep(event.get("seconds", 0))
    return 1
"""
HEAVY = "import numpy, numba, distributed\n" + BARE


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=int, default=300)
    parser.add_argument("--heavy", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as code, LocalLambda(time_scale=1.0) as local:
        Path(code, "bare.py").write_text(BARE)
        Path(code, "heavy.py").write_text(HEAVY)
        figures = {
            "notices": local.notices,
            "bare": single(local, code, "bare"),
            "heavy": single(local, code, "heavy"),
            "many_bare": many(local, code, "bare", options.environments),
            "many_heavy": many(local, code, "heavy", options.heavy),
        }
    json.dump(figures, sys.stdout, indent=2)
    print()


def single(local: LocalLambda, code: str, module: str, calls: int = 200) -> dict[str, Any]:
    """Milliseconds of cold starts and of warm calls, one at a time; memory of one environment in MB."""
    client = local.client()
    local.create_function(module, f"{module}.handle", code=code)
    cold = []
    for number in range(8):
        client.update_function_configuration(FunctionName=module, Description=str(number))
        cold.append(timed(lambda: client.invoke(FunctionName=module, Payload=b"{}")))
    warm = [timed(lambda: client.invoke(FunctionName=module, Payload=b"{}")) for _ in range(calls)]
    (process,) = [each["pid"] for each in local.environments() if each["function"] == module]
    return {
        "cold_ms": round(statistics.median(cold[1:]), 1),
        "warm_ms": round(statistics.median(warm), 2),
        "warm_http_ms": round(statistics.median(plain_http(local, module, calls)), 2),
        "handler_ms": last_duration(local, module),
        "pss_mb": round(rollup(process, "Pss"), 1),
        "private_mb": round(rollup(process, "Private_Dirty"), 1),
    }


def many(local: LocalLambda, code: str, module: str, number: int) -> dict[str, Any]:
    """Seconds until so many Event invocations run at once, each in a new environment; their memory in MB."""
    client, name = local.client(), f"many-{module}"
    local.create_function(name, f"{module}.handle", code=code, timeout=900)
    begun = time.monotonic()
    for _ in range(number):
        client.invoke(FunctionName=name, InvocationType="Event", Payload=b'{"seconds": 800}')
    sent = time.monotonic() - begun
    ours: list[dict[str, Any]] = []
    while len(ours) < number and time.monotonic() - begun < 600:
        time.sleep(0.2)
        everything = local.environments()
        ours = [each for each in everything if each["function"] == name and each["state"] == "busy"]
    started = time.monotonic() - begun
    memory = sum(rollup(each["pid"], "Pss") for each in ours)
    server = int(Path(f"/proc/{ours[0]['pid']}/stat").read_text().rpartition(")")[2].split()[1])
    before = cpu(server)
    time.sleep(2)
    client.delete_function(FunctionName=name)
    return {
        "environments": len(ours),
        "sent_seconds": round(sent, 2),
        "started_seconds": round(started, 2),
        "pss_mb_each": round(memory / max(1, len(ours)), 1),
        "server_cpu_share": round((cpu(server) - before) / 2, 3),
        "server_rss_mb": round(rollup(server, "Rss"), 1),
    }


def plain_http(local: LocalLambda, name: str, calls: int) -> list[float]:
    """Milliseconds of warm calls over one HTTP connection, without boto3."""
    connection = http.client.HTTPConnection(local.endpoint_url.removeprefix("http://"))
    path = f"/2015-03-31/functions/{name}/invocations"
    request = AWSRequest("POST", local.endpoint_url + path, data=b"{}")
    local.keys.signer("lambda", local.settings.region).add_auth(request)
    headers = dict(request.headers.items())

    def call() -> None:
        connection.request("POST", path, b"{}", headers)
        connection.getresponse().read()

    return [timed(call) for _ in range(calls)]


def timed(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


def last_duration(local: LocalLambda, name: str) -> float:
    report = [line for line in local.logs(name) if line.startswith("REPORT")][-1]
    return float(report.split("\t")[1].split()[1])


def rollup(process: int, field: str) -> float:
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu(process: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    main()
