"""Exact random access to the frames of a source.

The film is cut at its anchors into segments, and a segment is always decoded from its own first packet by a fresh
decoder. So a frame is a function of the file and its number alone, whatever was read before, also in damaged files.
Reading on from the last frame delivered costs nothing extra: each process keeps a few decoders open.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Any

import av
import numpy as np

from codec.frame import Image
from excamera_dask.errors import SourceError
from excamera_dask.sources.demuxing import open_container, walk_packets
from excamera_dask.sources.description import NO_TIME, SourceInfo
from excamera_dask.sources.pixels import to_image
from excamera_dask.storage import StorageError, is_remote

OPEN_READERS = 4
LONGEST_REORDERING = 32

_readers: OrderedDict[Hashable, Reader] = OrderedDict()
_lock = threading.Lock()
os.register_at_fork(
    after_in_child=_readers.clear
)  # a child must not share its parent's file offsets


def read_frames(source: SourceInfo, start: int, count: int) -> list[Image]:
    """Frames start .. start + count - 1 of the selected frames; SourceError when the file changed or cannot be read."""
    return list(iter_frames(source, start, count))


def iter_frames(source: SourceInfo, start: int = 0, count: int | None = None) -> Iterator[Image]:
    """The same as `read_frames`, one frame at a time."""
    count = source.frame_count - start if count is None else count
    if start < 0 or count < 0 or start + count > source.frame_count:
        raise SourceError(
            f"{source.path}: frames {start} to {start + count - 1} asked for, it has {source.frame_count}"
        )
    if count == 0:
        return
    reader = _take_reader(source)
    try:
        yield from reader.read(source.skip + start, count)
    except GeneratorExit:
        raise
    except StorageError:
        reader.close()
        raise
    except BaseException:
        reader.rewind()
        raise
    finally:
        if not reader.closed:
            _put_reader(source, reader)


def _take_reader(source: SourceInfo) -> Reader:
    with _lock:
        reader = _readers.pop(source.identity, None)
    return reader if reader is not None else Reader(source)


def _put_reader(source: SourceInfo, reader: Reader) -> None:
    with _lock:
        evicted = [_readers.pop(source.identity)] if source.identity in _readers else []
        _readers[source.identity] = reader
        evicted += [_readers.popitem(last=False)[1] for _ in range(len(_readers) - OPEN_READERS)]
    for other in evicted:
        other.close()


class Reader:
    """An open file and decoder, positioned somewhere in it."""

    def __init__(self, source: SourceInfo) -> None:
        _check_unchanged(source)
        self.source = source
        self.closed = False
        self._open()
        self.packets: Iterator[Any] = walk_packets(self.container, self.stream)
        self.next_packet: int = 0
        self.backlog: list[tuple[int, Any]] = []
        self.frames: Iterator[av.VideoFrame] | None = None
        self.next_frame = 0

    def _open(self) -> None:
        source = self.source
        version = (source.version, source.file_size)
        self.demuxed = open_container(source.path, source.stream_index, version)
        self.container, self.stream = self.demuxed.container, self.demuxed.stream

    def close(self) -> None:
        self.rewind()
        self.demuxed.close()
        self.closed = True

    def rewind(self) -> None:
        """Forget the position among the frames."""
        if self.frames is not None:
            self.frames.close()  # type: ignore[attr-defined]
        self.frames = None

    def read(self, start: int, count: int) -> Iterator[Image]:
        """Frames start .. start + count - 1 of the whole film."""
        anchors = self.source.anchors.frames
        here = self.frames is not None and self.next_frame <= start
        if here:
            here = _segment(anchors, start) <= _segment(anchors, self.next_frame) + 1
        if not here:
            self.rewind()
            first = _segment(anchors, start)
            self.frames = self._frames_from(first)
            self.next_frame = int(anchors[first])
        assert self.frames is not None
        self._expect(start + count - 1)
        while self.next_frame < start + count:
            frame = next(self.frames)
            self.next_frame += 1
            if self.next_frame > start:
                yield self._image(frame)

    def _expect(self, last: int) -> None:
        """Let nothing be fetched ahead beyond what frame `last` needs."""
        if self.demuxed.object is not None:
            anchors = self.source.anchors
            following = _segment(anchors.frames, last) + 1
            known = following < len(anchors.frames) and int(anchors.positions[following]) > 0
            self.demuxed.object.file.expect(int(anchors.positions[following]) if known else None)

    def _image(self, frame: av.VideoFrame) -> Image:
        return to_image(frame, self.source)

    def _frames_from(self, segment: int) -> Iterator[av.VideoFrame]:
        for number in range(segment, len(self.source.anchors.frames)):
            yield from self._decode_segment(number)

    def _decode_segment(self, number: int) -> Iterator[av.VideoFrame]:
        """All frames of a segment in presentation order; what cannot be decoded repeats the frame before it."""
        wanted = self._ordinals(number)
        owned = set(wanted.tolist())
        waiting: dict[int, av.VideoFrame] = {}
        shown: av.VideoFrame | None = None
        done = 0
        for frame in self._emitted(number, int(wanted.max())):
            if frame.pts is not None and frame.pts in owned:
                waiting[frame.pts] = frame
            while done < len(wanted) and (
                int(wanted[done]) in waiting or len(waiting) > LONGEST_REORDERING
            ):
                shown = (
                    waiting.pop(int(wanted[done]), None) or shown or self._stand_in(waiting, number)
                )
                done += 1
                yield shown
        while done < len(wanted):
            shown = waiting.pop(int(wanted[done]), None) or shown or self._stand_in(waiting, number)
            done += 1
            yield shown

    def _ordinals(self, number: int) -> Any:
        frames = self.source.anchors.frames
        stop = int(frames[number + 1]) if number + 1 < len(frames) else len(self.source.order)
        return self.source.order[int(frames[number]) : stop]

    def _stand_in(self, waiting: dict[int, av.VideoFrame], number: int) -> av.VideoFrame:
        """For a segment whose first frames are lost: its first decodable frame, else the last one of those before."""
        for ordinal in self._ordinals(number):
            if int(ordinal) in waiting:
                return waiting[int(ordinal)]
        if number == 0:
            raise SourceError(f"{self.source.path}: the first frames cannot be decoded")
        other = Reader(self.source)
        try:
            return deque(other._decode_segment(number - 1), maxlen=1).pop()
        finally:
            other.close()

    def _emitted(self, number: int, last: int) -> Iterator[av.VideoFrame]:
        """What a fresh decoder gives for the packets from the segment's anchor to `last`, pts = packet ordinal."""
        context = self.stream.codec_context
        context.flush_buffers()
        for ordinal, packet in self._packets_from(number):
            if ordinal > last:
                break
            packet.pts = ordinal
            yield from _decode(context, packet)
            if ordinal == last:
                break
        yield from _decode(context, None)

    def _packets_from(self, number: int) -> Iterator[tuple[int, Any]]:
        """Packets with their ordinals from a segment's anchor on; those of the next segment are kept for it."""
        anchors = self.source.anchors.packets
        first = int(anchors[number])
        following = int(anchors[number + 1]) if number + 1 < len(anchors) else None
        kept = [item for item in self.backlog if item[0] >= first]
        self.backlog = []
        if kept and kept[0][0] == first:
            for item in kept:
                self._keep(item, following)
                yield item
        else:
            self._move_to(number)
        while True:
            try:
                packet = next(self.packets, None)
            except av.FFmpegError:
                packet = None
            if packet is None:
                self.next_packet = -1
                return
            item = (self.next_packet, packet)
            self.next_packet += 1
            self._keep(item, following)
            yield item

    def _keep(self, item: tuple[int, Any], following: int | None) -> None:
        if following is not None and item[0] >= following:
            self.backlog.append(item)

    def _move_to(self, number: int) -> None:
        """Bring the demuxer to a segment's anchor: where it stands, by seeking, or from the start."""
        if self.next_packet == int(self.source.anchors.packets[number]):
            return
        if number and self._seek(number):
            return
        self._reopen()
        while self.next_packet < int(self.source.anchors.packets[number]):
            next(self.packets)
            self.next_packet += 1

    def _reopen(self) -> None:
        self.demuxed.close()
        self._open()
        self.packets = walk_packets(self.container, self.stream)
        self.next_packet = 0

    def _seek(self, number: int) -> bool:
        """Seek to the anchor, or to one before it where the container's own index is coarser; False if it cannot."""
        anchors = self.source.anchors
        target = int(anchors.packets[number])
        places = {
            (int(p), int(t)): int(n)
            for p, t, n in zip(anchors.positions, anchors.timestamps, anchors.packets, strict=True)
            if p >= 0 and t != NO_TIME
        }
        step = 0
        while number - step > 0 and int(anchors.timestamps[number - step]) != NO_TIME:
            if self._seek_time(int(anchors.timestamps[number - step]), places, target):
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
                        self.packets = _chain(packet, self.packets)
                        self.next_packet = target
                        return True
                    ordinal += 1
        except av.FFmpegError:
            pass
        return False


def _chain(packet: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield packet
    yield from rest


def _decode(context: Any, packet: Any) -> list[av.VideoFrame]:
    try:
        return list(context.decode(packet))
    except (av.FFmpegError, EOFError):
        return []


def _segment(anchors: Any, frame: int) -> int:
    return int(np.searchsorted(anchors, frame, side="right")) - 1


def _check_unchanged(source: SourceInfo) -> None:
    """An object tells at each read."""
    if is_remote(source.path):
        return
    try:
        status = os.stat(source.path)
    except OSError:
        raise SourceError(
            f"{source.path}: not found on this machine; workers must see the same files"
        ) from None
    if (str(status.st_mtime_ns), status.st_size) != (source.version, source.file_size):
        raise SourceError(f"{source.path}: changed since it was opened; start again")
