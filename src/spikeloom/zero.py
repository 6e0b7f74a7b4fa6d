"""The symbolic zero: what is absent costs nothing."""

from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map


class Zero:
    """Stands for a port that nothing drives, a noise that nobody asked for, or a parameter that was not given.

    Products with it are zero and sums with it are the other term, without any operation on tensors, so that a neuron's
    step can name all its terms and a network pays for those it uses. Any other torch function sees the number 0.0.
    """

    __slots__ = ()

    def __mul__(self, other: Any) -> "Zero":
        return self

    __rmul__ = __truediv__ = __pow__ = __mul__

    def __add__(self, other: Any) -> Any:
        return other

    __radd__ = __rsub__ = __add__

    def __sub__(self, other: Any) -> Any:
        return -other

    def __neg__(self) -> "Zero":
        return self

    __abs__ = __pos__ = __neg__

    def __gt__(self, other: Any) -> Any:
        return other < 0.0

    def __lt__(self, other: Any) -> Any:
        return other > 0.0

    def __ge__(self, other: Any) -> Any:
        return other <= 0.0

    def __le__(self, other: Any) -> Any:
        return other >= 0.0

    def __rtruediv__(self, other: Any) -> Any:
        raise ZeroDivisionError("division by a symbolic zero: a port that nothing drives, or a parameter not given.")

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "ZERO"

    def __repr__(self) -> str:
        return "ZERO"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"a symbolic zero (a port that nothing drives, or a parameter not given) has no method {name!r}; "
            f"write torch.{name}(...) instead, which sees the number 0."
        )

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if len(args) == 2 and not kwargs and isinstance(args[1], Zero):
            if name in ("mul", "__mul__"):
                return args[1]
            if name in ("add", "__add__", "sub", "__sub__"):
                return args[0]
            if name in ("div", "true_divide", "__truediv__"):
                return args[1].__rtruediv__(args[0])
        dtype = next((a.dtype for a in tree_leaves(args) if isinstance(a, torch.Tensor)), None)
        args, kwargs = tree_map(
            lambda a: torch.tensor(0.0, dtype=dtype) if isinstance(a, Zero) else a, (args, kwargs or {})
        )
        return func(*args, **kwargs)


ZERO = Zero()
