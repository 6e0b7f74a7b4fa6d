"""A connection's gradients, taken twice: of its weights from p_I, of its spikes' times from lambda_V - lambda_I."""

from typing import Any

import torch
from torch import Tensor

from ..engine import Source, is_matrix
from ..engine.products import event_weight_gradient, suited
from .places import Places

# A product at all places takes less time than one at each spike where one place in so many has a spike.
CROWDED = 64


class Arrivals:
    """What went into a connection, and the gradients of it.

    The connection knows no time, so that events with their time reversed meet costates with theirs.

    Args:
        source: the connection.
        events: what went into it: `Places`, or events as the user gave them.
        like: a tensor of the input's precision and device.
        needed: which of the connection's parameters get a gradient.
    """

    def __init__(self, source: Source, events: Any, like: Tensor, needed: Any):
        self.source, self.events, self.like, self.needed = source, events, like, needed
        module = source.module
        self.matrix = module if is_matrix(module) and len(events.shape) == 3 else None

    def weights(self, g: Tensor, reach: Tensor) -> list[Tensor | None]:
        """Gradients of the connection's parameters, None where none is needed.

        Args:
            g: p_I at the start of each step, with time reversed.
            reach: lambda_V - lambda_I, likewise, for parameters that move arrivals; here there are none.
        """
        if self.matrix is not None:
            found = []
            for parameter, need in zip(self.matrix.parameters(), self.needed, strict=True):
                if not need or (parameter is not self.matrix.weight and parameter is not self.matrix.bias):
                    found.append(None)  # a matrix for learning signals has no part in exact gradients
                elif parameter is not self.matrix.weight:
                    found.append(g.sum((0, 1)).to(parameter))
                else:
                    found.append(self._of_matrix(g.to(parameter)))
            return found
        assert self.source.module is not None
        x = self.events.reversed()
        wanted = [p for p, need in zip(self.source.module.parameters(), self.needed, strict=True) if need]
        with torch.enable_grad():
            y = self.source.call(x.dense(None, self.like) if isinstance(x, Places) else x)
            each = iter(torch.autograd.grad(y, wanted, g.to(y), allow_unused=True))
        return [next(each) if need else None for need in self.needed]

    def _of_matrix(self, g: Tensor) -> Tensor:
        assert self.matrix is not None
        weight = self.matrix.weight
        if suited(self.events, weight):
            return event_weight_gradient(self.events, g, weight, reverse=True)
        row, channel, value = self._listed()
        each = g.flatten(0, 1)[row]
        each = each if value is None else each * value[:, None].to(weight)
        return torch.zeros_like(weight.t()).index_add_(0, channel, each).t()

    def times(self, reach: Tensor) -> Tensor:
        """dL/dt of each spike that went in, and 0 elsewhere.

        Args:
            reach: lambda_V - lambda_I at the start of each step, with time reversed.
        """
        if self.matrix is not None:
            weight = self.matrix.weight.detach().to(reach)
            if len(self.events.flat) * CROWDED > self.events.shape.numel():
                met = (reach.flatten(0, 1) @ weight).reshape(self.events.shape)
                return self.events.dense(self.events.reversed().take(met), self.like)
            row, channel, _ = self._listed()
            each = (reach.flatten(0, 1)[row] * weight.t()[channel]).sum(-1)
            return self.events.dense(each, self.like)
        x = self.events.reversed().dense(None, self.like)
        with torch.enable_grad():
            y = self.source.call(x.requires_grad_())
            g = reach.to(y) if y is x else torch.autograd.grad(y, x, reach.to(y))[0]
        return self.events.dense(self.events.take(g.flip(0)), self.like)

    def _listed(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of each event: its row among [T B] with time reversed, its channel, and its value."""
        events = self.events
        steps, batch, channels = events.shape
        if isinstance(events, Places):
            index = events.flat.long()
            time, sample, channel = index // events.row, index // channels % batch, index % channels
        else:
            time, sample, channel = events.time, events.batch, events.channel
        return (steps - 1 - time) * batch + sample, channel, events.value
