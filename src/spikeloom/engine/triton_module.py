"""From Triton source to a kernel that runs: written to a file, for Triton reads kernels from files."""

import functools
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .generated import cache_directory

BLOCK, WARPS = 64, 2  # lanes of an instance where a thread has one, and how many warps of 32 threads share them
_compiled: dict[Any, Any] = {}


def prepare(
    text: str,
    grid: tuple[int, ...],
    tensors: Sequence[Tensor],
    strides: Sequence[int],
    constants: Sequence[int | bool | str],
    warps: int = WARPS,
) -> Callable[..., None]:
    """The kernel of a source text as a function of its first arguments, on the device and stream of its tensors.

    Args:
        grid: instances along up to three axes.
        tensors, strides, constants: its other arguments; for the constants it is compiled.
    """
    device = tensors[0].device
    # A kernel is compiled for types, and for multiples of 16 where its text promises them (`Source.aligned`); who asks
    # for it keeps that promise in every call. Triton would look at every argument again.
    key = (text, device, warps, *constants, *[t.dtype for t in tensors])
    rest = (*tensors, *strides, *constants)

    def compile_and_run(*arguments: Any) -> None:
        # Without fusion: multiply, then add, as every engine does.
        made = kernel(text)[grid](*arguments, num_warps=warps, enable_fp_fusion=False)
        if made is not None:  # as under Triton's interpreter
            _compiled[key] = made

    run = _compiled[key][grid] if key in _compiled else compile_and_run

    # Neither function names itself: such a circle would keep the tensors until Python looks for circles.
    def launch(*sizes: int) -> None:
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                run(*sizes, *rest)
        else:
            run(*sizes, *rest)

    return launch


@functools.cache
def kernel(text: str) -> Any:
    """The function `kernel` of a module of that text; the same for the same text."""
    name = f"spikeloom_triton_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    path = cache_directory() / "triton" / f"{name}.py"
    _write(path, text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.kernel


def _write(path: Path, text: str) -> None:
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        file.write(text)
    os.replace(file.name, path)
