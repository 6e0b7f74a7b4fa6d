"""Elementwise graphs as LLVM vector code, in functions that Numba's kernels call with addresses.

Explicit vectors rather than a loop for LLVM to vectorise: a step with its transpose reads and writes twenty arrays or
more, and LLVM gives up where it would have to prove that so many do not overlap. Nothing is contracted or reordered:
multiply, then add, as torch does.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from . import exponential
from .graph import COMPARE, Graph, Node
from .processor import lanes
from .row_table import ASKED, PAST, STRIDES

I32, I64 = ir.IntType(32), ir.IntType(64)
# Operations for which LLVM has an instruction on vectors.
NATIVE = {"sqrt": "sqrt", "abs": "fabs", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "nearbyint"}
# Arrays that are as long as time. What will be needed of them is asked for: where each step is on another page, the
# processor foresees none of it.
IN_TIME = ("x.", "y", "r.", "g.y", "g.r.", "d.x.")
ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "fmod": "frem"}


def float_type(size: int) -> ir.Type:
    return ir.FloatType() if size == 4 else ir.DoubleType()


def prefetch(builder: Any, place: Any, past: bool = False) -> None:
    """Ask for the cache line that a pointer points to, to read, into the first cache (and no other, if it can be)."""
    byte = ir.IntType(8).as_pointer()
    function_type = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
    options = [ir.Constant(I32, option) for option in (0, 0 if past else 3, 1)]
    builder.call(function, [builder.bitcast(place, byte), *options])


class Body:
    """Emits one iteration over `width` lanes (1: a scalar)."""

    def __init__(self, builder: Any, size: int, width: int):
        self.b, self.size, self.width = builder, size, width
        self.scalar = float_type(size)
        self.type = self.scalar if width == 1 else ir.VectorType(self.scalar, width)

    def splat(self, value: Any) -> Any:
        if self.width == 1:
            return value
        kind = ir.VectorType(value.type, self.width)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
        mask = ir.Constant(ir.VectorType(I32, self.width), [0] * self.width)
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), mask)

    def constant(self, value: float) -> Any:
        one = ir.Constant(self.scalar, value)
        return one if self.width == 1 else ir.Constant(self.type, [one] * self.width)

    def load(self, address: Any, j: Any, scalar: Any = None) -> Any:
        size = self.size if scalar is None else 4
        element = scalar or self.scalar
        kind = element if self.width == 1 else ir.VectorType(element, self.width)
        value = self.b.load(self.pointer(address, j, kind, size))
        value.align = size
        return value

    def store(self, value: Any, address: Any, j: Any, past: bool = False) -> None:
        instruction = self.b.store(value, self.pointer(address, j, self.type, self.size))
        instruction.align = self.width * self.size if past else self.size
        if past:
            instruction.set_metadata("nontemporal", self.b.module.add_metadata([ir.Constant(I32, 1)]))

    def pointer(self, address: Any, j: Any, kind: Any, size: int) -> Any:
        if self.width == 1:  # which LLVM, if it saw through this, would make vectors of, at length
            return self.b.inttoptr(self.b.add(address, self.b.mul(j, ir.Constant(I64, size))), kind.as_pointer())
        # So that all arrays are reached by one index, where sums of integers would each be counted up.
        start = self.b.inttoptr(address, ir.IntType(8 * size).as_pointer())
        return self.b.bitcast(self.b.gep(start, [j]), kind.as_pointer())

    def prefetch(self, address: Any, j: Any, past: bool) -> None:
        """Ask for the cache line of lane j."""
        prefetch(self.b, self.pointer(address, j, self.type, self.size), past)

    def call(self, name: str, *args: Any) -> Any:
        """An LLVM intrinsic on whole vectors."""
        suffix = (f"v{self.width}" if self.width > 1 else "") + ("f32" if self.size == 4 else "f64")
        kind = ir.FunctionType(self.type, [a.type for a in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, f"llvm.{name}.{suffix}"), args)

    def library(self, name: str, *args: Any) -> Any:
        """A function of the C library, lane by lane."""
        kind = ir.FunctionType(self.scalar, [self.scalar] * len(args))
        name = {"abs": "fabs"}.get(name, name) + ("f" if self.size == 4 else "")
        function = cgutils.get_or_insert_function(self.b.module, kind, name)
        if self.width == 1:
            return self.b.call(function, args)
        out: Any = ir.Constant(self.type, ir.Undefined)
        for k in range(self.width):
            lane = ir.Constant(I32, k)
            out = self.b.insert_element(
                out, self.b.call(function, [self.b.extract_element(a, lane) for a in args]), lane
            )
        return out

    def operation(self, node: Node, args: list[Any]) -> Any:
        op = node.op
        if op in ARITHMETIC:
            return getattr(self.b, ARITHMETIC[op])(*args)
        if op in COMPARE:
            compare = self.b.fcmp_unordered if op == "ne" else self.b.fcmp_ordered
            return compare(COMPARE[op], *args)
        if op in ("and", "or", "xor"):
            return getattr(self.b, f"{op}_")(*args) if op != "xor" else self.b.xor(*args)
        if op == "not":
            return self.b.not_(args[0])
        if op == "where":
            return self.b.select(*args)
        if op == "neg":
            return self.b.fneg(args[0])
        if op in NATIVE:
            return self.call(NATIVE[op], args[0])
        if op == "exp":
            return exponential.emit(self, args[0])
        return self.library(op, *args)


def row(graph: Graph, names: tuple[str, ...], size: int) -> Callable[..., None]:
    """A function (first, stop, t, by, count, table): a graph for these lanes, at `count` steps t, t + by, ...

    Args:
        graph: the graph. Outputs named "d.c." are added to what is there, others are stored.
        names: of the arrays whose addresses `table` holds, in order, for the first of the steps; after them comes the
            address of the constants that are passed. From STRIDES on there are the bytes from step to step of each
            array, and from ASKED on those from what is computed to what will be needed soon. At PAST it says whether
            arrays in time are written past the caches, as is best for more than they hold; rows of such an array begin
            at multiples of 64 bytes. "alive" reads 32-bit lengths and is t < length.
        size: bytes of a number.
    """
    width = lanes(size)

    def emit(builder: Any, first: Any, stop: Any, t: Any, by: Any, count: Any, table: Any) -> None:
        table = builder.inttoptr(table, I64.as_pointer())

        def entry(k: int) -> Any:
            return builder.load(builder.gep(table, [ir.Constant(I64, k)]))

        used = {*graph.inputs, *graph.outputs}
        start, stride, ahead = {}, {}, {}
        for k, name in enumerate(names):
            if name in used:
                skipped = builder.mul(first, ir.Constant(I64, 4 if name == "alive" else size))
                start[name], stride[name] = builder.add(entry(k), skipped), entry(STRIDES + k)
                if name.startswith(IN_TIME):
                    ahead[name] = entry(ASKED + k)
        n = builder.sub(stop, first)
        whole = builder.sub(n, builder.srem(n, ir.Constant(I64, width)))
        parts = []
        for w, begin, end in ((width, ir.Constant(I64, 0), whole), (1, whole, n)):
            body = Body(builder, size, w)
            parts.append((body, begin, end, _fixed(body, graph, entry(len(names)))))
        with cgutils.for_range(builder, count, intp=I64) as loop:
            step = builder.trunc(builder.add(t, builder.mul(loop.index, by)), I32)
            address = {name: builder.add(start[name], builder.mul(loop.index, stride[name])) for name in start}
            asked = {name: builder.add(address[name], ahead[name]) for name in ahead}
            past = builder.icmp_signed("!=", entry(PAST), ir.Constant(I64, 0))
            for body, begin, end, fixed in parts:
                given = body, graph, address, asked, fixed | {"t": body.splat(step)}, begin, end
                if body.width > 1 and any(name.startswith(IN_TIME) for name in graph.outputs):
                    with builder.if_else(past) as (big, small):
                        with big:
                            _row(*given, True)
                        with small:
                            _row(*given, False)
                else:
                    _row(*given, body.width > 1)

    @intrinsic
    def function(typingctx: Any, first: Any, stop: Any, t: Any, by: Any, count: Any, table: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit(builder, *args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    return function


def _fixed(body: Body, graph: Graph, constants: Any) -> dict[Any, Any]:
    """What is the same for all lanes and steps."""
    single = Body(body.b, body.size, 1)
    numbers = [node.args[0] for node in graph.nodes if node.op == "number"]
    return {k: body.splat(single.load(constants, ir.Constant(I64, k))) for k in numbers}


def _row(
    body: Body,
    graph: Graph,
    address: dict[str, Any],
    asked: dict[str, Any],
    fixed: dict[Any, Any],
    begin: Any,
    end: Any,
    past: bool,
) -> None:
    """Lanes begin .. end of one step."""
    with cgutils.for_range_slice(body.b, begin, end, ir.Constant(I64, body.width), I64) as (j, _):
        for name, place in asked.items() if body.width > 1 else ():
            if not past or name in graph.inputs:
                body.prefetch(place, j, past)
        _iteration(body, graph, address, fixed, j, past)


def _iteration(body: Body, graph: Graph, address: dict[str, Any], fixed: dict[Any, Any], j: Any, past: bool) -> None:
    values: list[Any] = []
    for node in graph.nodes:
        if node.op == "const":
            values.append(body.constant(node.args[0]))
        elif node.op == "number":
            values.append(fixed[node.args[0]])
        elif node.op == "input" and node.args[0] == "alive":
            values.append(body.b.icmp_signed("<", fixed["t"], body.load(address["alive"], j, I32)))
        elif node.op == "input":
            values.append(body.load(address[node.args[0]], j))
        else:
            values.append(body.operation(node, [values[a] for a in node.args]))
    for name, result in zip(graph.outputs, graph.results, strict=True):
        value = values[result]
        if name.startswith("d.c."):
            value = body.b.fadd(body.load(address[name], j), value)
        body.store(value, address[name], j, past and name.startswith(IN_TIME))
