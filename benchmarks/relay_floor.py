"""What a second TLS hop costs at the least: blocking sockets and OpenSSL alone, no frames, no event loop.

Usage: python benchmarks/relay_floor.py [--megabytes 300] [--rounds 3]

One process sends to another, directly and then through a third that decrypts and encrypts again, each with the contexts of
the rendezvous. A hop over rdv:// cannot beat one over tls:// plus the difference.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import statistics
import time
from collections.abc import Callable

from executors.rendezvous import Authority
from executors.rendezvous.credentials import make_relay_key, relay_server_name
from executors.rendezvous.tls import link_context, relay_context

BATCH = 128 * 1024
AUTHORITY = Authority.create()
CREDENTIAL = AUTHORITY.issue("end")


class Pipe:
    """One end of a TLS connection, with the buffers through which its bytes pass."""

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, name: str | None) -> None:
        self.socket = connected
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, name is None, name)
        self.encrypted = memoryview(bytearray(BATCH))
        self.plain = memoryview(bytearray(2 * BATCH))
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._push()
                self.incoming.write(self.socket.recv(BATCH))
        self._push()

    def _push(self) -> None:
        if self.outgoing.pending:
            self.socket.sendall(self.outgoing.read())

    def send(self, data: memoryview) -> None:
        """Send all of `data`."""
        while data:
            data = data[self.tls.write(data) :]
        self._push()

    def receive(self) -> memoryview:
        """What one read of the socket brings, decrypted; valid until the next."""
        self.incoming.write(self.encrypted[: self.socket.recv_into(self.encrypted)])
        size = 0
        try:
            while True:
                size += self.tls.read(len(self.plain) - size, self.plain[size:])  # type: ignore[arg-type,operator]
        except ssl.SSLWantReadError:
            return self.plain[:size]


def server(connected: socket.socket) -> Pipe:
    key, request = make_relay_key()
    certificate = AUTHORITY.certify_relay(request)
    return Pipe(connected, relay_context(certificate, key, AUTHORITY.certificate), None)


def client(connected: socket.socket) -> Pipe:
    return Pipe(connected, link_context(CREDENTIAL), relay_server_name(AUTHORITY.certificate))


def fork(act: Callable[[], None]) -> int:
    child = os.fork()
    if not child:
        act()
        os._exit(0)
    return child


def connection() -> tuple[socket.socket, socket.socket]:
    listening = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listening.getsockname())
    return ours, listening.accept()[0]


def drain(pipe: Pipe, total: int) -> float:
    """Seconds until `total` bytes have come."""
    begin = time.perf_counter()
    while total > 0:
        total -= len(pipe.receive())
    return time.perf_counter() - begin


def feed(connected: socket.socket, total: int) -> None:
    pipe, data = client(connected), memoryview(os.urandom(BATCH))
    for _ in range(total // BATCH):
        pipe.send(data)
    connected.recv(1)  # until the other end is done


def forward(first: socket.socket, second: socket.socket, total: int) -> None:
    source, sink = server(first), server(second)
    left, begin = total, time.process_time()
    while left > 0:
        data = source.receive()
        sink.send(data)
        left -= len(data)
    cpu = 1e10 / total * (time.process_time() - begin)
    print(json.dumps({"cpu_ms_a_10_MB_in_the_middle": round(cpu, 1)}), flush=True)
    second.recv(1)


def measure(total: int, hops: int) -> float:
    """Seconds for `total` bytes over one or two hops."""
    ours, theirs = connection()
    children = [fork(lambda: feed(ours, total))]
    if hops == 1:
        seconds = drain(server(theirs), total)
    else:
        end, far = connection()
        children.append(fork(lambda: forward(theirs, far, total)))
        seconds = drain(client(end), total)
        end.shutdown(socket.SHUT_RDWR)
    theirs.shutdown(socket.SHUT_RDWR)
    for child in children:
        os.waitpid(child, 0)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    total = given.megabytes * (1 << 20)
    took: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(given.rounds):
        for hops, found in took.items():
            found.append(1e10 / total * measure(total, hops))
    print(json.dumps({f"ms_a_10_MB_{k}_hops": round(statistics.median(v), 1) for k, v in took.items()}))  # fmt: skip


if __name__ == "__main__":
    main()
