"""Why a network does not learn: layers that are silent or saturated, gradients that are zero, absent or not finite."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from .activity import Activity, Hooks
from .network import Layer

__all__ = ["Finding", "Report", "watch"]

NEARLY = 0.95  # of the spikes that a refractory period leaves room for
ADVICE = {
    "silent": "Raise its weights (sl.initializers.fluctuation_driven_) or lower v_th.",
    "undriven": "Its input is all zero: mend what feeds it.",
    "dead": "Raise its weights, lower v_th, or add sl.regularizers.firing_lower_bound to the loss.",
    "saturated": "Lower its weights or raise v_th, or add sl.regularizers.firing_upper_bound to the loss.",
    "not finite": "Look for NaN in its input, then lower the weights or the learning rate, or clip gradients.",
    "unused": "Call the network inside the block, or take the layer out.",
    "no backward": "Call loss.backward() inside the block; to watch activity alone, run under torch.no_grad().",
    "no gradient": "The loss does not depend on it: look for detach(), no_grad() and unused outputs, or freeze it.",
    "cut off": "None comes back to the layer's output: mend what follows it, or let the loss depend on it.",
    "no slope": "The surrogate's derivative is zero wherever its membrane went: take one that reaches further, such as "
    "sl.SuperSpike(width=1.0), or bring the membrane nearer to v_th.",
    "slope behind": "Look at the surrogate of the layer that follows, and at what drives it.",
}
SEEN = {
    "no gradient": "got no gradient",
    "zero gradient": "got a gradient that is zero everywhere",
    "not finite": "got a gradient that is NaN or infinite",
}


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        path: path of the module that has it.
        kind: "silent", "dead", "saturated", "not finite", "zero gradient", "no gradient" or "unused".
        what: what was seen. advice: what to do about it.
    """

    path: str
    kind: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what} {self.advice}"


@dataclass
class Report:
    """What `watch` saw; filled when its block ends, and meant to be printed.

    Attributes:
        problems: findings, those of activity before those of gradients; empty where all is well.
        rates: path of each spiking layer -> mean firing rate of its neurons in Hz.
        synaptic_operations: path of each linear or convolutional connection -> synapses that an input other than zero
            reached, the mean over samples (rows of a call's batch). A weight of exactly 0 is no synapse.
    """

    problems: list[Finding] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    synaptic_operations: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{path or 'network'}: {rate:.3g} Hz" for path, rate in self.rates.items()]
        counts = self.synaptic_operations.items()
        lines += [f"{path or 'network'}: {count:,.0f} synaptic operations per sample" for path, count in counts]
        lines += [f"PROBLEM {finding}" for finding in self.problems] or ["no problems found"]
        return "\n".join(lines)


@contextmanager
def watch(network: nn.Module, share: float = 0.75) -> Iterator[Report]:
    """Watch a network during a forward and a backward pass, or several, and report what keeps it from learning.

    Activity: a layer in which no neuron fires; one where a share of them never does ("dead") or fires in nearly every
    step that it can ("saturated"); a membrane that is NaN or infinite. Gradients: parameters that got none, one that is
    zero everywhere, or one that is not finite. Nothing about the network or its numbers changes; code compiled by
    torch.compile runs uncompiled inside the block. Passes under `torch.no_grad()` are judged by their activity alone.

        rate = spikes / (neurons * steps * dt)

    Args:
        network: any module that holds layers, also one wrapped by DistributedDataParallel or torch.compile.
        share: part of a layer's neurons, in (0, 1], from which on dead or saturated ones are a problem.

    Returns:
        A context manager that yields the `Report`.

    Raises:
        TypeError: something that is no module.
        ValueError: a module that holds no layer, or a share outside its range.

    >>> import torch, spikeloom as sl
    >>> net = sl.Sequential(sl.Layer(torch.nn.Linear(20, 10), sl.LIF(10, v_th=1e3)))
    >>> with sl.diagnostics.watch(net) as report:
    ...     spikes, state = net(torch.ones(50, 4, 20))
    ...     spikes.mean().backward()
    >>> print(report.problems[0])
    layer '0' (LIF) fired no spike in 4 samples. Raise its weights (sl.initializers.fluctuation_driven_) or lower v_th.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"watch got {type(network).__name__}; expected the network, a torch module that holds layers.")
    if not any(isinstance(module, Layer) for module in network.modules()):
        raise ValueError(f"watch got {type(network).__name__}, which holds no sl.Layer; pass the network itself.")
    if not 0 < share <= 1:
        raise ValueError(f"watch got share={share}; expected a part of the neurons, 0 < share <= 1.")
    report, hooks = Report(), Hooks(network)
    # Compiled code would not call hooks that were registered after its compilation.
    compiling = "torch._dynamo" in sys.modules
    try:
        with torch.compiler.set_stance("force_eager") if compiling else nullcontext():
            yield report
    finally:
        hooks.remove()
        _judge(hooks, report, share)


def _judge(hooks: Hooks, report: Report, share: float) -> None:
    samples = max(1, *(seen.samples for seen in hooks.layers.values()))
    report.synaptic_operations = {path: count / samples for path, count in hooks.operations.items()}
    report.rates = {path: seen.rate for path, seen in hooks.layers.items() if seen.steps}
    for path, seen in hooks.layers.items():
        report.problems += (Finding(path, *found) for found in _activity(_called(hooks, path), seen, share))
    if not hooks.differentiated:
        return
    if all(size is None for size in hooks.gradients.values()):
        report.problems.append(Finding("", "no gradient", "No parameter got a gradient.", ADVICE["no backward"]))
    else:
        report.problems += _gradients(hooks)


def _activity(who: str, seen: Activity, share: float) -> Iterator[tuple[str, str, str]]:
    """Kind, what and advice of each problem in what a layer did."""
    if seen.samples == 0:
        yield "unused", f"{who} was not called.", ADVICE["unused"]
    if not seen.finite:
        yield "not finite", f"{who} has a NaN or infinite output or state.", ADVICE["not finite"]
    if not seen.steps:
        return
    dead, full = seen.share_below(0.0), 1 - seen.share_below(NEARLY)
    if dead == 1:
        advice = ADVICE["silent" if seen.driven else "undriven"]
        yield "silent", f"{who} fired no spike in {seen.samples} samples.", advice
    elif dead >= share:
        yield "dead", f"{who}: {dead:.0%} of its neurons never fired.", ADVICE["dead"]
    if full >= share:
        what = f"{who}: {full:.0%} of its neurons fired in nearly every step that they can."
        yield "saturated", what, ADVICE["saturated"]


def _gradients(hooks: Hooks) -> Iterator[Finding]:
    """Parameters with one problem, taken together by the layer that owns them."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, size in hooks.gradients.items():
        owners = [path for path in hooks.layers if not path or name.startswith(f"{path}.")]
        path = max(owners, key=len) if owners else name.rpartition(".")[0]
        if size is None:
            key = path, "no gradient", "no gradient"
        elif size == 0:
            key = path, "zero gradient", _why_zero(hooks, name, path)
        elif not math.isfinite(size):
            key = path, "not finite", "not finite"
        else:
            continue
        # layer.neuron.params.tau_mem.raw is layer.neuron.tau_mem to whoever reads it.
        groups.setdefault(key, []).append(name.replace("neuron.params.", "neuron.").removesuffix(".raw"))
    for (path, kind, advice), names in groups.items():
        what = f"{_called(hooks, path)}: {', '.join(names)} {SEEN[kind]}."
        yield Finding(path, kind, what, ADVICE[advice])


def _why_zero(hooks: Hooks, name: str, path: str) -> str:
    """The advice for a parameter whose gradient is zero."""
    if name.endswith("weight") and hooks.arrived.get(name.rpartition(".")[0]) == 0:
        return "undriven"
    if path not in hooks.layers:
        return "slope behind"
    if hooks.layers[path].gradient == 0:
        return "cut off"
    return "no slope" if hooks.layers[path].layer.neuron.spiking else "undriven"


def _called(hooks: Hooks, path: str) -> str:
    return f"layer {path!r} ({type(hooks.layers[path].layer.neuron).__name__})" if path in hooks.layers else repr(path)
