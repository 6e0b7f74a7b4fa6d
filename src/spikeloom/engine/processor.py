"""The processor that kernels are made for."""

import functools
import hashlib
import os


@functools.cache
def lanes(size: int) -> int:
    """How many numbers of `size` bytes one vector register holds."""
    from llvmlite import binding

    wide = binding.get_host_cpu_features().get("avx512f", False)
    return (64 if wide else 32) // size


@functools.cache
def digest() -> str:
    """A digest of it: a cache may be seen by several."""
    return hashlib.sha256(repr(target()).encode()).hexdigest()[:8]


def target() -> tuple[str, str]:
    """Name and features of the processor, as Numba takes them."""
    from llvmlite import binding

    name = os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    return name, binding.get_host_cpu_features().flatten() if features is None else features
