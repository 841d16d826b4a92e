"""What all parts of a link share: who it is, where it stands with its relay, and the frames that go before any data."""

from __future__ import annotations

from collections import deque
from enum import Enum

from executors.rendezvous.protocol.frames import Buffer
from executors.rendezvous.protocol.names import peer_id


class LinkState(Enum):
    """Where a link stands with its relay."""

    IDLE = "idle"
    GREETING = "greeting"  # connected, the hello is out
    READY = "ready"
    LOST = "lost"  # to be connected again
    REFUSED = "refused"
    CLOSED = "closed"


class Line:
    """One registered peer's TLS connection, as those see it that have something to say on it."""

    def __init__(self, name: str, rank: int = 0) -> None:
        self.rank = rank  # of our own role
        self.local_id = peer_id(name)
        self.ids: dict[int, str] = {self.local_id: name}
        self.state = LinkState.IDLE
        self.heard = 0.0
        self.urgent: deque[Buffer] = deque()

    @property
    def is_ready(self) -> bool:
        return self.state is LinkState.READY
