"""What a neuron's class declares, collected and checked."""

import math
import sys
from collections import namedtuple
from collections.abc import Callable
from functools import lru_cache
from numbers import Integral
from typing import Any

import torch

from ..distributions import LogNormal, Normal, Uniform
from ..parameters import Input, Noise, Param, State


def check_shape(name: str, shape: Any) -> tuple[int, ...]:
    """The axes of so many neurons."""
    axes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if any(isinstance(n, bool) or not isinstance(n, Integral) or n < 0 for n in axes):
        raise ValueError(
            f"{name} got shape {shape!r}; expected how many neurons, such as 100, or axes, such as (16, 28, 28)."
        )
    return tuple(int(n) for n in axes)


def check_dt(dt: float) -> float:
    if not (isinstance(dt, int | float) and math.isfinite(dt) and dt > 0):
        raise ValueError(f"got dt={dt!r}; expected a time step in seconds above zero, such as 1e-3.")
    return float(dt)


def declarations(cls: type) -> dict[type, dict[str, Any]]:
    """All that a class and its bases declare, by kind; what a subclass redefines, it replaces."""
    found: dict[type, dict[str, Any]] = {kind: {} for kind in (Param, State, Input, Noise)}
    for base in reversed(cls.__mro__):
        for name, declared in vars(base).items():
            kind = next((k for k in found if isinstance(declared, k)), None)
            if name in found[State]:
                found[Param].pop(f"{name}_init", None)
            for other in found:
                if other is not kind:
                    found[other].pop(name, None)
            if kind is not None:
                found[kind][name] = declared
    return found


def size(default: Any) -> float:
    """The typical size of a default, whether a number, a tensor or a distribution."""
    for attribute in ("median", "mean", "high"):
        if isinstance(default, Normal | LogNormal | Uniform) and hasattr(default, attribute):
            return float(getattr(default, attribute))
    return float(torch.as_tensor(default).abs().mean())


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to)))


def fields(kind: Callable[..., Any]) -> tuple[str, ...]:
    return kind._fields  # type: ignore[attr-defined]


def tuple_type(owner: type, suffix: str, names: tuple[str, ...], defaults: int = 0) -> Callable[..., Any]:
    """A named tuple type that stands beside `owner` in its module, so that pickle and torch.load find it there.

    Where the module is gone or has that name for something else, it stays out, and its tuples cannot be pickled.
    """
    kind = namedtuple(owner.__name__ + suffix, names, defaults=((),) * defaults)  # type: ignore[misc]
    kind.__module__ = owner.__module__
    module = sys.modules.get(owner.__module__)
    if module is not None and hasattr(getattr(module, kind.__name__, kind), "_fields"):
        setattr(module, kind.__name__, kind)
    return kind


@lru_cache(maxsize=256)
def coefficient_type(names: tuple[str, ...], structure: tuple[tuple[str, Any], ...] = ()) -> Callable[..., Any]:
    """A named tuple of coefficients; what gives the step its form, and is no number of it, belongs to the type."""
    base = namedtuple("Coefficients", names)  # type: ignore[misc]
    return type("Coefficients", (base,), {"__slots__": (), **dict(structure)})
