"""From Triton source to a kernel that runs: written to a file, for Triton reads kernels from files."""

import functools
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .generated import cache_directory

BLOCK, WARPS = 64, 2  # lanes of an instance, and how many warps of 32 threads share them
_compiled: dict[Any, Any] = {}


def launch(
    text: str,
    lanes: int,
    sizes: Sequence[int],
    tensors: Sequence[Tensor],
    strides: Sequence[int],
    options: Sequence[bool] = (),
) -> None:
    """Run the kernel of a source text on all lanes, on the device and the stream of its tensors."""
    device = tensors[0].device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return launch(text, lanes, sizes, tensors, strides, options)
    # Types are all that a kernel is compiled for. Triton would look at every argument again, in each call.
    key = (text, device, options, *[t.dtype for t in tensors])
    args, grid = (*sizes, *tensors, *strides, *options, BLOCK), (-(-lanes // BLOCK), 1, 1)
    if key in _compiled:
        _compiled[key][grid](*args)
        return None
    # Without fusion: multiply, then add, as every engine does.
    made = kernel(text)[grid](*args, num_warps=WARPS, enable_fp_fusion=False)
    if made is not None:  # as under Triton's interpreter
        _compiled[key] = made
    return None


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
