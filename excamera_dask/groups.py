"""Where hidden frames lie and where chunks meet: pure arithmetic on frame numbers.

A batch begins with its key frame; the frames after it are cut into groups, each of which ends where a hidden alt-ref frame
shows what is to come; a group is cut into chunks. A chunk ends with a joint, a frame that leans on GOLDEN and ALTREF alone:

    frame    0    1  2  3  4  5  6  7  8    9 10 11 12 13 14 15 16
             key  .  .  .  J  .  .  .  J    .  .  .  J  .  .  .  J     J: joint, the last of a group is GOLDEN from then on
             |----- chunk --|-- chunk --|-- chunk ---|-- chunk --|
             |------- group of 8 -------|------- group of 8 -----|
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

LEAST_GROUP = 3
"""Frames; fewer are coded without a hidden frame."""
SHORTEST = 4
"""Frames of the shortest group that is ever chosen for its content."""
LEAST_ALONE = 10
"""Frames of a chunk from which on it is a group of its own."""


@dataclass(frozen=True, slots=True)
class Group:
    """Frames start .. end behind the same hidden frame, which shows frame `end`.

    before: the frame that the group follows, the end of another or the key frame; batch_start, batch_stop: frames of the
    batch; first, stop: its chunks are first .. stop - 1. A batch of fewer than LEAST_GROUP frames besides its key frame is
    one group without a hidden frame; of the key frame alone, `end` is it. ahead: hidden frames are wanted at all.
    """

    index: int
    batch: int
    before: int
    end: int
    batch_start: int
    batch_stop: int
    first: int
    stop: int
    ahead: bool = True

    @property
    def start(self) -> int:
        return self.before + 1

    @property
    def has_hidden(self) -> bool:
        return self.ahead and self.end - self.before >= LEAST_GROUP

    @property
    def is_first(self) -> bool:
        """Whether the key frame stands before it."""
        return self.before == self.batch_start


def spread(count: int, parts: int) -> list[int]:
    """Sizes of `parts` that differ by one at most, the longer ones first."""
    size, more = divmod(count, parts)
    return [size + (part < more) for part in range(parts)]


def batches_of(
    frame_count: int, key_distance: int, cuts: Iterable[int]
) -> Iterator[tuple[int, int]]:
    """Start and stop of each batch: about `key_distance` frames, all of a scene alike.

    A few frames more are no reason for a key frame: scenes are cut into as many batches as comes nearest.
    """
    inside = {cut for cut in cuts if 0 < cut < frame_count}
    for begin, end in pairwise([0, *sorted(inside), frame_count]):
        start = begin
        for size in spread(end - begin, max(1, _nearest(end - begin, key_distance))):
            if size:
                yield start, start + size
            start += size


def groups_of(count: int, group_frames: int) -> list[int]:
    """Sizes of the groups of a batch that has `count` frames behind its key frame."""
    if count < LEAST_GROUP:
        return [count]
    return spread(count, min(max(1, _nearest(count, group_frames)), count // LEAST_GROUP))


def chunks_of(count: int, chunk_frames: int) -> list[int]:
    """Sizes of the chunks of a group: as near to `chunk_frames` as they can be alike; without a hidden frame it is one."""
    if count < LEAST_GROUP:
        return [count]
    return spread(count, max(1, _nearest(count, chunk_frames)))


def longest_group(chunk_frames: int) -> int:
    """The longest group that suits chunks of about so many frames: each joint within a group costs bits, and so does each
    hidden frame."""
    longest = chunk_frames if chunk_frames >= LEAST_ALONE else 2 * chunk_frames
    return max(LEAST_GROUP, longest)


def _nearest(count: int, size: int) -> int:
    return (2 * count + size) // (2 * size)
