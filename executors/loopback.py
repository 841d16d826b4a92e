"""This machine is reached directly: a proxy, which is another machine, would look for the server on itself."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

HOSTS = ("127.0.0.1", "localhost", "::1", "[::1]", "0.0.0.0", "localhost.localdomain")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_CAPITALS = (*_PROXIES, "NO_PROXY")
VARIABLES = (*_CAPITALS, *map(str.lower, _CAPITALS))
"""What says how other machines are reached; the lower case counts first."""
_NAMES = Path("/etc/hosts")
MOST_NAMES = 100
"""Of that file's: some list thousands of hosts that are to be reached by nobody."""


def reach_loopback_directly(*endpoints: str | None) -> None:
    """Let nothing in this process, or started by it, ask a proxy for a server on this machine.

    endpoints: URLs of servers that may be here, besides those that the environment names for AWS's tools.
    What makes HTTP requests here (boto3, obstore, urllib) has one thing in common that says so: NO_PROXY.
    """
    if not any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXIES):
        return
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if "*" not in names:
        named = (url for name, url in os.environ.items() if name.startswith("AWS_ENDPOINT_URL"))
        here = filter(_is_here, map(_host, filter(None, (*endpoints, *named))))
        told = ",".join(
            dict.fromkeys(
                [*names, *HOSTS, *itertools.islice(_names_of_this_machine(), MOST_NAMES), *here]
            )
        )
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = told


def _host(url: str) -> str:
    with contextlib.suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""


def _is_here(address: str) -> bool:
    """Whether a numeric address is one of this machine's, which alone can be bound to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.inet_pton(family, address)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except (OSError, ValueError):
        return False
    return True


def _names_of_this_machine() -> Iterator[str]:
    """Its own, and those that its file of hosts has for its addresses; no name server is asked."""
    yield socket.gethostname()
    with contextlib.suppress(OSError):
        for line in _NAMES.read_text(errors="replace").splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            if address not in ("0.0.0.0", "::") and _is_here(address):
                yield from names
