"""Eligibility traces: what a neuron's state owes to each parameter, carried from one run to the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .synapses import Synapses


@dataclass(frozen=True)
class Traced:
    """A parameter that has a trace.

    Args:
        name: of its trace in the state.
        tensor: the parameter, or what it is spread to for each sample and neuron, [B, N].
        axes: of the trace of one state variable: "weight" [B, N, N_in], "bias" [B, N], or "lane" [B, N].
        twin: a feedback matrix that gets the same gradient, or None.
    """

    name: str
    tensor: Tensor
    axes: str
    twin: Tensor | None = None


def traced_synapses(synapses: Sequence[Synapses]) -> list[Traced]:
    found = []
    for s in synapses:
        if s.weight is not None and (s.weight.requires_grad or s.back_learns):
            found.append(Traced(f"{s.name}.weight", s.weight, "weight", s.back if s.back_learns else None))
        if s.bias is not None and s.bias.requires_grad:
            found.append(Traced(f"{s.name}.bias", s.bias, "bias"))
    return found


class Begin(torch.autograd.Function):
    """The states that a run begins with: their gradients meet the traces, and so reach the parameters.

    dL/dW_ji = sum_k dL/dz_k,j eps_k,ji        over the state variables k of neuron j, and over samples
    """

    @staticmethod
    def forward(ctx: Any, count: int, axes: tuple[str, ...], *tensors: Tensor | None) -> Any:
        states, traces = tensors[:count], tensors[count : count + len(axes)]
        ctx.axes = axes
        ctx.dtypes = [None if t is None else t.dtype for t in tensors[count + len(axes) :]]
        ctx.save_for_backward(*traces)
        ctx.set_materialize_grads(False)
        return tuple(z.view_as(z) for z in states if z is not None)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *arriving: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        found: list[Tensor | None] = []
        pairs = len(ctx.axes)
        for k, (trace, axes) in enumerate(zip(ctx.saved_tensors, ctx.axes, strict=True)):
            total = None
            for g, eps in zip(arriving, trace, strict=True):
                if g is not None:
                    part = _meet(g.to(eps), eps, axes)
                    total = part if total is None else total + part
            for place in (k, pairs + k):
                dtype = ctx.dtypes[place]
                found.append(None if total is None or dtype is None else total.to(dtype))
        parameters, twins = found[0::2], found[1::2]
        return None, None, *arriving, *(None for _ in ctx.axes), *parameters, *twins


def _meet(g: Tensor, eps: Tensor, axes: str) -> Tensor:
    if axes == "weight":
        # One trace for all neurons where they share it.
        return g.t() @ eps[:, 0] if eps.shape[1] == 1 else torch.einsum("bn,bni->ni", g, eps)
    return (g * eps).sum(0) if axes == "bias" else g * eps


def begin(states: Sequence[Tensor], traced: Sequence[Traced], traces: dict[str, Tensor]) -> list[Tensor]:
    """States to begin with, given the traces that came with them."""
    if not traced or not traces:
        return list(states)
    given = [traces[one.name] for one in traced]
    parameters, twins = [one.tensor for one in traced], [one.twin for one in traced]
    axes = tuple(one.axes for one in traced)
    return list(Begin.apply(len(states), axes, *states, *given, *parameters, *twins))


def advance(
    finals: Sequence[Tensor],
    first: Sequence[Tensor],
    lanes: dict[str, Tensor | None],
    arrived: dict[str, Tensor],
    synapses: Sequence[Synapses],
    before: dict[str, Tensor],
    shared: bool,
) -> dict[str, Tensor]:
    """Traces after a run: eps_k = sum_j dz_k/dz0_j eps0_j + sum_t dz_k/dx_t x_t^pre, of each state variable k.

    The derivatives of each final state are one backward pass of the loop.

    Args:
        finals, first: the state variables after and before, [B, N] each, joined by the run's graph.
        lanes: by trace's name, [B, N]: what learned coefficients and initial states are spread to; None for one that
            acts by way of `first` alone.
        arrived: the input of each port, [T, B, N].
        synapses: all connections.
        before: traces that came with the state.
        shared: whether all neurons of a sample have one trace in common.
    """
    known = {n: t for n, t in lanes.items() if t is not None}
    targets = [*first, *known.values(), *arrived.values()]
    wanted = [k for k, t in enumerate(targets) if t.requires_grad]
    made: dict[str, list[Tensor]] = {}
    moved: list[list[Tensor]] = []
    for final in finals:
        found: list[Any] = [None] * len(targets)
        if final.requires_grad and wanted:
            ones = torch.ones_like(final)
            each = torch.autograd.grad(
                final, [targets[k] for k in wanted], ones, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for k, g in zip(wanted, each, strict=True):
                found[k] = g.detach()
        found = [torch.zeros_like(t) if g is None else g for t, g in zip(targets, found, strict=True)]
        moved.append(found[: len(first)])
        direct = dict(zip((*known, *arrived), found[len(first) :], strict=True))
        for name in lanes:
            made.setdefault(name, []).append(direct[name] if name in direct else torch.zeros_like(final))
        for s in synapses:
            g = direct[s.port]
            if s.weight is not None and (s.weight.requires_grad or s.back_learns):
                g = g[:, :, :1] if shared else g
                x = s.dense(g)
                made.setdefault(f"{s.name}.weight", []).append(g.permute(1, 2, 0) @ x.permute(1, 0, 2))
            if s.bias is not None and s.bias.requires_grad:
                made.setdefault(f"{s.name}.bias", []).append(direct[s.port].sum(0))
    weights = {f"{s.name}.weight" for s in synapses}
    return {name: _carried(parts, moved, before.get(name), name in weights, shared) for name, parts in made.items()}


def _carried(
    parts: list[Tensor], moved: list[list[Tensor]], before: Tensor | None, weight: bool, shared: bool
) -> Tensor:
    if before is not None:
        for k, part in enumerate(parts):
            for j, step in enumerate(moved[k]):
                if weight:
                    step = (step[:, :1] if shared else step)[..., None]
                part = part + step * before[j]
            parts[k] = part
    return torch.stack(parts)
