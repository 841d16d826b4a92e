"""Where connections come in: each is a stranger until it has shown a credential, and costs next to nothing until it has said
a whole ClientHello.

What a stranger says stays in the kernel, which wakes us once there is enough of it; then it waits for one of a few places in
a TLS handshake. Where there are too many, of the address with the most the one that has waited longest goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any, Protocol

from executors.rendezvous.errors import ProtocolError
from executors.rendezvous.protocol import openings
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.protocol.relay_core import RelayCore
from executors.rendezvous.protocol.strangers import Strangers

logger = logging.getLogger(__name__)

ACCEPTS = 64  # connections accepted before others get their turn
BEGINNINGS = 8  # handshakes begun before those that are under way get their turn: each takes about a millisecond
SOON = 0.05


class Stranger:
    """A connection that has shown no credential yet."""

    __slots__ = ("address", "end", "needed", "since", "socket")

    def __init__(self, accepted: socket.socket, address: Any, since: float) -> None:
        self.socket = accepted
        self.address = address
        self.since = since  # when it came; from the beginning of its handshake on, when that was
        self.needed = 1  # bytes that wake us
        self.end: Callable[[], Any] | None = None  # ends its handshake, or what came of it


class Host(Protocol):
    """The server behind a door."""

    loop: asyncio.AbstractEventLoop
    limits: Limits
    core: RelayCore

    @property
    def registered(self) -> int: ...
    def shake_hands(self, stranger: Stranger, timeout: float) -> None: ...
    def attach_bulk(self, accepted: socket.socket, address: Any) -> None: ...
    def refused(self, kind: str, address: Any, error: Exception) -> None: ...


class Door:
    """Takes connections from a listening socket, and hands those on to `server` that have said what they want."""

    def __init__(self, server: Host, listening: socket.socket) -> None:
        self._server = server
        self._limits = server.limits
        self._loop = server.loop
        self.socket = listening
        self.pending: Strangers[Stranger] = Strangers()
        self.ready: Strangers[Stranger] = Strangers()
        """Those that are pending and have said a whole ClientHello."""
        self.shaking: Strangers[Stranger] = Strangers()
        """In their TLS handshake, or before their hello."""
        self._beginning = False
        self._open()

    def __len__(self) -> int:
        return len(self.pending) + len(self.shaking)

    def close(self) -> None:
        """Close the listening socket and whatever waits behind it."""
        self._loop.remove_reader(self.socket)
        self.socket.close()
        for stranger in list(self.pending):
            self._drop(stranger)

    def tick(self, now: float) -> None:
        """Let those go that take too long."""
        while (oldest := self.pending.oldest()) is not None:
            if now - oldest.since < self._limits.handshake_timeout:
                break
            self._refuse(oldest, TimeoutError("it did not say in time what it wants"))
        self._shake_hands()

    def leave(self, stranger: Stranger) -> None:
        """It has shown who it is, or has gone."""
        self._forget(stranger)
        self._shake_hands()

    # Coming in

    def _open(self) -> None:
        if self.socket.fileno() >= 0:
            self._loop.add_reader(self.socket, self._accept)

    def _accept(self) -> None:
        """Take the connections that wait; where there are too many, strangers go for them."""
        for _ in range(ACCEPTS):
            try:
                accepted, address = self.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of file descriptors: let some go first
                logger.error("cannot accept: %s", error)
                self._loop.remove_reader(self.socket)
                self._loop.call_later(SOON if self._make_room() else 1.0, self._open)
                return
            if self._has_room():
                self._take_in(Stranger(accepted, address, self._loop.time()))
            else:
                self._server.core.stats.refused["CONNECTIONS"] += 1
                accepted.close()

    def _has_room(self) -> bool:
        """For one connection more, if a stranger has to go for it."""
        registered = self._server.registered
        if registered + len(self) < self._limits.connections:
            return True
        return registered < self._limits.connections and self._make_room()

    def _make_room(self) -> bool:
        return self._turn_away(self.pending.crowding() or self.shaking.crowding())

    def _take_in(self, stranger: Stranger) -> None:
        stranger.socket.setblocking(False)
        stranger.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending.come(stranger, str(stranger.address[0]))
        if len(self.pending) > self._limits.pending_connections:
            self._turn_away(self.pending.crowding())
        self._loop.add_reader(stranger.socket, self._hear, stranger)

    # What it wants

    def _hear(self, stranger: Stranger) -> None:
        """It has said as much as we waited for, or has ended."""
        try:
            said = stranger.socket.recv(openings.LONGEST, socket.MSG_PEEK)
            if len(said) < stranger.needed:
                raise ConnectionResetError("it ended before it had said what it wants")
            size = openings.opening_size(said)
            if len(said) < size:
                self._wait_for(stranger, size)
                return
            self._loop.remove_reader(stranger.socket)
            self._wait_for(stranger, 1)
        except BlockingIOError:
            return
        except (OSError, ProtocolError) as error:
            self._refuse(stranger, error)
            return
        self._hand_on(stranger, openings.is_bulk(said))

    def _wait_for(self, stranger: Stranger, size: int) -> None:
        """The kernel wakes us where so many bytes have come, and keeps them."""
        if size != stranger.needed:
            stranger.needed = size
            stranger.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def _hand_on(self, stranger: Stranger, bulk: bool) -> None:
        if bulk:
            self._forget(stranger)
            self._server.attach_bulk(stranger.socket, stranger.address)
        else:
            self.ready.come(stranger, str(stranger.address[0]))
            self._shake_hands()

    def _shake_hands(self) -> None:
        """Begin handshakes in the loop's next turn, unless that is settled already."""
        if not self._beginning:
            self._beginning = True
            self._loop.call_soon(self._begin_handshakes)

    def _begin_handshakes(self) -> None:
        """Begin a few where there is room or somebody's turn is over, one address after the other."""
        self._beginning = False
        for _ in range(BEGINNINGS):
            stranger = self.ready.next_in_turn()
            if stranger is None or not self._has_place():
                return
            self._forget(stranger)
            self.shaking.come(stranger, str(stranger.address[0]))
            deadline = stranger.since + self._limits.handshake_timeout
            stranger.since = self._loop.time()
            self._server.shake_hands(stranger, max(0.001, deadline - stranger.since))
        self._shake_hands()

    def _has_place(self) -> bool:
        """For one handshake more, if one has to go for it that has had its turn."""
        if len(self.shaking) < self._limits.handshakes:
            return True
        slow = self.shaking.crowding()
        if slow is None or self._loop.time() - slow.since < self._limits.handshake_turn:
            return False
        return self._turn_away(slow)

    # Going

    def _turn_away(self, stranger: Stranger | None) -> bool:
        if stranger is None:
            return False
        self._server.core.stats.refused["CONNECTIONS"] += 1
        self._drop(stranger)
        return True

    def _refuse(self, stranger: Stranger, error: Exception) -> None:
        with contextlib.suppress(OSError):  # what is left unread would reset the connection
            stranger.socket.recv(openings.LONGEST)
        self._drop(stranger)
        self._server.refused("HANDSHAKE", stranger.address, error)

    def _drop(self, stranger: Stranger) -> None:
        self._forget(stranger)
        if stranger.end is not None:
            stranger.end()
            return
        self._loop.remove_reader(stranger.socket)
        stranger.socket.close()

    def _forget(self, stranger: Stranger) -> None:
        for strangers in (self.pending, self.ready, self.shaking):
            strangers.leave(stranger)
