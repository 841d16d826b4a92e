"""The process group of one environment: started, watched, stopped and continued, measured, killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from executors.local_lambda.cgroups import Group
from executors.local_lambda.sandbox import Confinement, spawn

_PAGE = os.sysconf("SC_PAGE_SIZE")
_CHUNK = 65_536
_CHUNKS = 64  # at a time, lest a process that never stops writing keeps everything else waiting


class EnvironmentProcess:
    """One process group with the runtime in it. Callbacks: `on_output(bytes)`, `on_exit(wait status)`."""

    def __init__(
        self,
        confinement: Confinement,
        arguments: Sequence[str],
        environment: dict[str, str],
        folder: str,
        group: Group | None,
        on_output: Callable[[bytes], None],
        on_exit: Callable[[int], None],
    ) -> None:
        """Start it.

        Raises: OSError where no process or descriptor can be had.
        """
        self._loop = asyncio.get_running_loop()
        self._group = group
        self._on_output = on_output
        self._on_exit = on_exit
        self.peak = 0  # bytes, the most that was measured
        self.frozen = False
        self.status: int | None = None
        self._output, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writer, True)
        try:
            self.pid = spawn(confinement, arguments, environment, folder, writer)
        except OSError:
            os.close(self._output)
            raise
        finally:
            os.close(writer)
        self._loop.add_reader(self._output, self.read_output)
        self._handle = os.pidfd_open(self.pid)
        self._loop.add_reader(self._handle, self._reap)

    def read_output(self) -> None:
        """Hand on whatever the processes have written so far."""
        for _ in range(_CHUNKS if self._output >= 0 else 0):
            try:
                data = os.read(self._output, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                self._close_output()
                return
            self._on_output(data)

    def processes(self) -> set[int]:
        """Everything that it has started, and the process itself."""
        return {self.pid, *self._members()}

    def freeze(self) -> None:
        """Stop all its processes, as Lambda does between invocations."""
        if self.status is None and not self.frozen:
            self.frozen = True
            self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        if self.frozen:
            self.frozen = False
            self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill everything that the environment has started, in whatever session it is."""
        self._signal(signal.SIGKILL)

    def measure(self) -> int:
        """Resident bytes of the environment's processes, now."""
        total = sum(map(_resident, self.processes()))
        self.peak = max(self.peak, total)
        return total

    def high_water(self) -> int:
        """The most bytes that were resident at once, as far as can be known."""
        self.measure()
        self.peak = max(self.peak, _peak_resident(self.pid))
        return self.peak

    def out_of_memory(self) -> bool:
        """True if the kernel has killed one of the processes for want of memory."""
        return self._group is not None and self._group.out_of_memory()

    def _signal(self, number: int) -> None:
        """To the process group, and to those that have left it."""
        members = self._members()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
        for process in members - {self.pid}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, number)

    def _reap(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        self.kill()  # what the runtime has left running
        self.status = os.waitpid(self.pid, 0)[1]
        self.read_output()
        self._close_output()
        self._on_exit(self.status)

    def _close_output(self) -> None:
        if self._output >= 0:
            self._loop.remove_reader(self._output)
            os.close(self._output)
            self._output = -1

    def _members(self) -> set[int]:
        return self._descendants() if self._group is None else self._group.processes()

    def _descendants(self) -> set[int]:
        found: set[int] = set()
        waiting = [self.pid]
        while waiting:
            for child in _children(waiting.pop()):
                if child not in found:
                    found.add(child)
                    waiting.append(child)
        return found


def _children(process: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            text = Path(f"/proc/{process}/task/{thread}/children").read_text()
            found.extend(map(int, text.split()))
    return found


def _resident(process: int) -> int:
    try:
        with open(f"/proc/{process}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _peak_resident(process: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
