"""What a step may hold: elementwise operations and nothing random. Checked once, when a neuron enters a layer."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..neurons import Neuron
from ..surrogates import SuperSpike

# Not elementwise by their tag, yet they mix no lanes.
HARMLESS = {
    *("detach", "alias", "clone", "_to_copy", "lift_fresh", "lift_fresh_copy"),
    *("expand", "view", "_unsafe_view", "reshape", "unsqueeze"),
    *("zeros_like", "ones_like", "full_like", "empty_like", "full", "zeros", "ones", "scalar_tensor"),
}
_checked: "weakref.WeakKeyDictionary[type, set[Any]]" = weakref.WeakKeyDictionary()


class _Elementwise(TorchDispatchMode):
    def __init__(self, name: str):
        super().__init__()
        self.name = name

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes as long as torch itself

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.refuse(func, "is random", "declare the noise in the class (xi = sl.Noise()) and use x.xi")
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            self.refuse(func, "depends on the data's values", "write torch.where(condition, a, b)")
        if func._schema.is_mutable:
            self.refuse(func, "changes a tensor in place", "write x = x + y instead of x += y")
        if torch.Tag.pointwise not in func.tags and func.overloadpacket.__name__ not in HARMLESS:
            self.refuse(func, "is not elementwise", "keep what mixes neurons or steps in the layer's connections")
        return func(*args, **(kwargs or {}))

    def refuse(self, func: Any, why: str, instead: str) -> None:
        op = func.overloadpacket.__name__
        raise ValueError(f"{self.name}.step calls {op}, which {why}; a step is elementwise and pure: {instead}.")


def check_step(neuron: Neuron) -> None:
    """Run one step of a neuron on two lanes and look at what it does: with all its ports driven, and with one.

    Raises:
        ValueError: an operation that is random, not elementwise, in place, or that depends on the data's values, named.
        TypeError: a step that returns something else than (output, state), or other states than declared.
    """
    kind, options = type(neuron), (neuron.reset, bool(neuron.refractory), neuron.max_spikes, tuple(neuron.params))
    if options in _checked.setdefault(kind, set()):
        return
    with torch.no_grad():
        for ports in ((neuron.default_port,), (*neuron.ports, *neuron.noises)):
            _check(neuron, ports)
    _checked[kind].add(options)


def _check(neuron: Neuron, ports: tuple[str, ...]) -> None:
    kind, name = type(neuron), type(neuron).__name__
    found = neuron.rounded_coefficients(torch.float32)
    # One number for each coefficient, whatever its shape: the two lanes then differ by their own values alone.
    c = type(found)(
        *(torch.tensor(float(v.flatten()[0]), device="cpu") if isinstance(v, torch.Tensor) else v for v in found)
    )
    lanes = torch.tensor([0.3, 0.6], device="cpu")
    kept = {"refractory": torch.zeros_like(lanes)} if neuron.refractory else {}
    z = kind.state_type(**{s: lanes + 0.1 * k for k, s in enumerate(neuron.declared_states)}, **kept)
    fire, x = neuron.new_fire(c, z, SuperSpike(), "flow"), neuron.fill_ports(dict.fromkeys(ports, lanes * 2))
    try:
        with _Elementwise(name):
            result = neuron.step(c, z, x, fire)
    except RuntimeError as error:
        if "Boolean value" not in str(error):
            raise
        raise ValueError(f"{name}.step branches on a tensor's value; write torch.where(condition, a, b).") from None
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise TypeError(f"{name}.step returned {type(result).__name__}; expected (output, {{state name: tensor}}).")
    output, new = result
    if set(new) != set(neuron.declared_states):
        raise TypeError(f"{name}.step returned the states {sorted(new)}; it declares {sorted(neuron.declared_states)}.")
    for what, tensor in (("output", output), *new.items()):
        if isinstance(tensor, torch.Tensor) and tensor.shape != lanes.shape:
            raise ValueError(f"{name}.step returned {what} of shape {tuple(tensor.shape)} for inputs of shape (2,).")
    if neuron.spiking != (fire.spikes is not None):
        does = "never calls fire" if neuron.spiking else "calls fire"
        raise TypeError(f"{name}.step {does}, and the class says spiking = {neuron.spiking}; let the two agree.")
