"""Loopback is reached directly: a proxy, which is another machine, would look for the server on itself."""

from __future__ import annotations

import os

HOSTS = ("127.0.0.1", "localhost", "::1", "[::1]")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def reach_loopback_directly() -> None:
    """Let nothing in this process, or started by it, ask a proxy for a server on this machine's loopback.

    What makes HTTP requests here (boto3, obstore, urllib) has one thing in common that says so: NO_PROXY.
    """
    if not any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXIES):
        return
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if "*" not in names:
        told = ",".join(dict.fromkeys([*names, *HOSTS]))
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = told
