"""A network of its own for each environment: out it gets, in comes nothing, and no environment reaches another.

A pair of virtual interfaces joins the environment's namespace to this machine. All of them end at one address of ours,
so a server that listens there (or everywhere) is reached by all; a firewall inside each namespace lets only answers in.
No name and no file refers to the namespaces: they go with the last process or descriptor in them, however that ends.
Needs root, `ip` (iproute2), and `nft` or `iptables`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

from executors.local_lambda import kernel
from executors.local_lambda.errors import StartFailed

RUNTIME_PORT = 9001  # as on Lambda; each environment has a loopback of its own
_RANGE = ipaddress.IPv4Network("198.18.0.0/15")  # RFC 2544: for tests of networks, routed nowhere
_BLOCK = 22  # prefix length of what one server takes of it
_NFT = """\
add table inet local
add chain inet local in { type filter hook input priority 0; policy drop; }
add rule inet local in iif lo accept
add rule inet local in ct state established,related accept
"""
_IPTABLES = (
    "-A INPUT -i lo -j ACCEPT",
    "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "-P INPUT DROP",
)


@dataclasses.dataclass
class Namespace:
    """One environment's network: a descriptor to enter it by, and its address."""

    descriptor: int
    address: str

    def close(self) -> None:
        """Let go of it; it vanishes when no process is left in it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Network:
    """Makes namespaces. `host` is the address at which environments reach this machine."""

    def __init__(self) -> None:
        """Find a free block of addresses, and put up our end.

        Raises: StartFailed where something is missing.
        """
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise StartFailed("network='isolated' needs root and the command ip (iproute2)")
        if shutil.which("nft") is None and shutil.which("iptables") is None:
            raise StartFailed("network='isolated' needs the command nft or iptables")
        block = _free_block()
        addresses = block.hosts()
        self.host = str(next(addresses))
        self._free = [str(address) for address in addresses][::-1]
        self._label = f"ll{os.getpid() % 100_000}"
        self._count = 0
        # Holds the address from the start: interfaces of environments come and go.
        self._anchor = self.create()

    def create(self) -> Namespace:
        """A new namespace, joined to this machine.

        Raises: StartFailed where the kernel or a command refuses.
        """
        if not self._free:
            raise StartFailed("no address is left for another environment")
        address = self._free.pop()
        try:
            kernel.unshare(kernel.CLONE_NEWNET)
            try:
                descriptor = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            finally:
                kernel.setns(self._home, kernel.CLONE_NEWNET)
        except OSError as error:
            raise StartFailed(f"no network namespace: {error}") from error
        namespace = Namespace(descriptor, address)
        try:
            self._join(namespace)
        except StartFailed:
            self.destroy(namespace)
            raise
        return namespace

    def destroy(self, namespace: Namespace) -> None:
        """Take the namespace's address back, and let go of it."""
        self._free.insert(0, namespace.address)
        namespace.close()

    def listen(self, namespace: Namespace) -> socket.socket:
        """A socket that listens for the Runtime API inside the namespace."""
        with self._inside(namespace):
            return socket.create_server(("127.0.0.1", RUNTIME_PORT), backlog=16)

    def close(self) -> None:
        """Let go of our own end."""
        self._anchor.close()
        os.close(self._home)

    def _join(self, namespace: Namespace) -> None:
        self._count += 1
        name = f"{self._label}x{self._count % 10_000}"
        path = f"/proc/{os.getpid()}/fd/{namespace.descriptor}"
        _run(
            ["ip", "-batch", "-"],
            f"link add {name} type veth peer name eth0 netns {path}\n"
            f"addr add {self.host}/32 dev {name}\n"
            f"link set {name} up\n"
            f"route add {namespace.address}/32 dev {name}\n",
        )
        with self._inside(namespace):
            _run(
                ["ip", "-batch", "-"],
                "link set lo up\n"
                f"addr add {namespace.address}/32 dev eth0\n"
                "link set eth0 up\n"
                f"route add {self.host}/32 dev eth0\n"
                f"route add default via {self.host}\n",
            )
            if shutil.which("nft"):
                _run(["nft", "-f", "-"], _NFT)
            else:
                for rule in _IPTABLES:
                    _run(["iptables", *rule.split()])

    @contextlib.contextmanager
    def _inside(self, namespace: Namespace) -> Iterator[None]:
        kernel.setns(namespace.descriptor, kernel.CLONE_NEWNET)
        try:
            yield
        finally:
            kernel.setns(self._home, kernel.CLONE_NEWNET)


def _free_block() -> ipaddress.IPv4Network:
    listed = _run(["ip", "-4", "-o", "addr"])
    taken = {ipaddress.ip_interface(line.split()[3]).ip for line in listed.splitlines()}
    blocks = list(_RANGE.subnets(new_prefix=_BLOCK))
    begin = os.getpid() % len(blocks)
    for block in blocks[begin:] + blocks[:begin]:
        if not any(address in block for address in taken):
            return block
    raise StartFailed(f"every block of {_RANGE} is in use on this machine")


def _run(command: list[str], given: str = "") -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = " ".join((done.stderr or done.stdout).split())
        raise StartFailed(f"{command[0]} refuses: {words}")
    return done.stdout
