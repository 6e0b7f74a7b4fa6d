"""Pair-based spike-timing-dependent plasticity."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..network.modules import apply, densify, has_memory
from .update import Update


class STDPState(NamedTuple):
    """Traces of STDP: of presynaptic spikes [B, *N] and of postsynaptic ones [B, *M]."""

    pre: Tensor
    post: Tensor


# So that torch.load(weights_only=True) takes a saved state.
torch.serialization.add_safe_globals([STDPState])


@dataclass(frozen=True)
class STDP:
    """Pair-based spike-timing-dependent plasticity as a gradient calculator.

        dw = sum over pairs of W(t_post - t_pre),    W(Dt) = A+ exp(-Dt / tau+)  for Dt > 0
                                                            -A- exp(Dt / tau-)   for Dt <= 0

    computed from traces, tau+ dx/dt = -x, x += 1 at a presynaptic spike and likewise y with tau- at a postsynaptic
    one: a postsynaptic spike adds A+ x to its weights, a presynaptic one takes A- y from its own. As everywhere here, a
    presynaptic spike at index i arrives at i dt, at the start of its step, and a postsynaptic one at index j is fired
    at (j + 1) dt, at the end; so a pair at one index counts as pre before post, Dt = dt.

    The connection may be any module that is linear in its input and its weights: `nn.Linear`, `nn.Conv2d` (whose shared
    weights sum the changes of all places), or a stack such as `nn.Flatten` and `nn.Linear`. Biases are left alone.
    Keep weights in bounds by a projection after the optimiser's step, such as `weight.data.clamp_(0, 1)`.

    Args:
        a_plus: A+, change of the weight by a pair with Dt near 0 and above, in units of the weight.
        a_minus: A-, the same below 0, counted as a decrease.
        tau_plus, tau_minus: time constants in s.
        pairs: "all" for all pairs; "nearest" for only the last presynaptic spike before a postsynaptic one, and the
            other way round.

    Returns:
        From a call, an `Update`: the pseudo-gradients, summed over time and averaged over the batch, and the traces.

    Raises:
        ValueError: time constants of 0 or less, or outside 0.1 to 10 000 steps; other pairs; or spikes whose shapes do
            not fit the connection.
        TypeError: a connection with a memory of its own, without weights, or not linear in its input.

    >>> import torch, spikeloom as sl
    >>> layer = sl.Layer(torch.nn.Linear(8, 4, bias=False), sl.LIF(4))
    >>> run = sl.run(layer, torch.ones(20, 2, 8), record=("presynaptic", "spikes"))
    >>> rule, optimiser = sl.STDP(a_plus=0.01), torch.optim.SGD(layer.parameters(), lr=1.0)
    >>> update = rule(layer.connection, run.records["presynaptic"], run.records["spikes"], dt=run.dt)
    >>> update.as_loss().backward()
    >>> optimiser.step()
    >>> update.state.pre.shape, update.state.post.shape
    (torch.Size([2, 8]), torch.Size([2, 4]))

    Source: Song, Miller & Abbott, Nature Neuroscience 3 (2000), doi:10.1038/78829; traces as in Morrison, Diesmann &
    Gerstner, Biological Cybernetics 98 (2008), doi:10.1007/s00422-008-0233-1.
    """

    a_plus: float = 0.01
    a_minus: float = 0.0105
    tau_plus: float = 20e-3
    tau_minus: float = 20e-3
    pairs: Literal["all", "nearest"] = "all"

    def __post_init__(self) -> None:
        for name in ("a_plus", "a_minus", "tau_plus", "tau_minus"):
            if not isinstance(getattr(self, name), int | float):
                raise TypeError(f"STDP got {name}={getattr(self, name)!r}; expected a number (20 ms are 20e-3).")
        for name in ("a_plus", "a_minus"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"STDP got {name}={getattr(self, name)}; expected a finite number.")
        for name in ("tau_plus", "tau_minus"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"STDP got {name}={getattr(self, name)}; expected seconds above 0, such as 20e-3.")
        if self.pairs not in ("all", "nearest"):
            raise ValueError(f"STDP got pairs={self.pairs!r}; expected 'all' or 'nearest'.")

    def __call__(
        self, connection: nn.Module, pre: Any, post: Tensor, state: STDPState | None = None, *, dt: float = 1e-3
    ) -> Update:
        """The update that spikes ask for.

        Args:
            connection: from the presynaptic neurons to the postsynaptic ones.
            pre: presynaptic spikes, [T, B, *N] or Events.
            post: postsynaptic spikes [T, B, *M], of the shape of the connection's output.
            state: traces of an earlier call, to go on; None for traces of 0.
            dt: time step in s.
        """
        if not isinstance(connection, nn.Module):
            raise TypeError(f"STDP got {type(connection).__name__}; expected a connection such as nn.Linear.")
        if not isinstance(post, Tensor):
            raise TypeError(
                f"STDP got postsynaptic spikes as {type(post).__name__}; expected a tensor [T, B, *M], such as "
                "a layer's output, or events.to_dense()."
            )
        weights = [p for p in connection.parameters() if p.dim() > 1 and p.requires_grad]
        if has_memory(connection) or not weights:
            what = "a memory of its own" if has_memory(connection) else "no weights to train"
            raise TypeError(
                f"STDP got {type(connection).__name__}, which has {what}; expected a connection such as nn.Linear."
            )
        if not dt > 0:
            raise ValueError(f"STDP got dt={dt}; expected seconds above 0, such as 1e-3.")
        for name in ("tau_plus", "tau_minus"):
            if not 0.1 * dt <= getattr(self, name) <= 1e4 * dt:
                raise ValueError(
                    f"STDP got {name}={getattr(self, name)} s at dt={dt} s; expected 0.1 to 10000 steps. Both are in "
                    "seconds: 20 ms are 20e-3."
                )
        pre, post = densify(pre, connection).detach(), post.detach()
        if post.dim() < 2 or pre.shape[:2] != post.shape[:2]:
            raise ValueError(
                f"STDP got presynaptic spikes of shape {tuple(pre.shape)} and postsynaptic ones of shape "
                f"{tuple(post.shape)}; expected [T, B, *N] and [T, B, *M], with the same T and B."
            )
        state = state or STDPState(torch.zeros_like(pre[:1].sum(0)), torch.zeros_like(post[:1].sum(0)))
        if state.pre.shape != pre.shape[1:] or state.post.shape != post.shape[1:]:
            raise ValueError(
                f"STDP got traces of shapes {tuple(state.pre.shape)} and {tuple(state.post.shape)}; expected "
                f"{tuple(pre.shape[1:])} and {tuple(post.shape[1:])}: pass the state of the same batch, or None."
            )
        _check_linear(connection, pre)
        x, last_x = self._before_post(pre, state.pre, math.exp(-dt / self.tau_plus))
        y, last_y = self._before_pre(post, state.post, math.exp(-dt / self.tau_minus))
        # The connection is linear, so A+ post x - A- y pre, pair by pair, is the derivative of what it makes of x and
        # pre; that also knows which synapses share a weight.
        with torch.enable_grad():
            potentiation, depression = apply(connection, x)[0], apply(connection, pre)[0]
            if potentiation.shape != post.shape:
                raise ValueError(
                    f"STDP got postsynaptic spikes of shape {tuple(post.shape)} for {type(connection).__name__}, whose "
                    f"output has shape {tuple(potentiation.shape)}; expected the same."
                )
            signals = (-self.a_plus * post, self.a_minus * y)
            found = torch.autograd.grad((potentiation, depression), weights, [s.to(potentiation) for s in signals])
        batch = max(pre.shape[1], 1)
        return Update({w: g / batch for w, g in zip(weights, found, strict=True)}, STDPState(last_x, last_y))

    def _before_post(self, spikes: Tensor, trace: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """The presynaptic trace that each step's postsynaptic spikes meet, at the end of the step; and the last one."""
        seen = []
        for s in spikes.unbind(0):
            trace = decay * self._raised(trace, s)
            seen.append(trace)
        return torch.stack(seen) if seen else spikes, trace

    def _before_pre(self, spikes: Tensor, trace: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """The postsynaptic trace that each step's presynaptic spikes meet, at the start of the step; and the next."""
        seen = []
        for s in spikes.unbind(0):
            seen.append(trace)
            trace = self._raised(decay * trace, s)
        return torch.stack(seen) if seen else spikes, trace

    def _raised(self, trace: Tensor, spikes: Tensor) -> Tensor:
        return trace + spikes if self.pairs == "all" else torch.where(spikes > 0, spikes, trace)


def _check_linear(connection: nn.Module, like: Tensor) -> None:
    """Refuse an activation function or a dropout, which would make other pairs of the spikes than there are."""
    if not like[:1].numel():
        return
    probe = 3 * torch.cos(torch.arange(like[:1].numel(), dtype=torch.float64)).reshape(like[:1].shape).to(like)
    with torch.no_grad():
        there, back, rest = (apply(connection, p)[0] for p in (probe, -2 * probe, 0 * probe))
    if (2 * there + back - 3 * rest).abs().max() > 0.05 * torch.maximum(there.abs(), back.abs()).max():
        raise TypeError(
            f"STDP got {type(connection).__name__}, whose output is not linear in its input; expected a connection "
            "such as nn.Linear, without activation function or dropout."
        )
