"""Names and roles of peers, the numbers that stand for them in frames, and addresses of relays."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from executors.rendezvous.errors import InvalidAddress

WORKER = "worker"
CLIENT = "client"
CONTROLLER = "controller"
ROLES = (WORKER, CLIENT, CONTROLLER)
"""Of peers, each with its number in the frames that open a stream; each may do what those before it may not."""
MAX_NAME = 100
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a verified certificate says about its holder."""

    names: frozenset[str]
    role: str
    expires: float  # seconds since 1970


def check_name(name: str) -> str:
    """`name` itself if it may name a peer: 1 to 100 letters, digits, dots, dashes and underscores."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidAddress(
            f"{name!r} cannot name a peer: use 1 to {MAX_NAME} letters, digits, '.', '-' and '_'"
        )
    return name


def peer_id(name: str) -> int:
    """The 64-bit number of a name in frame headers: the head of its SHA-256, never 0. Raises InvalidAddress."""
    return _id(check_name(name))


@lru_cache(maxsize=16384)
def _id(name: str) -> int:
    digest = hashlib.sha256(b"rdv peer " + name.encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1


@dataclass(frozen=True, slots=True)
class RelayAddress:
    """Where a relay listens: a host and a TCP port; str() gives `host:port` ([...] around IPv6)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str | RelayAddress) -> Self:
        """Read `host:port`; raises InvalidAddress."""
        if isinstance(text, RelayAddress):
            return cls(text.host, text.port)
        host, colon, port = str(text).removeprefix("rdv://").rstrip("/").rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""
        if not (colon and host and port.isdecimal() and int(port) < 65536):
            raise InvalidAddress(f"{text!r} is not a relay's address: give host:port")
        return cls(host, int(port))


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """A name at a relay; str() gives `host:port/name`, the part of an address after `rdv://`."""

    relay: RelayAddress
    name: str

    def __str__(self) -> str:
        return f"{self.relay}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[rdv://]host:port/name`; raises InvalidAddress."""
        relay, slash, name = text.removeprefix("rdv://").rpartition("/")
        if not slash:
            raise InvalidAddress(f"{text!r} is not a peer's address: give rdv://host:port/name")
        return cls(RelayAddress.parse(relay), check_name(name))
