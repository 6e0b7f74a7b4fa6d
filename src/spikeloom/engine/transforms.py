"""Whether torch looks at single operations just now, so that a fused one would hide them."""

import contextlib
from contextlib import AbstractContextManager

import torch
from torch._C import _functorch  # type: ignore[attr-defined]


def recorded() -> bool:
    """Whether torch writes operations down, to compile or to save them: sizes may then be no numbers to decide by."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def observed() -> bool:
    """Whether something looks on that must see one operator: a compiler, or a mode such as a tracer."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


def exported() -> bool:
    """Whether torch.export writes operations down, for programs that run where this library is not."""
    asked = getattr(torch.compiler, "is_exporting", None)  # from torch 2.7 on
    return asked is not None and asked()


def unseen() -> AbstractContextManager[object]:
    """Out of sight of compilers and modes, to compute with numbers of our own."""
    if not observed():
        return contextlib.nullcontext()
    # Imported here, for it imports a library of symbols, which takes half a second.
    from torch.utils._python_dispatch import _disable_current_modes

    return _disable_current_modes()  # type: ignore[no-any-return]


def transformed() -> bool:
    """Whether functorch transforms or forward-mode derivatives are at work, which see single operations."""
    return _functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0
