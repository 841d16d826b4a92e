"""Faults within workers, made when the test's fault server says so; functions import it as their EXCAMERA_PREPARE."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import socket
import socketserver
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

SERVER = "FAULT_SERVER"
STAGES = ("load_span", "encode", "final_state", "replace", "rebase", "finish")
HIDDEN_STAGES = ("survey", "begin", "extend", "code")
"""Of batches with hidden frames."""


class FaultServer(socketserver.ThreadingTCPServer):
    """Tells workers, one stage of one chunk at a time, what shall go wrong: each fault is told once.

    faults: by stage, the actions of its first calls in order of asking ("" for none).
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str = "127.0.0.1", **faults: list[str]) -> None:
        super().__init__((host, 0), _Asked)
        self.faults = {stage: list(actions) for stage, actions in faults.items()}
        self.lock = threading.Lock()
        self.asked: dict[str, int] = defaultdict(int)
        self.told: list[tuple[str, str]] = []
        self.event = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        host, port = self.server_address[:2]
        return f"{host!s}:{port}"

    def answer(self, stage: str) -> str:
        with self.lock:
            self.asked[stage] += 1
            waiting = self.faults.get(stage, [])
            action = waiting.pop(0) if waiting else ""
            if action:
                self.told.append((stage, action))
                self.event.set()
            return action

    def __exit__(self, *raised: object) -> None:
        self.shutdown()
        self.server_close()


class _Asked(socketserver.StreamRequestHandler):
    server: FaultServer

    def handle(self) -> None:
        stage = json.loads(self.rfile.readline())
        self.wfile.write(json.dumps(self.server.answer(stage)).encode() + b"\n")


def ask(stage: str) -> str:
    host, _, port = os.environ[SERVER].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(json.dumps(stage).encode() + b"\n")
        return str(json.loads(connection.makefile().readline()))


def act(action: str) -> None:
    """Do what was told: this process is the worker."""
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "slow":
        time.sleep(60)
    elif action == "wait":
        time.sleep(1)
    elif action == "deaf":
        ctypes.PyDLL(None).sleep(60)  # holds the interpreter's lock
    elif action == "memory":
        blocks = []
        while True:
            blocks.append(bytearray(os.urandom(1 << 20) * 8))
            time.sleep(0.002)


def install() -> None:
    """Let every stage ask before it begins."""
    from excamera_dask import stages
    from excamera_dask.skeleton import stages as skeletons

    def asking(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any) -> Any:
            act(ask(stage))
            return function(*arguments)

        return run

    for module, names in ((stages, STAGES), (skeletons, HIDDEN_STAGES)):
        for stage in names:
            setattr(module, stage, asking(stage, getattr(module, stage)))
