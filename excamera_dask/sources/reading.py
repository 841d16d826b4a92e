"""Exact random access to the frames of a source.

Frame n is what one decoder gives that reads the film from its start to its end, whatever was read before, also where the
film is damaged. A reader enters the film at an anchor before the frame, with a decoder that has seen nothing, and from
there on never stops: an anchor promises whole pictures, not that nothing after it leans on what was before. Where the
decoder says that it had to conceal something right after the reader came in, the reader starts again one anchor earlier;
decoders that say nothing are always led in by some anchors more (docs/decisions/0016).

Reading on from the last frame delivered costs nothing extra: each process keeps a few readers open.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from codec.frame import Image
from excamera_dask.errors import SourceChanged, SourceError
from excamera_dask.sources.demuxing import open_container, walk_packets
from excamera_dask.sources.description import NO_TIME, SourceInfo
from excamera_dask.sources.entries import is_whole
from excamera_dask.sources.identity import check_unchanged
from excamera_dask.sources.packets import checker
from excamera_dask.sources.pixels import to_image
from excamera_dask.storage import StorageError

OPEN_READERS = 4
LONGEST_REORDERING = 32

_idle: list[Reader] = []
"""Open readers that nobody uses, the one used last at the end."""
_lock = threading.Lock()
os.register_at_fork(after_in_child=_idle.clear)  # a child must not share its parent's file offsets


def read_frames(source: SourceInfo, start: int, count: int) -> list[Image]:
    """Frames start .. start + count - 1 of the selected frames; SourceError when the file changed or cannot be read."""
    return list(iter_frames(source, start, count))


def iter_frames(
    source: SourceInfo,
    start: int = 0,
    count: int | None = None,
    missing: list[int] | None = None,
) -> Iterator[Image]:
    """The same as `read_frames`, one frame at a time; frames that another stands in for are added to `missing`."""
    count = source.frame_count - start if count is None else count
    if start < 0 or count < 0 or start + count > source.frame_count:
        raise SourceError(
            f"{source.path}: frames {start} to {start + count - 1} asked for, it has {source.frame_count}"
        )
    if count == 0:
        return
    reader = _take_reader(source, source.skip + start)
    try:
        for number, image in enumerate(reader.read(source.skip + start, count), start):
            if missing is not None and source.skip + number in reader.missing:
                missing.append(number)
            yield image
    except GeneratorExit:
        raise
    except (StorageError, SourceChanged):
        reader.close()
        raise
    except BaseException:
        reader.rewind()
        raise
    finally:
        if not reader.closed:
            _put_reader(reader)


def _take_reader(source: SourceInfo, start: int) -> Reader:
    """An idle reader of this source: the one that stands nearest before `start`; else a new one, or any if there are many.

    Several tasks may each read on from where they were, one far behind another.
    """
    with _lock:
        ours = [reader for reader in _idle if reader.source.identity == source.identity]
        before = [reader for reader in ours if reader.next_frame <= start]
        if before or len(ours) >= OPEN_READERS:
            best = max(before or ours, key=lambda reader: reader.next_frame)
            _idle.remove(best)
            best.source = source  # with other frames in use, perhaps
            return best
    return Reader(source)


def _put_reader(reader: Reader) -> None:
    with _lock:
        _idle.append(reader)
        evicted = [_idle.pop(0) for _ in range(len(_idle) - OPEN_READERS)]
    for other in evicted:
        other.close()


class _LeansOnMore(Exception):
    """What was decoded from an anchor on may lean on frames before it."""


class _NotConverted(Exception):
    """A picture that stands in for another was not thought to be of use when it was decoded."""


class Reader:
    """An open file and decoder, positioned somewhere in it.

    missing: frames of the whole film, among those read, that could not be decoded; the one before stands in.
    """

    def __init__(self, source: SourceInfo) -> None:
        check_unchanged(source)
        self.source = source
        self.closed = False
        self._open()
        self.packets: Iterator[Any] = walk_packets(self.container, self.stream)
        self.next_packet: int = 0
        self.frames: Iterator[Image] | None = None
        self.next_frame = 0
        self.wanted = 0
        """The first frame whose picture is of use; what is decoded before is not converted."""
        self.missing: set[int] = set()

    def _open(self) -> None:
        source = self.source
        version = (source.version, source.file_size)
        self.demuxed = open_container(source.path, source.stream_index, version)
        self.container, self.stream = self.demuxed.container, self.demuxed.stream
        self.check = checker(self.stream)

    def close(self) -> None:
        self.rewind()
        self.demuxed.close()
        self.closed = True

    def rewind(self) -> None:
        """Forget the position among the frames."""
        if self.frames is not None:
            self.frames.close()  # type: ignore[attr-defined]
        self.frames = None

    @cached_property
    def frame_of(self) -> NDArray[np.int64]:
        """The frame that each packet gives, (P,) int64 by the packet's ordinal; -1 for none."""
        order = self.source.order
        frames = np.full(int(order.max()) + 1, -1, np.int64)
        frames[order] = np.arange(order.size)
        return frames

    def read(self, start: int, count: int) -> Iterator[Image]:
        """Frames start .. start + count - 1 of the whole film; SourceChanged rather than one of another film."""
        if not self._is_on_the_way(start):
            self.rewind()
            self.frames = self._frames_from(start)
            self.next_frame = start
        assert self.frames is not None
        self.wanted = start
        self._expect(start + count - 1)
        while self.next_frame < start + count:
            try:
                image = next(self.frames)
            finally:  # a change may also be why it failed
                check_unchanged(self.source)
            self.next_frame += 1
            if self.next_frame > start:
                yield image

    def _is_on_the_way(self, start: int) -> bool:
        """Whether going on to `start` takes no longer than coming in anew."""
        anchors = self.source.anchors.frames
        if self.frames is None or self.next_frame > start:
            return False
        entry = _segment(anchors, start) - self.source.lead_in
        return entry <= _segment(anchors, self.next_frame) + 1

    def _expect(self, last: int) -> None:
        """Let nothing be fetched ahead beyond what frame `last` needs."""
        if self.demuxed.object is not None:
            anchors = self.source.anchors
            following = _segment(anchors.frames, last) + 1
            known = following < len(anchors.frames) and int(anchors.positions[following]) > 0
            self.demuxed.object.file.expect(int(anchors.positions[following]) if known else None)

    def _image(self, frame: av.VideoFrame) -> Image:
        return to_image(frame, self.source)

    def _frames_from(self, start: int) -> Iterator[Image]:
        """Frames of the film from `start` to its end."""
        entry = max(0, _segment(self.source.anchors.frames, start) - self.source.lead_in)
        while True:
            try:
                for image in self._frames_after(entry, start):
                    start += 1
                    yield image
                return
            except _LeansOnMore:
                entry -= 1
            except _NotConverted:
                self.wanted = 0

    def _frames_after(self, entry: int, start: int) -> Iterator[Image]:
        """The same, decoded from an anchor on, in presentation order; what is missing repeats the frame before it."""
        first, waiting = int(self.source.anchors.frames[entry]), dict[int, Image | None]()
        done, shown = first, _NO_IMAGE
        for number, image in self._emitted(entry):
            if number >= first:
                waiting[number] = image
            while done in waiting or len(waiting) > LONGEST_REORDERING:
                shown = self._next(waiting, done, shown, entry)
                done += 1
                if done > start:
                    yield _converted(shown, done, self.wanted)
        while done < len(self.source.order):
            shown = self._next(waiting, done, shown, entry)
            done += 1
            if done > start:
                yield _converted(shown, done, self.wanted)

    def _next(
        self, waiting: dict[int, Image | None], frame: int, shown: Image | None, entry: int
    ) -> Image | None:
        if frame in waiting:
            return waiting.pop(frame)
        if shown is _NO_IMAGE and entry > 0:
            raise _LeansOnMore
        self.missing.add(frame)
        if shown is not _NO_IMAGE:
            return shown
        if not waiting:
            raise SourceError(f"{self.source.path}: the first frames cannot be decoded")
        return waiting[min(waiting)]

    def _emitted(self, entry: int) -> Iterator[tuple[int, Image | None]]:
        """Pictures with their numbers, as the decoder gives them from an anchor's packet on; None for those not wanted.

        Raises _LeansOnMore where what follows the anchor, as far as the next one, is damaged.
        """
        anchors = self.source.anchors
        self._move_to(entry)
        watched = entry > 0 and not self.source.settled
        if watched and not self.source.proven:
            self._prove()
        begin = int(anchors.frames[entry])
        stop = int(anchors.frames[entry + 1]) if entry + 1 < len(anchors.frames) else None
        context = self.stream.codec_context
        context.flush_buffers()
        for ordinal, packet in self._packets():
            for number, image, sound in self._decode(context, packet, ordinal):
                if watched and not sound and begin <= number and (stop is None or number < stop):
                    raise _LeansOnMore
                if number >= 0 and image is not _NO_IMAGE:
                    yield number, image

    def _decode(
        self, context: Any, packet: Any, ordinal: int
    ) -> Iterator[tuple[int, Image | None, bool]]:
        """What comes out when a packet (None: the end) goes in: number, picture, whether it is sound; -1 for no frame.

        No frame is kept while the next packet is decoded: what a decoder leaves of older pictures depends on that.
        """
        if packet is not None:
            packet.pts = ordinal
        try:
            frames = list(context.decode(packet))
        except (av.FFmpegError, EOFError):
            if packet is not None:
                yield self._number(ordinal), _NO_IMAGE, False
            return
        while frames:
            frame = frames.pop(0)
            number, sound = self._number(frame.pts), not frame.is_corrupt
            image = self._image(frame) if number >= self.wanted else None
            del frame
            yield number, image, sound

    def _number(self, ordinal: int | None) -> int:
        """The frame that a packet gives; -1 for none."""
        if ordinal is None or not 0 <= ordinal < len(self.frame_of):
            return -1
        return int(self.frame_of[ordinal])

    def _packets(self) -> Iterator[tuple[int, Any]]:
        """Ordinals and packets from here on; at last the end, None."""
        while True:
            try:
                packet = next(self.packets, None)
            except av.FFmpegError:
                packet = None
            ordinal = self.next_packet
            self.next_packet = ordinal + 1 if packet is not None else -1
            yield ordinal, packet
            if packet is None:
                return

    def _prove(self) -> None:
        """Raise _LeansOnMore unless the next packet is an entry, by its bitstream and by decoding it."""
        packets = [packet for _, packet in zip(range(2), self.packets, strict=False)]
        self.packets = _chain(packets, self.packets)
        if not packets or not self.check(packets[0]).entry:
            raise _LeansOnMore
        if self.check.marks_damage and not is_whole(
            self.stream.codec_context, self.check, packets, ()
        ):
            raise _LeansOnMore

    def _move_to(self, entry: int) -> None:
        """Bring the demuxer to an anchor: where it stands, by seeking, or from the start."""
        target = int(self.source.anchors.packets[entry])
        if self.next_packet == target:
            return
        if not (self.source.steady or 0 <= self.next_packet < target):
            self._reopen()  # the decoder knows what comes later
        if entry and self._seek(entry):
            return
        self._reopen()
        walked = self._packets()
        while self.next_packet < target:
            if next(walked)[1] is None:
                raise SourceError(
                    f"{self.source.path}: ends before packet {target}, which it had when it was opened"
                )

    def _reopen(self) -> None:
        self.demuxed.close()
        self._open()
        self.packets = walk_packets(self.container, self.stream)
        self.next_packet = 0

    def _seek(self, entry: int) -> bool:
        """Seek to the anchor, or to one before it where the container's own index is coarser; False if it cannot."""
        anchors = self.source.anchors
        target = int(anchors.packets[entry])
        places = {
            (int(p), int(t)): int(n)
            for p, t, n in zip(anchors.positions, anchors.timestamps, anchors.packets, strict=True)
            if p >= 0 and t != NO_TIME
        }
        step = 0
        while entry - step > 0 and int(anchors.timestamps[entry - step]) != NO_TIME:
            if self._seek_time(int(anchors.timestamps[entry - step]), places, target):
                return True
            step = 2 * step + 1
        return False

    def _seek_time(self, time: int, places: dict[tuple[int, int], int], target: int) -> bool:
        try:
            self.container.seek(time, stream=self.stream, backward=True)
            self.packets = walk_packets(self.container, self.stream)
            ordinal: int | None = None
            for packet in self.packets:
                if ordinal is None:
                    ordinal = places.get((packet.pos, packet.pts))
                    if ordinal is not None and ordinal > target:
                        return False
                if ordinal is not None:
                    if ordinal == target:
                        self.packets = _chain([packet], self.packets)
                        self.next_packet = target
                        return True
                    ordinal += 1
        except av.FFmpegError:
            pass
        return False


_NO_IMAGE: Any = object()
"""Where there is none: nothing was shown yet, a packet gave no picture."""


def _converted(image: Image | None, done: int, wanted: int) -> Image:
    if image is None and done > wanted:
        raise _NotConverted
    return image  # type: ignore[return-value]  # nobody looks at those before


def _chain(packets: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    yield from packets
    yield from rest


def _segment(anchors: Any, frame: int) -> int:
    return int(np.searchsorted(anchors, frame, side="right")) - 1
