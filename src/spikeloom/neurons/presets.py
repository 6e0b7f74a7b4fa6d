"""Published parameter sets, by the name of the firing pattern they give."""

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple


class Preset(NamedTuple):
    """A published parameter set, and the constant current under which the pattern was shown, in the neuron's unit.

    The current is 0 where the pattern needs another stimulus than a step.
    """

    parameters: Mapping[str, float]
    current: float = 0.0


def chosen(owner: type, presets: Mapping[str, Preset], name: str | None) -> dict[str, Any]:
    """The parameters of a preset; none for None.

    Raises:
        ValueError: there is no such preset; the nearest name is given.
    """
    if name is None:
        return {}
    if name not in presets:
        near = difflib.get_close_matches(str(name), presets, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{owner.__name__} has no preset {name!r}; {hint}It has: {', '.join(map(repr, presets))}.")
    return dict(presets[name].parameters)
