"""How many workers a cluster that changes in size is to have."""

from __future__ import annotations

import math
from typing import Any


def workers_to_come(cluster: Any) -> int:
    """Workers that a cluster manager of Dask's has, was asked for, or may ask for by itself; 0 if it does not tell."""
    wanted = getattr(cluster, "target", None)
    if not isinstance(wanted, int):
        wanted = len(getattr(cluster, "plan", None) or ())
    adaptive = getattr(cluster, "_adaptive", None)
    most = getattr(adaptive, "maximum", 0)
    return max(wanted, int(most) if 0 < most < math.inf else 0)
