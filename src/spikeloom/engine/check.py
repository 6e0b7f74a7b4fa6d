"""What a step may hold: elementwise operations and nothing random. Checked once, when a neuron enters a layer."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..fire import flow
from ..neurons import Neuron
from ..surrogates import SuperSpike

# Not elementwise by their tag, yet they mix no lanes.
HARMLESS = {
    *("detach", "alias", "clone", "_to_copy", "copy_", "lift_fresh", "lift_fresh_copy"),
    *("expand", "view", "_unsafe_view", "reshape", "unsqueeze"),
    *("zeros_like", "ones_like", "full_like", "empty_like", "full", "zeros", "ones", "scalar_tensor"),
}
_checked: "weakref.WeakKeyDictionary[type, set[Any]]" = weakref.WeakKeyDictionary()


class _Elementwise(TorchDispatchMode):
    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.refuse(func, "is random", "declare the noise in the class (xi = sl.Noise()) and use x.xi")
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            self.refuse(func, "depends on the data's values", "write torch.where(condition, a, b)")
        if torch.Tag.pointwise not in func.tags and func.overloadpacket.__name__ not in HARMLESS:
            self.refuse(func, "is not elementwise", "keep what mixes neurons or steps in the layer's connections")
        return func(*args, **(kwargs or {}))

    def refuse(self, func: Any, why: str, instead: str) -> None:
        op = func.overloadpacket.__name__
        raise ValueError(f"{self.name}.step calls {op}, which {why}; a step is elementwise and pure: {instead}.")


def check_step(neuron: Neuron) -> None:
    """Run one step of a neuron on two lanes and look at what it does.

    Raises:
        ValueError: a random operation, a reduction, or a shape that depends on data, named.
        TypeError: a step that returns something else than (output, state), or other states than declared.
    """
    kind, options = type(neuron), (neuron.reset, bool(neuron.refractory), neuron.max_spikes, tuple(neuron.params))
    if options in _checked.setdefault(kind, set()):
        return
    name = kind.__name__
    with torch.no_grad():
        found = neuron.rounded_coefficients(torch.float32)
        # One number for each coefficient, whatever its shape: the two lanes then differ by their own values alone.
        c = type(found)(*(v.flatten()[0].cpu() if isinstance(v, torch.Tensor) else v for v in found))
        lanes = torch.tensor([0.3, 0.6])
        kept = {"refractory": torch.zeros(2)} if neuron.refractory else {}
        z = kind.state_type(**{s: lanes + 0.1 * k for k, s in enumerate(neuron.declared_states)}, **kept)
        fire = neuron.new_fire(c, z, SuperSpike(), flow)
        x = neuron.fill_ports(dict.fromkeys((*neuron.ports, *neuron.noises), lanes * 2))
        with _Elementwise(name):
            result = neuron.step(c, z, x, fire)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise TypeError(f"{name}.step returned {type(result).__name__}; expected (output, {{state name: tensor}}).")
    output, new = result
    if set(new) != set(neuron.declared_states):
        raise TypeError(f"{name}.step returned the states {sorted(new)}; it declares {sorted(neuron.declared_states)}.")
    for what, tensor in (("output", output), *new.items()):
        if tensor.shape != (2,):
            raise ValueError(f"{name}.step returned {what} of shape {tuple(tensor.shape)} for inputs of shape (2,).")
    if neuron.spiking and fire.spikes is None:
        raise TypeError(f"{name}.step never calls fire; call it, or declare `spiking = False` in the class.")
    _checked[kind].add(options)
