"""A rendezvous for peers that can call out but cannot be called: relays, links, credentials, and `rdv://` for Dask."""

from executors.rendezvous.credentials import Authority, Credential
from executors.rendezvous.errors import (
    InvalidAddress,
    InvalidCredential,
    LinkClosed,
    NameTaken,
    PeerGone,
    PeerUnknown,
    ProtocolError,
    Refused,
    RendezvousError,
    StreamBroken,
)
from executors.rendezvous.link import Link
from executors.rendezvous.options import LinkOptions
from executors.rendezvous.process import RelayProcess
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.protocol.link_core import Notice
from executors.rendezvous.protocol.names import PeerAddress, RelayAddress
from executors.rendezvous.security import RendezvousSecurity
from executors.rendezvous.stream import Stream

__all__ = [
    "Authority",
    "Credential",
    "InvalidAddress",
    "InvalidCredential",
    "Limits",
    "Link",
    "LinkClosed",
    "LinkOptions",
    "NameTaken",
    "Notice",
    "PeerAddress",
    "PeerGone",
    "PeerUnknown",
    "ProtocolError",
    "Refused",
    "RelayAddress",
    "RelayProcess",
    "RendezvousError",
    "RendezvousSecurity",
    "Stream",
    "StreamBroken",
]
