"""What the GPU engine's kernels are made of, counted in their machine code; no GPU is needed.

    python -m benchmarks.gpu_code [LIF CubaLIF ...]

For the forward and the backward kernel of a neuron with one input and fixed parameters, as Triton's compiler makes them
for compute capability 9.0: instructions of the time loop for each neuron and step, registers of a thread, and bytes of
them that did not fit. A multiprocessor issues four instructions a cycle, each for 32 threads.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))


def forms(name: str, dtype: str) -> dict[str, list[tuple[float, int, int]]]:
    """By form, of forward and backward kernel: instructions for a neuron and step, registers, bytes spilled."""
    from cases import Case
    from spikeloom.engine import gpu, triton_module
    from spikeloom.engine.generated import Wanted
    from spikeloom.engine.triton_kernel import Lie
    from spikeloom.engine.triton_source import backward_source, forward_source

    p = Case(name, ports=1).program
    single = (*(f"c_{n}" for n in p.coefficients), *(f"{kind}_{n}" for kind in "zh" for n in p.states))
    lie = dict.fromkeys(single, Lie.SINGLE) | dict.fromkeys((*(f"x_{n}" for n in p.ports), "g_y"), Lie.LINED)
    found = {}
    for title, lanes, known in (("one lane a thread", gpu.MANY - 1, None), ("two lanes a thread", gpu.MANY, lie)):
        every = gpu.every(100, lanes, p)
        chunk = gpu.written(100, lanes, every)
        block = triton_module.BLOCK * (1 if known is None else gpu.TOGETHER)
        kernels = (
            (forward_source(p, chunk, every, known), {"KEEP": True}, chunk),
            (backward_source(p, every, Wanted(p.ports, ()), False, known), {}, every),
        )
        found[title] = [count(s, {**more, "BLOCK": block}, dtype, steps, block) for s, more, steps in kernels]
    return found


def count(source: Any, constants: dict[str, Any], dtype: str, steps: int, block: int) -> tuple[float, int, int]:
    """Of a kernel, as in `forms`."""
    import triton

    from ptx import compiled
    from spikeloom.engine import triton_module

    function, warps = triton_module.kernel(source.text), triton_module.WARPS
    moved = ("at_x_", "at_d_x_", "at_y", "at_g_y")
    tensors = [p.name for p in function.params if not (p.annotation_type or p.is_constexpr)]
    kinds = {n: f"*{dtype}" if n.startswith(moved) else "*fp32" for n in tensors}
    binary = compiled(function, kinds, source.aligned, constants, warps)["cubin"]
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary)
        code = subprocess.run([tools / "nvdisasm", "-c", file], capture_output=True, text=True, check=True).stdout
        usage = [tools / "cuobjdump", "--dump-resource-usage", file]
        used = subprocess.run(usage, capture_output=True, text=True, check=True).stdout
    registers, spilled = (int(re.search(rf"{word}:(\d+)", used)[1]) for word in ("REG", "STACK"))  # type: ignore
    return loop(code) / steps / (block // (32 * warps)), registers, spilled


def loop(code: str) -> int:
    """Instructions of the longest loop of a disassembly."""
    labels: dict[str, int] = {}
    longest = at = 0
    for line in code.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = at
        elif re.match(r"\s+/\*[0-9a-f]{4,}\*/\s", line):
            at += 1
            back = re.search(r"BRA.*?(\.L_x_\d+)", line)
            if back and back[1] in labels:
                longest = max(longest, at - labels[back[1]])
    return longest


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("neurons", nargs="*", default=["LIF"], help="names as in tests/tables.py")
    options = parser.parse_args()
    from tables import NEURONS

    if wrong := [n for n in options.neurons if n not in NEURONS]:
        parser.error(f"no neuron {', '.join(wrong)}; there are {', '.join(NEURONS)}")
    print("| neuron | form | instructions for a neuron and step, forward + backward | registers | spilled |")
    print("|---|---|---|---|---|")
    for name in options.neurons:
        for dtype in ("fp32", "bf16"):
            for title, (forward, backward) in forms(name, dtype).items():
                counts = f"{forward[0]:.1f} + {backward[0]:.1f}"
                registers, spilled = (f"{forward[k]}, {backward[k]}" for k in (1, 2))
                print(f"| {name} {dtype} | {title} | {counts} | {registers} | {spilled} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
