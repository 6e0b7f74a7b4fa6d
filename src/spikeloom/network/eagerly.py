"""Keeping Python's business out of torch.compile's graphs."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch


def eagerly(method: Callable[..., Any]) -> Any:
    """A method that torch.compile leaves alone, with all that it calls.

    `torch.compiler.disable` imports the compiler, which takes as long as torch itself; so it waits until somebody
    compiles.
    """
    disabled: list[Callable[..., Any]] = []

    @functools.wraps(method)
    def call(*arguments: Any) -> Any:
        if not disabled and "torch._dynamo" in sys.modules:
            disabled.append(torch.compiler.disable(method))  # type: ignore[arg-type]
        return disabled[0](*arguments) if disabled else method(*arguments)

    return call
