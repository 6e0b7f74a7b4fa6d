"""What each layer and parameter of a network did during some passes, collected by hooks; `diagnostics` judges it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .connections import Delayed
from .events import Events
from .network import Layer
from .network.context import ACTIVE, Context
from .surrogates import Smooth

COUNTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Activity:
    """What one layer did, over all its calls.

    Attributes:
        layer: the layer.
        samples: rows of the batches of its calls.
        driven: whether anything but zeros went in.
        finite: whether outputs and final states were.
        gradient: largest magnitude of the gradient at its output.
        counts: shape of the neurons -> spikes of each, and steps (summed over samples) that each took; empty for a
            layer without spikes.
    """

    layer: Layer
    samples: int = 0
    driven: bool = False
    finite: bool = True
    gradient: float = 0.0
    counts: dict[torch.Size, tuple[Tensor, int]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps of all neurons together, 0 where no spikes were counted."""
        return sum(spikes.numel() * steps for spikes, steps in self.counts.values())

    @property
    def rate(self) -> float:
        """Mean firing rate in Hz."""
        return sum(float(spikes.sum()) for spikes, _ in self.counts.values()) / (self.steps * self.layer.dt)

    def share_below(self, part: float) -> float:
        """Share of the neurons that fired no more than a part of the spikes that their refractory period allows."""
        most = self.layer.neuron.max_spikes / (1 + self.layer.neuron.refractory)
        flags = [(spikes <= part * most * steps).flatten() for spikes, steps in self.counts.values()]
        return float(torch.cat(flags).double().mean())

    def add(self, output: Tensor, lengths: Tensor | None) -> None:
        """Count the spikes [T, B, *N] of a call, whose samples took `lengths` steps [B], or T each."""
        spikes = output.detach().double().sum((0, 1))
        before, steps = self.counts.get(spikes.shape, (torch.zeros_like(spikes), 0))
        taken = len(output) * output.shape[1] if lengths is None else int(torch.as_tensor(lengths).sum())
        self.counts[spikes.shape] = before + spikes, steps + taken


class Hooks:
    """Hooks on a network's layers, connections and parameters, and what they collected, by path.

    Args:
        network: a module that holds layers.

    Attributes:
        layers: layer -> its `Activity`.
        arrived: connection -> inputs other than zero. operations: connection -> synapses that they reached.
        gradients: parameter -> largest magnitude of its gradient (infinite for NaN), None until one arrives.
        differentiated: whether a layer's output asked for a gradient.
    """

    def __init__(self, network: nn.Module):
        self.layers: dict[str, Activity] = {}
        self.arrived: dict[str, float] = {}
        self.operations: dict[str, float] = {}
        self.gradients: dict[str, float | None] = {}
        self.differentiated = False
        self.handles: list[Any] = []
        modules = {_strip(name): module for name, module in network.named_modules()}
        # A recurrent connection receives what its layer fires, whichever way the time loop calls it.
        recurrent = {id(m.recurrent) for m in modules.values() if isinstance(m, Layer)}
        for path, module in modules.items():
            if isinstance(module, Layer):
                self.layers[path] = Activity(module)
                self.handles.append(module.register_forward_hook(self._on_layer(path), with_kwargs=True))
            elif isinstance(module, COUNTED):
                self.arrived[path] = self.operations[path] = 0.0
                if id(module) not in recurrent:
                    self.handles.append(module.register_forward_hook(self._on_connection(path)))
            elif isinstance(module, Delayed) and module.per == "synapse":
                # Such delays go between a product and its sum: the inner module itself is not called.
                self.handles.append(module.register_forward_hook(self._on_delays(f"{path}.connection".lstrip("."))))
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                self.gradients[_strip(name)] = None
                self.handles.append(parameter.register_hook(self._on_gradient(_strip(name))))

    def remove(self) -> None:
        """Take the hooks off the network."""
        for handle in self.handles:
            handle.remove()

    def _on_layer(self, path: str) -> Any:
        seen = self.layers[path]
        layer = seen.layer

        def reached(gradient: Tensor) -> None:
            seen.gradient = max(seen.gradient, _largest(gradient))

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            output, context = result[0], ACTIVE.get() or Context()
            seen.samples += output.shape[1]
            seen.driven |= _driven(args[0] if args else kwargs["x"])
            seen.finite &= all(bool(x.isfinite().all()) for x in tree_leaves(result) if isinstance(x, Tensor))
            if output.requires_grad:
                self.differentiated = True
                output.register_hook(reached)
            if layer.neuron.spiking and not isinstance(context.surrogate or layer.surrogate, Smooth):
                seen.add(output, context.lengths)
                if isinstance(layer.recurrent, COUNTED):
                    self._count(f"{path}.recurrent".lstrip("."), layer.recurrent, output, not layer.self_connections)

        return hook

    def _on_connection(self, path: str) -> Any:
        return lambda module, args, output: self._count(path, module, args[0])

    def _on_delays(self, path: str) -> Any:
        return lambda module, args, output: self._count(path, module.connection, args[0])

    def _count(self, path: str, module: Any, x: Tensor, off_diagonal: bool = False) -> None:
        synapses = (module.weight.detach() != 0).double()
        if off_diagonal:
            synapses.fill_diagonal_(0)
        # Linear in the input, so that one product with the sum over samples and steps counts exactly.
        arriving = (x.detach() != 0).double().reshape(-1, *x.shape[1 - synapses.dim() :]).sum(0)
        linear = isinstance(module, nn.Linear)
        reached = F.linear(arriving, synapses) if linear else module._conv_forward(arriving[None], synapses, None)
        self.arrived[path] += float(arriving.sum())
        self.operations[path] += float(reached.sum())

    def _on_gradient(self, name: str) -> Any:
        def hook(gradient: Tensor) -> None:
            self.gradients[name] = max(self.gradients[name] or 0.0, _largest(gradient))

        return hook


def _driven(x: Any) -> bool:
    """Whether anything but zeros goes in."""
    if isinstance(x, Mapping):
        return any(map(_driven, x.values()))
    return x.total > 0 if isinstance(x, Events) else bool((x != 0).any())


def _largest(gradient: Tensor) -> float:
    size = float(gradient.detach().abs().amax()) if gradient.numel() else 0.0
    return math.inf if math.isnan(size) else size


def _strip(path: str) -> str:
    """The path without what DistributedDataParallel and torch.compile put into it."""
    return re.sub(r"^(?:(?:module|_orig_mod)\.)+|_orig_mod\.", "", f"{path}.").rstrip(".")
