"""One command for a machine with an NVIDIA GPU: are the fused kernels right on it, and how fast are they.

    python -m benchmarks.gpu_check [--quick] [--out benchmarks/results] [--systems spikeloom,SpikingJelly]

First parity: every neuron, reset and surrogate, odd sizes, strides and precisions against the eager engine, in memory
that holds NaN. Then times, each system in a process of its own, one after the other; those that are not installed are
listed with the reason. It needs no network, and ends within eight minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import queue
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

LIMIT = 450.0  # seconds for all
EACH = 75.0  # for one system
EXPLAINED = (
    "Milliseconds of one step, forward and backward. Eager: called from Python, the device idle before. Graphed: the "
    "same step replayed from a CUDA graph. GB/s: of the graphed step, at 5 numbers moved for each neuron and step, the "
    "least there is. First: the first call, with all compilation. MB: memory over the input's. Products in float32, "
    "without TF32."
)


def cases() -> list[tuple[str, dict[str, Any], int]]:
    """What parity is looked at for: a title, the arguments of a `Case`, and the steps of a chunk."""
    from tables import RESETS, SURROGATES

    found: list[tuple[str, dict[str, Any], int]] = []
    for name, reset in RESETS:
        given = {"name": name, "reset": reset, "steps": 19, "batch": 5, "shape": (37,), "lengths": True}
        found.append((f"{name}, {reset}, 8 steps a chunk", given, 8))
        # A surrogate enters a step through fire alone: all of them with some neurons.
        if name in ("IF", "LIF", "CubaLIF", "ALIF", "AdLIF"):
            small = {"name": name, "reset": reset, "steps": 5, "batch": 3, "shape": (7,)}
            found += [(f"{name}, {reset}, {s}", {**small, "surrogate": SURROGATES[s]}, 2) for s in SURROGATES]
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        state = torch.float64 if kind == torch.float64 else torch.float32
        found.append((f"{kind} input", {"name": "CubaLIF", "steps": 9, "dtype": state, "input_dtype": kind}, 4))
    for steps, batch, shape in ((0, 2, (3,)), (1, 1, (1,)), (3, 2, (5, 3, 2)), (33, 1, (1031,)), (16, 64, (128,))):
        found.append(
            (f"[{steps}, {batch}, {shape}]", {"name": "ALIF", "steps": steps, "batch": batch, "shape": shape}, 4)
        )
    for name in ("IF", "LIF", "CubaLIF", "AdLIF"):  # so many lanes that a thread takes two of them at once
        given = {"name": name, "steps": 19, "batch": 4097, "shape": (16,), "lengths": name == "LIF", "ports": 1}
        found.append((f"{name}, many lanes", given, 8))
        found.append((f"{name}, many lanes, one neuron for all", {**given, "per_lane": False}, 8))
    many = {"name": "CubaLIF", "steps": 9, "batch": 512, "shape": (8, 16), "input_dtype": torch.bfloat16}
    found.append(("many lanes, torch.bfloat16", many, 8))
    options = ({"refractory": 2}, {"max_spikes": 3}, {"comparator": ">="})
    found += [(f"{o}", {"name": "CubaLIF", "steps": 9, "options": o, "edge": "detach"}, 4) for o in options]
    return found


def parity(case: tuple[str, dict[str, Any], int]) -> tuple[str, str, float]:
    """A case's title, "" or what is wrong, and the seconds it took."""
    from cases import Case, compare
    from spikeloom.engine import gpu

    (title, given, every), start = case, time.perf_counter()
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)  # memory that is not written holds NaN
    rounding = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(given.get("input_dtype", torch.float32), 5e-4)
    try:
        case = Case(**given, device="cuda")
        most = gpu.every(case.steps, math.prod((case.batch, *case.shape)), case.program)
        compare(case, gpu, min(every, most), rtol=rounding, atol=rounding / 5)
    except Exception as error:
        return title, f"{type(error).__name__}: {error}"[:500], time.perf_counter() - start
    return title, "", time.perf_counter() - start


def all_parities(quick: bool) -> dict[str, Any]:
    from benchmarks import gpu_layers

    chosen, layers = cases()[:: 40 if quick else 1], list(gpu_layers.checks())[:: 10 if quick else 1]
    start, workers = time.perf_counter(), min(14, max(1, (os.cpu_count() or 2) - 2), len(chosen))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [
            *(pool.submit(gpu_layers.check, title) for title in layers),
            *(pool.submit(parity, c) for c in chosen),
        ]
        found = []
        for done in as_completed(waiting):
            title, reason, seconds = done.result()
            found.append((title, reason))
            if reason or seconds > 20:
                print(f"{title}: {seconds:.0f} s. {reason}", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found.append(pool.submit(gpu_layers.check, gpu_layers.APART).result()[:2])
    wrong = {title: reason for title, reason in found if reason}
    return {"cases": len(found), "wrong": wrong, "seconds": time.perf_counter() - start}


def ceilings() -> dict[str, float]:
    """What this device copies (bytes read and written, GB/s) and multiplies (TFLOP/s)."""
    found = {"copy GB/s": copy_speed()}
    for title, dtype in (("float32", torch.float32), ("TF32", torch.float32), ("bfloat16", torch.bfloat16)):
        torch.backends.cuda.matmul.allow_tf32 = title == "TF32"
        found[f"{title} product TFLOP/s"] = _product(torch.randn(8192, 8192, device="cuda", dtype=dtype))
    torch.backends.cuda.matmul.allow_tf32 = False
    return found


def copy_speed() -> float:
    from benchmarks.gpu_systems import timed

    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    return 8 * source.numel() / min(timed(lambda: target.copy_(source))) / 1e9


def _product(m: torch.Tensor) -> float:
    from benchmarks.gpu_systems import timed

    return 2 * len(m) ** 3 / min(timed(lambda: m @ m)) / 1e12


def ask(system: str, quick: bool, seconds: float) -> dict[str, Any]:
    """A system's rows from a process of its own, which has so many seconds."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--worker", system, *(["--quick"] if quick else [])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    process = subprocess.Popen(
        command, cwd=HERE.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    lines: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    found: dict[str, Any] = {"versions": {}, "rows": []}
    stop = time.perf_counter() + seconds
    while True:
        try:
            line = lines.get(timeout=max(0.1, stop - time.perf_counter()))
        except queue.Empty:
            process.kill()
            found["ended"] = f"out of time after {seconds:.0f} s"
            break
        if line is None:
            break
        if line.startswith("{"):
            row = json.loads(line)
            if "package" in row:
                found["versions"][row["package"]] = row["version"]
            else:
                found["rows"].append(row)
    _, errors = process.communicate()
    if process.returncode not in (0, -9):
        found["ended"] = (errors.strip().splitlines() or ["no reason given"])[-1][:300]
    return found


def page(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    parts = [f"# The GPU engine on {found['device']}", "", f"{found['date']}, torch {found['torch']}."]
    p = found["parity"]
    state = "all equal to the eager engine" if not p["wrong"] else f"**{len(p['wrong'])} wrong**"
    parts += ["", f"Parity: {p['cases']} cases, {state} ({p['seconds']:.0f} s).", ""]
    parts += [f"- {title}: {reason}" for title, reason in p["wrong"].items()]
    parts += [f"- {name}: {value:.0f}" for name, value in found["ceilings"].items()]
    parts += ["", EXPLAINED]
    from benchmarks.gpu_systems import works

    header = ["system", "eager ms", "graphed ms", "GB/s", "first s", "MB"]
    for work in works(found["quick"]):
        parts += ["", f"## {work.name}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        for system, result in found["systems"].items():
            row = next((r for r in result["rows"] if r["work"] == work.name), None)
            reason = result.get("ended", "not reached") if row is None else row.get("reason")
            if reason:
                parts.append(f"| {system} | {reason} |" + " |" * (len(header) - 2))
                continue
            assert row is not None
            size = 2 if work.dtype == "bfloat16" else 4
            graph = row.get("graphed")
            rate = (
                f"{5 * size * work.neuron_steps / graph / 1e9:.0f}" if graph and work.kind in ("neuron", "user") else ""
            )
            cells = [f"{1e3 * row['eager']:.3f}", f"{1e3 * graph:.3f}" if graph else "no", rate]
            parts.append("| " + " | ".join([system, *cells, f"{row['first']:.1f}", f"{row['bytes'] / 1e6:.0f}"]) + " |")
    parts += ["", "Versions: " + json.dumps({s: r["versions"] for s, r in found["systems"].items() if r["versions"]})]
    return "\n".join(parts) + "\n"


def main() -> int:
    from benchmarks.gpu_systems import SYSTEMS, measure, works

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does all of it run?")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the results")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="which to time")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        for row in measure(options.worker, works(options.quick)):
            print(json.dumps(row), flush=True)
        return 0
    if not torch.cuda.is_available():
        print("gpu_check found no CUDA device; run it on a machine with an NVIDIA GPU and a torch built for it.")
        return 1
    start = time.perf_counter()
    device = torch.cuda.get_device_name()
    found: dict[str, Any] = {"device": device, "date": date.today().isoformat(), "torch": torch.__version__}
    found |= {"quick": options.quick, "parity": all_parities(options.quick), "ceilings": ceilings(), "systems": {}}
    torch.cuda.empty_cache()
    for system in options.systems.split(","):
        left = LIMIT - (time.perf_counter() - start)
        found["systems"][system] = (
            ask(system, options.quick, min(EACH, left))
            if left > 15
            else {"rows": [], "versions": {}, "ended": "out of time"}
        )
    text = page(found)
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}-{found['date']}"
    for suffix, content in ((".json", json.dumps(found, indent=1) + "\n"), (".md", text)):
        part = options.out / f"{name}{suffix}.part"
        part.write_text(content)
        part.replace(options.out / f"{name}{suffix}")
    print(text)
    print(f"{time.perf_counter() - start:.0f} s; results in {options.out / name}.json and .md")
    return 1 if found["parity"]["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
