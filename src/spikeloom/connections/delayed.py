"""Delays on connections, fixed or learned."""

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..constraints import between
from ..distributions import LogNormal, Normal, Uniform
from ..neurons.declarations import broadcasts, check_dt, check_shape
from ..neurons.neuron import DEFAULT_DT
from ..parameters import Param, ParameterValue
from .arriving import Arrivals
from .spreading import by_axon, by_synapse, whole

CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
# Part of the input that is not zero, for each step of the longest delay, under which arrivals one by one are faster
# than a convolution: measured for 5 to 140 inputs, 3 to 256 neurons, 25 to 100 steps.
SPARSE = 5e-4


class Delayed(nn.Module):
    """A connection whose spikes take time to arrive, which can be learned.

        y_m[t] = sum_n w_mn x_n[t - d_mn]

    The delays d are parameters of the connection in seconds; they stay between 0 and `maximum`. Spikes that are still
    on their way when a call ends are the connection's state, so that two calls in a row equal one.

    With `width` 0 each spike arrives whole, at the time step nearest to its delay. `EventProp` then has the exact
    gradient of the delays, dL/dd_mn = sum over arrivals of w_mn (lambda_V - lambda_I)_m. Under `BPTT` it is that of the
    central difference, dy_m[t]/dd_mn = w_mn (x_n[t - d - dt] - x_n[t - d + dt]) / (2 dt), which reaches one step far.

    With a `width` each spike is spread over the steps by a normalised Gaussian around its delay, through which `BPTT`
    sees far. Make it narrower in training, by `anneal_delays` or by setting `width`, and in the end `round_delays`.

    Args:
        connection: `nn.Linear` (whose bias is not delayed); for one delay per axon also a convolution, or with `shape`
            any module.
        maximum: longest delay in s.
        per: "axon" for one delay for each input (each input channel of a convolution), or "synapse" for one for each
            weight of an `nn.Linear`.
        initial: delays before training in s: a number, a tensor, or a distribution (default: uniform from 0 to
            `maximum`); learned ones must lie inside the range, not on its bounds.
        learn: whether they are trained.
        width: standard deviation of the Gaussian in s, or 0.
        shape: shape of the delays of another module, which broadcasts to its input's *N.
        dt: time step in s; the network's, where it stands in one.

    Raises:
        TypeError: no module; delays per synapse for another module than `nn.Linear`.
        ValueError: a maximum, width or delay out of range, shapes that do not fit, another word for `per`.

    >>> import torch, spikeloom as sl
    >>> connection = sl.Delayed(torch.nn.Linear(2, 1, bias=False), maximum=10e-3, initial=torch.tensor([3e-3, 8e-3]))
    >>> _ = torch.nn.init.ones_(connection.connection.weight)
    >>> x = torch.zeros(12, 1, 2)
    >>> x[0] = 1  # two spikes at once arrive apart
    >>> y, waiting = connection(x, connection.initial_state(x))
    >>> y.flatten().nonzero().flatten()
    tensor([3, 8])

    Source: Hammouamri, Khalfaoui-Hassani & Masquelier 2024, arXiv:2306.17670 (Gaussian); Shrestha & Orchard, NeurIPS
    2018, arXiv:1810.08646 (difference); Mészáros, Knight & Nowotny, Nat. Commun. (2025),
    doi:10.1038/s41467-025-65394-8 (exact).
    """

    delay = Param(unit="s")

    def __init__(
        self,
        connection: nn.Module,
        maximum: float,
        *,
        per: Literal["axon", "synapse"] = "axon",
        initial: float | Tensor | Normal | LogNormal | Uniform | None = None,
        learn: bool = True,
        width: float = 0.0,
        shape: int | tuple[int, ...] | None = None,
        dt: float | None = None,
    ):
        super().__init__()
        if not isinstance(connection, nn.Module) or hasattr(connection, "initial_state"):
            raise TypeError(
                f"Delayed got {type(connection).__name__}; expected a connection without memory, such as nn.Linear."
            )
        if not isinstance(maximum, int | float) or not 0 < maximum < math.inf:
            raise ValueError(f"Delayed got maximum={maximum!r}; expected seconds above 0, such as 25e-3.")
        if per not in ("axon", "synapse"):
            raise ValueError(f"Delayed got per={per!r}; expected 'axon' or 'synapse'.")
        self.connection, self.maximum, self.per = connection, float(maximum), per
        self.width = width
        self.dt_given = dt is not None
        self.dt = check_dt(dt) if dt is not None else DEFAULT_DT
        axes = _shape(connection, per, shape)
        if initial is None:
            edge = 1e-6 * maximum
            initial = Uniform(edge, maximum - edge)
        drawn = initial.sample(axes) if isinstance(initial, Normal | LogNormal | Uniform) else initial
        start = torch.as_tensor(drawn, dtype=torch.float64).detach()
        if not broadcasts(tuple(start.shape), axes):
            raise ValueError(f"Delayed got delays of shape {tuple(start.shape)}; expected one number or {axes}.")
        constraint = between(0.0, self.maximum)
        held = ParameterValue(start.expand(axes).clone(), constraint, self.maximum / 4, learn, "s", group="delays")
        held.check(held.initial, self.dt, "Delayed's delay")
        self.params = nn.ModuleDict({"delay": held})

    @property
    def width(self) -> float:
        """Standard deviation of the Gaussian in s, 0 for none."""
        return self._width

    @width.setter
    def width(self, value: float) -> None:
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"Delayed got width={value!r}; expected seconds, 0 or more.")
        self._width = self.widest = float(value)

    @property
    def parameter(self) -> ParameterValue:
        """The delays as an optimiser meets them."""
        held = self.params["delay"]
        assert isinstance(held, ParameterValue)
        return held

    @property
    def weight(self) -> Tensor:
        """The connection's weight."""
        return self.connection.weight  # type: ignore[return-value]

    @property
    def most(self) -> int:
        """Steps that the longest delay takes: K."""
        return math.ceil(self.maximum / self.dt - 1e-6)

    @property
    def in_steps(self) -> Tensor:
        """The delays in time steps, float64."""
        return self.delay / self.dt

    def set_dt(self, dt: float) -> None:
        """Adopt the network's time step (s).

        Raises:
            ValueError: another one was given.
        """
        dt = check_dt(dt)
        if self.dt_given and dt != self.dt:
            raise ValueError(
                f"Delayed was built with dt={self.dt:g} s and stands in a network with dt={dt:g} s; a network has one "
                "dt: leave it out of the connection."
            )
        self.dt, self.dt_given = dt, True

    def initial_state(self, x: Tensor) -> Tensor:
        """Nothing is on its way: zeros [K, B, *N]."""
        return x.new_zeros(self.most, *x.shape[1:])

    def forward(
        self,
        x: Tensor,
        state: Tensor,
        lengths: Tensor | None = None,
        multiply: Callable[[nn.Module, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        waiting = self.join(x, state)
        return self.arrive(waiting, multiply), self.left(waiting, lengths)

    def join(self, x: Tensor, state: Tensor) -> Tensor:
        """What is on its way, and what sets out now: [K + T, B, *N].

        Raises:
            ValueError: a state of another shape.
        """
        expected = (self.most, *x.shape[1:])
        if not isinstance(state, Tensor) or state.shape != expected:
            got = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
            raise ValueError(
                f"Delayed got a state of shape {got}; expected {expected} for this input: pass the state of the same "
                "batch, or None to start afresh."
            )
        return torch.cat([state.to(x.dtype), x])

    def arrive(self, waiting: Tensor, multiply: Callable[[nn.Module, Tensor], Tensor] | None = None) -> Tensor:
        """What arrives in T steps, [T, B, *M]; `multiply` applies the connection to [T, B, *N]."""
        multiply = multiply or _folded
        if self.per == "axon":
            self._check_channels(waiting)
            return multiply(self.connection, by_axon(waiting, self.in_steps, self.most, self.width / self.dt))
        linear: Any = self.connection
        if waiting.shape[2:] != (linear.in_features,):
            raise ValueError(
                f"Delayed got input of {tuple(waiting.shape[2:])} neurons for {linear}; expected [T, B, "
                f"{linear.in_features}]."
            )
        if linear._forward_pre_hooks:
            raise ValueError(
                "Delayed with per='synapse' reads its connection's weight, and hooks on it, as pruning puts there, "
                "would not run; make the pruning permanent (torch.nn.utils.prune.remove) or write per='axon'."
            )
        y = self._by_synapse(waiting, linear.weight)
        return y if linear.bias is None else y + linear.bias

    def _by_synapse(self, waiting: Tensor, weight: Tensor) -> Tensor:
        learning = waiting.requires_grad or any(p.requires_grad for p in self.parameters())
        learning = learning and torch.is_grad_enabled()
        if self.width == 0 and not learning and waiting.device.type == "cpu":
            flat = waiting.reshape(-1).nonzero().squeeze(1)
            if self.one_by_one(len(flat), waiting.shape):
                return self.arrivals(flat, waiting.reshape(-1)[flat], waiting.shape).sum(weight)
        return by_synapse(waiting.to(weight.dtype), weight, self.in_steps, self.most, self.width / self.dt)

    def one_by_one(self, events: int, shape: torch.Size) -> bool:
        """Whether so many events among inputs that wait, [K + T, B, N], are best looked at one by one."""
        return events < SPARSE * (self.most + 1) * shape.numel()

    def arrivals(self, flat: Tensor, value: Tensor | None, shape: torch.Size) -> Arrivals:
        """Events at places `flat` of inputs that wait, where `nn.Linear` takes them."""
        delays = whole(self.in_steps, self.most)
        delays = delays[None] if self.per == "axon" else delays
        return Arrivals(flat, value, shape, delays, self.most, self.connection.out_features)  # type: ignore[arg-type]

    def left(self, waiting: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What is still on its way after T steps, or after each sample's own length [B]: [K, B, *N]."""
        steps = len(waiting) - self.most
        if lengths is None:
            return waiting[steps:].clone()  # a view would keep all of it
        row = torch.arange(self.most, device=waiting.device)[:, None] + lengths.to(waiting.device)
        return waiting[row, torch.arange(waiting.shape[1], device=waiting.device)]

    def round_(self) -> "Delayed":
        """Make the delays whole steps that are no longer trained, in place."""
        held, steps = self.parameter, whole(self.in_steps, self.most)
        fixed = (steps.double() * self.dt).clamp(max=self.maximum)
        new = ParameterValue(fixed, held.constraint, held.scale, False, "s", group="delays")
        self.params["delay"], self.width = new.to(fixed.device), 0.0
        return self

    def _check_channels(self, waiting: Tensor) -> None:
        delays, axes = tuple(self.parameter.initial.shape), tuple(waiting.shape[2:])
        if not broadcasts(delays, axes):
            raise ValueError(
                f"Delayed has delays of shape {delays} and got input of {axes} neurons, to which they do not broadcast."
            )

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.maximum, self.width, self.widest], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        maximum, width, widest = state.tolist()
        if not math.isclose(maximum, self.maximum, rel_tol=1e-6):
            raise ValueError(
                f"these delays were saved with maximum={maximum:g} s, and this Delayed has {self.maximum:g} s; build "
                "it as it was."
            )
        self.width, self.widest = width, widest

    def extra_repr(self) -> str:
        width = f", width={self.width:g}" if self.width else ""
        return f"maximum={self.maximum:g}, per={self.per!r}{width}"


def _shape(connection: nn.Module, per: str, shape: Any) -> tuple[int, ...]:
    kind = type(connection).__name__
    if isinstance(connection, nn.Linear) and shape is None:
        inputs = (connection.in_features,)
        return inputs if per == "axon" else (connection.out_features, *inputs)
    if per == "synapse":
        raise TypeError(f"Delayed got per='synapse' with {kind}; expected nn.Linear, without shape=.")
    if shape is not None:
        return check_shape("Delayed", shape)
    for convolution, axes in CONVOLUTIONS.items():
        if isinstance(connection, convolution):
            channels: Any = connection.in_channels
            return (channels, *(1,) * axes)
    raise ValueError(f"Delayed cannot know the inputs of {kind}; write shape=, the shape of its delays.")


def _folded(module: nn.Module, x: Tensor) -> Tensor:
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def anneal_delays(network: nn.Module, done: float, *, until: float = 0.25) -> None:
    """Make the Gaussians of all `Delayed` connections narrower as training goes on.

        width = width_0 (dt / 2 / width_0)^min(1, done / until)

    from the width that each was built with to half a time step, beyond which a spike hardly spreads. Call it before
    each epoch or batch. Connections without a width stay as they are, and so does a `CapturedStep` that was recorded
    before.

    Args:
        network: any module.
        done: part of the training that is done, 0 to 1.
        until: part of the training at which the width is at its smallest.

    Raises:
        ValueError: `done` outside 0 to 1, or `until` not above 0.

    >>> import torch, spikeloom as sl
    >>> net = sl.Sequential(sl.Layer(sl.Delayed(torch.nn.Linear(5, 3), 20e-3, width=8e-3), sl.LIF(3)), dt=1e-3)
    >>> for epoch in range(5):
    ...     sl.anneal_delays(net, epoch / 5, until=0.5)
    ...     print(f"{net[0].connection.width:.1e}", end=" ")  # s; train an epoch here
    8.0e-03 2.6e-03 8.7e-04 5.0e-04 5.0e-04

    Source: Hammouamri, Khalfaoui-Hassani & Masquelier 2024, arXiv:2306.17670.
    """
    if not 0 <= done <= 1 or not until > 0:
        raise ValueError(f"anneal_delays got done={done}, until={until}; expected 0 <= done <= 1 and until above 0.")
    for module in network.modules():
        if isinstance(module, Delayed) and module.width > 0:
            narrowest = min(module.widest, module.dt / 2)
            module._width = module.widest * (narrowest / module.widest) ** min(1.0, done / until)


def round_delays(network: nn.Module) -> nn.Module:
    """A copy of a network for deployment, whose delays are whole time steps and buffers in place of parameters.

    Its output is the limit of the network's own as the widths of its delays go to 0.

    Args:
        network: any module; it stays as it is.

    Returns:
        The copy, in which all `Delayed` connections have a width of 0 and nothing to learn but the weights.

    >>> import torch, spikeloom as sl
    >>> net = sl.Sequential(sl.Layer(sl.Delayed(torch.nn.Linear(1, 3), 20e-3, initial=7.3e-3), sl.LIF(3)), dt=1e-3)
    >>> sl.round_delays(net)[0].connection.delay
    tensor([0.0070], dtype=torch.float64)
    """
    found = copy.deepcopy(network)
    for module in found.modules():
        if isinstance(module, Delayed):
            module.round_()
    return found
