"""Let a process import what local workers need while this one still imports what the client needs; workers fork off it."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing import forkserver

METHOD = "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"  # Dask reads it when it is imported
SAFE_PATH = "PYTHONSAFEPATH"
PRELOADED = [
    "executors.ahead",
    "excamera_dask.stages",
    "excamera_dask.kernels.warm_up",
    "codec.decoder",
    "codec.encoding.encoder",
    "codec.encoding.rebase",
    "codec.encoding.temporal_filter",
    "excamera_dask.skeleton.making",
]


def head_start(executor: str) -> None:
    """Start Python's fork server for the processes of the local executor; without it they start one by one, later."""
    if executor != "local" or METHOD in os.environ or "distributed" in sys.modules:
        return
    forkserver.set_forkserver_preload(PRELOADED)
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = (
        "1"  # the server is no script, and a codec.py that lies here is not ours
    )
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is for the client
    try:
        forkserver.ensure_running()
    except OSError:
        return
    finally:
        signal.signal(signal.SIGINT, handler)
        if before is None:
            del os.environ[SAFE_PATH]
    os.environ[METHOD] = "forkserver"
