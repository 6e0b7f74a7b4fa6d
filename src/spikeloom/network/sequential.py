"""Layers and torch modules, one after the other."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, overload

from torch import Tensor, nn

from ..connections import Delayed
from ..neurons import Neuron
from ..neurons.declarations import check_dt
from ..neurons.neuron import DEFAULT_DT
from .layer import Layer
from .modules import absent, apply, has_memory

WRAPPERS = ("module", "_orig_mod")  # what DistributedDataParallel and torch.compile put before a path


class Sequential(nn.Module):
    """Modules in a row: layers, neurons (which become layers without a connection), and any torch module.

    Stateless torch modules (`nn.Conv2d`, `nn.BatchNorm2d`, `nn.Flatten`, ...) see time and batch folded together; a
    module with `initial_state(x)` and `forward(x, state) -> (y, state)` is given its state; one that holds layers
    inside must be called like a layer, `y, state = module(x, state)`.

    Called like `torch.nn.LSTM`: `output, state = net(input, state)`.

    Args:
        *modules: the modules, or one ordered dictionary of them.
        dt: time step in s of all neurons inside (default: the one they were given, or 1e-3).

    Returns:
        From a call: the output [T, B, ...] and a tuple with the state of each module (() for a stateless one).

    Raises:
        TypeError, ValueError: something that is no module, neurons with different dt, a state of another network.

    >>> import torch, spikeloom as sl
    >>> from torch import nn
    >>> net = sl.Sequential(
    ...     nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), sl.LIF(), nn.Flatten(), sl.Layer(nn.Linear(144, 10), sl.LI(10))
    ... )
    >>> v, state = net(torch.rand(5, 2, 1, 8, 8))
    >>> v.shape
    torch.Size([5, 2, 10])
    """

    def __init__(self, *modules: nn.Module | OrderedDict[str, nn.Module], dt: float | None = None):
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], OrderedDict):
            named = list(modules[0].items())
        else:
            named = [(str(k), m) for k, m in enumerate(modules)]
        for name, module in named:
            if not isinstance(module, nn.Module):
                raise TypeError(
                    f"Sequential got {type(module).__name__} at {name!r}; expected a layer, a neuron or a torch module."
                )
            self.add_module(name, Layer(None, module) if isinstance(module, Neuron) else module)
        set_dt(self, dt)

    @property
    def dt(self) -> float:
        """Time step in s."""
        return network_dt(self)

    def forward(self, x: Any, state: Sequence[Any] | None = None) -> tuple[Tensor, tuple[Any, ...]]:
        modules = list(self)
        if state is not None and (not isinstance(state, tuple | list) or len(state) != len(modules)):
            raise ValueError(
                f"got a state of {len(state) if isinstance(state, tuple | list) else type(state).__name__} parts for "
                f"{len(modules)} modules; expected the state that an earlier call of this network returned."
            )
        states = []
        for module, before in zip(modules, state if state is not None else [()] * len(modules), strict=True):
            x, after = call(module, x, before)
            states.append(after)
        return x, tuple(states)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Any:
        # Not children(), which leaves out what stands in the row again.
        return iter(self._modules.values())

    @overload
    def __getitem__(self, index: int) -> nn.Module: ...
    @overload
    def __getitem__(self, index: slice) -> "Sequential": ...
    def __getitem__(self, index: int | slice) -> "nn.Module | Sequential":
        if isinstance(index, slice):
            named: list[Any] = list(self._modules.items())
            return Sequential(OrderedDict(named[index]))
        return list(self)[index]


def call(module: nn.Module, x: Any, state: Any) -> tuple[Any, Any]:
    """One module of a row, with its state."""
    began = not absent(state)
    if isinstance(module, Layer | Sequential):
        return module(x, state if began else None)
    if not has_memory(module) and any(isinstance(inner, Neuron) for inner in module.modules()):
        if isinstance(module, nn.Sequential):
            raise TypeError("got an nn.Sequential that holds spiking layers; write sl.Sequential, which threads state.")
        result = module(x, state if began else None)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                f"{type(module).__name__} holds spiking layers and returned {type(result).__name__}; "
                "write forward(x, state=None) -> (output, state)."
            )
        return result
    return apply(module, x, state)


def inside(network: nn.Module) -> dict[nn.Module, str]:
    """The modules of a network without neurons' parameters, and their paths; what wraps a network is no part of paths.

    `named_modules` goes through parameters, too, which are more modules than all the others.
    """
    found: dict[nn.Module, str] = {}

    def walk(module: nn.Module, path: str) -> None:
        if module in found:
            return
        found[module] = path
        for name, child in module._modules.items():
            if child is not None and not (name == "params" and isinstance(module, Neuron)):
                walk(child, f"{path}.{name}" if path else "" if name in WRAPPERS else name)

    walk(network, "")
    return found


def network_dt(modules: nn.Module | Iterable[nn.Module]) -> float:
    """The one dt of a network, or of the modules inside it, in s.

    Raises:
        ValueError: its neurons differ.
    """
    modules = inside(modules) if isinstance(modules, nn.Module) else modules
    found = {m.dt for m in modules if isinstance(m, Neuron)}
    if len(found) > 1:
        listed = " and ".join(f"{dt:g} s" for dt in sorted(found))
        raise ValueError(
            f"this network has neurons with dt of {listed}; a network has one: leave dt out of the neurons."
        )
    return next(iter(found), DEFAULT_DT)


def set_dt(network: nn.Module, dt: float | None) -> None:
    """Give every neuron and delay of a network this time step (s), or with None the one that some were given."""
    members = [m for m in network.modules() if isinstance(m, Neuron | Delayed)]
    if dt is None:
        given = [n.dt for n in members if n.dt_given]
        if not given:
            return
        dt = given[0]
    for module in members:
        module.set_dt(check_dt(dt))
