"""One stream as one of its ends sees it: what is sent and not yet acknowledged, what has come in and is not yet read.

Offsets count the bytes of one direction from 0. The sender keeps what it sent until the other *end* acknowledges it,
so that a stream outlives the connections and even the relay under it: after a cut both ends say how much they have,
and go on from there.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from executors.rendezvous.protocol.frames import EARLY_CREDIT, OPENER, Code
from executors.rendezvous.protocol.seal import Seal

ANSWER = 2.0  # seconds after which a stalled stream asks its other end once more
# the same for one whose END nobody acknowledges, whose key nobody answers, or whose sealed data does not arrive; each
# further question takes twice as long, for slow links are not broken
ACKNOWLEDGEMENT = 10.0


def stream_key(number: int, *, opened_here: bool) -> int:
    """Where a link keeps one of its ends of a stream; a stream of a peer to itself has both here."""
    return number if opened_here else ~number


class StreamEnd:
    """The state of one stream; `LinkStreams` moves it."""

    __slots__ = (
        "accepted", "acked", "acked_received", "asked", "asking", "asks", "bulk_queued", "bulk_refused", "consumed",
        "distrusts", "doubted", "end_acked", "end_received", "end_sent", "ended", "error", "flags", "granted",
        "inbox", "key", "keys", "local_id", "next", "number", "offered", "opened_here", "patience", "peer", "peer_id",
        "peer_rank", "queued", "received", "seal", "send_limit", "stalled_since", "target", "tells_finish", "unacked", "unseal",
        "unsent", "waits", "waker", "wanted", "window", "written",
    )  # fmt: skip

    def __init__(
        self, number: int, local_id: int, peer_id: int, peer: str, window: int, *, opened_here: bool
    ) -> None:
        self.number = number
        self.key = stream_key(number, opened_here=opened_here)
        self.flags = OPENER if opened_here else 0
        self.local_id = local_id
        self.peer_id = peer_id
        self.peer = peer
        self.peer_rank = 0  # its role's place in ROLES: the relay has seen its credential
        self.target = ""
        self.window = window
        self.opened_here = opened_here
        self.accepted = not opened_here
        self.patience = 0.0
        self.unsent: deque[memoryview] = deque()
        self.unacked: deque[memoryview] = deque()
        self.acked = 0  # all before it has arrived at the other end
        self.next = 0  # the offset of the head of `unsent`
        self.written = 0  # the offset behind all that was written
        self.send_limit = EARLY_CREDIT
        self.ended = False  # nothing more will be written
        self.end_sent = False
        self.end_acked = False
        self.inbox: deque[memoryview] = deque()
        self.wanted: memoryview | None = None  # what the waiting reader still has to be given
        self.received = 0
        self.acked_received = 0  # what the last acknowledgement said
        self.consumed = 0
        self.granted = window if opened_here else EARLY_CREDIT
        self.end_received = False
        self.error: tuple[Code, str] | None = None
        # the relay may not count both our ENDs: it hears when all is over
        self.tells_finish = False
        self.waits: tuple[float, int] | None = None  # since when, and for what after which offset
        self.asked = 0.0
        self.asks = 0  # how often, without an answer
        self.bulk_queued = False  # in the round of streams that can send by the bulk connection
        self.doubted = False  # the relay did not know it: the other end is asked
        self.stalled_since: float | None = None  # waits for the other end to say what it has
        self.queued = False  # in the round of streams that can send
        self.keys = 0  # how many were offered for our direction
        self.asking: Seal | None = None  # offered, not yet answered
        self.seal: Seal | None = None  # what we say goes by bulk connections, under this key
        self.bulk_refused = False  # the other end has none
        self.offered: tuple[Seal, int] | None = None  # a key of the other end; from which offset on
        self.unseal: Seal | None = None  # the key of what comes by the bulk connection
        self.distrusts = False  # a seal was broken: take no more keys
        self.waker: Any = None  # the adapter's own

    @property
    def unsent_bytes(self) -> int:
        return self.written - self.next

    @property
    def can_send(self) -> bool:
        """True if a frame could go out now."""
        if self.stalled_since is not None or self.error is not None or self.end_sent:
            return False
        if self.asking is not None:
            return False
        if self.next < self.written:
            return self.next < self.send_limit
        return self.ended and self.accepted

    @property
    def answer_due(self) -> float | None:
        """Within how many seconds the other end should say something; None while it need not."""
        if self.stalled_since is not None:
            return ANSWER
        if (
            (self.end_sent and not self.end_acked)
            or self.asking is not None
            or (self.seal is not None and self.acked < min(self.written, self.send_limit))
        ):
            return ACKNOWLEDGEMENT * 2**self.asks
        return None

    def waited(self, now: float) -> float:
        """Seconds for which the other end has said nothing that was due; 0 where nothing is."""
        if self.answer_due is None or self.waits is None or self.waits[1] != self.acked:
            self.waits = None if self.answer_due is None else (now, self.acked)
            self.asked, self.asks = now, 0
            return 0.0
        return now - self.waits[0]

    @property
    def is_finished(self) -> bool:
        """True once both ends have ended, and know it of each other."""
        return self.end_acked and self.end_received

    def write(self, buffers: list[memoryview]) -> None:
        """Queue bytes; they are kept by reference until acknowledged."""
        for buffer in buffers:
            if buffer.nbytes:
                self.unsent.append(buffer)
                self.written += buffer.nbytes

    def take(self, most: int) -> tuple[int, list[memoryview], int]:
        """(offset, parts, their size): the next at most `most` bytes within the credit, now sent."""
        offset = self.next
        room = min(most, self.send_limit - offset)
        parts: list[memoryview] = []
        unsent = self.unsent
        while room > 0 and unsent:
            part = unsent.popleft()
            if part.nbytes > room:
                unsent.appendleft(part[room:])
                part = part[:room]
            parts.append(part)
            room -= part.nbytes
        self.unacked.extend(parts)
        self.next = offset + sum(part.nbytes for part in parts)
        return offset, parts, self.next - offset

    def acknowledge(self, offset: int) -> None:
        """The other end has all before `offset`: forget it, even where it was about to be sent again.

        An END counts as one byte more.
        """
        if self.ended and offset == self.written + 1:
            self.end_sent = self.end_acked = True
            offset = self.written
        if not self.acked < offset <= self.written:
            return
        drop = offset - self.acked
        self.acked = offset
        self.next = max(self.next, offset)
        while drop:
            queue = self.unacked or self.unsent
            part = queue.popleft()
            if part.nbytes > drop:
                queue.appendleft(part[drop:])
                return
            drop -= part.nbytes

    def rewind(self, offset: int) -> None:
        """Send again from `offset`, which the other end says is all it has."""
        self.acknowledge(offset)
        self.unsent.extendleft(reversed(self.unacked))
        self.unacked.clear()
        self.next = self.acked
        self.end_sent = self.end_acked
        self.asking = self.seal = None

    def forget_seals(self) -> None:
        """The link was cut: whatever was agreed on bulk connections is void."""
        self.asking = self.seal = self.unseal = self.offered = None
        self.bulk_refused = False
        self.waits = None

    def deliver(self, offset: int, data: memoryview, *, own: bool = False) -> bool:
        """Take data that came in, unless it is a repetition; False if something before it is missing.

        It is copied: into the buffer of a reader that waits, else into the inbox (there it is kept if it is our `own`).
        """
        behind = self.received - offset
        if behind < 0:
            return False
        if behind < data.nbytes:
            data = data[behind:]
            self.received += data.nbytes
            if self.wanted is not None:
                data = data[self._fill(data) :]
            if data.nbytes:
                self.inbox.append(data if own else memoryview(bytes(data)))
        return True

    def room(self, offset: int, size: int) -> memoryview | None:
        """Where the waiting reader wants the `size` bytes at `offset`; None if they do not belong there as a whole."""
        wanted = self.wanted
        if wanted is None or offset != self.received or not 0 < size <= wanted.nbytes:
            return None
        return wanted[:size] if offset + size <= self.granted else None

    def filled(self, size: int) -> None:
        """So many bytes were written into the `room` of the waiting reader."""
        wanted = self.wanted
        assert wanted is not None
        self.received += size
        self.consumed += size
        self.wanted = wanted[size:] if size < wanted.nbytes else None

    def want(self, buffer: memoryview) -> bool:
        """A reader wants `buffer` filled; True if it is full now, else `wanted` is None once it is."""
        self.wanted = buffer
        inbox = self.inbox
        while inbox and self.wanted is not None:
            part = inbox.popleft()
            size = self._fill(part)
            if size < part.nbytes:
                inbox.appendleft(part[size:])
        if self.wanted is not None and not self.wanted.nbytes:
            self.wanted = None
        return self.wanted is None

    def _fill(self, data: memoryview) -> int:
        """Copy what fits into the waiting reader's buffer; returns its size."""
        wanted = self.wanted
        assert wanted is not None
        size = min(wanted.nbytes, data.nbytes)
        wanted[:size] = data[:size]
        self.consumed += size
        self.wanted = wanted[size:] if size < wanted.nbytes else None
        return size

    @property
    def wants_window(self) -> bool:
        """True if it is time to tell the other end what was received and what it may send."""
        step = self.window // 4
        return (
            self.received - self.acked_received >= step
            or self.consumed + self.window - self.granted >= step
        )
