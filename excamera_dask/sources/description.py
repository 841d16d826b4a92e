"""The description of a source: an immutable value that is cheap to pickle."""

from __future__ import annotations

import dataclasses
import zlib
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from excamera_dask.overrides import LIMITED, Reading

UNSPECIFIED = 2
VP8_DECODERS = ("vp8", "libvpx")


class Colour(NamedTuple):
    """Colour tags as the codes of ITU-T H.273; 2 is "unspecified", range 0 unspecified, 1 limited (tv), 2 full (pc)."""

    range: int = 0
    primaries: int = 2
    transfer: int = 2
    matrix: int = 2


class Orientation(NamedTuple):
    """How decoded pictures are turned before use: transposed first, then flipped."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False


class Projection(NamedTuple):
    """How a picture lies on a sphere, as Matroska writes it: its ProjectionType, ProjectionPrivate, degrees of pose."""

    kind: int
    private: bytes
    yaw: float
    pitch: float
    roll: float


class PictureTags(NamedTuple):
    """What a source says of its pictures beside size, aspect and colour, in Matroska's terms; empty where nothing.

    stereo_mode: Matroska's StereoMode, 0 mono; chromaticities: x, y of red, green, blue and white of the mastering
    display; luminance: its most and least cd/m2; light: MaxCLL and MaxFALL in cd/m2. lost names what there is that
    neither they nor the pictures hold.
    """

    stereo_mode: int = 0
    projection: Projection | None = None
    chromaticities: tuple[float, ...] = ()
    luminance: tuple[float, ...] = ()
    light: tuple[int, ...] = ()
    lost: tuple[str, ...] = ()


class Anchors(NamedTuple):
    """The places where decoding may begin, in rising order; the first is always frame 0.

    frames (A,) int64 first frame shown from here on, packets (A,) int64 ordinal of the key packet, positions (A,) int64
    byte offsets (-1 unknown), timestamps (A,) int64 presentation time in the stream's time base (NO_TIME when unknown).
    """

    frames: NDArray[np.int64]
    packets: NDArray[np.int64]
    positions: NDArray[np.int64]
    timestamps: NDArray[np.int64]


NO_TIME = -(2**63)


@dataclasses.dataclass(frozen=True, eq=False)
class SourceInfo:
    """What a source is and where its frames are.

    path: of a file, or an object's URL; version: modification time in ns and a digest of samples, or the object's ETag.

    width, height: pixels after rotation. all_times (T,) int64 presentation times of the whole film in units of
    time_base, strictly rising, 0 for the first frame; end when the last one ends, in the same units; start seconds from
    the beginning of the file's earliest stream to the first frame. order (T,) int64 the ordinal of the packet that each
    frame comes from, in presentation order. skip and frame_count select the frames in use; frame numbers given to
    `read_frames` count from skip. counted says how frames were counted: "packets" (every packet of a sound file shows one
    frame) or "decoded" (the whole film was decoded once). warnings and notices hold one line each. colour and tags say
    what the pictures are that `read_frames` gives; reading is what was asked for at opening.

    How it is read (see the module `reading`): lead_in anchors to come in early, because the decoder does not tell of
    damage; settled where the index pass has seen what each anchor is worth; proven where it has at least tried their
    packets; steady where a decoder that was further on can come in again.
    """

    path: str
    version: str
    file_size: int
    container: str
    codec: str
    stream_index: int
    pixel_format: str
    converted: bool
    coded_width: int
    coded_height: int
    width: int
    height: int
    time_base: Fraction
    average_rate: Fraction
    colour: Colour
    sample_aspect: Fraction
    orientation: Orientation
    rotation: int
    interlaced: bool
    all_times: NDArray[np.int64]
    end: int
    start: Fraction
    order: NDArray[np.int64]
    anchors: Anchors
    lead_in: int
    settled: bool
    proven: bool
    steady: bool
    counted: str
    warnings: tuple[str, ...]
    notices: tuple[str, ...]
    tags: PictureTags
    reading: Reading
    skip: int
    frame_count: int

    @property
    def identity(self) -> tuple[str, str, int, int, Reading]:
        """What tells one source from another: path, version, size in bytes, stream, and how it is read."""
        return (self.path, self.version, self.file_size, self.stream_index, self.reading)

    @property
    def range(self) -> int:
        """The range of all pictures, 1 limited or 2 full; 0 where each frame's own tags say."""
        return stated_range(self.codec, self.reading)

    @property
    def times(self) -> NDArray[np.int64]:
        """Presentation times of the selected frames, (frame_count,) int64 in time_base units, from 0."""
        selected = self.all_times[self.skip : self.skip + self.frame_count]
        return selected - selected[:1]

    @property
    def duration(self) -> float:
        """Seconds from the first selected frame to the end of the last."""
        return float(self.length * self.time_base)

    @property
    def length(self) -> int:
        """The same in time_base units."""
        if self.frame_count == 0:
            return 0
        after = self.skip + self.frame_count
        end = int(self.all_times[after]) if after < len(self.all_times) else self.end
        return end - int(self.all_times[self.skip])

    @property
    def delay(self) -> int:
        """What the first selected frame waits after the beginning of the film, in time_base units; 0 after a skip."""
        return 0 if self.skip else round(self.start / self.time_base)

    @property
    def keyframes(self) -> NDArray[np.int64]:
        """Selected frames at which decoding may begin, (K,) int64; frame numbers count from skip."""
        frames = self.anchors.frames - self.skip
        return frames[(frames >= 0) & (frames < self.frame_count)]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one raw 4:2:0 picture."""
        return self.width * self.height + 2 * ((self.width + 1) // 2) * ((self.height + 1) // 2)

    def select(self, skip: int = 0, limit: int | None = None) -> SourceInfo:
        """The same source without its first `skip` frames, and with at most `limit` frames."""
        if skip < 0 or (limit is not None and limit < 0):
            raise ValueError("skip and limit count frames and cannot be negative")
        left = max(0, self.frame_count - skip)
        count = left if limit is None else min(left, limit)
        return dataclasses.replace(self, skip=self.skip + skip, frame_count=count)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__qualname__, *self.identity, self.skip, self.frame_count)

    def __getstate__(self) -> dict[str, Any]:
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arrays = [state.pop("all_times"), state.pop("order"), *state.pop("anchors")]
        return state | {
            "arrays": self.__dict__.get("packed") or _pack(arrays),
            "lengths": [*map(len, arrays)],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = state.pop("arrays")
        times, order, *anchors = _unpack(packed, state.pop("lengths"))
        values = state | {"all_times": times, "order": order, "anchors": Anchors(*anchors)}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.__dict__["packed"] = packed  # a scheduler that passes it on need not pack again


def stated_range(codec: str, reading: Reading) -> int:
    """The range that holds for all frames, 0 where each frame's own tags say.

    VP8 has but the limited one; what libavcodec takes for the full one is that values need no clamping (RFC 6386
    section 9.2).
    """
    return reading.range or (LIMITED if codec in VP8_DECODERS else 0)


def _pack(arrays: list[NDArray[np.int64]]) -> bytes:
    differences = (np.diff(array, prepend=0).astype(np.int64).tobytes() for array in arrays)
    return zlib.compress(b"".join(differences), 6)


def _unpack(data: bytes, lengths: list[int]) -> list[NDArray[np.int64]]:
    differences = np.frombuffer(zlib.decompress(data), np.int64)
    parts = np.split(differences, np.cumsum(lengths)[:-1])
    return [np.cumsum(part, dtype=np.int64) for part in parts]
