"""`run`: drive a network over a batch of sequences, and say what ran."""

import difflib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import choose
from ..gradients import BPTT
from .context import Context, entered
from .layer import Layer
from .pieces import run_in_pieces
from .sequential import WRAPPERS, Sequential, inside, network_dt


@dataclass(frozen=True, repr=False)
class Run:
    """What a run yields.

    Attributes:
        output: the network's output [T, B, ...].
        state: its state after the last step; pass it to the next run to go on.
        records: "path.name" -> [T, B, *N] for each recorded name; differentiable like the output.
        engines: path of each layer -> the engine that ran it.
        products: path of each connection that could take events -> how it was computed, and why.
        counts: path of each layer -> what its gradient rule counted: `EventProp` counts "spikes", and "clamped" ones.
        seed: the seed from which noise was drawn, None where there was none.
        dt: time step in s.
    """

    output: Any
    state: Any
    records: dict[str, Tensor]
    engines: dict[str, str]
    products: dict[str, str]
    counts: dict[str, dict[str, int]]
    seed: int | None
    dt: float

    def __repr__(self) -> str:
        output = tuple(self.output.shape) if isinstance(self.output, Tensor) else type(self.output).__name__
        records = {name: tuple(tensor.shape) for name, tensor in self.records.items()}
        return f"Run(output={output}, records={records}, engines={self.engines}, seed={self.seed}, dt={self.dt:g})"


def run(
    network: nn.Module,
    inputs: Any,
    state: Any = None,
    *,
    lengths: Tensor | None = None,
    record: str | tuple[str, ...] | list[str] = (),
    gradient: Any = None,
    engine: str = "auto",
    surrogate: Any = None,
    seed: int | None = None,
    dt: float | None = None,
) -> Run:
    """Run a network over a batch of sequences.

    Args:
        network: a layer, a `Sequential`, or any module that calls layers. Such a module may return its output alone:
            the layers' states are then threaded by their paths.
        inputs: what the network takes, a tensor [T, B, ...] or `Events`.
        state: the state of an earlier run, or None.
        lengths: steps of each sample, whole numbers [B]: past its end its state stands still and its output is 0.
        record: names to record in every layer that has them ("v", "i", "spikes", "output", "input", "v_before_reset"),
            or single ones by path ("0.v").
        gradient: gradient rule, such as `BPTT()` (default), `EventProp()` or `EProp()`.
        engine: "auto" or the name of an engine, which then runs or raises.
        surrogate: one to use in all layers instead of their own.
        seed: seed of declared noise (default: drawn from torch's generator). A state that is passed on carries its
            noise with it.
        dt: time step in s that the network is expected to have.

    Returns:
        A `Run`.

    Raises:
        ValueError: an unknown name to record, an unknown engine, lengths that do not fit, another dt, a state that no
            layer used.
        TypeError: a gradient that is not a rule.

    To save memory write `gradient=BPTT(checkpoint="time")`, which runs the whole network piece by piece: a
    `torch.utils.checkpoint` of your own around a layer would compute it again after the run has ended, without the
    run's settings.

    >>> import torch, spikeloom as sl
    >>> net = sl.Sequential(sl.Layer(torch.nn.Linear(4, 3), sl.LIF(3)), sl.Layer(torch.nn.Linear(3, 2), sl.LI(2)))
    >>> run = sl.run(net, torch.rand(20, 5, 4), record=("v", "0.spikes"))
    >>> sorted(run.records), run.engines
    (['0.spikes', '0.v', '1.v'], {'0': 'cpu', '1': 'cpu'})
    """
    choose(engine)
    if gradient is not None and (isinstance(gradient, type) or not hasattr(gradient, "owns_connection")):
        raise TypeError(f"run got gradient={gradient!r}; expected a rule, such as sl.BPTT() or sl.EventProp().")
    modules = inside(network)
    found = network_dt(modules)
    if dt is not None and dt != found:
        raise ValueError(
            f"run got dt={dt:g} s for a network with dt={found:g} s; build the network with the dt it is to run at."
        )
    wanted = (record,) if isinstance(record, str) else tuple(record)
    lengths = None if lengths is None else torch.as_tensor(lengths)
    context = Context(
        gradient=gradient if gradient is not None else BPTT(),
        engine=engine,
        surrogate=surrogate,
        record=wanted,
        lengths=lengths,
        seed=seed,
        names={id(module): path for module, path in modules.items()},
    )
    threads_itself = _takes_state(network)
    if state is not None and not threads_itself:
        if not isinstance(state, dict):
            raise TypeError(
                f"got {type(state).__name__} as state; expected the state of an earlier run of this network."
            )
        context.states = dict(state)
    if lengths is not None:
        inputs = _without_padding(inputs, lengths)
    if getattr(context.gradient, "checkpoint", None) == "time" and torch.is_grad_enabled():
        before = state if threads_itself else context.states
        result = run_in_pieces(network, context, inputs, before, threads_itself)
    else:
        with entered(context):
            result = network(inputs, state) if state is not None and threads_itself else network(inputs)
    _check_names(wanted, context)
    unused = sorted(set(context.states) - set(context.final))
    if unused:
        raise ValueError(f"got states of {unused}, which no layer used; layers that ran: {sorted(context.final)}.")
    output, final = result if threads_itself else (result, context.final)
    records = {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in context.records.items()}
    return Run(output, final, records, context.engines, context.products, context.counts, context.seed, found)


def _without_padding(inputs: Any, lengths: Tensor) -> Any:
    """Padding may hold anything, NaN included; as it meets weights, zero is all that keeps it from their gradients."""
    if isinstance(inputs, dict):
        return {port: _without_padding(x, lengths) for port, x in inputs.items()}
    if not isinstance(inputs, Tensor) or inputs.dim() < 2 or inputs.shape[1:2] != lengths.shape:
        return inputs
    past = torch.arange(len(inputs), device=inputs.device)[:, None] >= lengths.to(inputs.device)
    return inputs.masked_fill(past.reshape(*past.shape, *(1,) * (inputs.dim() - 2)), 0)


def _takes_state(network: nn.Module) -> bool:
    inner = network
    while not isinstance(inner, Layer | Sequential):
        wrapped = next((getattr(inner, w) for w in WRAPPERS if isinstance(getattr(inner, w, None), nn.Module)), None)
        if wrapped is None:
            return False
        inner = wrapped
    return True


def _check_names(wanted: tuple[str, ...], context: Context) -> None:
    known = context.known if wanted else set()
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            names = ", ".join(sorted(n for n in known if "." not in n))
            raise ValueError(f"nothing to record is named {name!r}.{hint} Layers here have: {names}.")
