"""NAL units of H.264 and HEVC: what a packet holds, and whether its bitstream says that decoding may begin there.

ITU-T H.264 7.3.1, 7.4.1, D.2.8 (recovery point); ITU-T H.265 7.3.1, 7.4.2.2; ISO/IEC 14496-15 for packets with lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

START_CODE = b"\0\0\1"
FORBIDDEN_BIT = 0x80
RECOVERY_POINT = 6
HEADER_BYTES = 64
"""Of a slice: more than the two numbers that begin its header can take."""


class Said(NamedTuple):
    """What a packet says: it is whole, it shows a frame, decoding may begin here; `resets`: what it begins may end
    with frames that a decoder drops, so that only decoding tells how many it shows.
    """

    sound: bool
    shown: bool
    entry: bool
    resets: bool = False


class NalRules(NamedTuple):
    """Of one codec: how the type of a unit is read, which types are which."""

    type_of: Callable[[bytes], int]
    parameters: frozenset[int]
    pictures: range


H264 = NalRules(lambda unit: unit[0] & 31, frozenset({7, 8}), range(1, 6))
HEVC = NalRules(lambda unit: unit[0] >> 1 & 63, frozenset({32, 33, 34}), range(32))
IDR, SEI = 5, 6
BLA, IDR_HEVC, RANDOM_ACCESS = range(16, 19), range(19, 21), range(16, 22)
END_OF_SEQUENCE = range(36, 38)


class NalPackets:
    """Looks at packets of H.264 or HEVC, in order; with `lengths` bytes before each unit, or start codes for 0.

    told_in_packets: whether parameter sets came that the stream's description does not have.

    A packet is an entry if it holds an IDR picture (HEVC: any random access picture), or with H.264 an intra picture at
    a recovery point that claims exact pictures from there on, and if all parameter sets in force come with it or with
    the stream's description.
    """

    def __init__(self, rules: NalRules, lengths: int, known: frozenset[bytes]) -> None:
        self.rules, self.lengths = rules, lengths
        self._known = known
        self.told_in_packets = False

    def __call__(self, data: bytes, is_head: bool = False) -> Said:
        """What a packet says, or its first bytes."""
        units = list(units_of(data, self.lengths, is_head))
        whole = [unit for unit in units if unit]
        sound = len(whole) == len(units) and not any(unit[0] & FORBIDDEN_BIT for unit in whole)
        types = [self.rules.type_of(unit) for unit in whole]
        pictures = [
            unit for unit, kind in zip(whole, types, strict=True) if kind in self.rules.pictures
        ]
        if self.rules is HEVC:
            entry = any(self.rules.type_of(unit) in RANDOM_ACCESS for unit in pictures)
            resets = any(kind in BLA or kind in END_OF_SEQUENCE for kind in types)
        else:
            entry = _is_h264_entry(whole, types, pictures)
            resets = False
        return Said(
            sound and bool(pictures), True, entry and self._has_parameters(whole, types), resets
        )

    def is_start(self, data: bytes) -> bool:
        """Whether a decoder shows every frame from this packet on, be it the first."""
        types = {
            self.rules.type_of(unit) for unit in units_of(data, self.lengths) if unit is not None
        }
        return bool(types & ({IDR} if self.rules is H264 else set(IDR_HEVC)))

    def _has_parameters(self, units: list[bytes], types: list[int]) -> bool:
        own = {
            (kind, unit)
            for unit, kind in zip(units, types, strict=True)
            if kind in self.rules.parameters
        }
        if any(unit not in self._known for _, unit in own):
            self.told_in_packets = True
        return not self.told_in_packets or {kind for kind, _ in own} == self.rules.parameters


def nal_packets(name: str, extra: bytes) -> NalPackets:
    """The look at packets of "h264" or "hevc" by their stream's description (avcC, hvcC, or units with start codes)."""
    rules = H264 if name == "h264" else HEVC
    if len(extra) >= (7 if name == "h264" else 23) and extra[0] == 1:
        lengths = (extra[4 if name == "h264" else 21] & 3) + 1
        return NalPackets(rules, lengths, frozenset(_described_units(name, extra)))
    return NalPackets(rules, 0, frozenset(unit for unit in units_of(extra, 0) if unit))


def units_of(data: bytes, lengths: int, is_head: bool = False) -> Iterator[bytes | None]:
    """The NAL units of a packet; None where one is cut short, unless it may be, or of no bytes."""
    if not lengths:
        yield from _between_start_codes(data)
        return
    at = 0
    while at < len(data):
        start = at + lengths
        at = start + int.from_bytes(data[at:start], "big")
        whole = start < at <= len(data) or (is_head and start < len(data))
        yield data[start:at] if whole else None


def _between_start_codes(data: bytes) -> Iterator[bytes]:
    at = data.find(START_CODE)
    while at >= 0:
        start = at + len(START_CODE)
        at = data.find(START_CODE, start)
        unit = data[start : at if at >= 0 else len(data)].rstrip(b"\0")
        if unit:
            yield unit


def _described_units(name: str, extra: bytes) -> Iterator[bytes]:
    """Parameter sets of avcC (ISO/IEC 14496-15 5.3.3.1) or hvcC (8.3.3.1)."""
    counts: list[int] = []
    if name == "h264":
        at = 5
        for mask in (31, 255):
            count = extra[at] & mask if at < len(extra) else 0
            at += 1
            for _ in range(count):
                size = int.from_bytes(extra[at : at + 2], "big")
                yield extra[at + 2 : at + 2 + size]
                at += 2 + size
        return
    at = 23
    for _ in range(extra[22]):
        counts.append(int.from_bytes(extra[at + 1 : at + 3], "big"))
        at += 3
        for _ in range(counts[-1]):
            size = int.from_bytes(extra[at : at + 2], "big")
            yield extra[at + 2 : at + 2 + size]
            at += 2 + size


def _is_h264_entry(units: list[bytes], types: list[int], pictures: list[bytes]) -> bool:
    if IDR in types:
        return True
    if not pictures or not all(_is_intra_slice(unit) for unit in pictures):
        return False
    return any(
        _claims_exact_recovery(unit) for unit, kind in zip(units, types, strict=True) if kind == SEI
    )


def _is_intra_slice(unit: bytes) -> bool:
    """Whether a slice's header says I or SI (H.264 7.3.3: first_mb_in_slice, slice_type)."""
    bits = _Bits(_unescaped(unit[1 : 1 + HEADER_BYTES]))
    bits.exp_golomb()
    return bits.exp_golomb() % 5 in (2, 4)


def _claims_exact_recovery(unit: bytes) -> bool:
    """Whether an SEI unit holds a recovery point (H.264 D.1.8) from which on every picture is exact at once."""
    data = _unescaped(unit[1:])
    at = 0
    while at + 2 < len(data):
        kind, at = _sei_number(data, at)
        size, at = _sei_number(data, at)
        if kind == RECOVERY_POINT:
            bits = _Bits(data[at : at + size])
            frames, exact, broken = bits.exp_golomb(), bits.read(1), bits.read(1)
            return frames == 0 and exact == 1 and broken == 0
        at += size
    return False


def _sei_number(data: bytes, at: int) -> tuple[int, int]:
    total = 0
    while at < len(data) and data[at] == 255:
        total += 255
        at += 1
    return total + (data[at] if at < len(data) else 0), at + 1


def _unescaped(data: bytes) -> bytes:
    return data.replace(b"\0\0\3", b"\0\0")


class _Bits:
    """Reads bits from the left; zeros follow the end."""

    def __init__(self, data: bytes) -> None:
        self._left = len(data) * 8
        self._value = int.from_bytes(data, "big")

    def read(self, count: int) -> int:
        self._left -= count
        bits = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return bits & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        zeros = 0
        while zeros < 32 and not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
