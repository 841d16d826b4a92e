"""Whose connection it is: which process of this machine holds the other end of one over loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterable


def is_held_by(connection: socket.socket, processes: Iterable[int]) -> bool:
    """Whether one of the processes holds the other end of a TCP connection (IPv4) in their network namespace."""
    chosen = list(processes)
    with contextlib.suppress(OSError):
        ends = _spelled(connection.getpeername()), _spelled(connection.getsockname())
        for process in chosen:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                inode = _inode(process, ends)
                return inode is not None and any(_holds(each, inode) for each in chosen)
    return False


def _spelled(address: tuple[str, int]) -> str:
    """As the kernel writes it: 127.0.0.1:80 is 0100007F:0050 where the least byte comes first."""
    host, port = address
    number = int.from_bytes(socket.inet_aton(host), sys.byteorder)
    return f"{number:08X}:{port:04X}"


def _inode(process: int, ends: tuple[str, str]) -> str | None:
    """Of the socket with these ends, its own and the other, in the process's network namespace."""
    with open(f"/proc/{process}/net/tcp") as table:
        for line in table:
            fields = line.split()
            if (fields[1], fields[2]) == ends:
                return fields[9]
    return None


def _holds(process: int, inode: str) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in os.scandir(f"/proc/{process}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(descriptor.path) == f"socket:[{inode}]":
                    return True
    return False
