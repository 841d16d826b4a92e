"""Everything that a VP8 decoder remembers between frames, as values: equality, a stable hash, versioned bytes.

A state is immutable: decoding makes a new one. Its arrays are shared between states and must not be written to.
Bytes of a state hold each distinct reference once, compressed; as a delta against a base state that the receiver
already has, they hold only what differs from it.

A state that no decoder can have is not made, neither here nor from bytes, whatever their checksum says: kernels read its
numbers without looking (docs/decisions/0022).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from codec.checks import check_flag, checked_whole
from codec.errors import InvalidState
from codec.frame import (
    BORDER,
    LARGEST_SIDE,
    Picture,
    Plane,
    macroblock_size,
    new_picture,
    replicate_edges,
)

BYTES_VERSION = 2
_MAGIC = b"XCDS"
# magic, version, kind, digest of the base, digest of all the rest
_HEADER = struct.Struct("<4sHB16s16s")
_WHOLE, _DELTA = 0, 1
_NO_BASE = bytes(16)
# sizes, scales, colour space, clamping, segmentation flags, filter flag, references
_FIXED = struct.Struct("<HHBBBBBBBB")
_COMPRESSION_LEVEL = 1
_LARGEST_WINDOW = 1 << 23
_STRIPE = 1 << 20
MOST_PICTURE_BYTES = 768 << 20
"""Bytes of all distinct pictures of a state that is read from bytes, which may be many times fewer."""
_SLOTS = tuple(bytes(slots) for slots in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 1, 2)))
"""Which of the distinct pictures, in the order of their first slot, LAST, GOLDEN and ALTREF are."""
_STORED, _FROM_BASE = 0, 1  # how a picture is told: whole, or as a difference from a base picture


class ProbabilityTables(NamedTuple):
    """The probabilities that persist from frame to frame (RFC 6386 section 9.9 to 9.11, 13.4, 16.2, 17.2)."""

    coefficients: NDArray[np.uint8]  # (4, 8, 3, 11): block type, band, context, node
    y_mode: NDArray[np.uint8]  # (4,) of inter frames
    uv_mode: NDArray[np.uint8]  # (3,) of inter frames
    vectors: NDArray[np.uint8]  # (2, 19): row, column


class Segmentation(NamedTuple):
    """Segments and what they change (RFC 6386 section 9.3)."""

    enabled: bool
    absolute: bool  # the values replace the frame's instead of being added to them
    quantizer: NDArray[np.int8]  # (4,)
    filter_level: NDArray[np.int8]  # (4,)
    map: NDArray[np.uint8]  # (R, C) segment of each macroblock, kept until it is updated


class FilterDeltas(NamedTuple):
    """Adjustments of the loop-filter level (RFC 6386 section 9.6)."""

    enabled: bool
    reference: NDArray[np.int8]  # (4,) by reference frame: intra, LAST, GOLDEN, ALTREF
    mode: NDArray[np.int8]  # (4,): B_PRED, ZEROMV, NEARESTMV/NEARMV/NEWMV, SPLITMV


class References(NamedTuple):
    """The three pictures that inter frames predict from; often the same object more than once."""

    last: Picture
    golden: Picture
    altref: Picture


@dataclass(frozen=True, eq=False)
class DecoderState:
    """All that decoding the next frame depends on, besides its bytes.

    `references` is None in a state that serves for parsing only (`without_references`). ValueError for what no sequence of
    frames leads to.
    """

    width: int
    height: int
    horizontal_scale: int
    vertical_scale: int
    color_space: int
    clamping_type: int
    probabilities: ProbabilityTables
    segmentation: Segmentation
    filter_deltas: FilterDeltas
    references: References | None

    def __post_init__(self) -> None:
        _check_numbers(self)
        size = (self.macroblock_rows, self.macroblock_columns)
        _check_segments(self.segmentation, size)
        check_flag("enabled of filter deltas", self.filter_deltas.enabled)
        for name, values in self.filter_deltas._asdict().items():
            if name != "enabled":
                _check_array(f"filter deltas by {name}", values, np.int8, (4,), -63, 63)
        shapes = ((4, 8, 3, 11), (4,), (3,), (2, 19))
        for name, values, shape in zip(
            ProbabilityTables._fields, self.probabilities, shapes, strict=True
        ):
            _check_array(
                f"probabilities of {name}", values, np.uint8, shape, name == "vectors", 255
            )
        for picture in self.references or ():
            _check_picture(picture, *size)

    @property
    def macroblock_rows(self) -> int:
        return macroblock_size(self.width, self.height)[0]

    @property
    def macroblock_columns(self) -> int:
        return macroblock_size(self.width, self.height)[1]

    def without_references(self) -> DecoderState:
        """The same state without its pictures: enough to parse frames, and small."""
        return replace(self, references=None)

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that are the same for equal states, in every process and on every machine."""
        digest = hashlib.blake2b(self._small_parts(), digest_size=16)
        digest.update(b"pictures" if self.references is not None else b"none")
        for picture in self.references or ():
            digest.update(_picture_digest(picture))
        return digest.digest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DecoderState):
            return NotImplemented
        return self is other or self.digest == other.digest

    def __hash__(self) -> int:
        return int.from_bytes(self.digest[:8], "little", signed=True)

    def __repr__(self) -> str:
        pictures = 0 if self.references is None else len(distinct_pictures(self.references)[0])
        return f"<DecoderState {self.width}x{self.height}, {pictures} pictures, {self.digest.hex()[:12]}>"

    def to_bytes(self, base: DecoderState | None = None) -> bytes:
        """Versioned, checked, compressed bytes; with `base`, the receiver needs an equal base to read them."""
        payload = self._small_parts() + self._picture_parts(base)
        compressed = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL).compress(payload)
        kind, base_digest = (_WHOLE, _NO_BASE) if base is None else (_DELTA, base.digest)
        digest = _bytes_digest(kind, base_digest, compressed)
        return _HEADER.pack(_MAGIC, BYTES_VERSION, kind, base_digest, digest) + compressed

    @classmethod
    def from_bytes(cls, data: bytes, base: DecoderState | None = None) -> DecoderState:
        """Read `to_bytes`'s result; raises InvalidState for anything else, or without the base that it needs."""
        compressed, known = _checked_payload(data, base)
        try:
            return _StateReader(compressed, known).read()
        except (zstandard.ZstdError, ValueError) as error:
            text = " ".join(str(error).split())
            raise InvalidState(f"decoder state is damaged: {text}") from None

    def _small_parts(self) -> bytes:
        """Everything but the pictures, of a length that follows from the picture's size."""
        references = 0 if self.references is None else 1
        fixed = _FIXED.pack(
            self.width,
            self.height,
            self.horizontal_scale,
            self.vertical_scale,
            self.color_space,
            self.clamping_type,
            self.segmentation.enabled,
            self.segmentation.absolute,
            self.filter_deltas.enabled,
            references,
        )
        arrays = (
            *self.probabilities,
            self.segmentation.quantizer,
            self.segmentation.filter_level,
            self.filter_deltas.reference,
            self.filter_deltas.mode,
            self.segmentation.map,
        )
        return fixed + b"".join(array.tobytes() for array in arrays)

    def _picture_parts(self, base: DecoderState | None) -> bytes:
        """Which picture stands in which slot, then each distinct picture once."""
        if self.references is None:
            return b""
        pictures, slots = distinct_pictures(self.references)
        base_pictures = _base_pictures(base, pictures[0])
        parts = [bytes(slots)]
        for picture in pictures:
            if base_pictures:
                parts.append(bytes([_FROM_BASE]))
                parts.append(_difference_from_nearest(picture, base_pictures))
            else:
                parts.append(bytes([_STORED]))
                parts.extend(_left_differences(plane) for plane in _insides(picture))
        return b"".join(parts)


def _insides(picture: Picture) -> list[Plane]:
    """The planes without their borders."""
    return [plane[BORDER:-BORDER, BORDER:-BORDER] for plane in picture]


def _picture_digest(picture: Picture) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for plane in _insides(picture):
        digest.update(np.ascontiguousarray(plane).data)
    return digest.digest()


def _same_picture(a: Picture, b: Picture) -> bool:
    if a is b:
        return True
    pairs = list(zip(_insides(a), _insides(b), strict=True))
    # a few rows tell most pictures apart
    return all(np.array_equal(p[::64], q[::64]) for p, q in pairs) and all(
        np.array_equal(p, q) for p, q in pairs
    )


def distinct_pictures(references: References) -> tuple[list[Picture], list[int]]:
    """The pictures without repetition, and the index of each slot's picture among them."""
    pictures: list[Picture] = []
    slots = []
    for reference in references:
        for index, picture in enumerate(pictures):
            if _same_picture(picture, reference):
                slots.append(index)
                break
        else:
            slots.append(len(pictures))
            pictures.append(reference)
    return pictures, slots


def _base_pictures(base: DecoderState | None, picture: Picture) -> list[Picture]:
    """The base's distinct pictures, if they have this picture's size."""
    if base is None or base.references is None or base.references.last.y.shape != picture.y.shape:
        return []
    return distinct_pictures(base.references)[0]


def _difference_from_nearest(picture: Picture, candidates: list[Picture]) -> bytes:
    """Index of the candidate nearest to the picture, and the wrapped difference from it plane by plane."""
    sample = picture.y[BORDER:-BORDER:4, BORDER:-BORDER].astype(np.int16)
    distances = [
        int(np.abs(sample - c.y[BORDER:-BORDER:4, BORDER:-BORDER]).sum()) for c in candidates
    ]
    nearest = int(np.argmin(distances))
    planes = zip(_insides(picture), _insides(candidates[nearest]), strict=True)
    return bytes([nearest]) + b"".join((a - b).tobytes() for a, b in planes)


def _left_differences(plane: Plane) -> bytes:
    """Wrapped differences from the left neighbour, which compress better than pixels."""
    differences = plane.copy()
    differences[:, 1:] -= plane[:, :-1]
    return differences.tobytes()


def _bytes_digest(kind: int, base_digest: bytes, compressed: bytes | memoryview) -> bytes:
    """Checksum of everything that a state's bytes hold beyond magic and version."""
    digest = hashlib.blake2b(bytes([kind]) + base_digest, digest_size=16)
    digest.update(compressed)
    return digest.digest()


# What a state can be -------------------------------------------------------------------------------------------


def _check_numbers(state: DecoderState) -> None:
    limits = {
        "width": (1, LARGEST_SIDE),
        "height": (1, LARGEST_SIDE),
        "horizontal_scale": (0, 3),
        "vertical_scale": (0, 3),
        "color_space": (0, 1),
        "clamping_type": (0, 1),
    }
    for name, (least, most) in limits.items():
        checked_whole(f"{name} of a decoder state", getattr(state, name), least, most)


def _check_segments(segmentation: Segmentation, size: tuple[int, int]) -> None:
    check_flag("enabled of segments", segmentation.enabled)
    check_flag("absolute of segments", segmentation.absolute)
    _check_array("quantizers of segments", segmentation.quantizer, np.int8, (4,), -127, 127)
    _check_array("filter levels of segments", segmentation.filter_level, np.int8, (4,), -63, 63)
    _check_array("map of segments", segmentation.map, np.uint8, size, 0, 3)


def _check_array(
    name: str, values: NDArray[Any], dtype: type, shape: tuple[int, ...], least: int, most: int
) -> None:
    if values.dtype != dtype or values.shape != shape:
        raise ValueError(
            f"{name} of a decoder state: {np.dtype(dtype)} {shape}, not {values.dtype} {values.shape}"
        )
    if values.min() < least or values.max() > most:
        raise ValueError(
            f"{name} of a decoder state: {int(least)} to {most}, not {values.min()} to {values.max()}"
        )


def _check_picture(picture: Picture, rows: int, columns: int) -> None:
    for name, plane, size in zip(Picture._fields, picture, (16, 8, 8), strict=True):
        shape = (size * rows + 2 * BORDER, size * columns + 2 * BORDER)
        if plane.dtype != np.uint8 or plane.shape != shape or not plane.flags.c_contiguous:
            raise ValueError(
                f"plane {name} of a reference picture: uint8 {shape} C-contiguous, not {plane.dtype} {plane.shape}"
            )


# Reading bytes -------------------------------------------------------------------------------------------------


def _checked_payload(
    data: bytes, base: DecoderState | None
) -> tuple[memoryview, DecoderState | None]:
    """The compressed payload, and the base if it is a delta."""
    if len(data) < _HEADER.size or data[:4] != _MAGIC:
        raise InvalidState("not a decoder state: it does not begin with a state's header")
    _, version, kind, base_digest, digest = _HEADER.unpack_from(data)
    if version != BYTES_VERSION:
        raise InvalidState(
            f"decoder state of version {version}; this codec reads version {BYTES_VERSION}"
        )
    compressed = memoryview(data)[_HEADER.size :]
    if kind not in (_WHOLE, _DELTA) or _bytes_digest(kind, base_digest, compressed) != digest:
        raise InvalidState("decoder state is truncated or altered: its checksum does not fit")
    if kind == _DELTA and base is None:
        raise InvalidState("decoder state is a delta: give the base state that it was made against")
    if kind == _DELTA and base is not None and base.digest != base_digest:
        raise InvalidState("decoder state is a delta against another base state than the one given")
    return compressed, base if kind == _DELTA else None


class _StateReader:
    """Takes a payload apart as it is decompressed, so that no more is held than the state that it tells of."""

    def __init__(self, compressed: memoryview, base: DecoderState | None) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        self._payload = decompressor.stream_reader(compressed)
        self._base = base

    def read(self) -> DecoderState:
        fixed = _FIXED.unpack(self._take(_FIXED.size))
        (
            width,
            height,
            horizontal,
            vertical,
            color_space,
            clamping,
            enabled,
            absolute,
            deltas,
            has_references,
        ) = fixed
        if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
            raise InvalidState(f"decoder state tells of pictures of {width}x{height} pixels")
        if max(enabled, absolute, deltas, has_references) > 1:
            raise InvalidState("decoder state has a flag that is neither 0 nor 1")
        size = macroblock_size(width, height)
        probabilities = ProbabilityTables(
            self._array(np.uint8, 4, 8, 3, 11),
            self._array(np.uint8, 4),
            self._array(np.uint8, 3),
            self._array(np.uint8, 2, 19),
        )
        quantizer, filter_level = self._array(np.int8, 4), self._array(np.int8, 4)
        reference_deltas, mode_deltas = self._array(np.int8, 4), self._array(np.int8, 4)
        segment_map = self._array(np.uint8, *size)
        references = self._references(*size) if has_references else None
        if self._payload.read(1):
            raise InvalidState("decoder state has bytes left over")
        return DecoderState(
            width,
            height,
            horizontal,
            vertical,
            color_space,
            clamping,
            probabilities,
            Segmentation(bool(enabled), bool(absolute), quantizer, filter_level, segment_map),
            FilterDeltas(bool(deltas), reference_deltas, mode_deltas),
            references,
        )

    def _take(self, count: int) -> bytes:
        taken = self._payload.read(count)
        if len(taken) != count:
            raise InvalidState("decoder state is too short for its picture size")
        return taken

    def _array(self, dtype: type, *shape: int) -> NDArray[Any]:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(self._take(count), dtype).reshape(shape)

    def _references(self, rows: int, columns: int) -> References:
        slots = self._take(3)
        if slots not in _SLOTS:
            raise InvalidState(f"decoder state has pictures in slots {tuple(slots)}")
        distinct = max(slots) + 1
        if distinct * rows * columns * 384 > MOST_PICTURE_BYTES:
            raise InvalidState(
                f"decoder state tells of {distinct} pictures of {16 * columns}x{16 * rows} pixels, "
                f"more than {MOST_PICTURE_BYTES >> 20} MiB"
            )
        pictures = [self._picture(rows, columns) for _ in range(distinct)]
        return References(*(pictures[slot] for slot in slots))

    def _picture(self, rows: int, columns: int) -> Picture:
        picture = new_picture(rows, columns)
        kind = self._take(1)[0]
        bases: list[Plane] | None = None
        if kind == _FROM_BASE:
            candidates = _base_pictures(self._base, picture)
            index = self._take(1)[0]
            if index >= len(candidates):
                raise InvalidState("decoder state names a picture that its base does not have")
            bases = _insides(candidates[index])
        elif kind != _STORED:
            raise InvalidState(f"decoder state has a picture of kind {kind}")
        for place, (inside, padded) in enumerate(zip(_insides(picture), picture, strict=True)):
            self._plane(inside, None if bases is None else bases[place])
            replicate_edges(padded, *inside.shape)
        return picture

    def _plane(self, plane: Plane, base: Plane | None) -> None:
        """Fill a plane, a stripe of rows at a time."""
        height, width = plane.shape
        rows = max(1, _STRIPE // width)
        for first in range(0, height, rows):
            stripe = plane[first : first + rows]
            told = self._array(np.uint8, *stripe.shape)
            if base is None:
                np.add.accumulate(told, axis=1, dtype=np.uint8, out=stripe)
            else:
                np.add(told, base[first : first + rows], out=stripe)
