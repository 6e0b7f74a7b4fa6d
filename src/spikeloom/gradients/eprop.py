"""Online rules, whose gradients need no later step: e-prop, diagonal real-time recurrent learning, OTTT."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..engine import Engine, Loop, LoopState, Pass
from ..engine.loop import ResetEdge
from ..neurons import IF, LI, LIF, CubaLI, CubaLIF
from ..zero import ZERO
from .meaning import changed_by_parameters
from .online import Call

FEEDBACK = ("symmetric", "random", "adaptive")
# Their states are linear between spikes, and spikes subtract from them.
LINEAR = (IF, LI, LIF, CubaLI, CubaLIF)


@dataclass(frozen=True)
class EProp:
    """Eligibility propagation (e-prop): a gradient that is known as time goes on, and so trains on endless streams.

    With z the state of a neuron j (all its variables), s its spikes, i an input, and E the loss,

        dE/dW_ji = sum_t L_j^t e_ji^t,    L_j^t = dE/ds_j^t by way of step t alone (the learning signal)
        e_ji^t = ds_j^t/dz_j^t eps_ji^t,  eps_ji^t = dz_j^t/dz_j^{t-1} eps_ji^{t-1} + dz_j^t/dW_ji (the trace)

    where spikes in the recurrent input and in the reset count as given. So it is BPTT with these two stopped; for one
    layer without recurrence it is `BPTT(reset="detach")`, to rounding. It holds for every neuron that is one step: the
    trace takes all of the neuron's own Jacobian, adaptive thresholds included. Gradients reach the weights and biases
    of connections (any) and recurrent connections, and the neurons' own parameters, initial states included.

    In depth, learning signals come through the layers above by way of the same step: L^l = W^T (ds/dx L)^{l+1}.
    What a spike does later, by way of the states of the layers above, is left out; kappa, which filters the traces,
    takes a leaky readout's memory into account:

        dE/dW_ji = sum_t L_j^t F_kappa(e_ji)^t,    F_kappa(e)^t = kappa F_kappa(e)^{t-1} + e^t

    in every layer that spikes. With kappa = exp(-dt / tau_out), the leak of an `LI` or of an equal filter after the
    last spiking layer, that layer's gradient is exact but for the two stopped ways. A loss on recorded "spikes" (a
    regulariser's) passes by the filter; one on recorded states or spikes trains their own layer alone.

    Traces are entries of the state that a run returns, [variables, B, N, N_in] for each connection, or
    [variables, B, 1, N_in] where all neurons share them (see `OTTT`). Run and backward on the pieces of a stream, each
    with the state of the last, give in sum the gradient of one run on the whole, for any pieces; memory is that of one
    piece, and no `detach` is needed:

        for x, y in stream:
            run = sl.run(net, x, state, gradient=rule)
            state = run.state
            loss(run.output, y).backward()         # step the optimiser here, or after several pieces

    Within a piece the loop's transpose is used in place of the traces, which are computed once, at its end.

    Args:
        feedback: what takes learning signals from a connection's output to its input. "symmetric": its weights, W^T;
            "random" and "adaptive": B of `with_feedback(connection)`, in all connections that pass signals on (not the
            first); it stays as it is, or gets the same gradient as W (add weight decay, and they align).
        kappa: leak of the filter per step, 0 <= kappa < 1.
        carry: False leaves the traces out, where no state is passed on: that saves a backward pass of the loop for each
            state variable.

    Raises:
        ValueError: an argument out of range; and when a layer runs: no B where one is needed, connections with memory,
            with dropout or with batch statistics, modules with parameters between layers, a state with traces that do
            not fit, and pieces of a stream through connections other than `nn.Linear` on [T, B, N], whose traces are
            not carried.
        RuntimeError: in the backward pass, parameters of such a connection that are not those of the forward pass, as
            under `torch.func.functional_call`.

    Under `torch.no_grad()` nothing is traced, and the state's traces end. The state passes no gradients on.

    >>> import torch, spikeloom as sl
    >>> hidden = sl.Layer(torch.nn.Linear(4, 8), sl.ALIF(8), torch.nn.Linear(8, 8))
    >>> net = sl.Sequential(hidden, sl.Layer(torch.nn.Linear(8, 1), sl.LI(1)))
    >>> state, rule = None, sl.EProp(kappa=0.95)
    >>> for piece in torch.rand(60, 2, 4).split(20):
    ...     run = sl.run(net, piece, state, gradient=rule)
    ...     state = run.state
    ...     run.output.square().mean().backward()
    >>> state[0].rule["recurrent.weight"].shape  # of v, a and the filter
    torch.Size([3, 2, 8, 8])

    Source: Bellec et al., Nat. Commun. 11:3625 (2020), doi:10.1038/s41467-020-17236-y.
    """

    owns_connection: ClassVar[bool] = True
    edge: ClassVar[ResetEdge] = "detach"

    feedback: Literal["symmetric", "random", "adaptive"] = "symmetric"
    kappa: float = 0.0
    carry: bool = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.feedback not in FEEDBACK:
            choice = ", ".join(map(repr, FEEDBACK))
            raise ValueError(f"{name} got feedback={self.feedback!r}; expected one of {choice}.")
        if not (isinstance(self.kappa, int | float) and 0 <= self.kappa < 1):
            raise ValueError(
                f"{name} got kappa={self.kappa!r}; expected the filter's leak per step, 0 <= kappa < 1, such as "
                "math.exp(-dt / tau_out)."
            )

    def __call__(self, loop: Loop, state: LoopState, engine: Engine) -> Pass:
        """Run a loop with an engine, so that gradients travel by this rule."""
        self.check(loop, state)
        call = Call(self, loop, state, engine, shares_traces(loop, self.edge))
        if not (torch.is_grad_enabled() and call.learns):
            found = engine(loop, state, 0, loop.steps, self.edge)
            return found._replace(state=found.state._replace(rule=()))
        return call.run()

    def check(self, loop: Loop, state: LoopState) -> None:
        """Refuse what this rule gives no meaning to.

        Raises:
            ValueError: said in a sentence.
        """
        name = type(self).__name__
        modules: list[nn.Module | None] = [source.module for source in loop.sources.values()]
        modules += [] if loop.feedback is None else [loop.feedback.module]
        for module in modules:
            if module is not None and hasattr(module, "initial_state"):
                raise ValueError(
                    f"{name} takes connections without memory of their own, and {type(module).__name__} has one (it "
                    "defines initial_state); use gradient=sl.BPTT()."
                )
        for source in loop.sources.values():
            if isinstance(source.presynaptic, Tensor) and changed_by_parameters(source.presynaptic, "online"):
                raise ValueError(
                    f"{name} got input that a module with parameters has changed, which would learn from each step "
                    "alone; make it the layer's own connection: sl.Layer(module, neuron)."
                )


@dataclass(frozen=True)
class RTRL(EProp):
    """Diagonal real-time recurrent learning: `EProp` with the derivative of the reset.

    The trace takes the whole Jacobian of a neuron's step, eps^t = dz^t/dz^{t-1} eps^{t-1} + dz^t/dW with the way by the
    reset (reset="flow"), and leaves out what goes from neuron to neuron. For one layer without recurrence it is
    `BPTT()`, exactly; with layers in depth it is OSTL, and with recurrence OSTL without its term for the recurrent
    matrix (which would cost N^3 in memory).

    Args:
        feedback, kappa, carry: see `EProp`.

    Raises:
        ValueError: as `EProp` does.

    >>> import torch, spikeloom as sl
    >>> layer, x, found = sl.Layer(torch.nn.Linear(5, 3), sl.LIF(3, v_th=0.2)), torch.rand(30, 2, 5), []
    >>> for rule in (sl.RTRL(), sl.BPTT()):
    ...     layer.zero_grad()
    ...     sl.run(layer, x, gradient=rule).output.sum().backward()
    ...     found.append(layer.connection.weight.grad)
    >>> torch.allclose(*found)
    True

    Source: Williams & Zipser 1989, doi:10.1162/neco.1989.1.2.270; Bohnstingl et al. 2022 (OSTL),
    doi:10.1109/TNNLS.2022.3153985.
    """

    edge: ClassVar[ResetEdge] = "flow"


@dataclass(frozen=True)
class OTTT(EProp):
    """Online training through time: one trace for each input, â^t = beta â^{t-1} + x^t, and signals of the same step.

        dE/dW = sum_t (dE/du^t) â^t^T,    dE/du^t by way of step t alone, with spikes in the reset as given

    That is `EProp()` for feed-forward layers whose neurons share their traces, and it takes those alone, so that traces
    cost [variables, B, 1, N_in], as little as the input itself.

    Args:
        feedback, carry: see `EProp`; kappa stays 0.

    Raises:
        ValueError: as `EProp` does; recurrent connections, a kappa, and neurons that share no trace: all but IF, LI,
            LIF, CubaLI and CubaLIF with one time constant, reset="subtract" or "none", and no refractory period.

    >>> import torch, spikeloom as sl
    >>> net = sl.Sequential(sl.Layer(torch.nn.Linear(20, 10), sl.LIF(10)), sl.Layer(torch.nn.Linear(10, 2), sl.LI(2)))
    >>> run = sl.run(net, torch.rand(30, 4, 20), gradient=sl.OTTT())
    >>> run.state[0].rule["impulse.weight"].shape
    torch.Size([1, 4, 1, 20])

    Source: Xiao et al. 2022, arXiv:2210.04195.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kappa:
            raise ValueError("OTTT has no filter, so kappa stays 0; write EProp(kappa=...).")

    def check(self, loop: Loop, state: LoopState) -> None:
        super().check(loop, state)
        if loop.feedback is not None:
            raise ValueError("OTTT is for layers without a recurrent connection; write gradient=sl.EProp().")
        if not shares_traces(loop, self.edge):
            raise ValueError(
                f"OTTT has one trace for all neurons of a layer, which this {type(loop.neuron).__name__} does not "
                "allow: it takes IF, LI, LIF, CubaLI and CubaLIF with one time constant, without refractory period, "
                "and with reset='subtract' or 'none'. Write gradient=sl.EProp()."
            )


def shares_traces(loop: Loop, edge: ResetEdge) -> bool:
    """Whether the derivatives of a neuron's state by its input are the same for all neurons, whatever they do."""
    neuron, c = loop.neuron, loop.coefficients
    linear = any(type(neuron).step is kind.step for kind in LINEAR)
    free = neuron.reset == "none" or (neuron.reset == "subtract" and edge == "detach")
    factors: list[Any] = [getattr(c, n) for n in c._fields if n not in ("v_th", "v_reset", "drive", "sigma")]
    alike = all(v is ZERO or v.numel() == 1 for v in factors)
    return linear and free and not neuron.refractory and alike
