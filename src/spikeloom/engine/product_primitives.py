"""What event-driven products do at each event, and how events are found in a row of numbers.

Sums of a tile of columns stay in registers while the events of a row pass by, so an event costs one load and one
addition for each vector of weights.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .primitives import _address, _by_size
from .processor import lanes
from .vector import I32, I64, Body

TILES = (1, 2, 4, 8)  # how many vectors of columns a tile may have


def _number(value: int) -> Any:
    return ir.Constant(I64, value)


def _by_tile(builder: Any, size: Any, vectors: Any, values: Any, emit: Callable[[Body, int, bool], None]) -> None:
    """Code for each size of number and of tile, and for events with values and without, chosen when it runs."""

    def sizes(size: int) -> None:
        end = builder.append_basic_block("done")
        switch = builder.switch(vectors, end)
        for count in TILES:
            block = builder.append_basic_block(f"tile{count}")
            switch.add_case(_number(count), block)
            builder.position_at_end(block)
            with builder.if_else(builder.icmp_signed("==", values, _number(0))) as (plain, weighted):
                with plain:
                    emit(Body(builder, size, lanes(size)), count, False)
                with weighted:
                    emit(Body(builder, size, lanes(size)), count, True)
            builder.branch(end)
        builder.position_at_end(end)

    _by_size(builder, size, sizes)


class _Tile:
    """A tile of one row in registers, and the way between it and memory.

    Of the last tile only `count` numbers are the row's own; they go one by one.
    """

    def __init__(self, body: Body, vectors: int, count: Any):
        self.body, self.vectors, self.count = body, vectors, count
        self.places = [_number(k * body.width) for k in range(vectors)]
        self.values = [cgutils.alloca_once(body.b, body.type) for _ in self.places]
        self.whole = body.b.icmp_signed("==", count, _number(vectors * body.width))
        spare = ir.ArrayType(body.scalar, vectors * body.width)
        self.spare = body.b.ptrtoint(cgutils.alloca_once(body.b, spare), I64)

    def load(self, address: Any) -> None:
        for k, value in zip(self.places, self.values):
            self.body.b.store(self.body.load(address, k), value)

    def store(self, address: Any) -> None:
        for k, value in zip(self.places, self.values):
            self.body.store(self.body.b.load(value), address, k)

    def load_row(self, address: Any) -> None:
        with self.body.b.if_else(self.whole) as (whole, part):
            with whole:
                self.load(address)
            with part:
                for k in self.places:
                    self.body.store(self.body.constant(0.0), self.spare, k)
                self._one_by_one(address, self.spare)
                self.load(self.spare)

    def store_row(self, address: Any) -> None:
        with self.body.b.if_else(self.whole) as (whole, part):
            with whole:
                self.store(address)
            with part:
                self.store(self.spare)
                self._one_by_one(self.spare, address)

    def _one_by_one(self, source: Any, target: Any) -> None:
        single = Body(self.body.b, self.body.size, 1)
        with cgutils.for_range_slice(self.body.b, _number(0), self.count, _number(1), I64) as (k, _):
            single.store(single.load(source, k), target, k)

    def each_event(self, first: Any, last: Any, channels: Any, values: Any, emit: Callable[..., None]) -> None:
        """`emit(channel, add)` for each event; add(x, y) is x + value * y on vectors. values None: all are 1."""
        builder, body = self.body.b, self.body
        entries = _address(builder, channels, I32)
        with cgutils.for_range_slice(builder, first, last, _number(1), I64) as (e, _):
            channel = builder.sext(builder.load(builder.gep(entries, [e])), I64)
            if values is None:
                emit(channel, builder.fadd)
            else:
                factor = body.splat(Body(builder, body.size, 1).load(values, e))
                emit(channel, lambda x, y: body.call("fmuladd", factor, y, x))


def _sum_rows(tile: _Tile, at: Any, first: Any, last: Any, values: Any) -> None:
    target, source, begin, channels, _ = at
    body = tile.body
    pitch = _number(tile.vectors * body.width * body.size)
    tile.load(begin)

    def add(channel: Any, plus: Any) -> None:
        row = body.b.add(source, body.b.mul(channel, pitch))
        for k, total in zip(tile.places, tile.values):
            body.b.store(plus(body.b.load(total), body.load(row, k)), total)

    tile.each_event(first, last, channels, values, add)
    tile.store_row(target)


def _add_to_rows(tile: _Tile, at: Any, first: Any, last: Any, values: Any) -> None:
    source, target, _, channels, _ = at
    body = tile.body
    pitch = _number(tile.vectors * body.width * body.size)
    tile.load_row(source)

    def add(channel: Any, plus: Any) -> None:
        row = body.b.add(target, body.b.mul(channel, pitch))
        for k, value in zip(tile.places, tile.values):
            body.store(plus(body.load(row, k), body.b.load(value)), row, k)

    tile.each_event(first, last, channels, values, add)


def _on_tiles(emit: Callable[..., None], doc: str) -> Any:
    def function(typingctx: Any, addresses: Any, first: Any, last: Any, vectors: Any, count: Any, size: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at, (first, last, vectors, count, size) = cgutils.unpack_tuple(builder, args[0], 5), args[1:]

            def one(body: Body, vectors: int, weighted: bool) -> None:
                emit(_Tile(body, vectors, count), at, first, last, at[4] if weighted else None)

            _by_tile(builder, size, vectors, at[4], one)
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, 5), *[types.int64] * 5), codegen

    function.__doc__ = doc
    return intrinsic(function)


sum_rows = _on_tiles(
    _sum_rows,
    """(row, tiles, begin, channels, values): row [count] = begin + the sum over events first .. last of value times
    tile `channel` of tiles, each `vectors` vectors long. values 0: all are 1.""",
)
add_to_rows = _on_tiles(
    _add_to_rows,
    """(row, tiles, -, channels, values): row [count], times the value, is added to tile `channel` of tiles for each of
    the events first .. last.""",
)


@intrinsic
def clear(typingctx: Any, address: Any, count: Any) -> Any:
    """Zero `count` bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cgutils.memset(builder, _address(builder, args[0], ir.IntType(8)), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def take_many(typingctx: Any, address: Any, count: Any) -> Any:
    """The integer at an address, which is `count` more for the next that asks, in whatever thread."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _address(builder, args[0], I64), args[1], "monotonic")

    return types.int64(types.int64, types.int64), codegen


class _Finder:
    """Appends the places of numbers that are not 0 to a list, and notes numbers that are neither 0 nor 1."""

    AT_ONCE = 6  # places that are written without asking how many there are

    def __init__(self, builder: Any, target: Any):
        self.b, self.target = builder, _address(builder, target, I32)
        self.count, self.odd, self.left, self.place = (cgutils.alloca_once(builder, I64) for _ in range(4))
        for value in (self.count, self.odd):
            builder.store(_number(0), value)

    def word(self, body: Body, row: Any, j: Any, groups: int) -> None:
        """Numbers j .. j + groups * width, of which there are at most 64."""
        builder, active, other = self.b, _number(0), None
        for k in range(groups):
            value = body.load(row, builder.add(j, _number(k * body.width)))
            found = builder.fcmp_unordered("!=", value, body.constant(0.0))
            not_one = builder.and_(found, builder.fcmp_unordered("!=", value, body.constant(1.0)))
            other = not_one if other is None else builder.or_(other, not_one)
            active = builder.or_(active, builder.shl(self._bits(found, body.width), _number(k * body.width)))
        builder.store(builder.or_(builder.load(self.odd), self._bits(other, body.width)), self.odd)
        self._append(active, j)

    def _bits(self, flags: Any, width: int) -> Any:
        return self.b.zext(flags if width == 1 else self.b.bitcast(flags, ir.IntType(width)), I64)

    def _append(self, active: Any, j: Any) -> None:
        # Most words have few events, and a branch that cannot be foreseen costs more than some writes in vain.
        builder, before, place = self.b, self.b.load(self.count), self.place
        builder.store(builder.add(before, builder.ctpop(active)), self.count)
        for k in range(self.AT_ONCE):
            self._write(active, j, builder.add(before, _number(k)))
            active = self._without_lowest(active)
        builder.store(active, self.left)
        builder.store(builder.add(before, _number(self.AT_ONCE)), place)
        check, work, done = (builder.append_basic_block(name) for name in ("check", "work", "done"))
        builder.branch(check)
        builder.position_at_end(check)
        active = builder.load(self.left)
        builder.cbranch(builder.icmp_signed("!=", active, _number(0)), work, done)
        builder.position_at_end(work)
        self._write(active, j, builder.load(place))
        builder.store(builder.add(builder.load(place), _number(1)), place)
        builder.store(self._without_lowest(active), self.left)
        builder.branch(check)
        builder.position_at_end(done)

    def _write(self, active: Any, j: Any, place: Any) -> None:
        lowest = self.b.add(j, self.b.cttz(active, ir.Constant(ir.IntType(1), 0)))
        self.b.store(self.b.trunc(lowest, I32), self.b.gep(self.target, [place]))

    def _without_lowest(self, active: Any) -> Any:
        return self.b.and_(active, self.b.sub(active, _number(1)))


@intrinsic
def nonzero(typingctx: Any, row: Any, n: Any, target: Any, note: Any, size: Any) -> Any:
    """Places of the numbers of a row [n] that are not 0, as 32-bit integers at `target`; returns how many. A few more
    integers behind them may be written. The 64-bit integer at `note` becomes other than 0 where a number is neither 0
    nor 1."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, n, target, note, size = args
        find = _Finder(builder, target)

        def loops(size: int) -> None:
            start, width = _number(0), lanes(size)
            for w, groups in ((width, 64 // width), (width, 1), (1, 1)):
                stop = builder.sub(n, builder.srem(n, _number(w * groups)))
                with cgutils.for_range_slice(builder, start, stop, _number(w * groups), I64) as (j, _):
                    find.word(Body(builder, size, w), row, j, groups)
                start = stop

        _by_size(builder, size, loops)
        noted = _address(builder, note, I64)
        builder.store(builder.or_(builder.load(noted), builder.load(find.odd)), noted)
        return builder.load(find.count)

    return types.int64(*[types.int64] * 5), codegen
