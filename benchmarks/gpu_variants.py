"""For who works on the GPU engine: the neuron alone under other choices of how many lanes and steps a thread takes.

    python -m benchmarks.gpu_variants [--works 3,4]

Rows of a work stand side by side in one process, each twice, for a GPU's clock wanders: milliseconds of a step replayed
from a CUDA graph, forward and backward, and its share of the bytes per second that a copy moves.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu_check import copy_speed
from benchmarks.gpu_systems import Spikeloom, Work, graphed, works

# What `spikeloom.engine.gpu` is told: lanes that are many, lanes of a thread, steps of a chunk where lanes are many
# and where they are few.
VARIANTS: dict[str, dict[str, int]] = {
    "as it is": {},
    "one lane a thread": {"MANY": 1 << 40, "AHEAD": 8},
    "one lane, 16 steps": {"MANY": 1 << 40},
    "one lane, 32 steps": {"MANY": 1 << 40, "AHEAD": 32},
    "two lanes": {"MANY": 1},
    "two lanes, 4 steps": {"MANY": 1, "STEPS": 4},
    "two lanes, 16 steps": {"MANY": 1, "STEPS": 16},
    "four lanes": {"MANY": 1, "TOGETHER": 4},
    "four lanes, 4 steps": {"MANY": 1, "TOGETHER": 4, "STEPS": 4},
}


def row(work: Work, variant: dict[str, int], copy: float) -> str:
    """Milliseconds, and the share of a copy's speed at 5 numbers moved for each neuron and step."""
    from spikeloom.engine import gpu

    with mock.patch.multiple(gpu, **variant) if variant else nullcontext():
        gpu._forward_source.cache_clear()
        gpu._backward_source.cache_clear()
        found: dict[str, Any] = graphed(Spikeloom().step(work))
    if "graphed" not in found:
        return str(found)
    size = 2 if work.dtype == "bfloat16" else 4
    return f"{1e3 * found['graphed']:.4f} {5 * size * work.neuron_steps / found['graphed'] / 1e9 / copy:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    alone = [w for w in works(False) if w.kind in ("neuron", "user")]
    parser.add_argument("--works", default=",".join(map(str, range(len(alone)))), help="numbers of those to time")
    options = parser.parse_args()
    numbers = options.works.split(",")
    if not all(n.isdecimal() and int(n) < len(alone) for n in numbers):
        parser.error(f"--works {options.works}: expected numbers below {len(alone)} with commas between them, as 0,3")
    if not torch.cuda.is_available():
        print("gpu_variants found no CUDA device; run it on a machine with an NVIDIA GPU and a torch built for it.")
        return 1
    copy = copy_speed()
    print(f"{torch.cuda.get_device_name()}, copy {copy:.0f} GB/s")
    for work in (alone[int(n)] for n in numbers):
        for name, variant in (pair for pair in VARIANTS.items() for _ in range(2)):
            print(f"{work.name} | {name} | {row(work, variant, copy)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
