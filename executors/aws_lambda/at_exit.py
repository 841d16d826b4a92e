"""Clusters that a program forgot to close are closed when it ends, for their workers cost money."""

from __future__ import annotations

import atexit
import contextlib
import weakref
from typing import Any

from distributed.core import Status

GRACE = 10.0
_known: weakref.WeakSet[Any] = weakref.WeakSet()


def close_at_exit(cluster: Any) -> None:
    """Close `cluster`, whose loop runs in a thread, at the end of the program unless that has happened by then."""
    _known.add(cluster)


@atexit.register
def _close_all() -> None:
    for cluster in list(_known):
        if cluster.status != Status.closed:
            with contextlib.suppress(Exception):
                cluster.close(timeout=GRACE)
