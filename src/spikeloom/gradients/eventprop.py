"""EventProp: the exact adjoint of current-based spiking networks, with jumps at spikes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..connections import Delayed
from ..engine import Engine, Loop, LoopState, Pass
from ..engine.fused import last_output
from .adjoint import Job, Node
from .meaning import check


@dataclass(frozen=True)
class EventProp:
    """Exact gradients of spike times and membranes, which need no surrogate.

    Going back in time, with lambda_V = -(1 / tau_mem) dL/dV and lambda_I = -(1 / tau_syn) dL/dI,

        tau_mem lambda_V' = -lambda_V - dl_V/dV,     tau_syn lambda_I' = -lambda_I + lambda_V
        at a spike   lambda_V- = (dL/dt_k + l_V- - l_V+ + tau_mem V'+ lambda_V+) / (tau_mem V'-)
        dL/dt_k = dl_p/dt_k + sum_m w_m (lambda_V - lambda_I)_m(t_k),     dL/dw = -tau_syn sum_k lambda_I(t_k)

    Gradients reach weights (dense, convolutional, recurrent), delays (`Delayed`: dL/dd = w sum_k (lambda_V - lambda_I),
    all at the arrivals), tau_mem, tau_syn, v_th, v_reset, bias, tau_adapt, increment, v_init and i_init, and the times
    of input spikes. The forward pass is any engine's; the backward pass is the adjoint's loop on the same engine.
    Between them stay the places of the spikes and two or three numbers for each; for the neurons' own parameters the
    membranes are computed again.

    On a raster of spikes the gradient is dL/dt_k at spikes, in 1/s, and 0 elsewhere: for a loss on spike times write
    `first_spike_time(..., gradient="event")`. Losses on the output of `CubaLI`, or on the recorded "v", "i" or "a" of
    any layer, are exact as well. It is the gradient of the continuous network of which the run is an approximation:
    it converges to the exact one (`spikeloom.exact`) as dt goes to 0, and is not the derivative of the run itself.

    It knows nothing of spikes that appear or vanish: a silent neuron gets no gradient, unless from a loss on its
    membrane, such as `regularizers.silence`.

    Args:
        epsilon: tau_mem V'- is taken to be at least epsilon v_th, for the gradient grows without bound where V grazes
            the threshold. `Run.counts` says how many spikes that was, "clamped", of all "spikes". Small values are for
            short steps; with steps of 1 ms and hundreds of inputs, 1 to 3 keeps a few spikes from outweighing the rest.
        spike_count: spikes per neuron and trial to draw the network to, or None. Not the derivative of a loss (counts
            have none): each spike of a neuron with n spikes in a trial adds, just before it,

                dL/dV += strength / (B v_th) (n - spike_count) / spike_count

            so that a neuron that is too busy gets weaker input, and one that is too quiet stronger. It is added in
            each backward pass, and does not grow with a factor before the loss, as gradient scalers put one.
        spike_count_strength: strength, in units of the loss.

    Raises:
        ValueError: an epsilon, count or strength out of range; and when a layer runs, anything for which its gradient
            has no meaning: other neurons than `CubaLI`, `CubaLIF` and `CubaALIF`, reset="none", noise, several spikes a
            step, graded ones (`Smooth`), connections that are not linear, and modules with parameters between layers.
        RuntimeError: in the backward pass, a gradient of places without a spike, as a count's is, or parameters of a
            connection that are not those of the forward pass, as under `torch.func.functional_call`.

    The state that a run returns passes gradients on to the next run, except through neurons with a refractory period.

    >>> import torch, spikeloom as sl
    >>> net = sl.Sequential(sl.Layer(torch.nn.Linear(5, 3, bias=False), sl.CubaLIF(3)))
    >>> _ = torch.nn.init.constant_(net[0].connection.weight, 2.0)
    >>> run = sl.run(net, (torch.arange(60)[:, None, None] == torch.arange(5)).float(), gradient=sl.EventProp())
    >>> sl.decoding.first_spike_time(run.output, dt=1e-3, gradient="event").sum().backward()
    >>> bool((net[0].connection.weight.grad < 0).all()), run.counts["0"]["clamped"]  # stronger input, earlier spikes
    (True, 0)

    Source: Wunderlich & Pehle, Sci. Rep. 11:12829 (2021), doi:10.1038/s41598-021-91786-z; time constants and counts:
    Nowotny, Turner & Knight, Neuromorph. Comput. Eng. 5 (2025), doi:10.1088/2634-4386/ada852.
    """

    owns_connection: ClassVar[bool] = True

    epsilon: float = 1e-2
    spike_count: float | None = None
    spike_count_strength: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("epsilon", "spike_count", "spike_count_strength"):
            value = getattr(self, name)
            if (value is not None or name != "spike_count") and not (
                isinstance(value, int | float) and 0 < value < float("inf")
            ):
                raise ValueError(f"EventProp got {name}={value!r}; expected a number above 0.")

    def __call__(self, loop: Loop, state: LoopState, engine: Engine) -> Pass:
        """Run a loop with an engine, so that gradients travel back by this rule."""
        check(loop)
        state = state._replace(rule=())  # another rule's traces know nothing of the steps to come
        job = Job(self, loop, state, engine)
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in job.tensors)):
            return engine(loop, state, 0, loop.steps, "flow")
        found: Any = Node.apply(job, *job.tensors)
        output, *rest = found
        records = dict(zip(job.records, rest, strict=False))
        finals = dict(zip(job.states, rest[len(records) :], strict=True))
        if loop.neuron.refractory:
            finals = {name: value.detach() for name, value in finals.items()}
        end = job.end
        feedback, recurrent = end.feedback, end.recurrent
        if loop.feedback is not None and loop.steps:
            lengths = None if loop.alive is None else loop.alive.sum(0).flatten()
            feedback = output[-1] if lengths is None else last_output(output, state.feedback, lengths)
            if isinstance(loop.feedback.module, Delayed):
                recurrent = torch.cat([state.recurrent, state.feedback[None], output[:-1]])[loop.steps :]
        wanted = {n: output if n in ("spikes", "output") else records.get(n, job.plain.get(n)) for n in loop.record}
        # The node outlives this call, and is to keep no raster.
        job.plain, job.end = {}, None
        final = LoopState(end.neuron._replace(**finals), feedback, recurrent, end.rule)
        return Pass(output, final, wanted, job.counts)  # type: ignore[arg-type]
