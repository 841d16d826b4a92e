"""One buffer into which all connections of a relay read: idle connections hold no memory, and frames are not copied."""

from __future__ import annotations

SIZE = 1 << 20
ROOM = 256 * 1024


class Arena:
    """Hands out the free part of a large buffer; takes another when views into the first are still in use."""

    def __init__(self) -> None:
        self._buffer = bytearray(SIZE)
        self._used = 0

    def place(self, tail: bytes) -> memoryview:
        """A writable view of at least ROOM bytes, that begins with a copy of `tail`."""
        need = len(tail) + ROOM
        if self._used and not self._has_views():
            self._used = 0
        if len(self._buffer) - self._used < need:
            self._buffer = bytearray(max(SIZE, need))
            self._used = 0
        view = memoryview(self._buffer)[self._used :]
        if tail:
            view[: len(tail)] = tail
        return view

    def keep(self, size: int) -> None:
        """The first `size` bytes of the view placed last are in use until nobody refers to them."""
        self._used += size

    def _has_views(self) -> bool:
        """True while anybody holds a view: a bytearray cannot change its size then."""
        try:
            self._buffer.append(0)
        except BufferError:
            return True
        self._buffer.pop()
        return False
