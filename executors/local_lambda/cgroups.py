"""Control groups, versions 1 and 2: memory, processes and CPU of one environment, where they can be written."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from executors.local_lambda import sandbox
from executors.local_lambda.quotas import MEMORY, MEMORY_PER_CPU, PROCESSES

_MOUNT = Path("/sys/fs/cgroup")
_PREFIX = "excamera-local-lambda-"
_PERIOD = 100_000  # microseconds
_PROBE_MEMORY = 256 << 20


@dataclasses.dataclass(frozen=True)
class Group:
    """The control groups of one environment: one folder in version 2, one a controller in version 1."""

    folders: tuple[Path, ...]

    @property
    def entrances(self) -> tuple[str, ...]:
        """The files into which a process writes 0 to join."""
        return tuple(str(folder / "cgroup.procs") for folder in self.folders)

    def processes(self) -> set[int]:
        """Everything that runs in the group."""
        found: set[int] = set()
        for folder in self.folders:
            with contextlib.suppress(OSError):
                found.update(map(int, (folder / "cgroup.procs").read_text().split()))
        return found

    def kill(self) -> None:
        """Kill everything in the group, whatever sessions it has made for itself."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def out_of_memory(self) -> bool:
        """True if the kernel has killed something here for want of memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    for line in (folder / name).read_text().splitlines():
                        if line.startswith("oom_kill ") and line.split()[1] != "0":
                            return True
        return False

    def remove(self) -> bool:
        """Remove the folders; False if something still ends in there."""
        for folder in self.folders:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno == errno.EBUSY:
                    return False
                raise
        return True


class ControlGroups:
    """The server's own folder of control groups, with one group an environment in it."""

    def __init__(self, roots: dict[str, Path], version: int) -> None:
        self.roots = roots
        self.version = version

    @classmethod
    def open(cls, *, cpu: bool = False) -> ControlGroups | str:
        """Make the server's folders (for CPU if asked to); or say in words why that cannot be."""
        name = f"{_PREFIX}{os.getpid()}"
        wanted = ("memory", "pids", *(["cpu"] if cpu else []))
        try:
            if (_MOUNT / "cgroup.controllers").exists():
                groups = cls(_open_unified(name, wanted), 2)
            else:
                groups = cls(_open_controllers(name, wanted), 1)
        except OSError as error:
            return f"control groups cannot be written ({error.strerror or error})"
        return groups._checked()

    def _checked(self) -> ControlGroups | str:
        """Without the controllers whose groups a process cannot enter; or why none is left that limits memory."""
        try:
            group = self.create("probe", _PROBE_MEMORY, MEMORY[0])
        except OSError as error:
            self.close()
            return f"control groups cannot be written ({error.strerror or error})"
        shut = {}
        for controller, root in self.roots.items():
            entrance = str(root / "probe" / "cgroup.procs")
            failure = sandbox.failure_of(sandbox.Confinement(False, False, 0, groups=(entrance,)))
            if failure is not None:
                shut[controller] = failure
        group.remove()
        if "memory" in shut:
            self.close()
            return f"control groups cannot be entered ({shut['memory']})"
        for controller in shut:
            _remove_tree(self.roots.pop(controller))
        return self

    @property
    def controllers(self) -> set[str]:
        """Which of memory, pids and cpu can be limited."""
        return set(self.roots)

    def create(self, name: str, memory: int, cpu_memory: int | None) -> Group:
        """A group for an environment: `memory` bytes at most, and the CPU that `cpu_memory` MB buy (None: all of it).

        Raises: OSError.
        """
        folders = {root / name: None for root in self.roots.values()}
        for folder in folders:
            folder.mkdir()
        group = Group(tuple(folders))
        quota = None if cpu_memory is None else int(_PERIOD * cpu_memory / MEMORY_PER_CPU)
        if "memory" in self.roots:
            file = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
            (self.roots["memory"] / name / file).write_text(str(memory))
            no_swap = "memory.swap.max" if self.version == 2 else "memory.swappiness"
            with contextlib.suppress(OSError):
                (self.roots["memory"] / name / no_swap).write_text("0")
        if "pids" in self.roots:
            (self.roots["pids"] / name / "pids.max").write_text(str(PROCESSES))
        if "cpu" in self.roots and quota is not None:
            folder = self.roots["cpu"] / name
            if self.version == 2:
                (folder / "cpu.max").write_text(f"{quota} {_PERIOD}")
            else:
                (folder / "cpu.cfs_period_us").write_text(str(_PERIOD))
                (folder / "cpu.cfs_quota_us").write_text(str(max(1000, quota)))
        return group

    def close(self) -> None:
        """Kill what is left, remove everything; a folder in which something still ends gets a second."""
        for root in dict.fromkeys(self.roots.values()):
            _remove_tree(root)


def _open_controllers(name: str, wanted: Sequence[str]) -> dict[str, Path]:
    """Version 1: a folder in the hierarchy of each controller, below the group that we are in."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    roots: dict[str, Path] = {}
    for controller in wanted:
        base = _MOUNT / controller
        if controller in own and base.is_dir():
            inside = base / own[controller].lstrip("/")
            parent = inside if inside.is_dir() else base
            _sweep(parent)
            roots[controller] = parent / name
            roots[controller].mkdir()
    if "memory" not in roots:
        raise OSError(errno.ENOENT, "no memory controller")
    return roots


def _open_unified(name: str, wanted: Sequence[str]) -> dict[str, Path]:
    """Version 2: one folder at the root of what we see, which needs the controllers to be handed down there."""
    _sweep(_MOUNT)
    folder = _MOUNT / name
    folder.mkdir()
    try:
        given = (folder / "cgroup.controllers").read_text().split()
        for controller in set(wanted) - set(given):
            with contextlib.suppress(OSError):
                (_MOUNT / "cgroup.subtree_control").write_text(f"+{controller}")
        given = (folder / "cgroup.controllers").read_text().split()
        usable = [controller for controller in wanted if controller in given]
        if "memory" not in usable:
            raise OSError(errno.EACCES, "the memory controller is not handed down")
        (folder / "cgroup.subtree_control").write_text(" ".join("+" + each for each in usable))
    except OSError:
        folder.rmdir()
        raise
    return dict.fromkeys(usable, folder)


def _remove_tree(root: Path) -> None:
    for folder in [*root.glob("*/"), root]:
        group = Group((folder,))
        group.kill()
        for _ in range(100):
            with contextlib.suppress(OSError):
                if group.remove():
                    break
            time.sleep(0.01)


def _sweep(parent: Path) -> None:
    """Remove what servers left behind that were killed with everything around them."""
    for folder in parent.glob(f"{_PREFIX}*"):
        process = folder.name.removeprefix(_PREFIX)
        if process.isdigit() and not Path(f"/proc/{process}").exists():
            _remove_tree(folder)
