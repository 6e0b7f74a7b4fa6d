"""The symbolic zero: what is absent costs nothing."""

from typing import Any

import torch


class Zero:
    """Stands for a port that nothing drives, a noise that nobody asked for, or a parameter that was not given.

    Products with it are zero and sums with it are the other term, without any operation on tensors, so that a neuron's
    step can name all its terms and a network pays for those it uses. Any other torch function sees the number 0.0.
    """

    __slots__ = ()

    def __mul__(self, other: Any) -> "Zero":
        return self

    __rmul__ = __mul__
    __truediv__ = __mul__

    def __add__(self, other: Any) -> Any:
        return other

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return -other

    def __rsub__(self, other: Any) -> Any:
        return other

    def __neg__(self) -> "Zero":
        return self

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "ZERO"

    def __repr__(self) -> str:
        return "ZERO"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arithmetic = ARITHMETIC.get(getattr(func, "__name__", ""))
        if arithmetic is not None and len(args) == 2 and not kwargs and isinstance(args[1], Zero):
            return arithmetic(*args)
        return func(*(torch.tensor(0.0) if isinstance(a, Zero) else a for a in args), **(kwargs or {}))


# What torch calls for `tensor * ZERO` and its like; `ZERO * tensor` never reaches torch.
ARITHMETIC = {
    name: function
    for names, function in (
        (("mul", "__mul__"), lambda tensor, zero: zero),
        (("add", "__add__", "sub", "__sub__"), lambda tensor, zero: tensor),
    )
    for name in names
}
ZERO = Zero()
