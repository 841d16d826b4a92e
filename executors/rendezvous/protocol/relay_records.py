"""What a relay remembers of connections, peers and streams."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from executors.rendezvous.errors import ProtocolError
from executors.rendezvous.protocol.fair_queue import Budget, FairQueue
from executors.rendezvous.protocol.frames import EARLY_CREDIT, OPENER
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.protocol.names import CONTROLLER, ROLES, Identity


class Bucket:
    """A rate limit: `rate` events a second, and a second's worth at once."""

    __slots__ = ("level", "rate", "since")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.level = rate
        self.since = now

    def take(self, now: float) -> bool:
        """True if one more event is within the rate."""
        self.level = min(self.rate, self.level + (now - self.since) * self.rate)
        self.since = now
        if self.level < 1.0:
            return False
        self.level -= 1.0
        return True


class Connection:
    """One TLS connection, before and after its hello; or the bulk connection of one, whose `main` that is."""

    __slots__ = (
        "blocked_since", "bulk", "close_reason", "greeted", "heard", "identity", "main", "muted", "out", "peer", "said", "since",
        "token",
    )  # fmt: skip

    def __init__(
        self, identity: Identity, now: float, token: bytes = b"", budget: Budget | None = None
    ) -> None:
        self.identity = identity
        self.token = token  # shows whose a bulk connection is; good for one
        self.bulk: Connection | None = None
        self.main: Connection | None = None
        self.peer: Peer | None = None
        self.out: FairQueue[Peer] = FairQueue(budget)
        self.since = self.heard = self.said = now
        self.close_reason: str | None = None
        self.muted = False  # the relay has stopped reading from it
        self.greeted = False  # its hello was accepted
        # it takes no more at the moment: the adapter says so
        self.blocked_since: float | None = None


class Peer:
    """A registered link; it outlives its connection for `Limits.linger`, in which it may return."""

    __slots__ = (
        "connection", "controls", "epoch", "held_bytes", "identity", "ids", "listens", "name", "opens", "pending",
        "queued", "session", "streams", "suspended",
    )  # fmt: skip

    def __init__(self, name: str, session: str, identity: Identity, limits: Limits, now: float):
        self.name = name
        self.session = session
        self.identity = identity
        self.epoch = 0
        self.listens = True
        self.ids: dict[int, str] = {}
        self.connection: Connection | None = None
        self.suspended: float | None = None  # since when it has had no connection
        self.streams: set[int] = set()
        self.queued = 0  # bytes of memory that what it has sent takes while it waits
        self.pending = 0  # its streams that nobody has accepted
        self.held_bytes = 0
        self.opens = Bucket(limits.opens_per_second, now)
        self.controls = Bucket(limits.control_per_second, now)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Its connection and its bulk connection, as far as it has them."""
        main = self.connection
        if main is None:
            return ()
        return (main,) if main.bulk is None else (main, main.bulk)

    @property
    def rank(self) -> int:
        """The number of its role."""
        return ROLES.index(self.identity.role)

    @property
    def is_controller(self) -> bool:
        return self.identity.role == CONTROLLER


class RelayedStream:
    """A stream as the relay knows it: `opener` has opened it to the name `acceptor_id`."""

    __slots__ = (
        "accepted", "acceptor", "acceptor_id", "acceptor_limit", "ends", "held", "held_until", "opener", "opener_id",
        "opener_limit", "unsaid",
    )  # fmt: skip

    def __init__(self, opener: Peer | None, opener_id: int, acceptor_id: int) -> None:
        self.opener = opener
        self.opener_id = opener_id
        self.acceptor: Peer | None = None
        self.acceptor_id = acceptor_id
        self.accepted = False
        self.unsaid = 0  # of a stream that was resumed here: 1 if nobody has said yet how far its opener may send, 2 acceptor
        self.ends = 0  # 1: the opener has ended, 2: the acceptor, 3: both
        self.held: list[bytes] | None = None  # frames for an acceptor that is not there yet
        self.held_until = 0.0
        self.opener_limit = EARLY_CREDIT  # the offset up to which the opener may send
        self.acceptor_limit = EARLY_CREDIT

    def other(self, peer: Peer, flags: int, source: int, destination: int) -> Peer | None:
        """The other end of a frame that `peer` has sent; raises ProtocolError if it is not its stream."""
        if flags & OPENER:
            if self.opener is peer and self.opener_id == source and self.acceptor_id == destination:
                return self.acceptor
        elif self.acceptor is peer and self.acceptor_id == source and self.opener_id == destination:
            return self.opener
        raise ProtocolError("a frame on a stream of others")


@dataclass(slots=True)
class Stats:
    """Counts since the relay started."""

    frames: int = 0
    bytes: int = 0
    opened: int = 0
    registered: int = 0
    resumed: int = 0
    bulk: int = 0  # bulk connections
    gone: int = 0
    held: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    resets: Counter[str] = field(default_factory=Counter)
