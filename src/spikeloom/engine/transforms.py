"""Whether torch looks at single operations just now, so that a fused one would hide them."""

import torch
from torch._C import _functorch  # type: ignore[attr-defined]


def recorded() -> bool:
    """Whether torch writes operations down, to compile or to save them: sizes may then be no numbers to decide by."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def transformed() -> bool:
    """Whether functorch transforms or forward-mode derivatives are at work, which see single operations."""
    return _functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0
