"""How torch modules take part in time: folded, over time, or with a memory of their own."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..connections import Delayed
from ..events import Events
from .context import ACTIVE
from .pooled import pooled
from .sparse import by_events, drop, hooked

# Torch's modules that keep the axis of time and batch, and that have a faster way here or stand beside one.
STEPWISE = (nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d, nn.BatchNorm2d, nn.Flatten, nn.Dropout, nn.Identity)


def has_memory(module: nn.Module) -> bool:
    """A connection with memory defines `initial_state(x)` and `forward(x, state) -> (y, state)`."""
    return hasattr(module, "initial_state")


def absent(state: Any) -> bool:
    """Whether a state is the () that stands for none."""
    return isinstance(state, tuple) and len(state) == 0


def apply(module: nn.Module | None, x: Any, state: Any = (), whole: nn.Module | None = None) -> tuple[Any, Any]:
    """A module on [T, B, ...]: one with memory is given its state, one that says `over_time = True` sees the time axis,
    and any other sees time and batch folded into one, as torch's modules expect. It may be part of a `whole`, whose
    precision then is the input's."""
    if type(module) is nn.Sequential and not hooked(module):
        return in_a_row(module, x), ()
    found = by_events(module, x)
    if found is not None:
        return found, ()
    x = densify(x, whole or module)
    if module is None:
        return x, ()
    if isinstance(module, Delayed):
        context = ACTIVE.get()
        lengths = None if context is None else context.lengths
        return module(x, module.initial_state(x) if absent(state) else state, lengths=lengths, multiply=product)
    if has_memory(module):
        return module(x, module.initial_state(x) if absent(state) else state)  # type: ignore[operator]
    if getattr(module, "over_time", False):
        return module(x), ()
    found = pooled(module, x)
    if found is not None:
        return found, ()
    check_input(module, x)
    return folded(module, x, type(module).__name__), ()


def in_a_row(modules: nn.Sequential, x: Any) -> Any:
    """The modules of an nn.Sequential, one by one as in a `spikeloom.Sequential`, so that they may take events; from
    the first that torch alone knows to call, time and batch stay folded."""
    x = x if isinstance(x, Events) else densify(x, modules)
    rest = list(modules)
    while rest and type(rest[0]) in STEPWISE and getattr(rest[0], "start_dim", 1) == 1:
        x, _ = apply(rest.pop(0), x, whole=modules)
    if not rest:
        return x
    return folded(lambda y: functools.reduce(lambda y, module: module(y), rest, y), densify(x, modules), "Sequential")


def folded(call: Any, x: Tensor, name: str) -> Tensor:
    """What is called with time and batch of x [T, B, ...] in one axis, as torch's modules expect."""
    y = call(x.flatten(0, 1))
    if not isinstance(y, Tensor):
        raise TypeError(
            f"{name} returned {type(y).__name__}; expected a tensor. A module with memory of its own defines "
            "initial_state(x) and forward(x, state) -> (y, state)."
        )
    return y.unflatten(0, x.shape[:2])


def product(module: nn.Module | None, x: Any) -> Tensor:
    """A module without memory on [T, B, ...], as a tensor."""
    return densify(apply(module, x)[0], module)


def wait(module: Delayed, x: Any, state: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What waits for its delay [K + T, B, ...], of which there is what came, and the state before."""
    if isinstance(x, Events):
        by_events(module, x)  # tells the run that they become dense
    x = densify(x, module)
    state = module.initial_state(x) if absent(state) else state
    return module.join(x, state), x, state


def densify(x: Any, module: nn.Module | None) -> Tensor:
    """Input as a tensor of floating point numbers: spikes that come as events, booleans or integers are converted."""
    parameters = module.parameters() if module is not None else iter(())
    dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.get_default_dtype())
    if isinstance(x, Events):
        return x.to_dense(dtype)
    if not isinstance(x, Tensor):
        raise TypeError(f"got {type(x).__name__} as input; expected a tensor [T, B, ...] or Events.")
    if x.dim() < 2:
        raise ValueError(f"got input of shape {tuple(x.shape)}; expected [T, B, ...], time first, then batch.")
    return x if x.is_floating_point() else x.to(dtype)


def check_input(module: nn.Module, x: Tensor) -> None:
    """A sentence for the mistake that is made most: an axis too few, or axes in another order."""
    ranks = {nn.Linear: 3, nn.Conv1d: 4, nn.Conv2d: 5, nn.Conv3d: 6}
    rank = next((r for kind, r in ranks.items() if isinstance(module, kind)), None)
    if rank is not None and x.dim() < rank:
        shape = "[T, B, N]" if rank == 3 else "[T, B, channels, ...]"
        raise ValueError(
            f"got input of shape {tuple(x.shape)} for {type(module).__name__}; expected {shape}, {rank} axes. "
            "Add the missing one, such as x.unsqueeze(1) for a batch of one."
        )
    if isinstance(module, nn.Linear) and x.shape[-1] != module.in_features:
        raise ValueError(
            f"got input of shape {tuple(x.shape)} for Linear({module.in_features}, {module.out_features}); "
            f"expected [T, B, {module.in_features}], time first, then batch."
        )


class Dropout(nn.Module):
    """Dropout on [T, B, *N] with one mask for all steps, so that a dropped synapse or neuron is silent throughout.

    In training, y = x m / (1 - p) with m ~ Bernoulli(1 - p) for each of [B, *N], or for each of [T, B, *N] where not
    shared; in evaluation, y = x.

    Args:
        p: probability of dropping, 0 <= p < 1.
        shared_over_time: one mask for all steps of a call (default), or a fresh one each step.

    Raises:
        ValueError: p outside its range.

    Source: Srivastava et al. 2014, JMLR 15:1929.

    >>> import torch, spikeloom as sl
    >>> y = sl.Dropout(0.5)(torch.ones(10, 2, 3))
    >>> bool((y == y[0]).all())
    True
    """

    over_time = True

    def __init__(self, p: float = 0.5, shared_over_time: bool = True):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"Dropout got p={p}; expected 0 <= p < 1.")
        self.p, self.shared_over_time = p, shared_over_time

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.shared_over_time):
            return F.dropout(x, self.p, self.training)
        return x * F.dropout(torch.ones_like(x[:1]), self.p) if len(x) else x

    def on_events(self, x: Events) -> Events:
        """Events that stay, each weighing 1 / (1 - p)."""
        return drop(x, self.p, self.training, self.shared_over_time)

    def extra_repr(self) -> str:
        return f"p={self.p}, shared_over_time={self.shared_over_time}"
