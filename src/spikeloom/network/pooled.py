"""Torch's pooling modules, by kernels that compute the same numbers."""

from typing import Any

from torch import Tensor, nn

from ..engine import pooling
from ..engine.transforms import recorded
from .context import ACTIVE
from .sparse import hooked


def pooled(module: nn.Module, x: Tensor) -> Tensor | None:
    """What an AvgPool2d or MaxPool2d whose windows follow each other makes of x [T, B, C, H, W]; None where torch's own
    operation is taken."""
    if type(module) not in (nn.AvgPool2d, nn.MaxPool2d) or recorded() or hooked(module):
        return None
    context = ACTIVE.get()
    if context is not None and context.engine == "eager":
        return None
    window = _window(module)
    return pooling.pool(x, window) if window is not None and pooling.suited(x, window) else None


def _window(module: Any) -> pooling.Window | None:
    """The windows of a module, or None where they overlap, leave gaps or reach past the image, and where a setting is
    one of the rarer kinds on which torch has the word."""
    size = _pair(module.kernel_size)
    if size is None or min(size) < 1 or size != _pair(module.stride):
        return None
    if _pair(module.padding) != (0, 0) or module.ceil_mode is not False:
        return None
    if isinstance(module, nn.MaxPool2d):
        plain = _pair(module.dilation) == (1, 1) and module.return_indices is False
        return pooling.Window(*size, None) if plain else None
    divisor = size[0] * size[1] if module.divisor_override is None else module.divisor_override
    return pooling.Window(*size, divisor) if type(divisor) is int and 0 < abs(divisor) < 2**31 else None


def _pair(n: Any) -> tuple[int, int] | None:
    """A setting for both axes, which may be one number."""
    both = [n] if type(n) is int else list(n) if type(n) in (tuple, list) else []
    return (both[0], both[-1]) if len(both) in (1, 2) and all(type(k) is int for k in both) else None
