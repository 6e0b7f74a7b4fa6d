"""A neuron whose gradients go the ways of an online rule, so that every engine's loop and its transpose run it."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import Loop
from ..fire import Fire
from ..neurons import Neuron
from ..neurons.declarations import coefficient_type
from ..parameters import Input, State
from ..zero import ZERO

# Names of states and ports beside the neuron's own.
NOW, LEARNED = "_online_now", "online_"
FILTERED, SPIKED, ARRIVED = "online_filtered", "online_spikes", "online_input"


class Opened(Neuron):
    """Steps of another neuron, with the same values, and with gradients taken apart:

    - a port's gradient is dL/dx_t by way of the neuron's own state, through time; that of its twin, named PORT + NOW,
      is what the input of a step does to the output of the same step, and to nothing later;
    - with `filters`, what arrives at the output is the derivative by F_t = kappa F_{t-1} + s_t, not by s_t;
    - coefficients that are learned are states, LEARNED + NAME, that stay as they are: so each sample has its gradient;
    - the state SPIKED is the output, for gradients that pass by the filter; ARRIVED is what the port `keeps` got.

    Made by `opened`, which names the states and ports of the neuron at hand.
    """

    learns: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()
    filters: bool = False
    keeps: str = ""

    def __init__(self, neuron: Neuron, kind: Any):
        # No parameters of its own, and so nothing of what `Neuron` makes of them, for one is made in every call.
        nn.Module.__init__(self)
        self.inner, self.kind, self.dt = neuron, kind, neuron.dt
        self.reset, self.refractory = neuron.reset, neuron.refractory
        self.max_spikes, self.comparator = neuron.max_spikes, neuron.comparator

    @property
    def noises(self) -> tuple[str, ...]:
        return self.inner.noises

    def advance(
        self, c: Any, z: Any, inputs: Mapping[str, Any], surrogate: Any, reset_edge: str
    ) -> tuple[Tensor, Any, Fire]:
        inner = self.inner
        numbers = self.kind(*(getattr(z if n in self.learns else c, _place(n, self.learns)) for n in self.kind._fields))
        before = type(inner).state_type(*(getattr(z, n) for n in type(inner).state_type._fields))  # type: ignore[attr-defined]
        given = {n: inputs[n] for n in (*inner.ports, *inner.noises) if n in inputs}
        y, after, fire = inner.advance(numbers, before, given, surrogate, reset_edge)
        states = dict(zip(after._fields, after, strict=True))
        states |= {LEARNED + n: getattr(z, LEARNED + n) for n in self.learns}
        ways = [y]
        if self.filters:
            ways = [c.kappa * getattr(z, FILTERED) + y]
            states[FILTERED] = ways[0]
        if self.twins:
            still = [type(t)(*(_cut(x) for x in t)) for t in (numbers, before)]
            now = {n: _Value.apply(x.detach(), inputs[n + NOW]) if n in self.twins else x for n, x in given.items()}
            ways.append(inner.advance(still[0], still[1], now, surrogate, reset_edge)[0])
        if SPIKED in self.declared_states:
            states[SPIKED] = y
        if self.keeps:
            states[ARRIVED] = given[self.keeps]
        output = _Value.apply(y.detach(), *ways) if self.filters or self.twins else y
        return output, type(self).state_type(**states), fire


class _Value(torch.autograd.Function):
    """A value, and the ways that its gradient takes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *ways: Tensor) -> Tensor:
        ctx.count = len(ways)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, *gradients * ctx.count


def _place(name: str, learns: tuple[str, ...]) -> str:
    return LEARNED + name if name in learns else name


def _cut(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


def opened(
    loop: Loop,
    *,
    learns: tuple[str, ...] = (),
    twins: tuple[str, ...] = (),
    kappa: float | None = None,
    spiked: bool = False,
    keeps: str = "",
) -> tuple[Opened, Any]:
    """The neuron of a loop, opened, and its coefficients without those that are learned.

    Args:
        learns: coefficients that become states.
        twins: ports that get a twin.
        kappa: leak of the filter of what arrives at the output, or None for no filter.
        spiked: add the state SPIKED.
        keeps: the port whose input becomes the state ARRIVED.
    """
    neuron, c = loop.neuron, loop.coefficients
    made = _kind(type(neuron), neuron.spiking, learns, twins, kappa is not None, spiked, keeps)(neuron, type(c))
    values = {n: ZERO if n in learns else _cut(v) for n, v in zip(c._fields, c, strict=True)}
    if kappa is not None:
        values["kappa"] = torch.tensor(kappa, dtype=loop.dtype)
    structure = tuple((name, getattr(neuron, name)) for name in neuron.structure)
    return made, coefficient_type(tuple(values), structure)(**values)


@functools.cache
def _kind(
    kind: type[Neuron],
    spiking: bool,
    learns: tuple[str, ...],
    twins: tuple[str, ...],
    filtered: bool,
    spiked: bool,
    keeps: str,
) -> type[Opened]:
    more = [LEARNED + n for n in learns]
    more += [n for n, wanted in ((FILTERED, filtered), (SPIKED, spiked), (ARRIVED, keeps)) if wanted]
    members: dict[str, Any] = {n: State() for n in (*kind.declared_states, *more)}
    ports = tuple(kind.declared_inputs) or ("x",)
    members |= {n: Input() for n in (*ports, *(n + NOW for n in twins))}
    members |= {"learns": learns, "twins": twins, "filters": filtered, "keeps": keeps}
    made = type(kind.__name__, (Opened,), {**members, "__module__": __name__, "spiking": spiking})
    made.membrane, made.declared_noise = kind.membrane, dict(kind.declared_noise)
    return made
