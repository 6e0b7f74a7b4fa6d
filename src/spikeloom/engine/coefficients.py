"""A learned neuron's coefficients in one compiled function, and their gradients in another.

From what an optimiser moves to the numbers of a step there are a few dozen operations on small tensors, and as many on
the way back, which would take most of a small network's step. They are traced, as a neuron's step is, and compiled in
double precision. Exponentials may differ from torch's in the last bit of that, of which single precision, the only one
that comes this way, shows nothing but in one of 10^8 numbers.
"""

import functools
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..capture import capturing
from ..neurons import Neuron
from ..neurons.attributes import attributes, values
from .generated import build, constants, written
from .graph import Graph, reciprocals
from .program import POINTS
from .row_table import LENGTH
from .trace import NoElementwiseForm, evaluate, trace
from .transforms import transformed

DOUBLE = torch.float64


class Formulas(NamedTuple):
    """The traced formulas of a kind of neuron.

    Attributes:
        inputs: "raw.tau_mem" and "initial.tau_mem" of what is learned, "value.v_th" of other parameters.
        names: of the coefficients that are computed from them.
        read: the inputs that each of these depends on, by their places.
        moving: learned parameters that coefficients depend on.
        moved: coefficients that depend on them.
        forward: the graph from the inputs to "c.alpha" and so on.
        backward: the transpose's, with "g.alpha" of the moved coefficients, to "d.tau_mem" of the moving parameters.
        rest: a named tuple of coefficients with those that are not computed from tensors.
    """

    inputs: tuple[str, ...]
    names: tuple[str, ...]
    read: tuple[tuple[int, ...], ...]
    moving: tuple[str, ...]
    moved: tuple[str, ...]
    forward: Graph
    backward: Graph
    rest: Any

    @property
    def orders(self) -> dict[str, list[str]]:
        """Of the arrays of the compiled functions."""
        arriving, leaving = [f"g.{name}" for name in self.moved], [f"d.{name}" for name in self.moving]
        return {
            "forward": [*self.inputs, *(f"c.{name}" for name in self.names)],
            "backward": [*self.inputs, *arriving, *leaving],
        }


# Kinds of one class of neurons that are traced; more come of an attribute that changes from step to step.
MOST_KINDS = 64
_known: dict[Any, tuple[Formulas, Any] | None] = {}


def rounded_coefficients(neuron: Neuron, dtype: torch.dtype) -> Any:
    """What `neuron.rounded_coefficients` returns; by compiled functions, where they are learned and can be."""
    found = _formulas(neuron) if _suited(neuron, dtype) else None
    if found is None:
        return neuron.rounded_coefficients(dtype)
    formulas, functions = found
    given = [_leaf(neuron, name) for name in formulas.inputs]
    shape, shapes = _shapes(tuple(x.shape for x in given), formulas.read)
    with torch.no_grad():
        block = torch.empty((len(given) + len(shapes), *shape), dtype=DOUBLE, device="cpu")
        rows = block.unbind(0)
        for row, x in zip(rows, given, strict=False):
            row.copy_(x)
        _call(functions["forward"], rows)
        rounded = zip(block[len(given) :].to(dtype).unbind(0), shapes, strict=True)
        c = {name: _once(row, size) for name, (row, size) in zip(formulas.names, rounded, strict=True)}
    moved = [c[name] for name in formulas.moved]
    if torch.is_grad_enabled():
        out = _Coefficients.apply(formulas, functions, neuron, rows[: len(given)], moved, *given)
        c |= dict(zip(formulas.moved, out, strict=True))
    return formulas.rest._replace(**c)


@functools.lru_cache(maxsize=256)
def _shapes(
    sizes: tuple[torch.Size, ...], reads: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The common shape of inputs, and that of coefficients which depend on some of them each."""
    # NumPy's, for torch's function imports a library of symbols, which takes half a second.
    return np.broadcast_shapes(*sizes), [np.broadcast_shapes(*(sizes[k] for k in each)) for each in reads]


def _raw(held: Any) -> Tensor:
    table = next((t for t in (held._parameters, held._buffers) if "raw" in t), None)
    return held.raw if table is None else table["raw"]  # a parametrization of torch's computes it


def _suited(neuron: Neuron, dtype: torch.dtype) -> bool:
    """Whether something is learned, on the processor, and nothing looks on at single operations.

    Also where no gradients are recorded: an evaluation then has the numbers of the training, in the last bit too.
    """
    if dtype != torch.float32 or neuron.unchecked:
        return False
    # Buffers hold what is not learned; asking the dictionaries is quick.
    held = values(neuron).values()
    if not any(h._parameters for h in held):
        return False
    if transformed() or capturing():
        return False
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    raw = [_raw(h) for h in held]
    plain = all(type(r) in (Tensor, nn.Parameter) and r.device.type == "cpu" for r in raw)
    return plain and any(r.requires_grad for r in raw)


def _leaf(neuron: Neuron, name: str) -> Tensor:
    """What stands for an input of the graph."""
    kind, name = name.split(".", 1)
    held = values(neuron)[name]
    return held.value(neuron.dt) if kind == "value" else getattr(held, kind)


def _formulas(neuron: Neuron) -> tuple[Formulas, Any] | None:
    """The formulas of a neuron and their functions, or None where they are more than elementwise operations on its
    parameters."""
    own, plain = attributes(neuron)
    if not plain:
        return None
    held = [(name, h.constraint, h.scale, _raw(h).requires_grad) for name, h in values(neuron).items()]
    key = type(neuron), tuple(held), tuple(own.items())
    known = neuron.__dict__.get("known_formulas")
    if known is not None and known[0] == key:  # to compare with what was there is faster than to look it up
        return known[1]
    if key not in _known:
        if sum(known[0] is type(neuron) for known in _known) >= MOST_KINDS:
            return None
        try:
            formulas = _trace(neuron)
            _known[key] = None if formulas is None else (formulas, _compiled(type(neuron).__name__, formulas))
        except (NoElementwiseForm, ImportError):
            _known[key] = None
    neuron.__dict__["known_formulas"] = key, _known[key]
    return _known[key]


def _trace(neuron: Neuron) -> Formulas | None:
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    with torch.inference_mode(False), torch.autocast("cpu", enabled=False), hooks:
        found = [_graphs(neuron, *point) for point in POINTS]
    if found[0] != found[1]:
        raise NoElementwiseForm("its coefficients are computed in different ways for different numbers")
    forward, backward = found[0]
    _check(neuron, forward)
    reads = {name: forward.only([name]).inputs for name in forward.outputs}
    if not all(reads.values()):
        raise NoElementwiseForm("a coefficient depends on no parameter, so that its shape is not known")
    moved = tuple(name for name, inputs in reads.items() if any(i.startswith("raw.") for i in inputs))
    moving = tuple(n for n in neuron.params if any(f"raw.{n}" in reads[name] for name in moved))
    if not moved:
        return None
    forward = Graph(forward.nodes, tuple(f"c.{name}" for name in forward.outputs), forward.results)
    backward = backward.only([f"d.{name}" for name in moving])
    used = {name for names in reads.values() for name in names} | set(backward.inputs)
    inputs = tuple(name for name in _leaves(neuron) if name in used)
    read = tuple(tuple(inputs.index(name) for name in names) for names in reads.values())
    with torch.no_grad():
        rest = neuron.rounded_coefficients(torch.float32)
    return Formulas(inputs, tuple(reads), read, moving, moved, forward, backward, rest)


def _compiled(name: str, formulas: Formulas) -> dict[str, Any]:
    """The functions of the formulas' graphs, and the constants that each is handed."""
    graphs = {"forward": formulas.forward, "backward": formulas.backward}
    functions = build(f"{name}_coefficients", written(name, DOUBLE, graphs, formulas.orders), tuple(graphs))
    return {
        part: (function, constants(graph, DOUBLE))
        for (part, graph), function in zip(graphs.items(), functions, strict=True)
    }


def _call(function: Any, rows: Sequence[Tensor]) -> None:
    compiled, numbers = function
    entries = [*(row.data_ptr() for row in rows), numbers.data_ptr()]
    table = array("q", entries + [0] * (LENGTH - len(entries)))
    compiled.ctypes(0, rows[0].numel(), 0, 1, 1, table.buffer_info()[0])


def _leaves(neuron: Neuron) -> list[str]:
    learned = [name for name in neuron.params if _raw(values(neuron)[name]).requires_grad]
    others = [name for name in neuron.params if name not in learned]
    return [f"{kind}.{name}" for kind in ("raw", "initial") for name in learned] + [f"value.{n}" for n in others]


def _computed(neuron: Neuron, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The coefficients that are tensors, in double precision, from named tensors for the parameters."""
    known = {}
    for name in neuron.params:
        held = values(neuron)[name]
        if f"raw.{name}" in given:
            known[name] = held.constraint.apply(given[f"raw.{name}"], given[f"initial.{name}"], held.scale, neuron.dt)
        elif f"value.{name}" in given:
            known[name] = given[f"value.{name}"]
    return {name: value for name, value in neuron.formulas(known).items() if isinstance(value, Tensor)}


def _check(neuron: Neuron, forward: Graph) -> None:
    """Whether several neurons have the coefficients that each has alone, where a mean over one is the one."""
    alone = [_numbers(neuron, *point) for point in POINTS]
    try:
        together = _computed(neuron, {name: torch.cat([given[name] for given in alone]) for name in alone[0]})
    except RuntimeError as error:
        raise NoElementwiseForm(f"its coefficients have no form for several neurons ({error})") from error
    for k, given in enumerate(alone):
        numbers = evaluate(forward, {name: x.item() for name, x in given.items()})
        for name, found in together.items():
            if found.shape not in ((1,), (len(alone),)) or not math.isclose(
                numbers[name], found[min(k, len(found) - 1)].item(), rel_tol=1e-9, abs_tol=1e-12
            ):
                raise NoElementwiseForm(f"its coefficient {name} depends on several neurons")


def _numbers(neuron: Neuron, start: float, pace: float) -> dict[str, Tensor]:
    """A neuron's parameters, changed a little."""
    leaves = {}
    for k, name in enumerate(_leaves(neuron)):
        number = start + pace * k
        if not name.startswith("raw."):
            own = _leaf(neuron, name).double().flatten()[:1]
            number = own * (1 + 0.1 * number) if own else own + 0.1 * abs(number)
        leaves[name] = torch.as_tensor(number, dtype=DOUBLE, device="cpu").reshape(1).clone()
    return leaves


def _graphs(neuron: Neuron, start: float, pace: float) -> tuple[Graph, Graph]:
    """The formulas and their transpose, traced near the neuron's own parameters."""
    leaves = _numbers(neuron, start, pace)
    forward = trace(lambda given: _computed(neuron, given), leaves, DOUBLE)
    arriving = {
        f"g.{n}": torch.tensor([start - pace * k], dtype=DOUBLE, device="cpu") for k, n in enumerate(forward.outputs)
    }
    raw = {name: leaf.requires_grad_() for name, leaf in leaves.items() if name.startswith("raw.")}

    def transpose(given: Mapping[str, Tensor]) -> dict[str, Any]:
        with torch.enable_grad():
            out = _computed(neuron, given)
            total = torch.zeros(1, dtype=DOUBLE, device="cpu")
            for name, value in out.items():
                if value.requires_grad:
                    total = total + value * given[f"g.{name}"]
            if not total.requires_grad:
                return dict.fromkeys([f"d.{name[4:]}" for name in raw])
            found = torch.autograd.grad(total, list(raw.values()), create_graph=True, allow_unused=True)
        return {f"d.{name[4:]}": g for name, g in zip(raw, found, strict=True)}

    return forward, reciprocals(trace(transpose, leaves | arriving, DOUBLE))


class _Coefficients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, formulas: Formulas, functions: Any, neuron: Neuron, rows: Any, found: list[Tensor], *given: Tensor
    ) -> Any:
        ctx.formulas, ctx.functions, ctx.neuron, ctx.rows = formulas, functions, neuron, rows
        ctx.save_for_backward(*given)
        ctx.set_materialize_grads(False)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        formulas, given = ctx.formulas, ctx.saved_tensors
        if torch.is_grad_enabled():
            found = _differentiable(ctx.neuron, formulas, given, gradients)
        else:
            more = torch.zeros((len(gradients) + len(formulas.moving), *ctx.rows[0].shape), dtype=DOUBLE, device="cpu")
            more = more.unbind(0)
            for row, g in zip(more, gradients, strict=False):
                if g is not None:
                    _once(row, g.shape).copy_(g)
            _call(ctx.functions["backward"], (*ctx.rows, *more))
            found = more[len(gradients) :]
        raw = given[: len(formulas.moving)]
        back = []
        for g, r in zip(found, raw, strict=True):
            back.append((g if g.shape == r.shape else g.sum_to_size(r.shape)).to(r.dtype))
        return *(None,) * 5, *back, *(None for _ in given[len(raw) :])


def _once(row: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The part of a row that has a shape, where axes that it lacks are seen once: a number that many neurons share is
    to come from one of them, and its gradient to one of them."""
    if row.shape == shape:
        return row
    missing = row.dim() - len(shape)
    for axis, size in enumerate(row.shape):
        if size > 1 and (axis < missing or shape[axis - missing] == 1):
            row = row.narrow(axis, 0, 1)
    return row.view(shape)


def _differentiable(neuron: Neuron, formulas: Formulas, given: Any, gradients: Any) -> Any:
    """The same by torch's own operations, which can be differentiated again."""
    with torch.enable_grad():
        aliases = [x.view_as(x) for x in given]
        out = _computed(neuron, dict(zip(formulas.inputs, aliases, strict=True)))
        pairs = [(out[n], g) for n, g in zip(formulas.moved, gradients, strict=True) if g is not None]
        moving = aliases[: len(formulas.moving)]
        heads, arriving = [c for c, _ in pairs], [g.to(c.dtype) for c, g in pairs]
        found = torch.autograd.grad(heads, moving, arriving, create_graph=True, allow_unused=True)
    return [torch.zeros_like(m) if g is None else g for g, m in zip(found, moving, strict=True)]
