"""Pooling of one line of windows that do not overlap, forward and backward.

An image is lines of columns of `inner` numbers: channels last, or one number where each channel is an image of its own.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .primitives import _by_size
from .processor import lanes
from .vector import I32, I64, Body


def _number(value: int) -> Any:
    return ir.Constant(I64, value)


def _range(builder: Any, start: Any, stop: Any, step: Any = None) -> Any:
    return cgutils.for_range_slice(builder, start, stop, _number(1) if step is None else step, I64)


class _Line:
    """Where the windows of a line lie, and loops over them."""

    def __init__(self, builder: Any, size: int, args: Any):
        self.b, self.size = builder, size
        self.count, self.lines, self.columns, self.inner, self.pitch = args

    def each(self, pairs: Callable[[Body, Any], None], one: Callable[[Body, Any, Any], None]) -> None:
        """`pairs(body, j)` for windows j .. j + width that are two columns of one number each, or else
        `one(body, first, out)` for each window's numbers at `first` and on, which are pooled to `out`."""
        builder, width = self.b, lanes(self.size)
        two = builder.icmp_signed("==", self.columns, _number(2))
        paired = builder.and_(two, builder.icmp_signed("==", self.inner, _number(1)))
        with builder.if_else(paired) as (vectors, others):
            with vectors:
                self._split(self.count, width, pairs)
            with others, _range(builder, _number(0), self.count) as (j, _):
                out = builder.mul(j, self.inner)
                first = builder.mul(out, self.columns)

                def numbers(body: Body, c: Any) -> None:
                    one(body, builder.add(first, c), builder.add(out, c))

                self._split(self.inner, width, numbers)

    def _split(self, n: Any, width: int, emit: Callable[[Body, Any], None]) -> None:
        """`emit(body, j)` for whole vectors, then for short ones, as images are often narrow, then one by one."""
        builder, start = self.b, _number(0)
        for w in sorted({width, 4, 1}, reverse=True):
            stop = builder.sub(n, builder.srem(n, _number(w)))
            with _range(builder, start, stop, _number(w)) as (j, _):
                emit(Body(builder, self.size, w), j)
            start = stop

    def places(self, address: Any, first: Any, emit: Callable[[Any, Any, Any], None]) -> None:
        """`emit(address of the line, place in it, number in the window)` for the window that begins at `first`."""
        builder = self.b
        with _range(builder, _number(0), self.lines) as (a, _):
            line, number = builder.add(address, builder.mul(a, self.pitch)), builder.mul(a, self.columns)
            with _range(builder, _number(0), self.columns) as (c, _):
                emit(line, builder.add(first, builder.mul(c, self.inner)), builder.add(number, c))

    def pair_places(self, address: Any, j: Any, emit: Callable[[Any, Any, Any], None]) -> None:
        """`emit(address of the line, place in it, number of its first column in the windows)` for pairs from j on."""
        builder = self.b
        with _range(builder, _number(0), self.lines) as (a, _):
            emit(builder.add(address, builder.mul(a, self.pitch)), builder.add(j, j), builder.mul(a, _number(2)))


def _load_pairs(body: Body, address: Any, place: Any) -> tuple[Any, Any]:
    """The even and the odd of 2 `width` numbers."""
    if body.width == 1:
        return body.load(address, place), body.load(address, body.b.add(place, _number(1)))
    both = [body.load(address, body.b.add(place, _number(k * body.width))) for k in range(2)]
    return _shuffled(body, both, range(0, 2 * body.width, 2)), _shuffled(body, both, range(1, 2 * body.width, 2))


def _store_pairs(body: Body, pair: list[Any], address: Any, place: Any) -> None:
    for k in range(2):
        part = range(k * body.width // 2, (k + 1) * body.width // 2)
        mixed = pair[k] if body.width == 1 else _shuffled(body, pair, [n for j in part for n in (j, j + body.width)])
        body.store(mixed, address, body.b.add(place, _number(k * body.width)))


def _unsigned_zero(body: Body, value: Any) -> Any:
    """The value, and 0 for -0: torch adds gradients to zeros."""
    return body.b.fadd(value, body.constant(0.0))


def _shuffled(body: Body, pair: list[Any], order: Any) -> Any:
    mask = ir.Constant(ir.VectorType(I32, body.width), list(order))
    return body.b.shuffle_vector(*pair, mask)


def _average(line: _Line, at: Any) -> None:
    source, target, divisor = at

    def pooled(body: Body, out: Any, window: Callable[[Callable[..., None]], None]) -> None:
        total = cgutils.alloca_once(body.b, body.type)
        body.b.store(body.constant(0.0), total)

        def add(*values: Any) -> None:
            for value in values:
                body.b.store(body.b.fadd(body.b.load(total), value), total)

        window(add)
        by = body.splat(Body(body.b, body.size, 1).load(divisor, _number(0)))
        # torch adds the quotient to zero, which has no sign, unless channels are last.
        first = body.b.icmp_signed("==", line.inner, _number(1))
        zero = body.b.select(first, body.constant(0.0), body.constant(-0.0))
        body.store(body.b.fadd(body.b.fdiv(body.b.load(total), by), zero), target, out)

    def pairs(body: Body, j: Any) -> None:
        pooled(body, j, lambda add: line.pair_places(source, j, lambda l, p, _: add(*_load_pairs(body, l, p))))

    def one(body: Body, first: Any, out: Any) -> None:
        pooled(body, out, lambda add: line.places(source, first, lambda l, p, _: add(body.load(l, p))))

    line.each(pairs, one)


def _spread(line: _Line, at: Any) -> None:
    target, gradient, divisor = at

    def share(body: Body, out: Any) -> Any:
        by = body.splat(Body(body.b, body.size, 1).load(divisor, _number(0)))
        return _unsigned_zero(body, body.b.fdiv(body.load(gradient, out), by))

    def pairs(body: Body, j: Any) -> None:
        value = share(body, j)
        line.pair_places(target, j, lambda l, p, _: _store_pairs(body, [value, value], l, p))

    def one(body: Body, first: Any, out: Any) -> None:
        value = share(body, out)
        line.places(target, first, lambda l, p, _: body.store(value, l, p))

    line.each(pairs, one)


class _Largest:
    """The largest number of a window, and which one it is: of equal ones the first, or the last that is NaN."""

    def __init__(self, body: Body):
        self.body, self.b = body, body.b
        self.kind = I32 if body.width == 1 else ir.VectorType(I32, body.width)
        self.most, self.place = cgutils.alloca_once(body.b, body.type), cgutils.alloca_once(body.b, self.kind)
        body.b.store(body.constant(float("-inf")), self.most)
        body.b.store(ir.Constant(self.kind, None), self.place)

    def number(self, n: Any) -> Any:
        return self.body.splat(self.b.trunc(n, I32))

    def meet(self, value: Any, n: Any) -> None:
        most = self.b.load(self.most)
        larger = self.b.or_(self.b.fcmp_ordered(">", value, most), self.b.fcmp_unordered("uno", value, value))
        self.b.store(self.b.select(larger, value, most), self.most)
        self.b.store(self.b.select(larger, self.number(n), self.b.load(self.place)), self.place)

    def is_at(self, n: Any) -> Any:
        return self.b.icmp_signed("==", self.b.load(self.place), self.number(n))

    def gradient_at(self, value: Any, n: Any) -> Any:
        return self.b.select(self.is_at(n), value, self.body.constant(0.0))


def _find(line: _Line, body: Body, source: Any, place: Any, paired: bool) -> _Largest:
    largest, builder = _Largest(body), body.b

    def pair(address: Any, place: Any, n: Any) -> None:
        for k, value in enumerate(_load_pairs(body, address, place)):
            largest.meet(value, builder.add(n, _number(k)))

    if paired:
        line.pair_places(source, place, pair)
    else:
        line.places(source, place, lambda l, p, n: largest.meet(body.load(l, p), n))
    return largest


def _maximum(line: _Line, at: Any) -> None:
    source, target, _ = at

    def pairs(body: Body, j: Any) -> None:
        body.store(body.b.load(_find(line, body, source, j, True).most), target, j)

    def one(body: Body, first: Any, out: Any) -> None:
        body.store(body.b.load(_find(line, body, source, first, False).most), target, out)

    line.each(pairs, one)


def _route(line: _Line, at: Any) -> None:
    target, gradient, distance = at
    source = line.b.add(target, distance)

    def pairs(body: Body, j: Any) -> None:
        largest, g = _find(line, body, source, j, True), _unsigned_zero(body, body.load(gradient, j))

        def put(address: Any, place: Any, n: Any) -> None:
            both = [largest.gradient_at(g, body.b.add(n, _number(k))) for k in range(2)]
            _store_pairs(body, both, address, place)

        line.pair_places(target, j, put)

    def one(body: Body, first: Any, out: Any) -> None:
        largest, g = _find(line, body, source, first, False), _unsigned_zero(body, body.load(gradient, out))
        line.places(target, first, lambda l, p, n: body.store(largest.gradient_at(g, n), l, p))

    line.each(pairs, one)


def _on_lines(emit: Callable[[_Line, Any], None], doc: str) -> Any:
    """An intrinsic (addresses, sizes, bytes of a number); sizes: windows, their lines and columns, inner, pitch."""

    def function(typingctx: Any, addresses: Any, sizes: Any, size: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at, sizes = cgutils.unpack_tuple(builder, args[0], 3), cgutils.unpack_tuple(builder, args[1], 5)
            _by_size(builder, args[2], lambda size: emit(_Line(builder, size, sizes), at))
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, 3), types.UniTuple(types.int64, 5), types.int64), codegen

    # Numba tells functions that are passed to others apart by their names.
    function.__doc__, function.__name__, function.__qualname__ = doc, emit.__name__, emit.__qualname__
    return intrinsic(function)


average = _on_lines(_average, "(x, y, address of a divisor): y = the sums of windows of x, divided.")
spread = _on_lines(_spread, "(gradient of x, that of y, address of a divisor): the transpose of `average`.")
maximum = _on_lines(_maximum, "(x, y, -): y = the largest number of each window of x.")
route = _on_lines(
    _route,
    "(gradient of x, that of y, bytes from the first to x): the transpose of `maximum`, to where the number was found.",
)
