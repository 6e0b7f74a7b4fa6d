"""Running a kernel on as many threads as torch uses: on torch's own, where they can be had.

Kernels take their blocks from a shared counter, so it does not matter how many threads come. Two pools on the same
cores disturb each other: torch's OpenMP threads go on spinning for a while after each of its operations, in the way of
any thread of ours. So where torch is built on GNU OpenMP, as its Linux wheels are, kernels run on that very pool.
"""

import ctypes
import functools
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

Kernel = Any  # a Numba C function of one address
_local = threading.local()


@functools.cache
def torch_pool() -> Any:
    """GOMP_parallel of the OpenMP library that torch runs on, or None."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        function = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return function


@functools.cache
def own_pool(size: int) -> ThreadPoolExecutor:
    """Threads of our own, where torch's cannot be had."""
    return ThreadPoolExecutor(size, thread_name_prefix="spikeloom")


def run(kernel: Kernel, table: int, participants: int) -> None:
    """Call a kernel with the address of its table on that many threads, this one among them, and wait."""
    if participants <= 1:
        kernel.ctypes(table)
    elif (parallel := torch_pool()) is not None:
        parallel(kernel.address, table, participants, 0)
    else:
        others = [own_pool(participants - 1).submit(kernel.ctypes, table) for _ in range(participants - 1)]
        kernel.ctypes(table)
        wait(others)


def participants(work: int, units: int) -> int:
    """How many threads are worth it for `work` numbers in `units` parts; never more than torch uses."""
    return max(1, min(torch.get_num_threads(), units, work // 16384))


def scratch(size: int) -> torch.Tensor:
    """Memory of at least `size` bytes for kernels called from this thread, kept from call to call."""
    held = getattr(_local, "scratch", None)
    if held is None or held.numel() < size:
        held = _local.scratch = torch.empty(size, dtype=torch.uint8, device="cpu")
    return held
