"""What a neuron's coefficients can depend on beside its parameters."""

from typing import Any

from torch import nn

# What a neuron has of torch's, what is kept of what was computed, and what can be compared, among its attributes.
# Coefficients may differ between training and evaluation.
MODULE = frozenset(vars(nn.Module())) - {"training"}
KNOWN = ("known_values", "known_coefficients", "captured_coefficients")
PLAIN = (bool, int, float, str, type(None))


def attributes(neuron: nn.Module) -> tuple[dict[str, Any], bool]:
    """A neuron's own attributes, and whether they can be compared and are all that there is beside its parameters."""
    own = {k: v for k, v in neuron.__dict__.items() if k not in MODULE and k not in KNOWN}
    plain = all(
        isinstance(v, PLAIN) or (isinstance(v, tuple) and all(isinstance(x, PLAIN) for x in v)) for v in own.values()
    )
    return own, plain and not (neuron._parameters or neuron._buffers or len(neuron._modules) > 1)
