"""Loopback is reached directly: a proxy, which is another machine, would look for the server on itself."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

HOSTS = ("127.0.0.1", "localhost", "::1", "[::1]")


def reach_directly(url: str | None) -> None:
    """Let nothing in this process, or started by it, ask a proxy for `url` if it is of this machine's loopback.

    What makes HTTP requests here (boto3, obstore, urllib) has one thing in common that says so: NO_PROXY.
    """
    if not is_loopback(url):
        return
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    missing = [host for host in HOSTS if host not in names]
    if missing and "*" not in names:
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join([*names, *missing])


def is_loopback(url: str | None) -> bool:
    """Whether a URL names this machine by an address of loopback."""
    try:
        host = urlsplit(url or "").hostname or ""
    except ValueError:
        return False
    return host in HOSTS or host.startswith("127.")
