"""From Triton source to a kernel that can be launched: written to a file, for Triton reads kernels from files."""

import functools
import hashlib
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from .generated import cache_directory


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
