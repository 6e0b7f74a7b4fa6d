"""Elementwise graphs as Triton code: straight lines on blocks of lanes."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from .graph import BINARY, COMPARE, INFIX, LOGIC, UNARY, Graph, Node

TYPES = {torch.float32: "tl.float32", torch.float64: "tl.float64"}
SMALL = range(-4, 5)
# Functions that triton.language has itself; all others are of CUDA's library.
OWN = {"abs", "floor", "ceil", "exp", "exp2", "log", "log2", "sin", "cos", "erf"}
LIBRARY = {"round": "rint"}


class Writer:
    """Writes graphs and gathers the constants they need.

    Small whole numbers stand in the text. The others are an argument, so that a surrogate of another width, say, is the
    same kernel.
    """

    def __init__(self, dtype: torch.dtype):
        self.type, self.ieee = TYPES[dtype], dtype == torch.float32
        self.constants: list[float] = []
        self.small: set[int] = set()

    def constant(self, value: float) -> str:
        if value in SMALL and str(value) != "-0.0":
            self.small.add(int(value))
            return _small(int(value))
        if str(value) not in map(str, self.constants):
            self.constants.append(value)
        return f"k{[str(v) for v in self.constants].index(str(value))}"

    def prologue(self) -> Iterator[str]:
        """Lines that make blocks of the constants."""
        for value in sorted(self.small):
            yield f"{_small(value)} = tl.full((BLOCK,), {value}, {self.type})"
        for k in range(len(self.constants)):
            yield f"k{k} = tl.broadcast_to(tl.load(constants + {k}), (BLOCK,))"

    def graph(
        self, graph: Graph, names: Mapping[str, str], tag: str, loose: bool = False
    ) -> tuple[list[str], dict[str, str]]:
        """Lines that compute a graph from the variables that hold its inputs, and the variables of its results.

        Loose division, exact to two units in the last place and without a branch, where nothing is decided by it.
        """
        lines: list[str] = []
        written: list[str] = []
        exact = _decisive(graph) if loose else None
        for k, node in enumerate(graph.nodes):
            if node.op == "input":
                written.append(names[node.args[0]])
            elif node.op == "const":
                written.append(self.constant(node.args[0]))
            else:
                args, precise = [written[a] for a in node.args], exact is None or k in exact
                written.append(f"t{tag}_{k}")
                lines.append(f"t{tag}_{k} = {self.expression(node, args, precise)}")
        return lines, {name: written[k] for name, k in zip(graph.outputs, graph.results, strict=True)}

    def expression(self, node: Node, args: Sequence[str], exact: bool = True) -> str:
        op, given = node.op, ", ".join(args)
        # Triton's own division and root are approximate on a GPU, and its minus makes 0 of 0, not -0.
        if op == "div" and self.ieee and exact:
            return f"tl.div_rn({given})"
        if op == "sqrt":
            return f"tl.sqrt_rn({given})" if self.ieee else f"tl.sqrt({given})"
        if op == "neg":
            return f"{self.constant(-1)} * {args[0]}"
        if op in INFIX or op in COMPARE or op in ("and", "or", "xor"):
            return f"{args[0]} {(INFIX | COMPARE | LOGIC)[op]} {args[1]}"
        if op == "not":
            return f"~{args[0]}"
        if op == "where":
            return f"tl.where({given})"
        if op not in UNARY and op not in BINARY:
            raise AssertionError(f"{op} is unknown to the GPU engine")
        return f"tl.{op}({given})" if op in OWN else f"libdevice.{LIBRARY.get(op, op)}({given})"


def _small(value: int) -> str:
    return f"n{value}" if value >= 0 else f"m{-value}"


def _decisive(graph: Graph) -> set[int]:
    """Nodes that a comparison depends on: they must be the forward pass's, bit for bit."""
    found = {k for k, node in enumerate(graph.nodes) if node.kind == "b"}
    for k in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[k]
        if k in found and node.op != "input":
            found.update(a for a in node.args if isinstance(a, int) and node.op != "const")
    return found
