"""Frames of a batch with hidden ones: the skeleton first, then chunks between what is made.

Each step reads the pictures that it needs from the source. What travels between them is small: fields of vectors, and coded
frames, from which whoever needs a state decodes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import codec
from codec.encoding.encoder import Effort, Hints, Refresh, encode_given_state, encode_key_frame
from codec.encoding.frame_coding import Encoded
from codec.encoding.temporal_filter import filter_along_motion
from codec.encoding.translation import translate
from codec.frame import ALTREF_FRAME, GOLDEN_FRAME, Image
from codec.state import DecoderState
from excamera_dask.groups import Group
from excamera_dask.planning import Chunk
from excamera_dask.skeleton.efforts import effort_of
from excamera_dask.skeleton.manner import Manner
from excamera_dask.skeleton.schedule import Quantizers, one_quantizer_for, quantizers_for
from excamera_dask.skeleton.survey import (
    Survey,
    hidden_hints,
    importances,
    plain_hints,
)
from excamera_dask.sources import SourceInfo, iter_frames
from excamera_dask.stages import ChunkResult, Seconds

HIDDEN = Refresh(last=False, altref=True)
GROUP_END = Refresh(golden=True)
MOST_PACKETS = 24
"""Frames of a skeleton that are decoded again at most, but for a group's two."""
BEFOREHAND = (GOLDEN_FRAME, ALTREF_FRAME)
"""What a joint may lean on: the pictures that are made first."""


class Skeleton:
    """A batch's frames that are made first, up to some group: key frame, hidden frames, the frames that end groups.

    start: bytes of the state that `packets` follow, None at the batch's beginning. seconds: of the last group's frames, the
    key frame's with the first. quantizers: of the hidden frames of all groups, with the key frame alone. Between processes it
    travels as `start` and frames, from which states are decoded where they are needed; after MOST_PACKETS a new start makes
    that short again.
    """

    def __init__(
        self,
        packets: tuple[bytes, ...],
        seconds: Seconds,
        quantizers: tuple[Quantizers, ...] = (),
        start: bytes | None = None,
        states: tuple[DecoderState, DecoderState] | None = None,
    ) -> None:
        self.packets = packets
        self.seconds = seconds
        self.quantizers = quantizers
        self.start = start
        self._states = states
        self._lock = threading.Lock()

    @property
    def begin(self) -> DecoderState:
        """The state in which the last group begins, behind its hidden frame."""
        return self._decoded()[0]

    @property
    def end(self) -> DecoderState:
        """The state behind the last group."""
        return self._decoded()[1]

    def extended(self, hidden: Encoded, end: Encoded, seconds: Seconds) -> Skeleton:
        """With one group more."""
        start, packets = self.start, self.packets
        if len(packets) >= MOST_PACKETS:
            start, packets = self.end.to_bytes(), ()
        packets = (*packets, hidden.data, end.data)
        return Skeleton(packets, seconds, start=start, states=(hidden.state, end.state))

    def _decoded(self) -> tuple[DecoderState, DecoderState]:
        with self._lock:
            if self._states is None:
                state = None if self.start is None else DecoderState.from_bytes(self.start)
                before = state
                for packet in self.packets:
                    before = state
                    state, _ = codec.decode(state, packet)
                assert state is not None
                self._states = (before or state, state)
            return self._states

    def __reduce__(self) -> tuple[Any, ...]:
        return Skeleton, (self.packets, self.seconds, self.quantizers, self.start)

    def __sizeof__(self) -> int:
        """Bytes that travel, by which Dask places tasks: with its states, which do not, a chunk would seem dear to move, and be
        coded where the next group has to be made."""
        return object.__sizeof__(self) + sum(map(len, self.packets)) + len(self.start or b"")


def begin(source: SourceInfo, start: int, surveys: Sequence[Survey], manner: Manner) -> Skeleton:
    """A batch's key frame, and how fine its hidden frames shall be; surveys are those of its groups, if it has any."""
    began = time.perf_counter()
    (image,) = iter_frames(source, start, 1)
    choose = quantizers_for if manner.mechanisms.quantizers else one_quantizer_for
    first, *later = (
        [choose(importance, manner.q_index) for importance in importances(surveys)]
        if surveys
        else [Quantizers(manner.q_index, None)]
    )
    effort = effort_of(manner)
    key = encode_key_frame(image, q_index=first.q_index, segments=first.segments, effort=effort)
    seconds = {"skeleton": time.perf_counter() - began}
    return Skeleton((key.data,), seconds, tuple(later), states=(key.state, key.state))


def extend(
    source: SourceInfo,
    group: Group,
    chosen: Quantizers,
    before: Skeleton,
    seen: Survey,
    manner: Manner,
) -> Skeleton:
    """The skeleton with one group more: its hidden frame, made with `chosen`, and the frame that shows it."""
    began = time.perf_counter()
    on, effort = manner.mechanisms, effort_of(manner)
    image, filtered = _filtered(
        source, group, manner.structure.filter_radius if on.temporal_filter else 0
    )
    hidden = encode_given_state(
        before.end,
        filtered,
        q_index=chosen.q_index,
        segments=chosen.segments,
        refresh=HIDDEN,
        show=False,
        hints=hidden_hints(seen) if on.hints else None,
        settled=True,
        effort=effort,
    )
    end = _joint(hidden.state, image, manner.q_index, GROUP_END, None, effort)
    spent = time.perf_counter() - began
    if group.is_first:
        spent += before.seconds["skeleton"]
    return before.extended(hidden, end, {"skeleton": spent})


def _filtered(source: SourceInfo, group: Group, radius: int) -> tuple[Image, Image]:
    """A group's last picture, and what its hidden frame shows of it."""
    first = max(group.end - radius, group.batch_start)
    stop = min(group.end + radius + 1, group.batch_stop)
    images = list(iter_frames(source, first, stop - first))
    return images[group.end - first], filter_along_motion(images, group.end - first)


def _joint(
    state: DecoderState,
    image: Image,
    q_index: int,
    refresh: Refresh,
    hints: Hints | None,
    effort: Effort,
) -> Encoded:
    """A frame that leans on the skeleton alone, so that whoever has that can make it."""
    return encode_given_state(
        state,
        image,
        q_index=q_index,
        refresh=refresh,
        references=BEFOREHAND,
        hints=hints,
        settled=True,
        effort=effort,
    )


class _Coding(NamedTuple):
    """What coding the plain frames of a chunk needs beside their pictures."""

    group: Group
    begin: DecoderState  # of the group
    seen: Survey
    manner: Manner

    def plain(self, state: DecoderState, image: Image, frame: int) -> Encoded:
        q_index, effort = self.manner.q_index, effort_of(self.manner)
        return encode_given_state(
            state, image, q_index=q_index, hints=self._hints(frame), effort=effort
        )

    def joint(self, image: Image, frame: int) -> Encoded:
        hints, effort = self._hints(frame), effort_of(self.manner)
        return _joint(self.begin, image, self.manner.q_index, Refresh(), hints, effort)

    def _hints(self, frame: int) -> Hints | None:
        return (
            plain_hints(self.seen, self.group.end, frame) if self.manner.mechanisms.hints else None
        )


def code(
    source: SourceInfo,
    chunk: Chunk,
    group: Group,
    skeleton: Skeleton,
    seen: Survey | None,
    manner: Manner,
) -> ChunkResult:
    """A chunk's final frames. skeleton: up to its group; seen: the group's survey, None without a hidden frame."""
    began = time.perf_counter()
    missing: list[int] = []
    first, stop = chunk.start, chunk.start + chunk.frames
    reads = first - (first > group.start)  # from the joint before
    images = dict(
        zip(range(reads, stop), iter_frames(source, reads, stop - reads, missing), strict=True)
    )
    loaded = time.perf_counter()
    if seen is None:
        packets = _without_hidden(images, group, skeleton, manner)
    else:
        coding = _Coding(group, skeleton.begin, seen, manner)
        packets = _between_joints(images, chunk, skeleton, coding)
    seconds = {"load": loaded - began, "code": time.perf_counter() - loaded}
    if chunk.index == group.first:
        seconds |= skeleton.seconds
        seconds |= {} if seen is None else {"survey": seen.seconds}
    return ChunkResult(
        chunk.index, tuple(packets), seconds, missing=tuple(m for m in missing if m >= first)
    )


def _without_hidden(
    images: dict[int, Image], group: Group, skeleton: Skeleton, manner: Manner
) -> list[bytes]:
    q_index, effort = manner.q_index, effort_of(manner)
    packets, state = [skeleton.packets[0]], skeleton.end
    for frame in range(group.start, group.end + 1):
        encoded = encode_given_state(state, images[frame], q_index=q_index, effort=effort)
        packets.append(encoded.data)
        state = encoded.state
    return packets


def _between_joints(
    images: dict[int, Image], chunk: Chunk, skeleton: Skeleton, coding: _Coding
) -> list[bytes]:
    group = coding.group
    *_, hidden, end = skeleton.packets
    stop = chunk.start + chunk.frames
    packets: list[bytes] = []
    if chunk.start <= group.start:
        packets = [skeleton.packets[0], hidden] if group.is_first else [hidden]
        state, frame = coding.begin, group.start
    else:
        frame = chunk.start
        state = coding.joint(images[frame - 1], frame - 1).state
    for number in range(frame, stop - 1):
        encoded = coding.plain(state, images[number], number)
        packets.append(encoded.data)
        state = encoded.state
    if stop - 1 < group.end:
        end = coding.joint(images[stop - 1], stop - 1).data
    packets.append(translate(state, end, coding.begin))
    return packets
