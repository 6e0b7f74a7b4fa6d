"""Modules that take spikes as events, and multiply event by event where that is faster."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..engine import breakeven, products
from ..engine.transforms import recorded
from ..events import Events
from .context import ACTIVE


def by_events(module: nn.Module | None, x: Any) -> Any:
    """What a module makes of events, or of a raster that is nearly all zeros, without making them dense.

    Linear and Conv2d choose by the density that was measured to break even on this machine; Flatten and Dropout pass
    events on. The choice is reported to the run.

    Args:
        module: the module. x: `Events` or a tensor [T, B, ...].

    Returns:
        A tensor or `Events`; None where the dense way is taken.
    """
    if module is None or recorded() or not isinstance(x, Tensor | Events):
        return None
    if isinstance(x, Tensor) and type(module) not in (nn.Linear, nn.Conv2d):
        return None
    context = ACTIVE.get()
    if context is not None and context.engine == "eager":
        return None
    found, why = None, ""
    if hooked(module):
        why = "dense: the module has hooks"
    elif type(module) is nn.Linear:
        found, why = _linear(module, x)
    elif type(module) is nn.Conv2d:
        found, why = _conv2d(module, x)
    elif isinstance(x, Events) and type(module) is nn.Flatten:
        found = _flatten(module, x)
    elif isinstance(x, Events) and isinstance(module, nn.Dropout) and type(module).__module__.startswith("torch"):
        found = drop(x, module.p, module.training, shared=False)
    elif isinstance(x, Events) and hasattr(module, "on_events"):
        found = module.on_events(x)  # type: ignore[operator]
    if isinstance(x, Events) and found is None and not why:
        why = f"dense: {type(module).__name__} does not take events"
    if context is not None and why:
        context.products[context.names.get(id(module), type(module).__name__)] = why
    return found


def hooked(module: nn.Module) -> bool:
    """Whether something waits for a call of the module itself: hooks, its own or all modules', or another `forward`."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in names) or "forward" in vars(module) or bool(_has_any_global_hook())


def _linear(module: nn.Linear, x: Any) -> tuple[Tensor | None, str]:
    if len(x.shape) != 3 or x.shape[-1] != module.in_features:
        return None, ""
    way, why = breakeven.choose_linear(x, module.out_features, module.weight.dtype)
    return (products.linear(x, module.weight, module.bias) if way == "events" else None), why


def _conv2d(module: nn.Conv2d, x: Any) -> tuple[Tensor | None, str]:
    if len(x.shape) != 5 or x.shape[2] != module.in_channels:
        return None, ""
    if module.padding_mode != "zeros":
        return None, f"dense: padding_mode={module.padding_mode!r}"
    options: Any = (module.stride, module.padding, module.dilation, module.groups)
    way, why = breakeven.choose_conv2d(x, tuple(module.weight.shape), *options, dtype=module.weight.dtype)
    return (products.conv2d(x, module.weight, module.bias, *options) if way == "events" else None), why


def _flatten(module: nn.Flatten, x: Events) -> Events | None:
    """The folded [T B, *N] loses the axes from `start_dim` to `end_dim`."""
    whole = module.start_dim == 1 and module.end_dim in (-1, len(x.shape) - 2)
    return x.with_channels(x.shape[2:].numel()) if whole else None


def drop(x: Events, p: float, training: bool, shared: bool) -> Events:
    """Events that stay, each weighing 1 / (1 - p) of what it did; all of a sample's channel or none where shared."""
    if not training or p == 0:
        return x
    if shared:
        mask = F.dropout(torch.ones(x.shape[1], x.shape[2:].numel(), device=x.device), p)
        factor = mask[x.batch, x.channel]
    else:
        factor = F.dropout(torch.ones(x.total, device=x.device), p)
    return x.weighted(factor)
