"""The seal on what crosses a relay by bulk connections: AES-128-GCM from one end of a stream to the other.

One key seals one direction of one stream, as far as it runs without a cut; the sender draws it and tells the other end
over TLS. The nonce is the frame's kind and offset, which no two frames under one key share; the header is authenticated.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from executors.rendezvous.protocol import frames as f

_NONCE = struct.Struct(">IQ")


class BadSeal(Exception):
    """A sealed frame that was changed on its way, or was sealed with another key."""


class Seal:
    """One key, and the number by which frames name it."""

    __slots__ = ("_aead", "number", "used")

    def __init__(self, key: bytes, number: int) -> None:
        self._aead = AESGCM(key)
        self.number = number
        self.used = 0  # bytes sealed with it

    def frame(
        self, kind: int, flags: int, ids: tuple[int, int, int], offset: int, data: f.Buffer
    ) -> bytearray:
        """A whole sealed frame; `ids` are source, destination and stream."""
        size = len(data) + f.TAG_SIZE
        self.used += size
        frame = bytearray(f.HEADER_SIZE + size)
        f.HEADER.pack_into(frame, 0, size, kind, flags, self.number, *ids, offset)
        view = memoryview(frame)
        self._aead.encrypt_into(
            _NONCE.pack(kind, offset), data, view[: f.HEADER_SIZE], view[f.HEADER_SIZE :]
        )
        return frame

    def open_into(self, frame: memoryview, header: f.Header, buffer: memoryview) -> None:
        """Write what a sealed frame holds into `buffer`, which is as long; raises BadSeal."""
        try:
            self._aead.decrypt_into(
                _NONCE.pack(header.kind, header.offset),
                frame[f.HEADER_SIZE :],
                frame[: f.HEADER_SIZE],
                buffer,
            )
        except InvalidTag as error:
            raise BadSeal from error
