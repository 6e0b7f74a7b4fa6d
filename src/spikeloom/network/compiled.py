"""Layers in torch.compile's graphs: all of a layer's steps are one node there.

Between a layer's connection and its kernel lies much of Python and little of torch. The compiler is not to look at it
line by line: it is run once, on tensors without values, and what it asks of torch goes into the graph. What this
depends on beside tensors the compiler has to be shown, so that it compiles again when that changes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..connections import Delayed
from ..engine.fused import takes
from ..engine.transforms import exported, transformed
from ..neurons.attributes import attributes, values
from .context import RUNS, Context
from .eagerly import from_version, unlooked
from .modules import absent, has_memory

# From this version on, what is run and not looked at may take modules; older ones leave layers to Python.
KNOWN = from_version(2, 13)
PLAIN = Context()
_node: list[Callable[..., Any]] = []


def joins(layer: Any, x: Any, state: Any) -> bool:
    """Whether a layer's steps become a node of the graph. If not, the graph ends before the layer and goes on behind.

    So do layers in a `run`, whose settings are Python's business; with noise, whose seed the processor draws; with a
    connection that has memory; and with a step that no kernel is made of. Exported ones run without this library.
    """
    if not KNOWN or RUNS.under_way or exported() or not isinstance(x, Tensor | dict):
        return False
    own, plain = attributes(layer.neuron)
    if not plain or layer.neuron.unchecked or layer.neuron.noises:
        return False
    modules = layer._modules_by_port()
    for module in (*modules.values(), layer.recurrent):
        if isinstance(module, Delayed) or (module is not None and has_memory(module)):
            return False
    if state is not None and not (absent(state.recurrent) and absent(state.connection)):
        return False
    held = values(layer.neuron).values()
    _show(*own.values(), *(v.scale for v in held), layer.port, layer.recurrent_port, layer.self_connections)
    identities = id(layer.surrogate), *(id(v.constraint) for v in held)
    given = x if isinstance(x, dict) else dict.fromkeys(modules, x)
    return all(identities) and _fused(layer, tuple(given), str(next(iter(given.values())).device.type))


def _show(*values: Any) -> None:
    """Let the compiler know that what it makes depends on these: to ask for a hash does (and for an identity)."""
    for value in values:
        hash(value)


@unlooked
def _fused(layer: Any, ports: tuple[str, ...], device: str) -> bool:
    """Whether a layer's steps are one operator. Asked while a graph is made, and not when it is run."""
    if transformed():
        return False  # torch.func looks at single operations
    if not _node:
        _node.append(torch._dynamo.nonstrict_trace(_steps))
    return takes(layer.neuron, layer.surrogate, layer.recurrent, layer.recurrent_port, ports, device)


def joined(layer: Any, inputs: dict[str, Tensor], state: Any, kind: type) -> Any:
    """A layer's steps as a node: output and state. The compiler hands tuples on, so named ones are made anew."""
    neuron, feedback = ((), ()) if state is None else (tuple(state.neuron), state.feedback)
    output, neuron, feedback = _node[0](layer, inputs, neuron, feedback)
    return output, kind(layer.neuron.state_type(*neuron), feedback)


def _steps(layer: Any, inputs: dict[str, Tensor], neuron: Any, feedback: Any) -> Any:
    output, state = layer.steps(inputs, neuron, feedback)
    return output, tuple(state.neuron), state.feedback
