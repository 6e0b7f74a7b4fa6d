"""What the kernels do with memory beside a neuron's step: copies, sums of rows, and a small matrix product."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from . import vector
from .processor import lanes
from .vector import I64, Body


def inner(function: Callable[..., Any]) -> Any:
    """A function that kernels alone call, compiled once, whatever constants it is called with."""
    # Wrappers for Python and C would take a tenth of the time of the first compilation.
    compiled: Any = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)  # pyright: ignore[reportCallIssue]
    template = compiled.get_call_template

    def any_numbers(args: Any, kws: Any) -> Any:
        return template(tuple(types.unliteral(a) for a in args), kws)

    compiled.get_call_template = any_numbers
    return compiled


def _address(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic
def apart(typingctx: Any) -> Any:
    """Says that the function it stands in is to be called, not copied to where it is called: that takes compiling."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def load(typingctx: Any, address: Any, k: Any) -> Any:
    """The k-th 64-bit integer at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.gep(_address(builder, args[0], I64), [args[1]]))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def store(typingctx: Any, address: Any, k: Any, value: Any) -> Any:
    """Write the k-th 64-bit integer at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], builder.gep(_address(builder, args[0], I64), [args[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def load32(typingctx: Any, address: Any, k: Any) -> Any:
    """The k-th 32-bit integer at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(builder.gep(_address(builder, args[0], ir.IntType(32)), [args[1]]))
        return builder.sext(value, I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def store32(typingctx: Any, address: Any, k: Any, value: Any) -> Any:
    """Write the k-th 32-bit integer at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.gep(_address(builder, args[0], ir.IntType(32)), [args[1]])
        builder.store(builder.trunc(args[2], ir.IntType(32)), place)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def take(typingctx: Any, address: Any) -> Any:
    """The integer at an address, which is one more for the next that asks, in whatever thread."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _address(builder, args[0], I64), ir.Constant(I64, 1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic
def copy(typingctx: Any, target: Any, source: Any, size: Any) -> Any:
    """Copy `size` bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8)
        target, source = (_address(builder, a, byte) for a in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def call(typingctx: Any, function: Any, table: Any) -> Any:
    """Call the function of one table at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def call_row(typingctx: Any, function: Any, first: Any, stop: Any, t: Any, by: Any, count: Any, rows: Any) -> Any:
    """Call the row function at an address for some lanes of `count` steps t, t + by, ..."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 6)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), codegen


@intrinsic
def fence(typingctx: Any) -> Any:
    """All that this thread has written can be read by others, whatever way it went."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def prefetch(typingctx: Any, address: Any, size: Any) -> Any:
    """Ask for `size` bytes, which will be needed soon, cache line by cache line."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        with cgutils.for_range_slice(builder, ir.Constant(I64, 0), args[1], ir.Constant(I64, 64), I64) as (j, _):
            vector.prefetch(builder, _address(builder, builder.add(args[0], j), ir.IntType(8)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def _by_size(builder: Any, size: Any, emit: Callable[[int], None]) -> None:
    """Code for 4-byte numbers and code for 8-byte ones, chosen when it runs."""
    with builder.if_else(builder.icmp_signed("==", size, ir.Constant(I64, 4))) as (single, double):
        with single:
            emit(4)
        with double:
            emit(8)


def _rowwise(emit: Callable[..., None], count: int, doc: str) -> Any:
    """An intrinsic (addresses, n, size) over a row: `emit(body, addresses, j)` for whole vectors, then for the rest."""

    def function(typingctx: Any, addresses: Any, n: Any, size: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            places, n = cgutils.unpack_tuple(builder, args[0], count), args[1]

            def loops(size: int) -> None:
                width = lanes(size)
                whole = builder.sub(n, builder.srem(n, ir.Constant(I64, width)))
                for w, start, stop in ((width, ir.Constant(I64, 0), whole), (1, whole, n)):
                    body = Body(builder, size, w)
                    with cgutils.for_range_slice(builder, start, stop, ir.Constant(I64, w), I64) as (j, _):
                        emit(body, places, j)

            _by_size(builder, args[2], loops)
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, count), types.int64, types.int64), codegen

    function.__doc__ = doc
    return intrinsic(function)


def _splat(body: Body, address: Any) -> Any:
    return body.splat(Body(body.b, body.size, 1).load(address, ir.Constant(I64, 0)))


def _add_row(body: Body, at: Any, j: Any) -> None:
    body.store(body.b.fadd(body.load(at[0], j), body.load(at[1], j)), at[0], j)


def _add_scaled(body: Body, at: Any, j: Any) -> None:
    product = body.b.fmul(_splat(body, at[2]), body.load(at[1], j))
    body.store(body.b.fadd(body.load(at[0], j), product), at[0], j)


def _flush(body: Body, at: Any, j: Any) -> None:
    double, part = Body(body.b, 8, body.width), body.load(at[1], j)
    wide = part if body.size == 8 else body.b.fpext(part, double.type)
    double.store(body.b.fadd(double.load(at[0], j), wide), at[0], j)
    body.store(body.constant(0.0), at[1], j)


fill_row = _rowwise(
    lambda body, at, j: body.store(_splat(body, at[1]), at[0], j), 2, "(target, number): the number into every lane."
)
add_row = _rowwise(_add_row, 2, "(target, source): target += source.")
add_scaled = _rowwise(_add_scaled, 3, "(target, source, factor): target += factor * source.")
flush = _rowwise(_flush, 2, "(sums, parts): the double precision sums += parts, and the parts back to zero.")


@intrinsic
def add_double(typingctx: Any, target: Any, source: Any) -> Any:
    """One double precision number added to another in memory."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source = (_address(builder, a, ir.DoubleType()) for a in args)
        builder.store(builder.fadd(builder.load(target), builder.load(source)), target)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


WORD = 8  # numbers that `set_bits` looks at


@intrinsic
def set_bits(typingctx: Any, address: Any, count: Any, size: Any) -> Any:
    """A bit for each of `count` numbers (at most WORD) that is not zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, count, size = args
        bits = cgutils.alloca_once_value(builder, ir.Constant(I64, 0))
        builder.store(ir.Constant(I64, 0), bits)

        def look(size: int) -> None:
            with builder.if_else(builder.icmp_signed("==", count, ir.Constant(I64, WORD))) as (whole, part):
                with whole:
                    body = Body(builder, size, WORD)
                    found = builder.fcmp_unordered("!=", body.load(address, ir.Constant(I64, 0)), body.constant(0.0))
                    builder.store(builder.zext(builder.bitcast(found, ir.IntType(WORD)), I64), bits)
                with (
                    part,
                    cgutils.for_range_slice(builder, ir.Constant(I64, 0), count, ir.Constant(I64, 1), I64) as (j, _),
                ):
                    body = Body(builder, size, 1)
                    found = builder.fcmp_unordered("!=", body.load(address, j), body.constant(0.0))
                    bit = builder.shl(builder.zext(found, I64), j)
                    builder.store(builder.or_(builder.load(bits), bit), bits)

        _by_size(builder, size, look)
        return builder.load(bits)

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def lowest(typingctx: Any, bits: Any) -> Any:
    """The number of the lowest bit that is set."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


def _tile(body: Body, at: Any, n: Any, depth: Any, g: Any, j: Any, rows: int, vectors: int, add: bool) -> None:
    """`rows` rows by `vectors` vectors of a product: they stay in registers while a column of the weights passes by."""
    builder, single = body.b, Body(body.b, body.size, 1)
    number = [builder.add(g, ir.Constant(I64, r)) for r in range(rows)]
    line, source = ([builder.mul(k, size) for k in number] for size in (n, depth))
    column = [builder.add(j, ir.Constant(I64, v * body.width)) for v in range(vectors)]
    places = [(r, v) for r in range(rows) for v in range(vectors)]
    sums = {place: cgutils.alloca_once(builder, body.type) for place in places}
    for place in places:
        builder.store(body.constant(0.0), sums[place])
    with cgutils.for_range_slice(builder, ir.Constant(I64, 0), depth, ir.Constant(I64, 1), I64) as (m, _):
        weights = [body.load(at[2], builder.add(builder.mul(m, n), c)) for c in column]
        factors = [body.splat(single.load(at[1], builder.add(offset, m))) for offset in source]
        for r, v in places:
            builder.store(body.call("fmuladd", factors[r], weights[v], builder.load(sums[r, v])), sums[r, v])
    for r, v in places:
        place, total = builder.add(line[r], column[v]), builder.load(sums[r, v])
        body.store(builder.fadd(body.load(at[0], place), total) if add else total, at[0], place)


def _product(add: bool, doc: str) -> Any:
    def function(typingctx: Any, addresses: Any, rows: Any, n: Any, depth: Any, size: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at, rows, n, depth = cgutils.unpack_tuple(builder, args[0], 3), *args[1:4]
            zero = ir.Constant(I64, 0)

            def whole(total: Any, part: int) -> Any:
                return builder.sub(total, builder.srem(total, ir.Constant(I64, part)))

            def loops(size: int) -> None:
                width = lanes(size)
                for r, first, last in ((4, zero, whole(rows, 4)), (1, whole(rows, 4), rows)):
                    for v, w, start, stop in ((2, width, zero, whole(n, 2 * width)), (1, 1, whole(n, 2 * width), n)):
                        columns = cgutils.for_range_slice(builder, start, stop, ir.Constant(I64, v * w), I64)
                        lines = cgutils.for_range_slice(builder, first, last, ir.Constant(I64, r), I64)
                        with columns as (j, _), lines as (g, _):
                            _tile(Body(builder, size, w), at, n, depth, g, j, r, v, add)

            _by_size(builder, args[4], loops)
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, 3), *[types.int64] * 4), codegen

    function.__doc__ = doc
    return intrinsic(function)


add_product = _product(
    True, "(out, a, w), rows, n, depth: out [rows, n] += a [rows, depth] @ w [depth, n], all contiguous."
)
product = _product(False, "The same with = for +=.")
