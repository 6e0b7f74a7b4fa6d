"""Peak memory of a piece of work, from the kernel's own counters."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(work: Callable[[], None]) -> tuple[int, str]:
    """How many bytes the resident memory rises above its present size while the work runs, and how that was found."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        if "spikeloom.engine.memory" in sys.modules:
            sys.modules["spikeloom.engine.memory"].clear()  # blocks that our kernels keep would not count, either
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # or what earlier work freed would be used again, unseen
    try:
        CLEAR.write_text("5")  # the high-water mark starts again from here
        before = _field("VmRSS")
        work()
        return _field("VmHWM") - before, "VmHWM"
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        work()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before, "ru_maxrss, above the earlier peak"


def _field(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {name}")
