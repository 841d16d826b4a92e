"""The steps of a chunk's life as plain functions: load, encode, final_state, replace, rebase.

A notebook can `client.submit` each of them; the graph is made of nothing else. Results are small
and picklable but for the raw pictures of `load`. The result of each step carries the seconds that
led to it, by stage.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import codec
from codec.frame import Image
from codec.state import DecoderState
from excamera_dask.errors import ExcameraError, FirstPassError
from excamera_dask.first_pass import FirstPassSettings, encode_chunk
from excamera_dask.formats.ivf import is_shown
from excamera_dask.key_frames import key_frame_weight
from excamera_dask.planning import Chunk
from excamera_dask.sources import SourceInfo, iter_frames

KEY_FRAME_Q_WEIGHT = 0.75
"""Weight of the key frame's quantizer against the next inter frame's in the frame that replaces it."""

Seconds = Mapping[str, float]


class PassedState:
    """A decoder state on its way to another task: as it is within a process; between processes, what it can be had from
    with few bytes: an earlier state, and the frames that lead from there to it, decoded again by whoever opens it.

    start: the earlier state, None for the beginning of a stream. With a `base`, its bytes are a delta, and whoever
    opens it gives an equal base. Decoding a chunk again takes about as long as packing and unpacking the pictures that
    it saves, and those are several times as many bytes (docs/decisions/0013).
    """

    def __init__(
        self,
        state: DecoderState,
        *,
        start: DecoderState | None = None,
        packets: Sequence[bytes] = (),
        base: DecoderState | None = None,
    ) -> None:
        self._state: DecoderState | None = state
        self._start = start
        self._base = base
        self._data: bytes | None = None
        self._packets = tuple(packets)

    @classmethod
    def _arrived(cls, data: bytes | None, packets: tuple[bytes, ...]) -> PassedState:
        passed = cls.__new__(cls)
        passed._state = passed._start = passed._base = None
        passed._data, passed._packets = data, packets
        return passed

    def open(self, base: PassedState | None = None) -> DecoderState:
        """The state; `base` is what it was made a delta against, if anything."""
        if self._state is None:
            start = None
            if self._data is not None:
                known = None if base is None else base.open()
                start = DecoderState.from_bytes(self._data, base=known)
            self._state = state_after(self._packets, start)
        return self._state

    def __reduce__(self) -> tuple[Any, ...]:
        if self._data is None and self._start is not None:
            self._data = self._start.to_bytes(base=self._base)
        return PassedState._arrived, (self._data, self._packets)

    def __sizeof__(self) -> int:
        """Bytes that the pictures take here, which is how Dask judges memory."""
        size = object.__sizeof__(self) + len(self._data or b"") + sum(map(len, self._packets))
        return size + sum(map(_picture_bytes, (self._state, self._start)))


def _picture_bytes(state: DecoderState | None) -> int:
    if state is None or state.references is None:
        return 0
    distinct = {id(picture): picture for picture in state.references}.values()
    return sum(plane.nbytes for picture in distinct for plane in picture)


class Origin(NamedTuple):
    """Where pictures can be had again: frames start .. start + frames - 1 of a source."""

    source: SourceInfo
    start: int
    frames: int


class Pictures:
    """The original pictures of a chunk; with an `origin`, they travel as that and are read again by whoever needs them.

    missing: numbers of the frames that the source could not give, and that another stands in for.
    """

    def __init__(
        self,
        images: list[Image] | None,
        seconds: Seconds,
        origin: Origin | None = None,
        missing: tuple[int, ...] = (),
    ) -> None:
        self.seconds = seconds
        self.missing = missing
        self._images = images
        self._origin = origin
        self._lock = threading.Lock()

    @property
    def images(self) -> list[Image]:
        """Read now, if they are not yet in this process."""
        with self._lock:
            if self._images is None:
                assert self._origin is not None
                self._images = list(iter_frames(*self._origin))
            return self._images

    def __reduce__(self) -> tuple[Any, ...]:
        if self._origin is None:
            return Pictures, (self._images, self.seconds, None, self.missing)
        return Pictures, (None, self.seconds, self._origin, self.missing)

    def __sizeof__(self) -> int:
        planes = (plane.nbytes for image in self._images or () for plane in image)
        return object.__sizeof__(self) + sum(planes)


class FirstPass(NamedTuple):
    """A chunk by itself: VP8 frames in decoding order, the first a key frame.

    q_index: quantizer index of a frame that nothing is predicted from, where the settings tell it; missing: as of the
    pictures.
    """

    packets: tuple[bytes, ...]
    seconds: Seconds
    q_index: int | None = None
    missing: tuple[int, ...] = ()


class Decoding(NamedTuple):
    """A first pass decoded."""

    final: DecoderState
    parsing_states: tuple[DecoderState, ...]  # before each frame but the first, without pictures
    hidden: Mapping[int, Image]  # pictures of the frames that are not shown, by their place


class Decoded:
    """What decoding a first pass leaves behind; between processes it travels as the first pass and is decoded again."""

    def __init__(
        self, packets: tuple[bytes, ...], seconds: Seconds, decoding: Decoding | None = None
    ) -> None:
        self.packets = packets
        self.seconds = seconds
        self._decoding = decoding
        self._lock = threading.Lock()

    @property
    def decoding(self) -> Decoding:
        """Decoded now, if it was not yet in this process."""
        with self._lock:
            if self._decoding is None:
                self._decoding = _decode(self.packets)
            return self._decoding

    @property
    def state(self) -> PassedState:
        """The state at the end."""
        return PassedState(self.decoding.final, packets=self.packets)

    def __reduce__(self) -> tuple[Any, ...]:
        return Decoded, (self.packets, self.seconds)

    def __sizeof__(self) -> int:
        size = object.__sizeof__(self) + sum(map(len, self.packets))
        decoding = self._decoding
        if decoding is not None:
            size += _picture_bytes(decoding.final)
            size += sum(plane.nbytes for image in decoding.hidden.values() for plane in image)
        return size


class Replaced(NamedTuple):
    """The frame of our own in place of a chunk's key frame: an inter frame, at a batch's start a key frame."""

    packet: bytes
    seconds: Seconds


class Rebased(NamedTuple):
    """A chunk's final frames, and the state that they lead to."""

    packets: tuple[bytes, ...]
    state: PassedState  # begins as a delta against the first pass's
    seconds: Seconds


class ChunkResult(NamedTuple):
    """What a job keeps of a chunk; the intermediates are None unless they were asked for. missing: as of the pictures."""

    chunk: int
    packets: tuple[bytes, ...]
    seconds: Seconds
    first_pass: tuple[bytes, ...] | None = None
    replaced: bytes | None = None
    missing: tuple[int, ...] = ()


def read_result(values: Sequence[Any], chunk: int) -> ChunkResult:
    """The result of `chunk` as plain values that somebody has sent. Raises ExcameraError for what cannot be one."""
    try:
        result = ChunkResult(*values)
        told = result.packets, result.first_pass or (), (result.replaced or b"",)
        sound = (
            result.chunk == chunk
            and all(isinstance(packet, bytes) for packets in told for packet in packets)
            and all(isinstance(second, (int, float)) for second in result.seconds.values())
            and all(isinstance(frame, int) for frame in result.missing)
        )
    except (TypeError, AttributeError):
        sound = False
    if not sound:
        raise ExcameraError(
            f"chunk {chunk}: a worker has sent what is no result; run the encode again"
        )
    return result


def load(source: SourceInfo, start: int, count: int) -> Pictures:
    """Read `count` pictures from frame `start` on."""
    begin = time.perf_counter()
    missing: list[int] = []
    images = list(iter_frames(source, start, count, missing))
    return Pictures(images, {"load": time.perf_counter() - begin}, missing=tuple(missing))


def load_span(
    source: SourceInfo, chunks: Sequence[Chunk], scattered: bool, *after: object
) -> list[Pictures]:
    """Read the pictures of consecutive chunks in one go; `after` only says what must have ended before.

    scattered: raw pictures shall not cross between processes, whatever it costs to read them again.
    """
    first, last = chunks[0], chunks[-1]
    count = last.start + last.frames - first.start
    missing: list[int] = []
    frames = iter_frames(source, first.start, count, missing)
    loaded = []
    for chunk in chunks:
        begin = time.perf_counter()
        known = len(missing)
        images = [next(frames) for _ in range(chunk.frames)]
        origin = Origin(source, chunk.start, chunk.frames) if scattered else None
        seconds = {"load": time.perf_counter() - begin}
        loaded.append(Pictures(images, seconds, origin, tuple(missing[known:])))
    frames.close()  # type: ignore[attr-defined]
    return loaded


def loaded(span: Sequence[Pictures]) -> int:
    """Stand for a span that was read, where only the order of reading matters: the number of its chunks."""
    return len(span)


def take(span: Sequence[Pictures], place: int) -> Pictures:
    """One chunk out of a span; its pictures are not copied."""
    return span[place]


def encode(
    pictures: Pictures, settings: FirstPassSettings, chunk: Chunk | None = None
) -> FirstPass:
    """Encode a chunk by itself with the production encoder; `chunk`, where it lies, is for messages."""
    begin = time.perf_counter()
    try:
        packets = tuple(encode_chunk(pictures.images, settings))
    except FirstPassError as error:
        if chunk is None:
            raise
        last = chunk.start + chunk.frames - 1
        raise type(error)(
            f"chunk {chunk.index} (frames {chunk.start} to {last}): {error}"
        ) from None
    seconds = {**pictures.seconds, "encode": time.perf_counter() - begin}
    return FirstPass(packets, seconds, settings.cq_index, pictures.missing)


def final_state(first_pass: FirstPass) -> Decoded:
    """Decode a chunk's first pass from nothing: its state at the end, and what parsing its frames again needs."""
    begin = time.perf_counter()
    decoding = _decode(first_pass.packets)
    return Decoded(first_pass.packets, {"final_state": time.perf_counter() - begin}, decoding)


def _decode(packets: Sequence[bytes]) -> Decoding:
    state: DecoderState | None = None
    before: list[DecoderState] = []
    hidden: dict[int, Image] = {}
    for place, packet in enumerate(packets):
        if state is not None:
            before.append(state.without_references())
        after, _ = codec.decode(state, packet)
        if not is_shown(packet):
            hidden[place] = hidden_picture(state, after)
        state = after
    assert state is not None
    return Decoding(state, tuple(before), hidden)


def replace(
    pictures: Pictures,
    first_pass: FirstPass,
    previous: Decoded,
    kf_q_weight: float = KEY_FRAME_Q_WEIGHT,
) -> Replaced:
    """Encode a chunk's first picture as an inter frame against the final state of the chunk before it.

    kf_q_weight: 1 takes the quantizer of the key frame that is replaced, 0 that of the frame after it; a picture that
    is alone in its chunk takes the latter, since no frame of the chunk gains by a better one.
    """
    codec.import_kernels()
    from codec.encoding.encoder import REFRESH_ALL, encode_given_state

    begin = time.perf_counter()
    q_index = _q_index(first_pass, kf_q_weight if len(pictures.images) > 1 else 0.0)
    encoded = encode_given_state(
        previous.decoding.final, pictures.images[0], q_index=q_index, refresh=REFRESH_ALL
    )
    return Replaced(encoded.data, {"replace": time.perf_counter() - begin})


def replace_first(pictures: Pictures, first_pass: FirstPass) -> Replaced:
    """Encode a batch's first picture as a key frame of our own, as finely as its chunk says it pays."""
    codec.import_kernels()
    from codec.encoding.encoder import encode_key_frame

    begin = time.perf_counter()
    q_index = _q_index(first_pass, key_frame_weight(pictures.images, first_pass.packets))
    encoded = encode_key_frame(pictures.images[0], q_index=q_index)
    return Replaced(encoded.data, {"replace": time.perf_counter() - begin})


def _q_index(first_pass: FirstPass, weight: float) -> int:
    """The quantizer index between those of the first pass's key frame (weight 1) and of the frame after it."""
    codec.import_kernels()
    from codec.encoding.encoder import frame_q_index, weighted_q_index

    of_key_frame = frame_q_index(first_pass.packets[0])
    following = next(filter(None, first_pass.packets[1:]), None)
    if following is not None:
        return weighted_q_index(of_key_frame, frame_q_index(following), weight)
    if first_pass.q_index is not None:
        return weighted_q_index(of_key_frame, first_pass.q_index, weight)
    return of_key_frame


def rebase(
    pictures: Pictures,
    first_pass: FirstPass,
    decoded: Decoded,
    replaced: Replaced,
    previous: Decoded | None = None,
    true: Decoded | Rebased | None = None,
) -> Rebased:
    """Move a chunk from the first-pass state of the chunk before it onto the true one.

    decoded: of this chunk; previous: of the chunk before, against which `replaced` was made; true:
    what the chunk before became (`previous` itself where that stays as it is). Without these two
    `replaced` is a key frame, onto which the rest of the chunk is moved.
    """
    codec.import_kernels()
    from codec.encoding.rebase import rebase as rebase_frame

    begin = time.perf_counter()
    decoding = decoded.decoding
    if previous is None or true is None:
        state, packets = codec.decode(None, replaced.packet)[0], [replaced.packet]
    else:
        onto, made_against = true.state.open(previous.state), previous.decoding.final
        encoded = rebase_frame(onto, pictures.images[0], replaced.packet, made_against)
        state, packets = encoded.state, [encoded.data]
    states = [state]
    images = iter(pictures.images[1:])
    for place, packet in enumerate(first_pass.packets[1:], start=1):
        if not packet:  # a frame of no bytes repeats the one before
            next(images)
            packets.append(packet)
            states.append(states[-1])
            continue
        image = decoding.hidden[place] if place in decoding.hidden else next(images)
        source_state = decoding.parsing_states[place - 1]
        encoded = rebase_frame(states[-1], image, packet, source_state)
        packets.append(encoded.data)
        states.append(encoded.state)
    place = _smallest(states)
    final = PassedState(
        states[-1],
        start=states[place],
        packets=packets[place + 1 :],
        base=decoding.final,
    )
    return Rebased(tuple(packets), final, {"rebase": time.perf_counter() - begin})


def _smallest(states: Sequence[DecoderState]) -> int:
    """The place of the state with the fewest pictures, the last of those: the one to travel."""
    counts = [len(set(map(id, state.references or ()))) for state in states]
    return max(range(len(states)), key=lambda place: (-counts[place], place))


def finish_alone(chunk: int, first_pass: FirstPass, keep: bool) -> ChunkResult:
    """The result of a chunk of plain chunking, which stays as the first pass made it."""
    kept = first_pass.packets if keep else None
    return ChunkResult(
        chunk, first_pass.packets, first_pass.seconds, kept, missing=first_pass.missing
    )


def finish(
    chunk: int,
    first_pass: FirstPass,
    decoded: Decoded,
    replaced: Replaced,
    rebased: Rebased,
    keep: bool,
) -> ChunkResult:
    """The result of a chunk of a chain: its rebased frames."""
    seconds = _together(first_pass, decoded, replaced, rebased)
    kept = (first_pass.packets, replaced.packet) if keep else (None, None)
    return ChunkResult(chunk, rebased.packets, seconds, kept[0], kept[1], first_pass.missing)


def resume(packets: Sequence[bytes]) -> Rebased:
    """Stand in for the chunk at which an interrupted job stopped: `packets` are its batch's up to its end."""
    begin = time.perf_counter()
    state = PassedState(state_after(packets), packets=packets)
    return Rebased((), state, {"rebase": time.perf_counter() - begin})


def state_after(packets: Iterable[bytes], state: DecoderState | None = None) -> DecoderState:
    """The state of a decoder that has read `packets`."""
    for packet in packets:
        state, _ = codec.decode(state, packet)
    if state is None:
        raise ValueError("no frames, no state")
    return state


def _together(*results: Any) -> Seconds:
    total: dict[str, float] = {}
    for result in results:
        if result is not None:
            total |= result.seconds
    return total


def hidden_picture(before: DecoderState | None, after: DecoderState) -> Image:
    """The picture of a hidden frame: what is new among the references after it."""
    assert after.references is not None
    known = {id(picture) for picture in (before.references if before and before.references else ())}
    for picture in (after.references.altref, after.references.golden, after.references.last):
        if id(picture) not in known:
            return picture.crop(after.width, after.height)
    return after.references.altref.crop(after.width, after.height)
