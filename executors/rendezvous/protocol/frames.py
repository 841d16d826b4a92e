"""The frames of the rendezvous protocol, version 3: a fixed header of 40 bytes, then a payload.

All numbers are big-endian. `docs/rendezvous.md` says what each frame means and who may send it when.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Any, NamedTuple

from executors.rendezvous.errors import ProtocolError

VERSION = 3
HEADER = struct.Struct(">IBBHQQQQ")
HEADER_SIZE = HEADER.size
LENGTH = struct.Struct(">I")
LIMIT = struct.Struct(">Q")
MAX_PAYLOAD = 256 * 1024
MAX_CONTROL = 8 * 1024
EARLY_CREDIT = 64 * 1024
KEY_SIZE = 16
TAG_SIZE = 16  # of a sealed frame: the last bytes of its payload
BULK_MAGIC = b"RDVB"  # how a bulk connection begins; TLS begins with byte 22
TOKEN_SIZE = 16

Buffer = bytes | bytearray | memoryview


class Kind(IntEnum):
    """The kinds of frames; those from OPEN to KEY travel between peers, the others end at the relay."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    REGISTER = 4
    REGISTERED = 5
    PING = 6
    PONG = 7
    GOODBYE = 8
    GONE = 9
    NOTICE = 10
    OPEN = 16
    ACCEPT = 17
    DATA = 18
    WINDOW = 19
    END = 20
    RESET = 21
    RESUME = 22
    KEY = 23


HELLO, WELCOME, REFUSED, REGISTER, REGISTERED = 1, 2, 3, 4, 5
PING, PONG, GOODBYE, GONE, NOTICE = 6, 7, 8, 9, 10
OPEN, ACCEPT, DATA, WINDOW, END, RESET, RESUME, KEY = 16, 17, 18, 19, 20, 21, 22, 23
KINDS = frozenset(int(kind) for kind in Kind)
REPLY = 1  # flag of RESUME and KEY: this one answers another, and wants no answer
OPENER = 2  # flag of all frames of a stream: the end that opened it has sent this one


class Code(IntEnum):
    """Why a link is refused or a stream is reset."""

    NONE = 0
    VERSION = 1
    CREDENTIAL = 2
    NAME_TAKEN = 3
    REPLAYED = 4
    LIMIT = 5
    MALFORMED = 6
    UNKNOWN_PEER = 7
    PEER_GONE = 8
    NOT_LISTENING = 9
    ABORTED = 10
    CLOSED = 11
    UNKNOWN_STREAM = 12
    OVERRUN = 13
    TIMEOUT = 14
    EXPIRED = 15
    FINISHED = 16


class Header(NamedTuple):
    """A frame's header: sizes and offsets in bytes, peers and streams as 64-bit numbers."""

    length: int
    kind: int
    flags: int
    code: int
    source: int
    destination: int
    stream: int
    offset: int


def serialize_frame(
    kind: int,
    payload: Buffer = b"",
    *,
    source: int = 0,
    destination: int = 0,
    stream: int = 0,
    offset: int = 0,
    flags: int = 0,
    code: int = 0,
) -> bytes:
    """One whole frame."""
    head = HEADER.pack(len(payload), kind, flags, code, source, destination, stream, offset)
    return head + payload if payload else head


def serialize_json(kind: int, value: dict[str, Any], **fields: int) -> bytes:
    """One whole frame whose payload is a JSON object."""
    return serialize_frame(kind, json.dumps(value, separators=(",", ":")).encode(), **fields)


def parse_header(data: Buffer, start: int = 0) -> Header:
    """The header that begins at `start`; raises ProtocolError for what no peer sends."""
    header = Header._make(HEADER.unpack_from(data, start))
    check_header(header.kind, header.length)
    return header


def check_header(kind: int, length: int) -> None:
    """Raise ProtocolError unless such a frame may exist."""
    if kind not in KINDS:
        raise ProtocolError(f"a frame of unknown kind {kind}")
    if length > (MAX_PAYLOAD if kind == DATA else MAX_CONTROL):
        raise ProtocolError(f"a {Kind(kind).name} frame of {length} bytes is over the limit")


def check_key(frame: Buffer) -> None:
    """Raise ProtocolError unless a whole KEY frame offers a numbered key, or answers such an offer."""
    length, _, flags, number = HEADER.unpack_from(frame)[:4]
    if not number or (length > 1 if flags & REPLY else length != KEY_SIZE):
        raise ProtocolError("a KEY frame without a key or its number")


def parse_json(payload: Buffer) -> dict[str, Any]:
    """The JSON object in a control frame; raises ProtocolError."""
    try:
        value = json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a control frame whose payload is not JSON") from error
    if not isinstance(value, dict):
        raise ProtocolError("a control frame whose payload is not a JSON object")
    return value


class FrameReader:
    """Cuts a byte stream into frames; DATA frames may come out in parts, each with its own offset.

    What it returns are views into the bytes it was fed: whoever keeps one keeps those bytes alive.
    """

    def __init__(self) -> None:
        self._partial = bytearray()
        self._open: Header | None = None  # the DATA frame of which more is to come

    def feed(self, data: Buffer) -> list[tuple[Header, memoryview]]:
        """All that `data` completes, in order."""
        frames: list[tuple[Header, memoryview]] = []
        if self._partial:
            self._partial += data
            data, self._partial = self._partial, bytearray()
        view = memoryview(data)
        start, end = 0, len(view)
        while start < end:
            if self._open is None:
                if end - start < HEADER_SIZE:
                    break
                header = parse_header(view, start)
                if header.kind != DATA:
                    if end - start < HEADER_SIZE + header.length:
                        break
                    start += HEADER_SIZE
                    frames.append((header, view[start : start + header.length]))
                    start += header.length
                    continue
                start += HEADER_SIZE
                self._open = header
            header = self._open
            take = min(header.length, end - start)
            if take == 0 < header.length:
                break
            frames.append((header._replace(length=take), view[start : start + take]))
            start += take
            left = header.length - take
            self._open = header._replace(length=left, offset=header.offset + take) if left else None
        if start < end:
            self._partial = bytearray(view[start:])
        return frames
