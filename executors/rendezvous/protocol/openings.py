"""What a connection opens with: TLS's ClientHello in one record, or the token of a bulk connection.

A relay spends nothing on a connection before it has all of that.
"""

from __future__ import annotations

import struct

from executors.rendezvous.errors import ProtocolError
from executors.rendezvous.protocol import frames as f

BULK_SIZE = len(f.BULK_MAGIC) + f.TOKEN_SIZE
LONGEST = 8 * 1024
"""Of a ClientHello; it has some 500 bytes, and 1,800 with a key share that withstands quantum computers."""
_RECORD = struct.Struct("!BHHI")
"""A record's kind, version and length; its message's kind and length."""
_RECORD_HEADER = 5
_MESSAGE_HEADER = 4
_HANDSHAKE = 22
_CLIENT_HELLO = 1


def is_bulk(said: bytes) -> bool:
    """True if whoever has `said` this wants a bulk connection; TLS begins with another byte."""
    return said[:1] == f.BULK_MAGIC[:1]


def opening_size(said: bytes) -> int:
    """How many bytes there must be before more can be told of an opening, or before it is whole.

    Raises ProtocolError for what is none: the relay talks with nobody who begins otherwise.
    """
    if is_bulk(said):
        return BULK_SIZE
    if len(said) < _RECORD.size:
        return _RECORD.size
    kind, _, length, message = _RECORD.unpack_from(said)
    if (kind, message >> 24) != (_HANDSHAKE, _CLIENT_HELLO):
        raise ProtocolError("neither TLS nor a bulk connection")
    size = _RECORD_HEADER + length
    if not message & 0xFFFFFF <= length - _MESSAGE_HEADER < LONGEST - _RECORD.size:
        raise ProtocolError(f"a ClientHello that is not whole in a record of {length} bytes")
    return int(size)
