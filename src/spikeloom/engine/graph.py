"""Elementwise graphs: what a traced step is made of, free of duplicates and dead ends, and readable."""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# Operations that every emitter knows. Comparisons and logic yield booleans ("b"), all others numbers ("f").
INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
COMPARE = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
LOGIC = {"and": "&", "or": "|", "xor": "^", "not": "~"}
# Functions of one number that LLVM, libm and Triton all have under these names.
UNARY = {
    *("neg", "abs", "sqrt", "floor", "ceil", "round", "trunc", "exp", "log", "sin", "cos"),
    *("exp2", "log2", "log10", "expm1", "log1p", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
    *("asinh", "acosh", "atanh", "erf", "erfc"),
}
BINARY = {"pow", "atan2", "fmod"}
LEAVES = {"input", "const", "number"}
FIXED = {0.0, 1.0, -1.0, 0.5, 2.0, 4.0}  # constants that stand in the code


@dataclass(frozen=True)
class Node:
    """One operation: its name, the numbers of nodes it reads (or an input's name, or a constant), and "f" or "b"."""

    op: str
    args: tuple[Any, ...]
    kind: str = "f"


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can be computed; `outputs` names the results, `results` their nodes."""

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    results: tuple[int, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that are read."""
        return tuple(node.args[0] for node in self.nodes if node.op == "input")

    def only(self, outputs: Sequence[str]) -> "Graph":
        """The graph of some of the outputs, without what they do not need."""
        results = [self.results[self.outputs.index(name)] for name in outputs]
        return prune(self.nodes, tuple(outputs), results)

    @functools.cached_property
    def numbers(self) -> tuple[float, ...]:
        """The constants that a kernel is handed rather than made with, so that another one compiles nothing."""
        return tuple(node.args[0] for node in self.nodes if node.op == "const" and node.args[0] not in FIXED)

    @functools.cached_property
    def without_numbers(self) -> "Graph":
        """The graph with the k-th of `numbers` as a node ("number", k)."""
        count = iter(range(len(self.nodes)))
        handed = [node.op == "const" and node.args[0] not in FIXED for node in self.nodes]
        nodes = [Node("number", (next(count),)) if h else n for h, n in zip(handed, self.nodes, strict=True)]
        return Graph(tuple(nodes), self.outputs, self.results)

    def is_zero(self, output: str) -> bool:
        """Whether an output is zero whatever goes in."""
        node = self.nodes[self.results[self.outputs.index(output)]]
        return node.op == "const" and node.args[0] == 0

    def text(self) -> str:
        """The graph as assignments, one a line."""
        written: dict[int, str] = {}
        lines = []
        for k, node in enumerate(self.nodes):
            if node.op == "input":
                written[k] = node.args[0]
            elif node.op == "const":
                written[k] = _number(node.args[0])
            elif node.op == "number":
                written[k] = f"number[{node.args[0]}]"
            else:
                written[k] = f"t{k}"
                lines.append(f"t{k} = {expression(node, [written[a] for a in node.args])}")
        lines += [f"{name} = {written[k]}" for name, k in zip(self.outputs, self.results, strict=True)]
        return "\n".join(lines)


def expression(node: Node, args: Sequence[str]) -> str:
    """A node as people write it."""
    if node.op in INFIX | COMPARE or node.op in ("and", "or", "xor"):
        sign = (INFIX | COMPARE | LOGIC)[node.op]
        return f"{args[0]} {sign} {args[1]}"
    if node.op == "neg":
        return f"-{args[0]}"
    if node.op == "not":
        return f"~{args[0]}"
    if node.op == "where":
        return f"{args[1]} if {args[0]} else {args[2]}"
    return f"{node.op}({', '.join(args)})"


def _number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e6 else repr(value)


def reciprocals(graph: Graph) -> Graph:
    """The graph with divisions by constants as products, which are rounded once more and take a fifth of the time.

    Not where a comparison depends on them: who fires must not hang on the last bit.
    """
    decisive: set[int] = set()
    for k in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[k]
        if node.op not in LEAVES and (node.kind == "b" or k in decisive):
            decisive.update(node.args)
    builder, number = Builder(), []
    for k, node in enumerate(graph.nodes):
        if node.op in LEAVES:
            number.append(builder.node(node.op, *node.args, kind=node.kind))
            continue
        args = [number[a] for a in node.args]
        divisor = builder.value(args[-1])
        if node.op == "div" and divisor and k not in decisive:
            number.append(builder("mul", args[0], builder.const(1 / divisor)))
        else:
            number.append(builder(node.op, *args))
    return prune(builder.nodes, graph.outputs, [number[r] for r in graph.results])


def prune(nodes: Sequence[Node], outputs: tuple[str, ...], results: Iterable[int]) -> Graph:
    """A graph of those nodes that the results need, renumbered."""
    results = tuple(results)
    needed = set(results)
    for k in range(len(nodes) - 1, -1, -1):
        if k in needed and nodes[k].op not in LEAVES:
            needed.update(nodes[k].args)
    number = {old: new for new, old in enumerate(sorted(needed))}
    kept = []
    for old in sorted(needed):
        node = nodes[old]
        leaf = node.op in LEAVES
        kept.append(node if leaf else Node(node.op, tuple(number[a] for a in node.args), node.kind))
    return Graph(tuple(kept), outputs, tuple(number[r] for r in results))


class Builder:
    """Makes nodes: equal ones once, and none for what does nothing."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.numbers: dict[Node, int] = {}

    def node(self, op: str, *args: Any, kind: str = "f") -> int:
        node = Node(op, args, kind)
        if node not in self.numbers:
            self.numbers[node] = len(self.nodes)
            self.nodes.append(node)
        return self.numbers[node]

    def input(self, name: str, kind: str = "f") -> int:
        return self.node("input", name, kind=kind)

    def const(self, value: float) -> int:
        # A zero's sign is part of its text, so that 0.0 and -0.0, which are equal, stay two constants.
        value = float(value)
        return self.node("const", value, math.copysign(1.0, value))

    def value(self, k: int) -> float | None:
        """The number that a node always is, or None."""
        return self.nodes[k].args[0] if self.nodes[k].op == "const" else None

    def __call__(self, op: str, *args: int) -> int:
        """An operation on nodes."""
        values = [self.value(a) for a in args]
        if op == "add" and 0.0 in values:
            return args[1 - values.index(0.0)]
        if op == "mul" and 1.0 in values:
            return args[1 - values.index(1.0)]
        if (op == "sub" and values[1] == 0.0) or (op == "div" and values[1] == 1.0):
            return args[0]
        if op == "sub" and values[0] == 0.0:
            return self("neg", args[1])
        if op == "neg" and self.nodes[args[0]].op == "neg":
            return self.nodes[args[0]].args[0]
        if op == "neg" and values[0] is not None:
            return self.const(-values[0])
        if op == "where" and args[1] == args[2]:
            return args[1]
        kind = "b" if op in COMPARE or op in LOGIC else self.nodes[args[1]].kind if op == "where" else "f"
        return self.node(op, *args, kind=kind)

    def number(self, k: int) -> int:
        """A boolean as 0 or 1."""
        return self("where", k, self.const(1), self.const(0)) if self.nodes[k].kind == "b" else k

    def truth(self, k: int) -> int:
        """A number as a boolean."""
        return k if self.nodes[k].kind == "b" else self("ne", k, self.const(0))
