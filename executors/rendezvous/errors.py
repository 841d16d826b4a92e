"""What can go wrong at a rendezvous: each failure has its type, and its message names the peer and the cause."""

from __future__ import annotations

from executors.base import ExecutorError


class RendezvousError(ExecutorError, OSError):
    """Anything that a relay, a link or a credential can fail with."""


class Refused(RendezvousError):
    """The relay refuses the link: a wrong credential, a replayed hello, a limit reached."""


class NameTaken(Refused):
    """Somebody is registered under this name: the same invocation was started twice."""


class PeerGone(RendezvousError):
    """The peer was registered once and has gone: nothing sent to it can arrive."""


class PeerUnknown(RendezvousError):
    """Nobody registered under this name while the relay was willing to wait."""


class StreamBroken(RendezvousError):
    """A stream ended in the middle: reset by its peer, by the relay, or lost with the link."""


class LinkClosed(RendezvousError):
    """The link to the relay is closed, or could not be established again in time."""


class InvalidCredential(RendezvousError):
    """A credential, certificate or authority is unusable as it stands."""


class InvalidAddress(ExecutorError, ValueError):
    """An address is not `rdv://host:port/name`, or a name has letters that names may not have."""


class ProtocolError(RendezvousError):
    """Bytes that no peer of this protocol may send."""
