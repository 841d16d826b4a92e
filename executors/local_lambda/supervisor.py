"""Sees to it that nothing outlives a local Lambda: a small process between it and whoever has started it.

    python -I -S supervisor.py STATE REMOVE PARENT COMMAND...

It starts COMMAND (with its own process id as the last argument), and ends it when the standard input ends, which is
when the one who holds the other end closes it or dies, or when PARENT is no longer the parent. All processes that
COMMAND leaves behind become this process's children and are killed. If REMOVE is 1, the folder STATE goes at last.
Standard library only, and it is run as a file: it must be there before anything else is.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36
_POLL = 0.5  # seconds
_GRACE = 8.0  # seconds to end after SIGTERM


def main() -> int:
    """Run until the command or the parent has ended; returns the command's exit status."""
    state, remove, parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to act on
    signal.signal(signal.SIGTERM, _stop)
    server = subprocess.Popen([*command, str(os.getpid())], stdin=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            readable, _, _ = select.select([0], [], [], _POLL)
            ended = bool(readable) and not os.read(0, 4096)
            if ended or os.getppid() != int(parent):
                break
    except SystemExit:
        pass
    finally:
        status = _end(server)
        _kill_children()
        if remove == "1":
            shutil.rmtree(state, ignore_errors=True)
    return status


def _stop(number: int, frame: object) -> None:
    raise SystemExit


def _end(server: subprocess.Popen[bytes]) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server.terminate()
    try:
        return server.wait(_GRACE)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


def _kill_children() -> None:
    """Kill and reap until there are no children: the orphans of the killed become ours in turn."""
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline:
        for child in _children():
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
        except ChildProcessError:
            return


def _children() -> list[int]:
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())
