"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def cpu() -> str:
    """The processor's name."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def describe() -> dict[str, str]:
    """Processor, cores, memory and system, as text."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": cpu(),
        "cores": str(cores),
        "memory": f"{memory:.0f} GiB",
        "vector units": _flags(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def slug() -> str:
    """The processor's name as it goes into a file's name."""
    name = re.sub(r"\((?:R|TM)\)|CPU|Processor|@.*", " ", cpu(), flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _flags() -> str:
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return "unknown"
    return ", ".join(flag for flag in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile") if flag in flags) or "none"
