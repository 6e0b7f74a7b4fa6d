"""What a plasticity rule yields."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Update:
    """Weight changes as pseudo-gradients, and the state of the rule.

    An optimiser subtracts what it is given, so a gradient is minus the change that the rule asks for: `SGD(lr=1.0)`
    applies the rule as it stands, and momentum, Adam and the like do with it what they do with any gradient.

    Attributes:
        gradients: -dw for each parameter of the connection, of the parameter's shape.
        state: the rule's state after the last step; pass it to the next call to go on.
    """

    gradients: dict[nn.Parameter, Tensor]
    state: Any

    def as_loss(self) -> Tensor:
        """A scalar of value 0 whose backward adds the pseudo-gradients to what the parameters' `grad` already holds.

        It can be added to a loss, so that one `backward` and one optimiser serve plasticity and surrogate gradients.

        >>> import torch, spikeloom as sl
        >>> connection, spikes = torch.nn.Linear(2, 2, bias=False), torch.ones(3, 1, 2)
        >>> update = sl.STDP()(connection, spikes, spikes)
        >>> update.as_loss().backward()
        >>> torch.equal(connection.weight.grad, update.gradients[connection.weight])
        True
        """
        total = torch.zeros(())
        for parameter, gradient in self.gradients.items():
            product = (parameter * gradient).sum()
            total = total.to(product) + product - product.detach()
        return total
