"""The fused loop as a torch operator: one node under autograd, autocast and torch.compile, on every device.

In plain eager code the same node comes without the dispatcher, whose lists of tensors cost more than a small kernel.
A backward pass that is itself to be differentiated runs the step's own torch operations instead, and so is exact.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cpu, fake, gpu
from .breakeven import choose_linear
from .generated import Wanted
from .matrix import Matrix
from .program import Program, known_program
from .rows import rows_of_raster
from .transforms import observed

BACKENDS: dict[str, Any] = {"cpu": cpu, "cuda": gpu}  # by device
# The plain form of torch.library's: its decorator imports torch's compiler at the first call, which takes as long as
# torch itself.
LIBRARY = torch.library.Library("spikeloom", "DEF")
LIBRARY.define(
    "loop(str key, int keep, int fed, Tensor[] coefficients, Tensor[] states, Tensor[] inputs, Tensor? lengths, "
    "Tensor? weight, Tensor? bias, Tensor? last, ScalarType output_dtype) -> Tensor[]"
)
LIBRARY.define(
    "loop_backward(str key, int keep, int fed, int[] ports, int[] wanted, bool first, Tensor[] coefficients, "
    "Tensor[] states, Tensor[] inputs, Tensor kept, Tensor?[] gradients, Tensor? lengths, Tensor? weight, "
    "Tensor? bias, Tensor? y, Tensor? last) -> Tensor[]"
)


def _loop(
    key: str,
    keep: int,
    fed: int,
    coefficients: Sequence[Tensor],
    states: Sequence[Tensor],
    inputs: Sequence[Tensor],
    lengths: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    last: Tensor | None,
    output_dtype: torch.dtype,
) -> list[Tensor]:
    """Output, records, final states and kept states of a program; see `cpu.forward` for what goes in."""
    given = known_program(key), keep, lengths, coefficients, states, inputs, fed, weight, bias, last, output_dtype
    y, finals, records, kept = BACKENDS[inputs[0].device.type].forward(*given)
    return [y, *records, *finals, kept]


def _loop_backward(
    key: str,
    keep: int,
    fed: int,
    ports: Sequence[int],
    wanted: Sequence[int],
    first: bool,
    coefficients: Sequence[Tensor],
    states: Sequence[Tensor],
    inputs: Sequence[Tensor],
    kept: Tensor,
    gradients: Sequence[Tensor | None],
    lengths: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor | None,
    last: Tensor | None,
) -> list[Tensor]:
    """Gradients of the ports and coefficients with these numbers, and between them, if wanted, of the first states."""
    program = known_program(key)
    records = len(program.records)
    names = Wanted(tuple(program.ports[k] for k in ports), tuple(program.coefficients[k] for k in wanted))
    d_inputs, d_states, d_coefficients = BACKENDS[inputs[0].device.type].backward(
        *(program, keep, lengths, coefficients, states, inputs, kept),
        *(gradients[0], gradients[1 + records :], gradients[1 : 1 + records], names, first),
        *(fed, weight, bias, y, last),
    )
    pairs = [(d, coefficients[k].shape) for d, k in zip(d_coefficients, wanted, strict=True)]
    summed = [d if d.shape == shape else d.sum_to_size(shape) for d, shape in pairs]
    # An operator's results share no memory with each other.
    return [
        *d_inputs,
        *(d_states if first else ()),
        *(s.to(program.dtype, copy=True, memory_format=torch.contiguous_format) for s in summed),
    ]


def _setup(ctx: Any, inputs: Any, output: list[Tensor]) -> None:
    key, keep, fed, coefficients, states, given, lengths, weight, bias, last, output_dtype = inputs
    ctx.options = key, keep, fed, output_dtype, len(coefficients), len(states), len(given)
    ctx.strides = given[0].stride()
    ctx.set_materialize_grads(False)
    # A recurrent layer's output is what its connection was fed.
    fed_back = (weight, bias, last, output[0]) if fed >= 0 else (None, None, None, None)
    ctx.save_for_backward(*coefficients, *states, *given, lengths, *fed_back, output[-1])


def _backward(ctx: Any, gradients: Sequence[Tensor | None]) -> tuple[Any, ...]:
    return _gradients(ctx, ctx.needs_input_grad, gradients)


def _gradients(ctx: Any, needs: Any, gradients: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Gradients of the operator's arguments; `needs` has the shape of these."""
    key, keep, fed, output_dtype, *counts = ctx.options
    program = known_program(key)
    saved = list(ctx.saved_tensors)
    coefficients, states, inputs = ([saved.pop(0) for _ in range(n)] for n in counts)
    lengths, weight, bias, last, y, kept = saved
    # States were kept in the order that this input had in memory.
    inputs[0], kept = _laid_out(inputs[0], ctx.strides), kept.contiguous()
    arriving = list(gradients[:-1])
    if torch.is_grad_enabled():
        tensors = (coefficients, states, inputs, weight, bias, last)
        return _differentiable(program, fed, output_dtype, lengths, tensors, needs, arriving)
    asked = [k for k in range(counts[0]) if needs[3][k]]
    idle = [k for k in asked if program.coefficients[k] in program.idle]
    wanted = [k for k in asked if k not in idle]
    ports = [k for k in range(counts[2]) if needs[5][k] or k == fed]
    first = any(needs[4])
    found = (loop_backward if observed() else _loop_backward)(
        *(key, keep, fed, ports, wanted, first, coefficients, states, inputs, kept, arriving),
        *(lengths, weight, bias, y, last),
    )
    d_inputs: list[Any] = [None] * counts[2]
    d_coefficients: list[Any] = [None] * counts[0]
    for k in ports:
        d_inputs[k] = found.pop(0)
    d_states = [found.pop(0) if first else None for _ in states]
    for k in wanted:
        d_coefficients[k] = found.pop(0)
    for k in idle:
        d_coefficients[k] = torch.zeros_like(coefficients[k])
    d_weight = d_bias = d_last = None
    if fed >= 0:
        d_weight, d_bias, d_last = _feedback_gradients(d_inputs[fed], y, last, weight, [needs[k] for k in (7, 8, 9)])
    return None, None, None, d_coefficients, d_states, d_inputs, None, d_weight, d_bias, d_last, None


def _laid_out(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """A tensor with the strides that it had when it was saved: hooks on saved tensors may hand out another."""
    if x.stride() == strides:
        return x
    once = x
    for axis, stride in enumerate(strides):
        if stride == 0 and x.shape[axis] > 1:
            once = once.narrow(axis, 0, 1)
    fresh = torch.empty_strided(once.shape, strides, dtype=x.dtype, device=x.device)
    return fresh.copy_(once).expand(x.shape)


class _Loop(torch.autograd.Function):
    """The operator's node, with its lists of tensors spread out."""

    @staticmethod
    def forward(ctx: Any, options: Any, counts: tuple[int, int, int], *tensors: Tensor | None) -> Any:
        key, keep, fed, output_dtype = options
        coefficients, states, inputs, (lengths, weight, bias, last) = _split(tensors, counts)
        given = key, keep, fed, coefficients, states, inputs, lengths, weight, bias, last, output_dtype
        found = _loop(*given)
        _setup(ctx, given, found)
        ctx.needs = ctx.needs_input_grad[2:]
        return tuple(found[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        counts = ctx.options[4:]
        coefficients, states, inputs, (_, *fed_back) = _split(ctx.needs, counts)
        needs = (False, False, False, coefficients, states, inputs, False, *fed_back, False)
        found = _gradients(ctx, needs, [*gradients, None])
        return None, None, *found[3], *found[4], *found[5], *found[6:10]


def _split(flat: Sequence[Any], counts: Sequence[int]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Coefficients, states, inputs, and the rest."""
    a, b = counts[0], counts[0] + counts[1]
    return list(flat[:a]), list(flat[a:b]), list(flat[b : b + counts[2]]), list(flat[b + counts[2] :])


def run(
    key: str,
    keep: int,
    fed: int,
    coefficients: Sequence[Tensor],
    states: Sequence[Tensor],
    inputs: Sequence[Tensor],
    *rest: Any,
) -> Sequence[Tensor]:
    """Output, records and final states of a program, differentiable, from what the operator is given."""
    if observed():
        return loop(key, keep, fed, coefficients, states, inputs, *rest)[:-1]
    if not torch.is_grad_enabled():
        return _loop(key, keep, fed, coefficients, states, inputs, *rest)[:-1]
    *tensors, output_dtype = rest
    counts = len(coefficients), len(states), len(inputs)
    options = key, keep, fed, output_dtype
    return _Loop.apply(options, counts, *coefficients, *states, *inputs, *tensors)  # type: ignore[no-any-return]


def _feedback_gradients(d_x: Tensor, y: Tensor, last: Tensor, weight: Tensor, needs: list[bool]) -> tuple[Any, ...]:
    """A recurrent connection's gradients, each as one product over all steps."""
    d_weight = d_bias = d_last = None
    if d_x.shape[0] == 0:
        return tuple(torch.zeros_like(t) if n else None for t, n in zip((weight, weight[0], last), needs, strict=True))
    if needs[0]:
        d_weight = d_x[0].t() @ last
        if d_x.shape[0] > 1:
            d_weight = d_weight + _product_over_time(d_x[1:], y[:-1], weight)
    if needs[1]:
        d_bias = d_x.sum((0, 1))
    if needs[2]:
        d_last = d_x[0] @ weight
    return d_weight, d_bias, d_last


def _product_over_time(d_x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Sum over steps and samples of d_x y^T, spike by spike where there are few."""
    plain = d_x.device.type == "cpu" and not observed()
    if plain and choose_linear(y, len(weight), weight.dtype)[0] == "events":
        return Matrix(*weight.shape).weight_gradient(rows_of_raster(y), d_x, weight)
    return d_x.flatten(0, 1).t() @ y.flatten(0, 1)


def _differentiable(
    program: Program,
    fed: int,
    output_dtype: torch.dtype,
    lengths: Any,
    tensors: Any,
    needs: Any,
    arriving: list[Tensor | None],
) -> tuple[Any, ...]:
    """The gradients by way of torch's own operations, so that they can be differentiated again."""
    with torch.enable_grad():
        # Arguments may depend on each other: a state on the recurrent weight, by way of the call before. Aliases keep
        # these ways apart, which autograd follows by itself and would follow twice.
        coefficients, states, inputs = ([t.view_as(t) for t in group] for group in tensors[:3])
        weight, bias, last = (None if t is None else t.view_as(t) for t in tensors[3:])
        out = in_torch(program, fed, lengths, coefficients, states, inputs, weight, bias, last)
        out[0] = out[0].to(output_dtype)
        flags = (*needs[3], *needs[4], *needs[5], *needs[7:10])
        everything: tuple[Any, ...] = (*coefficients, *states, *inputs, weight, bias, last)
        leaves = [t for t, need in zip(everything, flags, strict=True) if need]
        pairs = [(o, g) for o, g in zip(out, arriving, strict=True) if g is not None and o.requires_grad]
        found: list[Any] = [None] * len(leaves)
        if pairs and leaves:
            given = [o for o, _ in pairs], leaves, [g for _, g in pairs]
            found = list(torch.autograd.grad(*given, create_graph=True, allow_unused=True))
    each = [found.pop(0) if need else None for need in flags]
    parts = []
    for count in (len(coefficients), len(states), len(inputs)):
        parts.append([each.pop(0) for _ in range(count)])
    return None, None, None, *parts, None, *each, None


def in_torch(
    program: Program,
    fed: int,
    lengths: Tensor | None,
    coefficients: Sequence[Tensor],
    states: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    last: Tensor | None,
) -> list[Tensor]:
    """Output, records and final states, step by step in torch."""
    fixed = {f"c.{n}": c for n, c in zip(program.coefficients, coefficients, strict=True)}
    z = {f"z.{n}": s for n, s in zip(program.states, states, strict=True)}
    rows: list[dict[str, Tensor]] = []
    for t, row in enumerate(zip(*(x.unbind(0) for x in inputs), strict=True)):
        x = [part.to(program.dtype) for part in row]
        if fed >= 0:
            assert weight is not None and last is not None
            x[fed] = x[fed] + F.linear(rows[-1]["y"] if rows else last, weight, bias)
        alive = {} if lengths is None else {"alive": (t < lengths).reshape(-1, *(1,) * (x[0].dim() - 1))}
        out = program.step(fixed | z | {f"x.{n}": v for n, v in zip(program.ports, x, strict=True)} | alive)
        z = {name: out[name] for name in z}
        rows.append(out)
    names = ("y", *(f"r.{n}" for n in program.records))
    empty = torch.zeros_like(inputs[0], dtype=program.dtype)
    return [*(torch.stack([r[n] for r in rows]) if rows else empty for n in names), *z.values()]


for device in ("CPU", "CUDA"):
    LIBRARY.impl("loop", _loop, device)
    LIBRARY.impl("loop_backward", _loop_backward, device)
torch.library.register_fake("spikeloom::loop", fake.loop, lib=LIBRARY)
torch.library.register_fake("spikeloom::loop_backward", fake.loop_backward, lib=LIBRARY)
torch.library.register_autograd("spikeloom::loop", _backward, setup_context=_setup, lib=LIBRARY)
loop, loop_backward = torch.ops.spikeloom.loop, torch.ops.spikeloom.loop_backward
