"""What a relay allows, and how long it waits: bytes, counts and seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one relay; whatever exceeds them is refused and counted, and harms nobody else."""

    connections: int = 20_000
    pending_connections: int = 8_192  # that wait for their TLS handshake: they cost a socket
    handshakes: int = 1_024  # in it or before their hello: about 100 kB each
    bulk_connections: int = 20_000  # one a link at the most; 0: everything goes over TLS
    handshake_timeout: float = 15.0
    hello_timeout: float = 10.0
    handshake_turn: float = 3.0  # for handshake and hello, where others wait for theirs
    names_per_link: int = 64
    streams: int = 500_000
    streams_per_link: int = 20_000
    pending_opens_per_link: int = 4_096
    opens_per_second: float = 2_000.0
    control_per_second: float = 200.0  # registrations, pings
    held_bytes_per_link: int = 1 << 20  # stored for destinations that are not there yet
    held_bytes: int = 64 << 20
    hold: float = 60.0  # the longest wait for a destination that registers later
    # what waits for those who take it, in bytes of memory: sent by one link; and in all, beyond which it is shared out
    queued_bytes_per_link: int = 64 << 20
    queued_bytes: int = 256 << 20
    remembered_gone: int = 20_000
    gone_memory: float = 3_600.0
    ping_interval: float = 2.5
    silence: float = 10.0  # a link that is silent for so long is dead
    stuck: float = 30.0  # a connection that takes nothing for so long, though something waits for it, is closed
    pressed: float = 1.0  # the same where too much waits in all, for that for which the most does
    linger: float = 1.0  # a link whose connection broke may return for so long
