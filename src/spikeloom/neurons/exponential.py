"""The exponential of + - * / alone: every engine then gives the same bits, as no two libraries' exponentials do."""

from typing import Any

import torch
from torch import Tensor


class _Exponential(torch.autograd.Function):
    """Its derivative is itself; computed again from x, which a trace sees as the node that is there already."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        h = x * 0.0625
        q = h * h
        even, odd = 1 + q * (1 / 9 + q * (1 / 1008)), h * (0.5 + q * (1 / 72 + q * (1 / 30240)))
        y = (even + odd) / (even - odd)
        for _ in range(4):
            y = y * y
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad * exponential(*ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tangent * exponential(*ctx.saved_tensors)


def exponential(x: Tensor) -> Tensor:
    """exp(x) for x from -40 to 20: the [5/5] Padé approximant at x / 16, squared four times.

    In float64 the error is below 1e-14 of the value for |x| < 5, 1e-11 for |x| < 10, and below 1e-15 for all x < -5; in
    float32 below 6e-6 of the value or 1e-9. Callers keep x within the range.
    """
    return _Exponential.apply(x)  # type: ignore[no-any-return]
