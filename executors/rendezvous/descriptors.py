"""How many connections a process may have open: its limit of file descriptors, raised as far as it goes."""

from __future__ import annotations

import resource
from dataclasses import replace

from executors.rendezvous.errors import RendezvousError
from executors.rendezvous.protocol.limits import Limits

RESERVE = 64
"""Descriptors for what is no connection of a peer."""
A_WORKER = 2
"""Connections of a worker: its link, and one for large amounts."""


def raise_limit() -> int:
    """Raise this process's soft limit to its hard one; returns how many descriptors it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # some systems say "unlimited" and mean less
            return soft
    return hard_limit()


def hard_limit() -> int:
    """How many descriptors this process, and each that it starts, may have at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def check_limit(workers: int, allowed: int) -> None:
    """Raise RendezvousError, in one line, where a relay for so many workers may not open enough connections."""
    needed = A_WORKER * workers + RESERVE
    if needed > allowed:
        raise RendezvousError(
            f"{workers} workers need {needed} file descriptors, and a process may have {allowed} here: raise that limit "
            f"(ulimit -Hn {needed}, LimitNOFILE={needed} of a service, --ulimit nofile={needed} of a container)"
        )


def room(allowed: int) -> int:
    """How many workers a relay may serve that has so many descriptors."""
    return max(0, allowed - RESERVE) // A_WORKER


def fitted(limits: Limits, allowed: int) -> Limits:
    """Limits of a relay that has so many descriptors: whoever comes too late is refused rather than left waiting."""
    places = max(1, allowed - RESERVE)
    return replace(
        limits,
        connections=min(limits.connections, places),
        pending_connections=min(limits.pending_connections, max(1, places // 2)),
        handshakes=min(limits.handshakes, max(1, places // 4)),
        bulk_connections=min(limits.bulk_connections, places // 2),
    )
