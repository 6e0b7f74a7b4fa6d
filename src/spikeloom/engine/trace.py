"""Tracing: a function of one-element tensors, run once, becomes an elementwise graph."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .graph import Builder, Graph, prune
from .translate import CONSTANT, SAME, translate


class NoElementwiseForm(ValueError):
    """A step holds an operation that no fused kernel can be made of; the message names it."""


class _Recorder(TorchDispatchMode):
    """Writes down what is computed from the inputs. Tensors are told apart by identity."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.builder, self.dtype = Builder(), dtype
        self.numbers: dict[int, int] = {}
        self.alive: list[Any] = []  # so that no identity is given twice

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes as long as torch itself

    def know(self, tensor: Tensor, number: int) -> None:
        self.alive.append(tensor)
        self.numbers[id(tensor)] = number

    def input(self, name: str, tensor: Tensor) -> None:
        self.know(tensor, self.builder.input(name, "b" if tensor.dtype == torch.bool else "f"))

    def node(self, value: Any) -> int:
        """The node of an operand: a known tensor, or a constant."""
        if isinstance(value, Tensor):
            if id(value) in self.numbers:
                return self.numbers[id(value)]
            if value.numel() != 1:
                raise NoElementwiseForm(f"a tensor of shape {tuple(value.shape)} stands in the step")
            with torch._C._DisableTorchDispatch():
                value = value.item()
        return self.builder.const(float(value))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        leaves = tree_leaves((args, kwargs))
        if not any(id(leaf) in self.numbers for leaf in leaves if isinstance(leaf, Tensor)):
            return result  # made of constants, and so a constant
        if isinstance(result, Tensor):
            number = self.record(func, args, kwargs, result)
            if number is None:
                return self.decompose(func, args, kwargs)
            self.know(result, number)
            return result
        if torch.Tag.data_dependent_output in func.tags or isinstance(result, tuple | list):
            name = func.overloadpacket.__name__
            raise NoElementwiseForm(f"{name} yields {type(result).__name__}, not one number for each neuron")
        return result

    def record(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> int | None:
        name = func.overloadpacket.__name__
        if result.dtype not in (self.dtype, torch.bool):
            raise NoElementwiseForm(f"{name} makes numbers of type {result.dtype} where the state has {self.dtype}")
        b = self.builder
        if func._schema.is_mutable:  # a tensor that torch itself has just made, in a formula of autograd's
            if name == "copy_":
                return self.node(args[1])
            name = name.removesuffix("_")
        if name in CONSTANT:
            return b.const(CONSTANT[name])
        if name in ("full_like", "full", "scalar_tensor", "new_full"):
            return b.const(float(args[0] if name == "scalar_tensor" else args[-1]))
        if name == "_to_copy" or name in SAME:
            found = self.node(args[0])
            return b.truth(found) if result.dtype == torch.bool else b.number(found)
        if not all(isinstance(a, Tensor | int | float) or a is None for a in args):
            return None
        named = {k: v if k in ("alpha", "rounding_mode") else self.node(v) for k, v in kwargs.items() if v is not None}
        return translate(b, name, tuple(None if a is None else self.node(a) for a in args), named)

    def decompose(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation without a form of its own, by those that torch says it is made of."""
        from torch._decomp import get_decompositions

        name = func.overloadpacket.__name__
        table = get_decompositions([func])
        if func not in table:
            raise NoElementwiseForm(f"{name} has no elementwise form")
        with self:
            return table[func](*args, **kwargs)


def trace(
    function: Callable[[Mapping[str, Tensor]], Mapping[str, Any]], inputs: Mapping[str, Tensor], dtype: torch.dtype
) -> Graph:
    """The graph of `function`, from named one-element tensors to named one-element tensors (None: zero).

    Raises:
        NoElementwiseForm: the function does something else than elementwise operations on such numbers.
    """
    recorder = _Recorder(dtype)
    for name, tensor in inputs.items():
        recorder.input(name, tensor)
    with recorder:
        found = function(inputs)
    b = recorder.builder
    outputs = {name: b.const(0) if value is None else recorder.node(value) for name, value in found.items()}
    graph = prune(b.nodes, tuple(outputs), [b.number(k) for k in outputs.values()])
    _check(graph, inputs, found)
    return graph


def _check(graph: Graph, inputs: Mapping[str, Tensor], found: Mapping[str, Any]) -> None:
    """The graph computes what the function did: also on numbers whose identity was lost on the way."""
    got = evaluate(graph, {name: tensor.item() for name, tensor in inputs.items()})
    for name, value in found.items():
        wanted = 0.0 if value is None else value.item()
        same = math.isclose(got[name], wanted, rel_tol=1e-4, abs_tol=1e-5)
        if not (same or (math.isnan(wanted) and math.isnan(got[name]))):
            raise NoElementwiseForm(f"its trace gives {name} = {got[name]}, the step itself {wanted}")


PYTHON: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y if y else x * math.copysign(math.inf, y),
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "and": lambda x, y: x and y,
    "or": lambda x, y: x or y,
    "xor": lambda x, y: x != y,
    "not": lambda x: not x,
    "where": lambda c, x, y: x if c else y,
    "neg": lambda x: -x,
}


def evaluate(graph: Graph, inputs: Mapping[str, float]) -> dict[str, float]:
    """A graph's results in double precision, one number each: the plainest emitter there is."""
    values: list[Any] = []
    for node in graph.nodes:
        if node.op in ("input", "const"):
            values.append(inputs[node.args[0]] if node.op == "input" else node.args[0])
            continue
        args: Sequence[Any] = [values[a] for a in node.args]
        if node.op in PYTHON:
            values.append(PYTHON[node.op](*args))
        else:
            tensors = [torch.tensor(a, dtype=torch.float64, device="cpu") for a in args]
            values.append(float(getattr(torch, {"pow": "pow", "fmod": "fmod"}.get(node.op, node.op))(*tensors)))
    return {name: float(values[k]) for name, k in zip(graph.outputs, graph.results, strict=True)}
