"""What EventProp gives a meaning to, and a sentence for each thing that it does not."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ..connections import Delayed
from ..engine import Loop
from ..neurons import CubaALIF, CubaLI, CubaLIF
from ..surrogates import Smooth
from .places import count

NEURONS = (CubaLI, CubaLIF, CubaALIF)
# Connections whose effect is the sum of their inputs' effects: only then has each spike an effect of its own.
LINEAR = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Flatten, nn.Unflatten, nn.Identity, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
)


def check(loop: Loop) -> None:
    """Refuse what has no exact event-based gradient.

    Raises:
        ValueError: said in a sentence.
    """
    neuron, kind = loop.neuron, type(loop.neuron).__name__
    if not isinstance(neuron, NEURONS) or not any(type(neuron).step is known.step for known in NEURONS):
        raise ValueError(
            f"EventProp has no adjoint of {kind}: it needs a synaptic current and a leaky membrane, as CubaLIF, "
            "CubaALIF and, for readouts, CubaLI have (where spikes move the membrane itself, spike times do not depend "
            "on weights). Use one of them, or gradient=sl.BPTT()."
        )
    if neuron.spiking and neuron.reset == "none":
        raise ValueError(f"EventProp needs a reset, but this {kind} has reset='none'; write 'subtract' or 'zero'.")
    if neuron.max_spikes > 1:
        raise ValueError(f"EventProp takes one spike a step, but this {kind} has max_spikes={neuron.max_spikes}.")
    if isinstance(loop.surrogate, Smooth):
        raise ValueError("EventProp takes spikes of 0 and 1, but Smooth makes graded ones; leave it out.")
    if neuron.noises:
        raise ValueError(f"EventProp needs a smooth membrane, but this {kind} has noise; leave noise= out.")
    ports = {*loop.inputs, *((loop.feedback.port,) if loop.feedback else ())}
    if ports != {"impulse"}:
        raise ValueError(
            f"EventProp takes spikes at the port 'impulse' only, but this {kind} is fed at: "
            f"{', '.join(sorted(ports))}. A constant current is the neuron's bias."
        )
    if loop.feedback is not None and not neuron.spiking:
        raise ValueError(f"EventProp sends spikes through a recurrent connection, but {kind} never fires.")
    for source in loop.sources.values():
        if source.module is not None:
            check_connection(source.module)
        if isinstance(source.presynaptic, Tensor):
            check_history(source.presynaptic)
    if loop.feedback is not None:
        check_connection(loop.feedback.module)


def check_connection(module: nn.Module) -> None:
    if isinstance(module, Delayed):
        if module.width:
            raise ValueError(
                f"EventProp has the exact gradient of delays, but this Delayed has width={module.width:g} s, which "
                "spreads each spike; write width=0."
            )
        if type(module.connection) is not nn.Linear and isinstance(module.connection, nn.Linear):
            raise ValueError(
                "EventProp needs the weight of a delayed nn.Linear as it is, but this one's is computed from others "
                "(parametrised); use sl.BPTT(), or torch.nn.utils.parametrize.remove_parametrizations first."
            )
        return check_connection(module.connection)
    inner = module if isinstance(module, nn.Sequential) else [module]
    for part in inner:
        if isinstance(part, nn.Sequential):
            check_connection(part)
        elif not isinstance(part, LINEAR):
            raise ValueError(
                f"EventProp needs a linear connection, so that each spike has an effect of its own; got "
                f"{type(part).__name__}. Use Linear, Conv, AvgPool, Flatten or a Sequential of them; dropout stands "
                "between layers."
            )


def check_parameters(now: Iterable[Tensor], before: Iterable[Tensor]) -> None:
    """Refuse a backward pass in which a connection's parameters are others than in the forward pass.

    Raises:
        RuntimeError: they are.
    """
    if [p.data_ptr() for p in now] != [p.data_ptr() for p in before]:
        raise RuntimeError(
            "the parameters of a connection are not those with which it ran, as under torch.func.functional_call; this "
            "rule calls the connection again in the backward pass: keep the parameters in the module, or use sl.BPTT()."
        )


def check_history(x: Tensor) -> None:
    """Refuse spikes that a parametrised module has changed on their way from the last layer: autograd's one gradient is
    that of their times, and would reach its parameters as if it were that of their sizes."""
    if changed_by_parameters(x, "event_gradient"):
        raise ValueError(
            "EventProp got spikes that a module with parameters has changed, whose gradient would have no meaning; "
            "make it the layer's own connection: sl.Layer(module, neuron)."
        )


def changed_by_parameters(x: Tensor, mark: str) -> bool:
    """Whether parameters had a part in a tensor since the autograd nodes that have an attribute of this name."""
    left, seen = [x.grad_fn], set()
    while left:
        node: Any = left.pop()
        if node is None or node in seen or getattr(node, mark, False):
            continue
        seen.add(node)
        if isinstance(getattr(node, "variable", None), nn.Parameter):
            return True
        left += [parent for parent, _ in node.next_functions]
    return False


def check_gradient(arriving: Tensor, at_spikes: Tensor) -> None:
    """Refuse a gradient of places without a spike, which is none of spike times.

    Raises:
        RuntimeError: in the backward pass.
    """
    if count(arriving) != count(at_spikes):
        raise RuntimeError(
            "EventProp got a gradient of places without a spike, as a loss on spike counts has: it has exact gradients "
            "of spike times and membranes only. Write first_spike_time(..., gradient='event'), a loss on the membrane "
            "of a CubaLI readout, or for counts EventProp(spike_count=...). A module between layers that mixes places, "
            "such as AvgPool2d, belongs to the next layer's connection: "
            "sl.Layer(nn.Sequential(nn.AvgPool2d(2), ...), neuron)."
        )
