"""Frames that wait for one connection: control frames first, then one frame of each stream in turn."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from executors.rendezvous.protocol.frames import Buffer

Owner = TypeVar("Owner")
OVERHEAD = 200
"""Bytes that a queued frame costs beside its own: small ones are objects above all."""


def cost(frame: Buffer) -> int:
    """Bytes of memory that a frame takes while it waits."""
    return len(frame) + OVERHEAD


class Budget:
    """What waits in all the queues that share it, in bytes of memory."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0


class FairQueue(Generic[Owner]):
    """Lanes, one a stream, served round-robin; each frame has an owner, who is told when it leaves.

    Sizes are costs: bytes of memory.
    """

    __slots__ = ("_budget", "_lanes", "_turn", "_urgent", "size")

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget or Budget()
        self._urgent: deque[tuple[Buffer, Owner | None]] = deque()
        self._lanes: dict[int, deque[tuple[Buffer, Owner]]] = {}
        self._turn: deque[int] = deque()
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._urgent or self._turn)

    def push_urgent(self, frame: Buffer, owner: Owner | None = None) -> None:
        """Queue a frame that goes before all data; nobody owns what the relay says itself."""
        self._urgent.append((frame, owner))
        self._grow(cost(frame))

    def push(self, lane: int, frame: Buffer, owner: Owner) -> None:
        """Queue a frame behind those of the same lane."""
        waiting = self._lanes.get(lane)
        if waiting is None:
            waiting = self._lanes[lane] = deque()
            self._turn.append(lane)
        waiting.append((frame, owner))
        self._grow(cost(frame))

    def _grow(self, size: int) -> None:
        self.size += size
        self._budget.used += size

    def pop(self, budget: int, left: list[tuple[int, Owner]]) -> list[Buffer]:
        """Frames of together about `budget` bytes, at least one; (cost, owner) of each is put in `left`."""
        frames: list[Buffer] = []
        gone = 0
        urgent = self._urgent
        while urgent and budget > 0:
            frame, sender = urgent.popleft()
            budget -= len(frame)
            gone += cost(frame)
            frames.append(frame)
            if sender is not None:
                left.append((cost(frame), sender))
        turn, lanes = self._turn, self._lanes
        while turn and budget > 0:
            lane = turn.popleft()
            waiting = lanes[lane]
            frame, owner = waiting.popleft()
            if waiting:
                turn.append(lane)
            else:
                del lanes[lane]
            budget -= len(frame)
            gone += cost(frame)
            frames.append(frame)
            left.append((cost(frame), owner))
        self._grow(-gone)
        return frames

    def drop_lane(self, lane: int) -> list[tuple[int, Owner]]:
        """Throw a stream's frames away; returns (cost, owner) of each."""
        waiting = self._lanes.pop(lane, None)
        if waiting is None:
            return []
        self._turn.remove(lane)
        dropped = [(cost(frame), owner) for frame, owner in waiting]
        self._grow(-sum(size for size, _ in dropped))
        return dropped

    def clear(self) -> list[tuple[int, Owner]]:
        """Throw everything away; returns (cost, owner) of each frame that had one."""
        dropped = [(cost(f), owner) for lane in self._lanes.values() for f, owner in lane]
        dropped += [(cost(f), owner) for f, owner in self._urgent if owner is not None]
        self._urgent.clear()
        self._lanes.clear()
        self._turn.clear()
        self._grow(-self.size)
        return dropped
