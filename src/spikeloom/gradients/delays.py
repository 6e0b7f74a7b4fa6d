"""A delayed connection's gradients: spikes set out, arrive later, and are worth to the loss what they meet there."""

from typing import Any

import torch
from torch import Tensor, nn

from ..connections import Delayed
from ..connections.arriving import Arrivals as Landings
from ..connections.spreading import by_axon, by_synapse, whole
from ..engine import Feedback, Source, is_matrix
from .places import Places


class DelayedArrivals:
    """`Arrivals` of a `Delayed` connection.

        dL/dw_mn = -tau_syn sum lambda_I,m,     dL/dd_mn = w_mn sum (lambda_V - lambda_I)_m,
        dL/dt_k = sum_m w_mn (lambda_V - lambda_I)_m,     all where the spikes arrive, at t_k + d_mn

    Args:
        source: the connection; its presynaptic raster is [K + T, B, *N], with the K steps that were before.
        events: what went into it.
        like: a tensor of the input's precision and device.
        needed: which of the connection's parameters get a gradient.
    """

    def __init__(self, source: Source, events: Places, like: Tensor, needed: Any):
        assert isinstance(source.module, Delayed)
        self.source, self.events, self.like, self.needed, self.module = source, events, like, needed, source.module
        self.landings: Landings | None = None
        if is_matrix(self.module.connection) and self.module.one_by_one(len(events.flat), events.shape):
            self.landings = self.module.arrivals(events.flat, events.value, events.shape)

    def weights(self, g: Tensor, reach: Tensor) -> list[Tensor | None]:
        """Gradients of the connection's parameters, None where none is needed.

        Args:
            g: p_I at the start of each step, with time reversed.
            reach: lambda_V - lambda_I, likewise.
        """
        g, reach = g.flip(0), reach.flip(0)
        one_matrix = self.landings is not None or self.module.per == "synapse"
        found = self._of_matrix(g, reach) if one_matrix else self._of_any(g, reach)
        parameters = self.module.parameters()
        return [
            found[id(p)].to(p) if need and id(p) in found else None
            for p, need in zip(parameters, self.needed, strict=True)
        ]

    def _of_matrix(self, g: Tensor, reach: Tensor) -> dict[int, Tensor]:
        linear: Any = self.module.connection
        found: dict[int, Tensor] = {}
        if self._needs(linear.weight):
            found[id(linear.weight)] = self._by_synapse(g)
        if linear.bias is not None:
            found[id(linear.bias)] = g.sum((0, 1))
        if self._learns_delays():
            met = self._by_synapse(reach) * linear.weight.detach().to(reach)
            found |= self._of_delays(met.sum(0) if self.module.per == "axon" else met)
        return found

    def _by_synapse(self, g: Tensor) -> Tensor:
        """Sums of g [T, B, M] over the arrivals at each synapse, [M, N]."""
        if self.landings is not None:
            return self.landings.by_synapse(g)
        waiting = self.events.dense(None, self.like).to(g)
        weight = self.module.weight.detach().to(g).requires_grad_()
        with torch.enable_grad():
            y = by_synapse(waiting, weight, self.module.in_steps.detach(), self.module.most, 0.0)
            return torch.autograd.grad(y, weight, g)[0]

    def _of_any(self, g: Tensor, reach: Tensor) -> dict[int, Tensor]:
        arrived, y = self._arrived()
        inner = [p for p in self.module.connection.parameters() if p.requires_grad]
        with torch.enable_grad():
            each = torch.autograd.grad(y, inner, g.to(y), retain_graph=True, allow_unused=True) if inner else ()
        found = {id(p): d for p, d in zip(inner, each, strict=True) if d is not None}
        if self._learns_delays():
            met = self._met(arrived, y, reach) * arrived.detach()
            found |= self._of_delays(met.sum((0, 1)).sum_to_size(self.module.parameter.initial.shape))
        return found

    def _needs(self, parameter: Tensor) -> bool:
        return any(need and p is parameter for p, need in zip(self.module.parameters(), self.needed, strict=True))

    def _learns_delays(self) -> bool:
        return self._needs(self.module.parameter.raw)

    def _of_delays(self, by_second: Tensor) -> dict[int, Tensor]:
        """From delays in seconds to what the optimiser moves."""
        raw = self.module.parameter.raw
        with torch.enable_grad():
            delay = self.module.delay
            return {id(raw): torch.autograd.grad(delay, raw, by_second.to(delay))[0]}

    def times(self, reach: Tensor) -> Tensor:
        """dL/dt of each spike that went in, and 0 elsewhere.

        Args:
            reach: lambda_V - lambda_I at the start of each step, with time reversed.
        """
        reach = reach.flip(0)
        if self.landings is not None:
            each = self.landings.by_event(reach, self.module.weight.detach())
            return self.events.dense(each, self.like)
        if self.module.per == "synapse":
            weight = self.module.weight.detach().to(reach)
            waiting = self.events.dense(None, self.like).to(reach).requires_grad_()
            with torch.enable_grad():
                y = by_synapse(waiting, weight, self.module.in_steps.detach(), self.module.most, 0.0)
                each = torch.autograd.grad(y, waiting, reach)[0]
            return self.events.dense(self.events.take(each), self.like)
        met = self._met(*self._arrived(), reach)
        steps, most, shape = len(met), self.module.most, self.events.shape
        delays = whole(self.module.in_steps, most).expand(shape[2:]).reshape(-1)
        index = self.events.flat.long()
        step, rest = index // self.events.row, index % self.events.row
        step = step - most + delays[rest % max(1, len(delays))]
        there = (step >= 0) & (step < steps)
        place = torch.where(there, step * self.events.row + rest, 0)
        return self.events.dense(torch.where(there, met.reshape(-1)[place], 0.0), self.like)

    def _arrived(self) -> tuple[Tensor, Tensor]:
        """The input as it arrives, [T, B, *N], and what the connection makes of it."""
        module = self.module
        waiting = self.events.dense(None, self.like)
        with torch.no_grad():
            arrived = by_axon(waiting, module.in_steps, module.most, 0.0)
        arrived.requires_grad_()
        with torch.enable_grad():
            y = module.connection(arrived.flatten(0, 1)).unflatten(0, arrived.shape[:2])
        return arrived, y

    def _met(self, arrived: Tensor, y: Tensor, reach: Tensor) -> Tensor:
        """What a spike that arrives now has for its time, [T, B, *N]."""
        with torch.enable_grad():
            return torch.autograd.grad(y, arrived, reach.to(y), retain_graph=True)[0]


def backwards(module: Delayed, like: Tensor) -> tuple[Feedback, Tensor]:
    """A recurrent connection with time reversed: what arrivals of a step are worth to the spikes of d steps before.

    Args:
        module: the connection.
        like: [1, B, *N], of the neurons.

    Returns:
        The connection back, and its state, in which nothing is on its way.
    """
    delays, most = module.in_steps.detach(), module.most

    def call(q: Tensor, waiting: Tensor) -> tuple[Tensor, Tensor]:
        if module.per == "synapse":
            came = torch.cat([waiting, q[None]])
            return by_synapse(came, module.weight.detach().t().to(q), delays.t(), most, 0.0)[0], came[1:]
        with torch.enable_grad():
            s = torch.zeros_like(q, requires_grad=True)
            y = module.connection(s)
            worth = torch.autograd.grad(y, s, q.to(y))[0]
        came = torch.cat([waiting, worth[None]])
        return by_axon(came, delays, most, 0.0)[0], came[1:]

    return Feedback(nn.Identity(), None, call, "spike"), like.new_zeros(most, *like.shape[1:])


def of_recurrence(
    back: Feedback, waiting: Tensor, last: Tensor, fired: Places, pi: Tensor, reach: Tensor, needed: Any
) -> tuple[list[Tensor | None], list[Tensor], list[Tensor]]:
    """Gradients of a delayed recurrent connection's parameters, of what was on its way, and of the last output.

    Args:
        back: the connection.
        waiting: [K, B, *N], on their way before the call. last: [B, *N], the output before it.
        fired: the spikes of the call.
        pi, reach: as `DelayedArrivals` takes them.
        needed: which of the parameters get a gradient.
    """
    came = torch.cat([waiting.to(pi), last[None].to(pi), fired.dense(None, pi)[:-1]])
    arrivals = DelayedArrivals(Source(back.module, came), Places.of(came), came, needed)
    times = arrivals.times(reach)
    return arrivals.weights(pi, reach), [times[: -len(pi)]], [times[-len(pi)]]
