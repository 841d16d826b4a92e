"""What a new environment's process does to itself before it becomes the runtime: mounts, limits, network.

It runs in a forked child of a process with one thread, and ends in `execve`. On Lambda the root and the code are
read-only, /tmp is the environment's own and bounded, there is no /dev/shm, and a process has 1,024 descriptors.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import sys
from collections.abc import Sequence

from executors.local_lambda import kernel
from executors.local_lambda.quotas import DESCRIPTORS

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}
_FAILED = 126
_REFUSED = "The environment cannot start: "


@dataclasses.dataclass(frozen=True)
class Confinement:
    """How the process of one environment is shut in.

    mounts: have own mounts; user_namespace: get the right to them from a user namespace (for those who are not root).
    tmp_bytes: size of its /tmp; visible: folders that must stay visible although they lie under /tmp.
    groups: files of control groups to join; network: descriptor of the network namespace to enter.
    """

    mounts: bool
    user_namespace: bool
    tmp_bytes: int
    visible: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    network: int | None = None


def spawn(
    confinement: Confinement,
    arguments: Sequence[str],
    environment: dict[str, str],
    folder: str,
    output: int,
) -> int:
    """Fork, confine the child, execute `arguments` there; returns the child's process id.

    The child leads a session and a process group of its own; stdout and stderr go to the descriptor `output`. A child
    that cannot be set up says why there, and exits with status 126.
    """
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if confinement.network is not None:
            kernel.setns(confinement.network, kernel.CLONE_NEWNET)
        # the server's, which may be more than the limit
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        enter(confinement)
        os.chdir(folder)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        kernel.die_with_parent(parent)
        os.execve(arguments[0], list(arguments), environment)
    except BaseException as error:  # a forked copy of the server must end here, whatever happens
        os.write(2, f"{_REFUSED}{error}\n".encode())
    finally:
        os._exit(_FAILED)


def refusal(output: bytes) -> str:
    """The line in which a child said why it could not be set up, if there is one in `output`; "" otherwise."""
    lines = output.decode("utf-8", "replace").splitlines()
    return next((line for line in lines if line.startswith(_REFUSED)), "")


def enter(confinement: Confinement) -> None:
    """Shut this process in, but for its network.

    Raises: OSError where the kernel refuses.
    """
    # Whatever ours is: CPU is shared out among such alone.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    for path in confinement.groups:
        with open(path, "w") as file:
            file.write("0")
    if confinement.mounts:
        if confinement.user_namespace:
            _enter_user_namespace()
        kernel.unshare(kernel.CLONE_NEWNS)
        _arrange_mounts(confinement)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() == 0:
        kernel.drop_capabilities(
            keep=(kernel.CAP_DAC_OVERRIDE, kernel.CAP_DAC_READ_SEARCH, kernel.CAP_KILL)
        )


def _enter_user_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _arrange_mounts(confinement: Confinement) -> None:
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.make_read_only("/")
    kept = {path: os.open(path, os.O_PATH) for path in _below("/tmp", confinement.visible)}
    links = _links_below("/tmp", (*confinement.visible, sys.executable))
    size = f"size={confinement.tmp_bytes},mode=1777"
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, size)
    for path, descriptor in kept.items():
        os.makedirs(path, exist_ok=True)
        kernel.mount(f"/proc/self/fd/{descriptor}", path, flags=kernel.MS_BIND | kernel.MS_REC)
        os.close(descriptor)
    for path, target in links.items():
        if not os.path.lexists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(target, path)
    _arrange_devices()


def _arrange_devices() -> None:
    """A /dev with the usual devices but no shm, so that POSIX semaphores and shared memory fail as on Lambda."""
    present = [name for name in _DEVICES if os.path.exists(f"/dev/{name}")]
    kept = {name: os.open(f"/dev/{name}", os.O_PATH) for name in present}
    kernel.mount("tmpfs", "/dev", "tmpfs", kernel.MS_NOSUID, "size=64k,mode=755")
    for name, descriptor in kept.items():
        os.close(os.open(f"/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        kernel.mount(f"/proc/self/fd/{descriptor}", f"/dev/{name}", flags=kernel.MS_BIND)
        os.close(descriptor)
    for name, tail in _DEVICE_LINKS.items():
        os.symlink(f"/proc/self/fd{tail}", f"/dev/{name}")
    kernel.make_read_only("/dev")


def _below(folder: str, paths: Sequence[str]) -> list[str]:
    """Those of the paths that lie in `folder`, outermost first, none inside another."""
    inside: list[str] = []
    for path in sorted({os.path.realpath(path) for path in paths}):
        covered = any(path == other or path.startswith(other + "/") for other in inside)
        if path.startswith(folder + "/") and os.path.exists(path) and not covered:
            inside.append(path)
    return inside


def _links_below(folder: str, paths: Sequence[str]) -> dict[str, str]:
    """Symbolic links in `folder` over which the paths are reached, each with its target, the outermost first."""
    found: dict[str, str] = {}
    waiting, seen = [os.path.abspath(path) for path in paths], set[str]()
    while waiting:
        path = waiting.pop()
        link = next((one for one in _prefixes(path) if os.path.islink(one)), None)
        if link is None or path in seen:
            continue
        seen.add(path)
        target = os.readlink(link)
        if link.startswith(folder + "/"):
            found[link] = target
        behind = os.path.normpath(os.path.join(os.path.dirname(link), target))
        waiting.append(behind + path[len(link) :])
    return found


def _prefixes(path: str) -> list[str]:
    """/a, /a/b and /a/b/c of /a/b/c."""
    return [path[:at] for at in range(1, len(path)) if path[at] == "/"] + [path]


def probe() -> tuple[Confinement | None, str]:
    """The strongest confinement that works here, tried in a child; (None, why) where no mounts are to be had."""
    why = "this is not Linux"
    if kernel.supported():
        for user_namespace in (False, True):
            confinement = Confinement(True, user_namespace, 1 << 20)
            failure = failure_of(confinement)
            if failure is None:
                return confinement, ""
            why = failure
    return None, why


def failure_of(confinement: Confinement) -> str | None:
    """Why `confinement` does not work, tried in a child; None if it does."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            enter(confinement)
        except BaseException as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        failure = pipe.read().decode()
    os.waitpid(child, 0)
    return failure or None
