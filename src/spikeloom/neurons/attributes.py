"""What a neuron's coefficients can depend on beside its parameters."""

from typing import Any

from torch import nn

# Among a neuron's attributes: what is kept of what was computed, that and what it has of torch's, and what can be
# compared. Coefficients may differ between training and evaluation.
KNOWN = ("known_coefficients", "known_formulas")
OTHERS = (frozenset(vars(nn.Module())) - {"training"}).union(KNOWN, ("captured_coefficients",))
KINDS = (bool, int, float, str, type(None))
PLAIN = frozenset(KINDS)


def attributes(neuron: nn.Module) -> tuple[dict[str, Any], bool]:
    """A neuron's own attributes, and whether they can be compared and are all that there is beside its parameters."""
    own = {k: v for k, v in neuron.__dict__.items() if k not in OTHERS}
    plain = all(type(v) in PLAIN or _plain(v) for v in own.values())
    return own, plain and not (neuron._parameters or neuron._buffers or len(neuron._modules) > 1)


def values(neuron: nn.Module) -> dict[str, Any]:
    """The `ParameterValue`s of a neuron by name; not by torch's own way to a module's attributes, which is long."""
    return neuron._modules["params"]._modules  # type: ignore[union-attr, return-value]


def _plain(value: Any) -> bool:
    return isinstance(value, KINDS) or (isinstance(value, tuple) and all(isinstance(x, KINDS) for x in value))
