"""Short vectors of integers: LLVM vectors in compiled kernels, numpy arrays in interpreted ones.

Each function here is written twice. The Python body is the definition and runs under NUMBA_DISABLE_JIT=1; the lowering
below it emits the same as one or a few vector instructions. A vector has 4, 8 or 16 lanes of i16 or i32, or of
booleans (the result of a comparison). ``+ - * & | ^ ~ << >>`` and comparisons work lane by lane between vectors
of one type, or with an integer, which is spread to all lanes; i16 wraps around like numpy's int16.

Loads from uint8 or int16 arrays give i16 lanes, from int32 arrays i32 lanes. Stores to uint8 arrays saturate to 0..255.
Offsets are not checked, except under NUMBA_BOUNDSCHECK=1.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model, type_callable

from codec.kernel_cache import BOUNDS_CHECKED

I32 = ir.IntType(32)


class VectorType(types.Type):
    """Numba's type of a vector of `lanes` integers of `bits` bits (1 bit: a mask)."""

    def __init__(self, bits: int, lanes: int) -> None:
        self.bits = bits
        self.lanes = lanes
        super().__init__(name=f"i{bits}x{lanes}")

    @property
    def ir_type(self) -> ir.VectorType:
        return ir.VectorType(ir.IntType(self.bits), self.lanes)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: VectorType) -> None:
        super().__init__(manager, vector, vector.ir_type)


def _constant(vector: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _spread(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """The vector that holds `scalar` in every lane."""
    width = vector.element.width
    if scalar.type.width > width:
        scalar = builder.trunc(scalar, vector.element)
    elif scalar.type.width < width:
        scalar = builder.sext(scalar, vector.element)
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, _constant(ir.VectorType(I32, vector.count), 0))


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Call the LLVM intrinsic `name`, which takes vectors of the result's type."""
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function_type, name), arguments
    )


def _suffix(vector: ir.VectorType) -> str:
    return f"v{vector.count}i{vector.element.width}"


# Operators -------------------------------------------------------------------------------------------------------


def _register_binary(
    function: Callable[..., Any], emit: Callable[..., Any], result_bits: int | None = None
) -> None:
    def result_of(a: Any, b: Any) -> Any:
        if isinstance(a, VectorType) and (a == b or isinstance(b, types.Integer)):
            vector = a
        elif isinstance(b, VectorType) and isinstance(a, types.Integer):
            vector = b
        else:
            return None
        return vector if result_bits is None else VectorType(result_bits, vector.lanes)

    @infer_global(function)
    class _Binary(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) != 2 or kws:
                return None
            result = result_of(*args)
            return None if result is None else signature(result, *args)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = args
        if not isinstance(a.type, ir.VectorType):
            a = _spread(builder, a, b.type)
        if not isinstance(b.type, ir.VectorType):
            b = _spread(builder, b, a.type)
        return emit(builder, a, b)

    for kinds in (
        (VectorType, VectorType),
        (VectorType, types.Integer),
        (types.Integer, VectorType),
    ):
        lower_builtin(function, *kinds)(lower)


def _register_unary(function: Callable[..., Any], emit: Callable[..., Any]) -> None:
    @infer_global(function)
    class _Unary(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 1 and isinstance(args[0], VectorType) and not kws:
                return signature(args[0], args[0])
            return None

    lower_builtin(function, VectorType)(lambda context, builder, sig, args: emit(builder, args[0]))


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two vectors, lane by lane."""
    return np.minimum(a, b)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two vectors, lane by lane."""
    return np.maximum(a, b)


def absolute(a: Any) -> Any:
    """Magnitudes, lane by lane."""
    return np.abs(a)


for _function, _method in (
    (operator.add, "add"),
    (operator.sub, "sub"),
    (operator.mul, "mul"),
    (operator.and_, "and_"),
    (operator.or_, "or_"),
    (operator.xor, "xor"),
    (operator.lshift, "shl"),
    (operator.rshift, "ashr"),
):
    _register_binary(
        _function, lambda builder, a, b, method=_method: getattr(builder, method)(a, b)
    )
for _function, _sign in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
):
    _register_binary(
        _function, lambda builder, a, b, sign=_sign: builder.icmp_signed(sign, a, b), result_bits=1
    )
_register_binary(
    minimum, lambda builder, a, b: _call(builder, f"llvm.smin.{_suffix(a.type)}", a.type, a, b)
)
_register_binary(
    maximum, lambda builder, a, b: _call(builder, f"llvm.smax.{_suffix(a.type)}", a.type, a, b)
)
_register_unary(operator.neg, lambda builder, a: builder.neg(a))
_register_unary(operator.invert, lambda builder, a: builder.not_(a))
_register_unary(
    absolute,
    lambda builder, a: _call(builder, f"llvm.smax.{_suffix(a.type)}", a.type, a, builder.neg(a)),
)


def select(mask: Any, a: Any, b: Any) -> Any:
    """Lanes of `a` where the mask is true, lanes of `b` elsewhere."""
    return np.where(mask, a, b)


@type_callable(select)
def _type_select(context: Any) -> Any:
    def typer(mask: Any, a: Any, b: Any) -> Any:
        if isinstance(mask, VectorType) and mask.bits == 1 and isinstance(a, VectorType) and a == b:
            return a
        return None

    return typer


@lower_builtin(select, VectorType, VectorType, VectorType)
def _lower_select(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.select(*args)


# Making vectors, widening, reducing ------------------------------------------------------------------------------


def _register_splat(function: Callable[..., Any], bits: int, lanes: int) -> None:
    vector = VectorType(bits, lanes)

    @type_callable(function)
    def typed(context: Any) -> Any:
        return lambda value: vector if isinstance(value, types.Integer) else None

    @lower_builtin(function, types.Integer)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _spread(builder, args[0], vector.ir_type)


def i16x4(value: int) -> Any:
    """Four i16 lanes of one value."""
    return np.full(4, value, np.int16)


def i16x8(value: int) -> Any:
    """Eight i16 lanes of one value."""
    return np.full(8, value, np.int16)


def i16x16(value: int) -> Any:
    """Sixteen i16 lanes of one value."""
    return np.full(16, value, np.int16)


def i32x4(value: int) -> Any:
    """Four i32 lanes of one value."""
    return np.full(4, value, np.int32)


def i32x8(value: int) -> Any:
    """Eight i32 lanes of one value."""
    return np.full(8, value, np.int32)


def i32x16(value: int) -> Any:
    """Sixteen i32 lanes of one value."""
    return np.full(16, value, np.int32)


for _constant_of, _bits, _lanes in (
    (i16x4, 16, 4),
    (i16x8, 16, 8),
    (i16x16, 16, 16),
    (i32x4, 32, 4),
    (i32x8, 32, 8),
    (i32x16, 32, 16),
):
    _register_splat(_constant_of, _bits, _lanes)


def to_i32(a: Any) -> Any:
    """The same lanes, widened to i32 (a mask gives 0 and 1)."""
    return a.astype(np.int32)


def to_i16(a: Any) -> Any:
    """The same lanes, cut to i16 (a mask gives 0 and 1)."""
    return a.astype(np.int16)


def _register_convert(function: Callable[[Any], Any], bits: int) -> None:
    @type_callable(function)
    def typed(context: Any) -> Any:
        return lambda a: VectorType(bits, a.lanes) if isinstance(a, VectorType) else None

    @lower_builtin(function, VectorType)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        have, want = sig.args[0].bits, sig.return_type.ir_type
        if have == 1:
            return builder.zext(args[0], want)
        if have < bits:
            return builder.sext(args[0], want)
        return builder.trunc(args[0], want) if have > bits else args[0]


_register_convert(to_i32, 32)
_register_convert(to_i16, 16)


def lane_sum(a: Any) -> int:
    """Sum of all lanes, added up in 32 bits."""
    return int(np.sum(a, dtype=np.int32))


def any_lane(mask: Any) -> bool:
    """Whether any lane of a mask is true."""
    return bool(np.any(mask))


def all_lanes(mask: Any) -> bool:
    """Whether all lanes of a mask are true."""
    return bool(np.all(mask))


@type_callable(lane_sum)
def _type_lane_sum(context: Any) -> Any:
    return lambda a: types.int64 if isinstance(a, VectorType) else None


@lower_builtin(lane_sum, VectorType)
def _lower_lane_sum(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    vector = args[0]
    wide = ir.VectorType(I32, vector.type.count)
    if vector.type.element.width < 32:
        extend = builder.zext if vector.type.element.width == 1 else builder.sext
        vector = extend(vector, wide)
    total = _call(builder, f"llvm.vector.reduce.add.{_suffix(wide)}", I32, vector)
    return builder.sext(total, ir.IntType(64))


def _register_mask_test(function: Callable[[Any], bool], name: str) -> None:
    @type_callable(function)
    def typed(context: Any) -> Any:
        return lambda mask: (
            types.boolean if isinstance(mask, VectorType) and mask.bits == 1 else None
        )

    @lower_builtin(function, VectorType)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(
            builder, f"llvm.vector.reduce.{name}.{_suffix(args[0].type)}", ir.IntType(1), args[0]
        )


_register_mask_test(any_lane, "or")
_register_mask_test(all_lanes, "and")


def dot_pairs(a: Any, b: Any) -> Any:
    """Products of i16 lanes summed in neighbouring pairs: half as many i32 lanes (x86 pmaddwd)."""
    product = a.astype(np.int32) * b.astype(np.int32)
    return product[0::2] + product[1::2]


@type_callable(dot_pairs)
def _type_dot_pairs(context: Any) -> Any:
    def typer(a: Any, b: Any) -> Any:
        return (
            VectorType(32, a.lanes // 2)
            if isinstance(a, VectorType) and a == b and a.bits == 16
            else None
        )

    return typer


@lower_builtin(dot_pairs, VectorType, VectorType)
def _lower_dot_pairs(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    lanes = args[0].type.count
    wide = ir.VectorType(I32, lanes // 2)
    undefined = ir.Constant(args[0].type, ir.Undefined)

    def half(vector: Any, odd: int) -> Any:
        indices = ir.Constant(ir.VectorType(I32, lanes // 2), list(range(odd, lanes, 2)))
        return builder.sext(builder.shuffle_vector(vector, undefined, indices), wide)

    even = builder.mul(half(args[0], 0), half(args[1], 0))
    return builder.add(even, builder.mul(half(args[0], 1), half(args[1], 1)))


def multiply_high(a: Any, b: Any) -> Any:
    """Products of i16 lanes, shifted right by 16 (x86 pmulhw); `b` may be an integer that fits in 16 bits."""
    return ((a.astype(np.int32) * b) >> 16).astype(np.int16)


def _emit_multiply_high(builder: Any, a: Any, b: Any) -> Any:
    wide = ir.VectorType(I32, a.type.count)
    product = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    return builder.trunc(builder.ashr(product, _constant(wide, 16)), a.type)


_register_binary(multiply_high, _emit_multiply_high)


# Shuffles --------------------------------------------------------------------------------------------------------


def shuffle(indices: tuple[int, ...]) -> Callable[[Any, Any], Any]:
    """Make a function of two vectors that picks the lanes `indices` of their concatenation."""

    def picked(a: Any, b: Any) -> Any:
        return np.concatenate((a, b))[list(indices)]

    @type_callable(picked)
    def typed(context: Any) -> Any:
        return lambda a, b: (
            VectorType(a.bits, len(indices)) if isinstance(a, VectorType) and a == b else None
        )

    @lower_builtin(picked, VectorType, VectorType)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        constant = ir.Constant(ir.VectorType(I32, len(indices)), list(indices))
        return builder.shuffle_vector(args[0], args[1], constant)

    return picked


def lane(a: Any, index: int) -> int:
    """One lane of a vector, as an integer."""
    return int(a[index])


@type_callable(lane)
def _type_lane(context: Any) -> Any:
    return lambda a, index: (
        types.int64 if isinstance(a, VectorType) and isinstance(index, types.Integer) else None
    )


@lower_builtin(lane, VectorType, types.Integer)
def _lower_lane(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.sext(builder.extract_element(args[0], args[1]), ir.IntType(64))


# Loads and stores ------------------------------------------------------------------------------------------------


def _pointer(
    context: Any,
    builder: Any,
    array_type: Any,
    array_value: Any,
    indices: Any,
    need: tuple[int, ...],
) -> Any:
    """Address of one element; under bounds checking, `need` elements must be there from it on in each dimension."""
    array = context.make_array(array_type)(context, builder, array_value)
    i64 = ir.IntType(64)
    address = builder.ptrtoint(array.data, i64)
    strides = cgutils.unpack_tuple(builder, array.strides, array_type.ndim)
    shape = cgutils.unpack_tuple(builder, array.shape, array_type.ndim)
    itemsize = ir.Constant(i64, array_type.dtype.bitwidth // 8)
    for dimension, index in enumerate(indices):
        if BOUNDS_CHECKED:
            past = builder.add(index, ir.Constant(i64, need[dimension]))
            bad = builder.or_(
                builder.icmp_signed("<", index, ir.Constant(i64, 0)),
                builder.icmp_signed(">", past, shape[dimension]),
            )
            with builder.if_then(bad, likely=False):
                context.call_conv.return_user_exc(
                    builder, IndexError, ("vector access out of bounds",)
                )
        contiguous = dimension == array_type.ndim - 1 and array_type.layout == "C"
        address = builder.add(
            address, builder.mul(index, itemsize if contiguous else strides[dimension])
        )
    return address


def _load_lanes(builder: Any, address: Any, dtype: Any, lanes: int) -> Any:
    memory = ir.VectorType(ir.IntType(dtype.bitwidth), lanes)
    loaded = builder.load(builder.inttoptr(address, memory.as_pointer()))
    loaded.align = dtype.bitwidth // 8
    return (
        builder.zext(loaded, ir.VectorType(ir.IntType(16), lanes))
        if dtype == types.uint8
        else loaded
    )


def _store_lanes(builder: Any, address: Any, dtype: Any, vector: Any) -> None:
    memory = ir.VectorType(ir.IntType(dtype.bitwidth), vector.type.count)
    if dtype == types.uint8:
        suffix = _suffix(vector.type)
        vector = _call(
            builder, f"llvm.smax.{suffix}", vector.type, vector, _constant(vector.type, 0)
        )
        vector = _call(
            builder, f"llvm.smin.{suffix}", vector.type, vector, _constant(vector.type, 255)
        )
    if vector.type.element.width > dtype.bitwidth:
        vector = builder.trunc(vector, memory)
    stored = builder.store(vector, builder.inttoptr(address, memory.as_pointer()))
    stored.align = dtype.bitwidth // 8


def _lanes_of(array: Any) -> int | None:
    """Bits of the lanes that loads from this array give."""
    if not isinstance(array, types.Array):
        return None
    return {types.uint8: 16, types.int16: 16, types.int32: 32}.get(array.dtype)


def _numpy_load(array: Any, indices: tuple[int, ...], lanes: int) -> Any:
    *outer, first = indices
    if first < 0 or first + lanes > array.shape[-1]:
        raise IndexError("vector access out of bounds")
    found = array[(*outer, slice(first, first + lanes))]
    return found.astype(np.int32 if array.dtype == np.int32 else np.int16)


def _numpy_store(array: Any, indices: tuple[int, ...], vector: Any) -> None:
    *outer, first = indices
    if first < 0 or first + len(vector) > array.shape[-1]:
        raise IndexError("vector access out of bounds")
    if array.dtype == np.uint8:
        vector = np.clip(vector, 0, 255)
    array[(*outer, slice(first, first + len(vector)))] = vector.astype(array.dtype)


def _register_load(function: Callable[..., Any], lanes: int) -> None:
    @infer_global(function)
    class _Load(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            bits = _lanes_of(args[0])
            if bits is None or len(args) != 1 + args[0].ndim:
                return None
            return signature(VectorType(bits, lanes), *args)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        indices = [
            context.cast(builder, v, t, types.int64)
            for v, t in zip(args[1:], sig.args[1:], strict=True)
        ]
        need = (*[1] * (len(indices) - 1), lanes)
        address = _pointer(context, builder, sig.args[0], args[0], indices, need)
        return _load_lanes(builder, address, sig.args[0].dtype, lanes)

    for dimensions in (1, 2, 3, 4):
        lower_builtin(function, types.Array, *[types.Integer] * dimensions)(lower)


def load4(array: Any, *indices: int) -> Any:
    """Four neighbouring elements, the first at `indices`."""
    return _numpy_load(array, indices, 4)


def load8(array: Any, *indices: int) -> Any:
    """Eight neighbouring elements, the first at `indices`."""
    return _numpy_load(array, indices, 8)


def load16(array: Any, *indices: int) -> Any:
    """Sixteen neighbouring elements, the first at `indices`."""
    return _numpy_load(array, indices, 16)


for _function, _lanes in ((load4, 4), (load8, 8), (load16, 16)):
    _register_load(_function, _lanes)


def store(vector: Any, array: Any, *indices: int) -> None:
    """Write all lanes of a vector to neighbouring elements, the first at `indices`; saturates into uint8."""
    _numpy_store(array, indices, vector)


@infer_global(store)
class _Store(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) < 2 or not isinstance(args[0], VectorType) or _lanes_of(args[1]) is None:
            return None
        return signature(types.none, *args) if len(args) == 2 + args[1].ndim else None


def _lower_store(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    indices = [
        context.cast(builder, v, t, types.int64)
        for v, t in zip(args[2:], sig.args[2:], strict=True)
    ]
    need = (*[1] * (len(indices) - 1), sig.args[0].lanes)
    address = _pointer(context, builder, sig.args[1], args[1], indices, need)
    _store_lanes(builder, address, sig.args[1].dtype, args[0])
    return context.get_dummy_value()


for _dimensions in (1, 2, 3, 4):
    lower_builtin(store, VectorType, types.Array, *[types.Integer] * _dimensions)(_lower_store)


# Columns: 8 neighbouring columns of 8 or 16 rows, for work across vertical edges ----------------------------------


def load_columns8(plane: Any, y: int, x: int) -> Any:
    """Columns x .. x+7 of rows y .. y+7 of a uint8 plane: eight vectors of eight i16 lanes."""
    return _numpy_columns(plane, y, x, 8)


def load_columns16(plane: Any, y: int, x: int) -> Any:
    """Columns x .. x+7 of rows y .. y+15 of a uint8 plane: eight vectors of sixteen i16 lanes."""
    return _numpy_columns(plane, y, x, 16)


def load_columns_of_two(upper: Any, lower: Any, y: int, x: int) -> Any:
    """`load_columns16` of rows y .. y+7 of one uint8 plane on top of the same rows of another."""
    pair = zip(_numpy_columns(upper, y, x, 8), _numpy_columns(lower, y, x, 8), strict=True)
    return tuple(np.concatenate(both) for both in pair)


def store_columns(columns: Any, plane: Any, y: int, x: int) -> None:
    """Write a tuple of eight vectors as columns x .. x+7 of a uint8 plane, from row y on, saturating."""
    for offset, column in enumerate(columns):
        for row in range(len(column)):
            plane[y + row, x + offset] = min(max(int(column[row]), 0), 255)


def store_columns_of_two(columns: Any, upper: Any, lower: Any, y: int, x: int) -> None:
    """Put back what `load_columns_of_two` read: lanes 0 .. 7 into one plane, 8 .. 15 into the other, saturating."""
    store_columns(tuple(column[:8] for column in columns), upper, y, x)
    store_columns(tuple(column[8:] for column in columns), lower, y, x)


def _numpy_columns(plane: Any, y: int, x: int, rows: int) -> Any:
    if y < 0 or x < 0 or y + rows > plane.shape[0] or x + 8 > plane.shape[1]:
        raise IndexError("vector access out of bounds")
    return tuple(plane[y : y + rows, x + column].astype(np.int16) for column in range(8))


def _pick(builder: Any, a: Any, b: Any, indices: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(indices)), indices))


def _interleave(builder: Any, a: Any, b: Any, unit: int) -> tuple[Any, Any]:
    """Units of `unit` bytes of two vectors of bytes in turn: those of the lower halves, those of the upper ones."""
    count = a.type.count
    order = [lane for first in range(0, count, unit) for lane in (first, count + first)]
    lanes = [start + byte for start in order for byte in range(unit)]
    return _pick(builder, a, b, lanes[:count]), _pick(builder, a, b, lanes[count:])


def _row_addresses(
    context: Any, builder: Any, sig: Any, args: Any, plane: int, rows: int
) -> list[Any]:
    """Addresses of the 8 bytes at (y, x), the last two arguments, and below, of the plane that is argument `plane`."""
    y, x = (context.cast(builder, args[i], sig.args[i], types.int64) for i in (-2, -1))
    address = _pointer(context, builder, sig.args[plane], args[plane], [y, x], (rows, 8))
    array = context.make_array(sig.args[plane])(context, builder, args[plane])
    stride = cgutils.unpack_tuple(builder, array.strides, 2)[0]
    return [
        builder.add(address, builder.mul(stride, ir.Constant(stride.type, row)))
        for row in range(rows)
    ]


def _load_columns(builder: Any, addresses: list[Any]) -> list[Any]:
    """Eight columns, widened to i16, of rows of 8 bytes: interleave ever larger groups of rows."""
    memory = ir.VectorType(ir.IntType(8), 8)
    rows = []
    for address in addresses:
        row = builder.load(builder.inttoptr(address, memory.as_pointer()))
        row.align = 1
        rows.append(row)
    every = [lane for byte in range(8) for lane in (byte, 8 + byte)]
    groups = [[_pick(builder, a, b, every)] for a, b in zip(rows[::2], rows[1::2], strict=True)]
    unit = 2
    while len(groups) > 1:
        pairs = zip(groups[::2], groups[1::2], strict=True)
        groups = [
            [
                half
                for a, b in zip(left, right, strict=True)
                for half in _interleave(builder, a, b, unit)
            ]
            for left, right in pairs
        ]
        unit *= 2
    count = len(addresses)
    wide = ir.VectorType(ir.IntType(16), count)
    columns = []
    for vector in groups[0]:
        for first in range(0, 16, count):
            part = (
                _pick(builder, vector, vector, list(range(first, first + count)))
                if count < 16
                else vector
            )
            columns.append(builder.zext(part, wide))
    return columns


def _store_columns(builder: Any, columns: list[Any], addresses: list[Any]) -> None:
    """The way back: interleave columns to pairs, quadruples and whole rows."""
    narrow = ir.VectorType(ir.IntType(8), columns[0].type.count)
    vectors = []
    for column in columns:
        suffix = _suffix(column.type)
        column = _call(
            builder, f"llvm.smax.{suffix}", column.type, column, _constant(column.type, 0)
        )
        column = _call(
            builder, f"llvm.smin.{suffix}", column.type, column, _constant(column.type, 255)
        )
        vectors.append(builder.trunc(column, narrow))
    groups = [[vector] for vector in vectors]
    for unit in (1, 2, 4):
        pairs = zip(groups[::2], groups[1::2], strict=True)
        groups = [
            [
                half
                for a, b in zip(left, right, strict=True)
                for half in _interleave(builder, a, b, unit)
            ]
            for left, right in pairs
        ]
    memory = ir.VectorType(ir.IntType(8), 8)
    per_vector = narrow.count // 8
    for row, address in enumerate(addresses):
        vector = groups[0][row // per_vector]
        first = row % per_vector * 8
        if per_vector > 1:
            vector = _pick(builder, vector, vector, list(range(first, first + 8)))
        stored = builder.store(vector, builder.inttoptr(address, memory.as_pointer()))
        stored.align = 1


def _register_load_columns(function: Callable[..., Any], rows: int) -> None:
    @type_callable(function)
    def typed(context: Any) -> Any:
        return lambda plane, y, x: types.UniTuple(VectorType(16, rows), 8)

    @lower_builtin(function, types.Array, types.Integer, types.Integer)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        columns = _load_columns(builder, _row_addresses(context, builder, sig, args, 0, rows))
        return context.make_tuple(builder, sig.return_type, columns)


_register_load_columns(load_columns8, 8)
_register_load_columns(load_columns16, 16)


@type_callable(load_columns_of_two)
def _type_load_columns_of_two(context: Any) -> Any:
    return lambda upper, lower, y, x: types.UniTuple(VectorType(16, 16), 8)


@lower_builtin(load_columns_of_two, types.Array, types.Array, types.Integer, types.Integer)
def _lower_load_columns_of_two(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    addresses = [
        address
        for plane in (0, 1)
        for address in _row_addresses(context, builder, sig, args, plane, 8)
    ]
    return context.make_tuple(builder, sig.return_type, _load_columns(builder, addresses))


@type_callable(store_columns)
def _type_store_columns(context: Any) -> Any:
    return lambda columns, plane, y, x: types.none


@lower_builtin(store_columns, types.UniTuple, types.Array, types.Integer, types.Integer)
def _lower_store_columns(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    addresses = _row_addresses(context, builder, sig, args, 1, sig.args[0].dtype.lanes)
    _store_columns(builder, cgutils.unpack_tuple(builder, args[0], 8), addresses)
    return context.get_dummy_value()


@type_callable(store_columns_of_two)
def _type_store_columns_of_two(context: Any) -> Any:
    return lambda columns, upper, lower, y, x: types.none


@lower_builtin(
    store_columns_of_two, types.UniTuple, types.Array, types.Array, types.Integer, types.Integer
)
def _lower_store_columns_of_two(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    addresses = [
        address
        for plane in (1, 2)
        for address in _row_addresses(context, builder, sig, args, plane, 8)
    ]
    _store_columns(builder, cgutils.unpack_tuple(builder, args[0], 8), addresses)
    return context.get_dummy_value()
