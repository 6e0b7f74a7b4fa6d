"""Whether torch looks at single operations just now, so that a fused one would hide them."""

import torch
from torch._C import _functorch  # type: ignore[attr-defined]


def transformed() -> bool:
    """Whether functorch transforms or forward-mode derivatives are at work, which see single operations."""
    return _functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0
