"""What a neuron declares: parameters, state, inputs, noise; and how an optimiser meets the parameters."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from .capture import capturing
from .constraints import Constraint, unconstrained
from .distributions import Distribution
from .unchanged import Snapshot, same, snapshot
from .zero import ZERO

Value = float | Tensor | Distribution


class _Computed(threading.local):
    """Values of parameters, by neuron, while this thread computes its coefficients; others may do so too."""

    def __init__(self) -> None:
        self.of: dict[int, dict[str, Tensor]] = {}


COMPUTED = _Computed()


@dataclass(eq=False)
class Param:
    """A named parameter of a neuron, declared in the class body or given in place of a value.

    Users read and set it in its unit (`layer.neuron.tau_mem` is a float64 tensor in seconds); an optimiser sees a raw
    tensor without bounds, whose zero is the initial value and whose unit is a well-scaled move.

    Args:
        default: a number, shared by all neurons of the layer; a tensor that broadcasts to the neuron's shape; or a
            distribution, sampled for each neuron at construction.
        unit: unit in which the value is declared, "" where it has none.
        constraint: the range that the value never leaves (`positive`, `between(low, high)`, `unit_interval`,
            `time_constant`, default none).
        optional: where the value is not given and not learned, the parameter is absent: its terms cost nothing.
        scale: how far raw = 1 moves the value, in its unit (default: the constraint's, or the size of the default).

    Example: `LIF(100, tau_mem=sl.Param(20e-3, constraint=sl.between(11e-3, 1.0)))` narrows one parameter's range.
    """

    default: Value = 0.0
    unit: str = ""
    constraint: Constraint = unconstrained
    optional: bool = False
    scale: float | None = None
    name: str = field(default="", init=False)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, neuron: None, owner: type) -> "Param": ...
    @overload
    def __get__(self, neuron: nn.Module, owner: type) -> Tensor: ...
    def __get__(self, neuron: Any, owner: type) -> Any:
        if neuron is None:
            return self
        held = neuron.params
        if self.name not in held:
            return ZERO
        # While a neuron computes its coefficients, which may name a parameter often, each is computed once.
        known = COMPUTED.of.get(id(neuron))
        if known is None:
            return held[self.name].value(neuron.dt)
        if self.name not in known:
            known[self.name] = held[self.name].value(neuron.dt)
        return known[self.name]

    def __set__(self, neuron: Any, value: float | Tensor) -> None:
        if self.name not in neuron.params:
            name = type(neuron).__name__
            raise ValueError(
                f"this {name} was built without {self.name}, so it cannot be set; write {name}(..., {self.name}=...)."
            )
        neuron.params[self.name].assign(value, neuron.dt)


@dataclass(eq=False)
class State:
    """A named variable that a neuron carries from step to step.

    Args:
        init: its value before the first step: a number or a `Param` (either can be learned, under the name of the state
            followed by `_init`), or the name of one of the neuron's parameters, or a function of the neuron that
            returns a tensor; these two hold where the initial value is neither given nor learned under that name.
        unit: unit of the variable.
    """

    init: "float | Tensor | Param | str | Callable[[Any], Tensor]" = 0.0
    unit: str = ""


@dataclass(eq=False)
class Input:
    """A named port through which input reaches a neuron; the first that a class declares is the default one.

    Args:
        kind: "impulse", which arrives at the start of the step, or "current", which holds its value over the step.
    """

    kind: Literal["impulse", "current"] = "impulse"


@dataclass(eq=False)
class Noise:
    """Noise drawn afresh for each step and neuron from a counter, so that every engine draws the same.

    Args:
        distribution: "normal" (zero mean, unit variance), or "gumbel" (-ln E with E ~ Exp(1): mean 0.577, variance
            pi^2 / 6).
        amplitude: name of the optional parameter that scales it; where that is absent nothing is drawn.
    """

    distribution: Literal["normal", "gumbel"] = "normal"
    amplitude: str | None = None


class ParameterValue(nn.Module):
    """One parameter of one neuron: the value it began with, and the raw tensor that an optimiser moves."""

    initial: Tensor
    raw: Tensor
    # What was computed of an unlearned value, and of what; here, for modules that were saved before they had these.
    _known: tuple[float, Snapshot, Tensor] | None = None
    _start: tuple[Any, Snapshot, Tensor] | None = None

    def __init__(
        self, initial: Tensor, constraint: Constraint, scale: float, learned: bool, unit: str = "", group: str = ""
    ):
        super().__init__()
        self.constraint, self.scale, self.unit = constraint, scale, unit
        # Of `parameter_groups`: those of time constants in seconds, or of the rest, where it is not named.
        self.group = group or ("time_constants" if unit == "s" else "neuron_parameters")
        self._captured: list[Tensor] = []
        self.register_buffer("initial", initial.double())
        raw = torch.zeros(initial.shape, dtype=torch.get_default_dtype())
        if learned:
            self.raw = nn.Parameter(raw)
        else:
            self.register_buffer("raw", raw)

    @property
    def learned(self) -> bool:
        return isinstance(self.raw, nn.Parameter)

    def value(self, dt: float) -> Tensor:
        """The value in its unit, float64."""
        shot = self._shot()
        if shot is None:
            return self.constraint.apply(self.raw, self.initial, self.scale, dt)
        if self._known is None or self._known[0] != dt or not same(self._known[1], shot):
            found = self.constraint.apply(self.raw, self.initial, self.scale, dt)
            if capturing():  # the graph's memory, and of no use before it has run
                return found
            self._known = dt, shot, found
        if capturing():
            self._captured.append(self._known[2])  # the graph will read it
        return self._known[2].clone()  # a caller may write to it

    def start(self, dt: float, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The value as a state that begins with it has it."""
        shot = None if capturing() else self._shot()
        if shot is None:
            return self.value(dt).to(device=device, dtype=dtype)
        known, key = self._start, (dt, dtype, device)
        if known is None or known[0] != key or not same(known[1], shot):
            self._start = known = key, shot, self.value(dt).to(device=device, dtype=dtype)
        return known[2].clone()  # a state is the caller's

    def _shot(self) -> Snapshot | None:
        """What the value depends on, where it is not learned and is no parametrization of torch's."""
        tensors: Any = self._buffers.values()
        return None if self._parameters or self._modules else snapshot(tensors)

    def __getstate__(self) -> dict[str, Any]:
        # A copy's tensors count their writes anew, so what is known of these says nothing of them.
        return {**self.__dict__, "_known": None, "_start": None, "_captured": []}

    def assign(self, value: float | Tensor, dt: float) -> None:
        """Make `value` the one that raw = 0 stands for; an optimiser's tensor stays the same object."""
        new = torch.as_tensor(value, dtype=torch.float64, device=self.initial.device)
        if torch.broadcast_shapes(new.shape, self.initial.shape) != self.initial.shape:
            raise ValueError(
                f"got a value of shape {tuple(new.shape)} for a parameter of shape {tuple(self.initial.shape)}; "
                "expected one number or the same shape (build the neuron with a tensor to have one value per neuron)."
            )
        self.check(new, dt)
        with torch.no_grad():
            self.initial.copy_(new)
            self.raw.zero_()

    def check(self, value: Tensor, dt: float, name: str = "the parameter") -> None:
        if not self.constraint.contains(value, dt, strictly=self.learned and self.constraint != unconstrained):
            low, high = float(value.min()), float(value.max())
            got = f"{low:g}" if value.numel() == 1 else f"values from {low:g} to {high:g}"
            inside = " (inside, not on the bound, as it is learned)" if self.learned else ""
            seconds = (
                " It is in seconds: 20 ms are 20e-3."
                if self.unit == "s" and high > self.constraint.bounds(dt)[1]
                else ""
            )
            raise ValueError(
                f"{name} got {got}; expected finite values {self.constraint.describe(dt)}{inside}.{seconds}"
            )

    def extra_repr(self) -> str:
        low, high = float(self.initial.min()), float(self.initial.max())
        unit = f" {self.unit}" if self.unit else ""
        span = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        return f"{'learned, initially ' if self.learned else ''}{span}{unit}"

    def _apply(self, fn: Any, recurse: bool = True) -> "ParameterValue":
        # .to(dtype) is for what the optimiser sees; the value stays float64, or 20 ms would become 20.0000003 ms.
        kept = self.initial
        super()._apply(fn, recurse)
        if not self.initial.is_meta and not kept.is_meta:
            self.initial = kept.to(self.initial.device)
        return self


def parameter_groups(
    network: nn.Module,
    lr: float = 1e-3,
    time_constant_lr: float | None = None,
    weight_decay: float = 0.0,
    delay_lr: float | None = None,
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: weights, neuron parameters, and time constants and delays with their own rates.

    Weight decay goes to the connections' parameters only: a neuron's raw tensor is zero at its initial value, and
    pulling it back there is no regularisation.

    Args:
        network: any module.
        lr: learning rate of weights, thresholds and other parameters.
        time_constant_lr: learning rate of parameters in seconds (default: `lr`). A raw step of 0.01 moves a time
            constant by about 1 %.
        weight_decay: of the connections' weights and biases.
        delay_lr: learning rate of delays (default: that of time constants). A raw step of 0.01 moves a delay by 1/400
            of its maximum.

    Returns:
        Groups named "weights", "neuron_parameters", "time_constants" and "delays"; an empty one is left out.

    >>> import torch, spikeloom as sl
    >>> net = sl.Sequential(sl.Layer(torch.nn.Linear(4, 3), sl.LIF(3, learn=("tau_mem", "v_th"))))
    >>> optimiser = torch.optim.AdamW(sl.parameter_groups(net, lr=1e-3, time_constant_lr=1e-2, weight_decay=1e-4))
    >>> [(g["name"], g["lr"], g["weight_decay"]) for g in optimiser.param_groups]
    [('weights', 0.001, 0.0001), ('neuron_parameters', 0.001, 0.0), ('time_constants', 0.01, 0.0)]
    """
    held = {id(m.raw): m for m in network.modules() if isinstance(m, ParameterValue) and m.learned}
    slow = lr if time_constant_lr is None else time_constant_lr
    groups: dict[str, dict[str, Any]] = {
        "weights": {"lr": lr, "weight_decay": weight_decay},
        "neuron_parameters": {"lr": lr, "weight_decay": 0.0},
        "time_constants": {"lr": slow, "weight_decay": 0.0},
        "delays": {"lr": slow if delay_lr is None else delay_lr, "weight_decay": 0.0},
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    for parameter in network.parameters():
        members[held[id(parameter)].group if id(parameter) in held else "weights"].append(parameter)
    return [{"params": members[name], "name": name, **options} for name, options in groups.items() if members[name]]
