"""The boolean entropy coder (RFC 6386 chapter 7): reader and writer.

Kernels that read or write many booleans keep the coder in local variables, as a `Window`, and hand it from call to call;
`BoolReader` and `BoolWriter` serve the few fields of a frame header.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from codec.kernel import kernel, part_kernel
from codec.kernel_cache import INTERPRETED


class Window(NamedTuple):
    """A boolean decoder's place in its data: all int64, so that compiled kernels keep them in registers.

    `value` holds 8 + `bits` bits of the stream (less what was subtracted), `range` is 128..255 and `position` is
    the index of the next byte; bytes from `end` on read as zero, as in libvpx.
    """

    value: int
    range: int
    bits: int
    position: int
    end: int


if INTERPRETED:

    def leading_zeros(x: int) -> int:
        """Zero bits above the highest set bit of a 64-bit integer."""
        return 64 - int(x).bit_length()

else:

    @intrinsic
    def leading_zeros(typing_context, x):
        """Zero bits above the highest set bit of a 64-bit integer."""

        def lower(context, builder, signature, args):
            return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 1))

        return types.int64(types.int64), lower


@part_kernel
def open_window(data, start, end):
    """Window on data[start:end] of a uint8 array."""
    return refill(
        data, Window(np.int64(0), np.int64(255), np.int64(-8), np.int64(start), np.int64(end))
    )


@part_kernel
def refill(data, window):
    """Append bytes to a window with less than 8 bits."""
    value, bits, position, end = window.value, window.bits, window.position, window.end
    if position + 6 <= end:
        at = data[position : position + 6]
        value = (value << 24) | (np.int64(at[0]) << 16) | (np.int64(at[1]) << 8) | np.int64(at[2])
        value = (value << 24) | (np.int64(at[3]) << 16) | (np.int64(at[4]) << 8) | np.int64(at[5])
        bits += 48
        position += 6
    else:
        value <<= 8
        if position < end:
            value |= np.int64(data[position])
        bits += 8
        position += 1
    return Window(value, window.range, bits, position, end)


@part_kernel
def read_bool(data, window, probability):
    """The window after one boolean, and the boolean, which is 0 with `probability`/256 (section 7.3)."""
    if window.bits < 0:
        window = refill(data, window)
    split = 1 + (((window.range - 1) * np.int64(probability)) >> 8)
    big_split = split << window.bits
    if window.value >= big_split:
        range_ = window.range - split
        shift = leading_zeros(range_) - 56
        moved = Window(
            window.value - big_split,
            range_ << shift,
            window.bits - shift,
            window.position,
            window.end,
        )
        return moved, 1
    shift = leading_zeros(split) - 56
    return Window(window.value, split << shift, window.bits - shift, window.position, window.end), 0


@part_kernel
def read_bits(data, window, count):
    """The window after a literal of `count` bits, most significant first, and the literal."""
    value = np.int64(0)
    for _ in range(count):
        window, bit = read_bool(data, window, 128)
        value = (value << 1) | bit
    return window, value


@part_kernel
def read_tree(data, window, tree, probabilities, base):
    """The window after a value of a `tables.Tree` whose first probability is probabilities[base], and it (section 8.1)."""
    node = np.int64(0)
    while True:
        window, bit = read_bool(data, window, probabilities[base + (node >> 1)])
        node = np.int64(tree.nodes[node + bit])
        if node <= 0:
            return window, -node


@part_kernel
def ran_out(window):
    """Whether bits after the end of the data were used (libvpx calls the frame corrupted then)."""
    return 8 * (window.position - window.end) > window.bits


@part_kernel
def load_window(state):
    """The window that `store_window` put into an int64 array of 5."""
    return Window(state[0], state[1], state[2], state[3], state[4])


@part_kernel
def store_window(window, state):
    """Put a window into an int64 array of 5."""
    state[0] = window.value
    state[1] = window.range
    state[2] = window.bits
    state[3] = window.position
    state[4] = window.end


@kernel
def open_windows(data, starts, ends, windows):
    """Open a window on each data[start:end]; windows is (N, 5) int64."""
    for i in range(len(starts)):
        store_window(open_window(data, starts[i], ends[i]), windows[i])


@kernel
def _read_literal(data, window, count):
    moved, value = read_bits(data, load_window(window), count)
    store_window(moved, window)
    return value


@kernel
def _read_bool(data, window, probability):
    moved, value = read_bool(data, load_window(window), probability)
    store_window(moved, window)
    return value


class BoolReader:
    """Reads a header's fields from data[start:end]; `window` passes between it and kernels."""

    def __init__(self, data: NDArray[np.uint8], start: int, end: int) -> None:
        self.data = data
        self.window = np.zeros(5, np.int64)
        open_windows(data, np.array([start]), np.array([end]), self.window.reshape(1, 5))

    def read_bool(self, probability: int) -> int:
        """One boolean, 0 with `probability`/256."""
        return int(_read_bool(self.data, self.window, probability))

    def read_flag(self) -> bool:
        """One bit."""
        return bool(_read_literal(self.data, self.window, 1))

    def read_literal(self, count: int) -> int:
        """An unsigned number of `count` bits (section 8)."""
        return int(_read_literal(self.data, self.window, count))

    def read_signed(self, count: int) -> int:
        """A magnitude of `count` bits, then its sign."""
        magnitude = self.read_literal(count)
        return -magnitude if self.read_flag() else magnitude

    def read_optional(self, count: int) -> int | None:
        """A flag, and if it is set a signed number."""
        return self.read_signed(count) if self.read_flag() else None

    @property
    def ran_out(self) -> bool:
        """Whether bits after the end of the data were used."""
        _, _, bits, position, end = self.window
        return bool(8 * (position - end) > bits)


# Writer ------------------------------------------------------------------------------------------------------------

LOW, RANGE, COUNT, POSITION = range(4)
"""Fields of a writer's int64 state: bottom of the interval, its range, bits in it less 24, bytes written."""


@part_kernel
def reset_writer(state):
    """Begin a new stream at position 0."""
    state[LOW] = 0
    state[RANGE] = 255
    state[COUNT] = -24
    state[POSITION] = 0


@part_kernel
def _put_byte(state, out, byte):
    """Append a byte; past the end of `out` only the position moves, so that the caller learns the size it needs."""
    position = state[POSITION]
    if position < len(out):
        out[position] = byte
    state[POSITION] = position + 1


@kernel
def _carry(state, out):
    """Add one to the bytes written so far."""
    at = min(state[POSITION], len(out)) - 1
    while at >= 0 and out[at] == 255:
        out[at] = 0
        at -= 1
    if at >= 0:
        out[at] += 1


@part_kernel
def write_bool(state, out, probability, bit):
    """Append a boolean that is 0 with `probability`/256 (section 7.3)."""
    split = 1 + (((state[RANGE] - 1) * np.int64(probability)) >> 8)
    low = state[LOW]
    if bit:
        low += split
        split = state[RANGE] - split
    shift = leading_zeros(split) - 56
    count = state[COUNT] + shift
    if count >= 0:
        offset = shift - count
        low <<= offset
        if low & (1 << 32):
            _carry(state, out)
        _put_byte(state, out, (low >> 24) & 255)
        low = (low & 0xFFFFFF) << count
        count -= 8
    else:
        low <<= shift
    state[LOW] = low
    state[RANGE] = split << shift
    state[COUNT] = count


@part_kernel
def write_bits(state, out, value, count):
    """Append a literal of `count` bits, most significant first."""
    for i in range(count):
        write_bool(state, out, 128, (value >> (count - 1 - i)) & 1)


@part_kernel
def flush_writer(state, out):
    """Push out what the interval holds, as libvpx does: 32 zero bits."""
    write_bits(state, out, 0, 32)


@kernel
def _start(state):
    reset_writer(state)


@kernel
def _write_literal(state, out, value, count):
    write_bits(state, out, value, count)


@kernel
def _write_bool(state, out, probability, bit):
    write_bool(state, out, probability, bit)


@kernel
def _flush(state, out):
    flush_writer(state, out)


class BoolWriter:
    """Writes a header's fields into an array of `capacity` bytes; `state` and `out` pass between it and kernels."""

    def __init__(self, capacity: int) -> None:
        self.state = np.zeros(4, np.int64)
        self.out = np.zeros(capacity, np.uint8)
        _start(self.state)

    def write_bool(self, bit: int, probability: int) -> None:
        """One boolean that is 0 with `probability`/256."""
        _write_bool(self.state, self.out, probability, bit)

    def write_flag(self, bit: int) -> None:
        """One bit."""
        _write_literal(self.state, self.out, int(bit), 1)

    def write_literal(self, value: int, count: int) -> None:
        """An unsigned number of `count` bits."""
        _write_literal(self.state, self.out, value, count)

    def write_signed(self, value: int, count: int) -> None:
        """A magnitude of `count` bits, then its sign."""
        self.write_literal(abs(value), count)
        self.write_flag(value < 0)

    def write_optional(self, value: int | None, count: int) -> None:
        """A flag whether there is a number, and the number if so."""
        self.write_flag(value is not None)
        if value is not None:
            self.write_signed(value, count)

    @property
    def size(self) -> int:
        """Bytes written so far; more than the capacity if that was too small."""
        return int(self.state[POSITION])

    def finish(self) -> bytes:
        """Flush, and the bytes."""
        _flush(self.state, self.out)
        if self.size > len(self.out):
            raise OverflowError(f"{self.size} bytes do not fit the writer's {len(self.out)}")
        return self.out[: self.size].tobytes()
