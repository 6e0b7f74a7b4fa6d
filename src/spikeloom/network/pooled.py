"""Torch's pooling modules, by kernels that compute the same numbers."""

from typing import Any

import torch
from torch import Tensor, nn

from ..engine import pooling
from .context import ACTIVE
from .sparse import hooked


def pooled(module: nn.Module, x: Tensor) -> Tensor | None:
    """What an AvgPool2d or MaxPool2d whose windows follow each other makes of x [T, B, C, H, W]; None where torch's own
    operation is taken."""
    if type(module) not in (nn.AvgPool2d, nn.MaxPool2d) or torch.compiler.is_compiling() or hooked(module):
        return None
    context = ACTIVE.get()
    if context is not None and context.engine == "eager":
        return None
    window = _window(module)
    return pooling.pool(x, window) if window is not None and pooling.suited(x, window) else None


def _window(module: Any) -> pooling.Window | None:
    """The windows of a module, or None where they overlap, leave gaps or reach past the image."""
    size = _pair(module.kernel_size)
    plain = size == _pair(module.stride) and _pair(module.padding) == (0, 0) and not module.ceil_mode and min(size) > 0
    if isinstance(module, nn.MaxPool2d):
        plain = plain and _pair(module.dilation) == (1, 1) and not module.return_indices
        return pooling.Window(*size, None) if plain else None
    return pooling.Window(*size, module.divisor_override or size[0] * size[1]) if plain else None


def _pair(n: Any) -> tuple[int, int]:
    return (n, n) if isinstance(n, int) else (n[0], n[-1])
