"""The event loop: from one event to the next by the closed form, in torch, so that autograd is the exact adjoint.

A spike's time is found by bisection, outside autograd, and enters it by the implicit function theorem: with
g(t) = V(t) - v_th - a(t), which is 0 at t, dt = -dg / g'(t). All else are closed forms of times and states.
"""

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .flow import Rates, first_crossing, response
from .synapses import Network

# What happens first where times are equal: a spike that arrives at the end of a refractory period finds it over.
RELEASE, ARRIVE, SAMPLE = 0, 1, 2


@dataclass(frozen=True)
class Trajectory:
    """What a simulation yields; float64, and differentiable in all that required a gradient.

    Attributes:
        times: of all spikes in s, in order, [K].
        neurons: which neuron fired each, [K], int64.
        membrane: V at the times asked for, [S, N].
        integral: of V over the whole simulation, in units of V times s, [N].
        v, i, a: the state at its end, [N].
    """

    times: Tensor
    neurons: Tensor
    membrane: Tensor
    integral: Tensor
    v: Tensor
    i: Tensor
    a: Tensor

    def of(self, neuron: int) -> Tensor:
        """Spike times of one neuron in s."""
        return self.times[self.neurons == neuron]


@dataclass
class _State:
    t: Tensor
    v: Tensor
    i: Tensor
    a: Tensor
    integral: Tensor
    held: list[bool]
    queue: list[tuple[float, int, int, Tensor, Any]] = field(default_factory=list)
    count: Any = field(default_factory=itertools.count)

    def push(self, kind: int, time: Tensor, what: Any) -> None:
        heapq.heappush(self.queue, (float(time.detach()), kind, next(self.count), time, what))


def simulate(
    network: Network, times: Any, channels: Any, *, duration: float, samples: Sequence[float] | Tensor = ()
) -> Trajectory:
    """Run a network from 0 to `duration`, from event to event.

    Args:
        network: the network.
        times: of the input spikes in s, [K], in any order, not negative; a tensor that requires a gradient gets dL/dt.
        channels: which input each belongs to, [K], whole numbers from 0 to M - 1.
        duration: in s.
        samples: times in s, within the duration, at which to read the membranes.

    Returns:
        A `Trajectory`. A loss on its times, membranes, integrals or last state has an exact gradient (EventProp), for
        as long as no spike appears or vanishes.

    Raises:
        ValueError: a duration, time or channel out of range, or lengths that differ.

    >>> import torch, spikeloom as sl
    >>> weight = torch.tensor([[8.0]], requires_grad=True)
    >>> found = sl.exact.simulate(sl.exact.Network(weight), [0.0], [0], duration=0.05)
    >>> found.times[0].backward()
    >>> bool(weight.grad < 0)  # a stronger synapse makes the spike earlier
    True

    Source: Wunderlich & Pehle, Sci. Rep. 11:12829 (2021), doi:10.1038/s41598-021-91786-z; delays: Mészáros, Knight &
    Nowotny, Nat. Commun. (2025), doi:10.1038/s41467-025-65394-8.
    """
    inputs, which, reads = _checked(network, times, channels, duration, samples)
    n, like = network.neurons, network.weight
    zero = torch.zeros(n, dtype=torch.float64)
    state = _State(
        t=torch.zeros((), dtype=torch.float64),
        v=zero + network.v_init,
        i=zero + network.i_init,
        a=zero,
        integral=zero,
        held=[False] * n,
    )
    for time, channel in zip(inputs, which.tolist(), strict=True):
        _send(state, time, like[:, channel], _column(network.delay, channel))
    for time in reads:
        state.push(SAMPLE, time, None)
    rates = Rates(
        *((1 / network.each(k)).detach().numpy() for k in ("tau_mem", "tau_syn", "tau_adapt")),
        *(network.each(k).detach().numpy() for k in ("bias", "v_th")),
    )
    spikes: list[tuple[Tensor, int]] = []
    found: list[Tensor] = []
    end = torch.tensor(duration, dtype=torch.float64)
    while True:
        event = state.queue[0] if state.queue and state.queue[0][0] <= duration else None
        until = end if event is None else event[3]
        fired = _next_spike(network, state, rates, float((until - state.t).detach()))
        if fired is not None:
            time, neuron = fired
            _advance(network, state, time)
            _fire(network, state, neuron)
            spikes.append((state.t, neuron))
            continue
        _advance(network, state, until)
        if event is None:
            break
        heapq.heappop(state.queue)
        _, kind, _, _, what = event
        if kind == ARRIVE:
            state.i = state.i + what
        elif kind == RELEASE:
            state.held[what] = False
        else:
            found.append(state.v)
    return Trajectory(
        torch.stack([t for t, _ in spikes]) if spikes else torch.zeros(0, dtype=torch.float64),
        torch.tensor([k for _, k in spikes], dtype=torch.int64),
        torch.stack(found) if found else torch.zeros((0, n), dtype=torch.float64),
        state.integral,
        state.v,
        state.i,
        state.a,
    )


def _column(delay: Tensor, k: int) -> Tensor:
    return delay if delay.dim() == 0 else delay[:, k]


def _send(state: _State, time: Tensor, weights: Tensor, delays: Tensor) -> None:
    """A spike on its way: one arrival for all synapses, or one for each where they have delays of their own."""
    if delays.dim() == 0:
        state.push(ARRIVE, time + delays, weights)
        return
    for k, row in enumerate(torch.eye(len(weights), dtype=torch.float64)):
        state.push(ARRIVE, time + delays[k], weights * row)


def _next_spike(network: Network, state: _State, rates: Rates, span: float) -> tuple[Tensor, int] | None:
    """The time of the first spike within `span`, under autograd, and whose it is."""
    v, i, a = (x.detach().numpy() for x in (state.v, state.i, state.a))
    found = first_crossing(v, i, a, rates, ~torch.tensor(state.held).numpy(), span)
    if found is None:
        return None
    h, n = torch.tensor(found[0], dtype=torch.float64), found[1]
    tau_mem, tau_adapt, bias, v_th = (network.each(k)[n] for k in ("tau_mem", "tau_adapt", "bias", "v_th"))
    at, current, adapt = (x[n] for x in _flow(network, state, h))
    g = at - v_th - adapt
    speed = (current + bias - at) / tau_mem + adapt / tau_adapt
    return state.t + h - g / speed.detach(), n


def _flow(network: Network, state: _State, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """V, I and a of free neurons after a time h without an event."""
    tau_mem, tau_syn, bias = (network.each(k) for k in ("tau_mem", "tau_syn", "bias"))
    v = bias + (state.v - bias) * torch.exp(-h / tau_mem) + state.i * response(h, tau_mem, tau_syn)
    return v, state.i * torch.exp(-h / tau_syn), state.a * torch.exp(-h / network.each("tau_adapt"))


def _advance(network: Network, state: _State, time: Tensor) -> None:
    h, held = time - state.t, torch.tensor(state.held)
    v, i, a = _flow(network, state, h)
    # From the equation of the membrane itself: int V = b h + int I - tau_mem (V(h) - V(0)).
    charge = (state.i - i) * network.each("tau_syn")
    area = network.each("bias") * h + charge - network.each("tau_mem") * (v - state.v)
    state.integral = state.integral + torch.where(held, state.v * h, area)
    state.t, state.v, state.i, state.a = time, torch.where(held, state.v, v), i, a


def _fire(network: Network, state: _State, n: int) -> None:
    this = torch.arange(network.neurons) == n
    after = network.each("v_reset") if network.reset == "zero" else state.v - network.each("v_th")
    state.v = torch.where(this, after, state.v)
    state.a = torch.where(this, state.a + network.each("increment"), state.a)
    rest = network.each("refractory")[n]
    if float(rest.detach()) > 0:
        state.held[n] = True
        state.push(RELEASE, state.t + rest, n)
    if network.recurrent is not None:
        _send(state, state.t, network.recurrent[:, n], _column(network.recurrent_delay, n))


def _checked(
    network: Network, times: Any, channels: Any, duration: float, samples: Any
) -> tuple[Tensor, Tensor, Tensor]:
    if not duration > 0:
        raise ValueError(f"exact.simulate got duration={duration}; expected seconds above 0.")
    inputs, reads = (torch.as_tensor(x, dtype=torch.float64) for x in (times, samples))
    which, seen, read = torch.as_tensor(channels, dtype=torch.int64), inputs.detach(), reads.detach()
    if inputs.dim() != 1 or inputs.shape != which.shape:
        raise ValueError(
            f"exact.simulate got times of shape {tuple(inputs.shape)} and channels of shape {tuple(which.shape)}; "
            "expected one channel for each time, [K] both."
        )
    if len(seen) and float(seen.min()) < 0:
        raise ValueError(f"exact.simulate got an input spike at {float(seen.min()):g} s; expected 0 s or later.")
    many = network.weight.shape[1]
    if len(which) and (int(which.min()) < 0 or int(which.max()) >= many):
        raise ValueError(f"exact.simulate got channels up to {int(which.max())}; expected 0 to {many - 1}.")
    if len(read) and (float(read.min()) < 0 or float(read.max()) > duration):
        raise ValueError(f"exact.simulate got samples outside 0 to {duration:g} s; expected times of the simulation.")
    return inputs, which, reads
