"""Whether a packet gives a whole picture to a decoder that has seen nothing else: it is tried.

A damaged key frame does not. Most decoders conceal what they miss from pictures before, and not all of them tell; some
leave what was in the buffer. So the packet is decoded behind two other pictures, and has to give the same both times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import av
import numpy as np

from excamera_dask.sources.packets import Checker

MANY_TRIES = 250
OURS = 1
OTHER = -1


def is_whole(
    context: Any, check: Checker, packets: Sequence[Any], others: Sequence[Sequence[Any]]
) -> bool:
    """Whether packets[0] gives the same, undamaged picture whatever was decoded before.

    packets: it and the one after it, if any, since a picture may lie in two; their times are overwritten. others: what
    to decode before it, twice; a decoder that tells of damage itself needs none. The context is flushed.
    """
    if check.marks_damage:
        return _picture(context, packets) is not None
    pictures = set()
    for other in others:
        context.flush_buffers()
        for packet in other:
            _decode(context, packet, OTHER)
        pictures.add(_picture(context, packets))
    return len(pictures) == 1 and None not in pictures


def _picture(context: Any, packets: Sequence[Any]) -> bytes | None:
    """A digest of the first packet's picture; None where one cannot be decoded or the decoder says that it is damaged."""
    context.flush_buffers()
    frames: list[av.VideoFrame] = []
    for number, packet in enumerate([*packets, None]):
        decoded = _decode(context, packet, OURS + number)
        if decoded is None and number == 0:
            return None
        # The next one may lean on a picture before, as those of an open group do.
        frames += decoded or []
    context.flush_buffers()
    found = [frame for frame in frames if frame.pts == OURS]
    if not found or found[0].is_corrupt:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for number, plane in enumerate(found[0].planes):
        digest.update(_pixels(plane, _bits_of_pixel(found[0].format, number)))
    return digest.digest()


def _pixels(plane: Any, bits: int) -> bytes:
    """What a plane holds, without what lies behind its rows, which is anything."""
    stored = np.frombuffer(plane, np.uint8)
    if not plane.line_size:  # a palette
        return stored.tobytes()
    rows = stored[: plane.height * plane.line_size].reshape(plane.height, plane.line_size)
    return rows[:, : -(-plane.width * bits // 8)].tobytes()


def _bits_of_pixel(format: Any, plane: int) -> int:
    """How many bits a pixel takes in a plane."""
    if len({component.plane for component in format.components}) == 1:
        return int(format.padded_bits_per_pixel)
    bits = [component.bits for component in format.components if component.plane == plane]
    return sum(-(-each // 8) * 8 for each in bits)


def _decode(context: Any, packet: Any, time: int) -> list[av.VideoFrame] | None:
    if packet is not None:
        packet.pts = time
    try:
        return list(context.decode(packet))
    except (av.FFmpegError, EOFError):
        return None


class Entries:
    """Watches packets go by, in order, and finds those at which decoding may begin, at least `spacing` packets apart.

    Each is tried by `context`, a decoder of this stream that serves nothing else, once it is known what can be decoded
    before it instead. In long films that have many not all are tried; without a context none is.
    """

    def __init__(self, context: Any, check: Checker, spacing: int) -> None:
        self._context, self._check, self._spacing = context, check, spacing
        self._seen: list[Candidate] = []
        self.found: list[int] = []
        self.damaged = 0
        self._tries = 0
        self._next_try = 0

    def see(self, ordinal: int, packet: Any, is_entry: bool) -> None:
        """The next packet; `is_entry` as its bitstream says."""
        seen = self._seen
        if seen and seen[-1].ordinal == ordinal - 1:
            seen[-1].packets.append(packet)
        if not seen or (is_entry and ordinal - seen[-1].ordinal >= self._spacing):
            seen.append(Candidate(ordinal, [packet]))
            if len(seen) == 4:
                del seen[0]
            if len(seen) == 3:
                self._try(seen[1], seen[0].packets[:1], seen[2].packets[:1])

    def finish(self) -> list[int]:
        """Ordinals of the packets that are entries."""
        if len(self._seen) > 1:
            *before, last = self._seen
            self._try(last, before[-1].packets[:1], before[0].packets[: 3 - len(before)])
        return self.found

    def _try(self, candidate: Candidate, *others: Sequence[Any]) -> None:
        if self._is_worth_a_try(candidate.ordinal) and not is_whole(
            self._context, self._check, candidate.packets, others
        ):
            self.damaged += 1
        else:
            self.found.append(candidate.ordinal)

    def _is_worth_a_try(self, ordinal: int) -> bool:
        """All of the first MANY_TRIES are, and ever fewer of those behind them."""
        if self._context is None or ordinal < self._next_try:
            return False
        self._tries += 1
        self._next_try = ordinal + self._spacing * (self._tries // MANY_TRIES)
        return True


class Candidate(NamedTuple):
    """A packet that may be an entry, and the one after it."""

    ordinal: int
    packets: list[Any]
