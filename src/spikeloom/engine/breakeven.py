"""Whether a product pays event by event: the density at which both ways take the same time, measured on this machine.

Both ways are timed once for a class of sizes, on a sample of work; what was found is kept in the cache directory.
"""

import functools
import hashlib
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .convolution import Convolution
from .generated import cache_directory
from .matrix import Matrix
from .products import Spikes, obstacle
from .rows import Rows, estimated_density, rows_of_raster

LEAST = 2**22  # multiplications of a dense product under which it is always taken
SAMPLE = 2**25  # those of a sample: some milliseconds
DENSITY = 0.1  # of a sample
LEAST_ROUNDS, MOST_SECONDS = 3, 0.1  # of measuring


class Costs(NamedTuple):
    """Seconds that the ways of a product and its weights' gradient take, for each row of the input but where said.

    Args:
        dense: all of the dense way.
        filling: making a raster of events.
        listing: making lists of a raster.
        once: the way by events, however many rows.
        row: the same, for a row without events.
        full: the same, for a row's events, if all its places had one.
    """

    dense: float
    filling: float
    listing: float
    once: float
    row: float
    full: float

    def break_even(self, rows: int, raster: bool) -> float:
        """The density under which the way by events is faster."""
        extra = -self.listing if raster else self.filling
        spare = self.dense + extra - self.row - self.once / max(1, rows)
        return min(1.0, max(0.0, spare / max(self.full, 1e-12)))


def choose_linear(x: Tensor | Spikes, out_features: int, dtype: torch.dtype = torch.float32) -> tuple[str, str]:
    """How to compute a Linear connection of x.

    Its input's gradient is dense either way and so does not matter.

    Args:
        x: [T, B, N_in], a raster or events.
        out_features: N_out.
        dtype: of the weights.

    Returns:
        "events" or "dense", and a sentence that says why.
    """
    channels = x.shape[-1]
    key = f"linear {_word(dtype)} {_power(channels)}x{_power(out_features)}"
    sample = functools.partial(_linear_sample, _power(channels), _power(out_features))
    return _choose(x, dtype, x.shape.numel() * out_features, key, sample)


def choose_conv2d(
    x: Tensor | Spikes,
    weight: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    dtype: torch.dtype = torch.float32,
) -> tuple[str, str]:
    """How to compute a Conv2d connection of x, padded with zeros.

    Args:
        x: [T, B, C_in, H, W], a raster or events.
        weight: the weights' shape, (C_out, C_in / groups, K_h, K_w).
        stride, padding, dilation, groups: as torch's.
        dtype: of the weights.

    Returns:
        "events" or "dense", and a sentence that says why.
    """
    conv = Convolution.of(tuple(x.shape), tuple(weight), stride, padding, dilation, groups)
    if conv is None:
        return "dense", f"dense: events do not go with stride {stride}, padding {padding} and dilation {dilation}"
    image = conv.image
    near = Convolution(
        (_power(conv.weight[1]) * groups, *(min(64, max(_power(n), d * k)) for n, d, k in _sides(conv))),  # type: ignore[arg-type]
        (_power(conv.weight[0] // groups) * groups, _power(conv.weight[1]), *conv.weight[2:]),  # type: ignore[arg-type]
        *(conv.stride, tuple(d * (k - 1) // 2 for _, d, k in _sides(conv)), conv.dilation, groups),  # type: ignore[arg-type]
    )
    key = f"conv2d {_word(dtype)} {near.shape} {near.weight} {near.stride} {near.dilation} {groups}"
    work = x.shape[0] * x.shape[1] * image[0] * image[1] * torch.Size(weight).numel()
    return _choose(x, dtype, work, key, functools.partial(_conv2d_sample, near))


def _choose(x: Any, dtype: torch.dtype, work: int, key: str, sample: Callable[..., Any]) -> tuple[str, str]:
    against = obstacle(x, dtype)
    if against:
        return "dense", f"dense: {against}"
    if work < LEAST:
        return "dense", "dense: too little work for lists of events to pay"
    raster = isinstance(x, Tensor)
    limit = costs(key, sample, dtype).break_even(x.shape[0] * x.shape[1], raster)
    density = estimated_density(x.flatten(2)) if raster else x.total / x.shape.numel()
    if density < limit:
        return "events", f"events: density {density:.2g} below the break-even of {limit:.2g}"
    return "dense", f"dense: density {density:.2g} not below the break-even of {limit:.2g}"


def costs(key: str, sample: Callable[..., Any], dtype: torch.dtype) -> Costs:
    """The costs of a class of sizes: known to this process, or from disk, or measured."""
    path = _file(torch.get_num_threads())
    known = _known(path)
    if key not in known:
        # Whoever looks at what is kept for a backward pass has no business with this one, which is run even where the
        # first call is an evaluation.
        with torch.inference_mode(False), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            known[key], steady = _measure(*sample(dtype))
        if steady:
            _keep(path, key, known[key])
    return known[key]


@functools.cache
def _known(path: Path) -> dict[str, Costs]:
    """What this process knows: what the file says, and what is added to it."""
    return _read(path)


def _read(path: Path) -> dict[str, Costs]:
    """A file of costs; anything else is as good as none."""
    try:
        found = {str(key): Costs(*map(float, numbers)) for key, numbers in json.loads(path.read_text()).items()}
        return {key: costs for key, costs in found.items() if all(map(math.isfinite, costs))}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep(path: Path, key: str, measured: Costs) -> None:
    """Add to a file that other processes may write as well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
            json.dump({**_read(path), key: measured}, file)
        os.replace(file.name, path)
    except OSError:
        pass  # it will be measured again


@functools.cache
def _file(threads: int) -> Path:
    """Where costs are kept, by a digest of what they depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line for line in lines if line.startswith("model name")), "")
    except OSError:
        model = ""
    here = Path(__file__).parent
    files = ("product_kernels.py", "product_primitives.py", "matrix.py", "convolution.py", "rows.py")
    text = "".join((here / name).read_text() for name in files)
    about = (model, platform.processor(), platform.machine(), threads, torch.__version__, version("numba"), text)
    return cache_directory() / f"costs_{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}.json"


def _measure(operation: Any, x: Tensor, weight: Tensor) -> tuple[Costs, bool]:
    """The costs of a product on a raster x [1, R, ...], and whether they were measured steadily."""
    flat, operation = operation.flat(x)
    rows, none, one = (rows_of_raster(part) for part in (flat, torch.zeros_like(flat), torch.zeros_like(flat[:, :1])))
    leaf = weight.clone().requires_grad_()
    gradient = operation.forward(rows, weight, None).uniform_(generator=_generator())

    def dense() -> None:
        with torch.enable_grad():
            torch.autograd.grad(operation.dense(x, leaf), leaf, operation.seen(gradient))

    def by_events(rows: Rows) -> None:
        y = operation.forward(rows, weight, None)
        operation.weight_gradient(rows, gradient[:, : y.shape[1]], weight)

    ways = (
        *(dense, lambda: operation.raster(rows, weight.dtype), lambda: rows_of_raster(flat, DENSITY)),
        *(lambda: by_events(one), lambda: by_events(none), lambda: by_events(rows)),
    )
    (whole, filling, listing, once, empty, full), steady = _least(ways)
    count, density = len(rows.start), len(rows.channel) / flat.numel()
    row, event = max(0.0, empty - once), max(0.0, full - empty) / max(density, 1e-9)
    whole, filling, listing, row, event = (seconds / count for seconds in (whole, filling, listing, row, event))
    return Costs(whole, filling, listing, once, row, event), steady


def _least(ways: Sequence[Callable[[], Any]]) -> tuple[list[float], bool]:
    """The least time of each in several rounds, and whether each was seen about as fast twice: other work on the
    machine only ever adds."""
    times: list[list[float]] = [[] for _ in ways]
    for way in ways:
        way()
    begin, steady = time.perf_counter(), False
    while not steady and (len(times[0]) < LEAST_ROUNDS or time.perf_counter() - begin < MOST_SECONDS):
        for way, took in zip(ways, times):
            start = time.perf_counter()
            way()
            took.append(time.perf_counter() - start)
        steady = len(times[0]) > 1 and all(sorted(took)[1] < 1.25 * min(took) + 2e-5 for took in times)
    return [min(took) for took in times], steady


def _linear_sample(inputs: int, outputs: int, dtype: torch.dtype) -> tuple[Matrix, Tensor, Tensor]:
    rows = max(64, min(4096, SAMPLE // (inputs * outputs)))
    return Matrix(outputs, inputs), *_random((1, rows, inputs), (outputs, inputs), dtype)


def _conv2d_sample(conv: Convolution, dtype: torch.dtype) -> tuple[Convolution, Tensor, Tensor]:
    each = conv.image[0] * conv.image[1] * torch.Size(conv.weight).numel()
    return conv, *_random((1, max(4, min(256, SAMPLE // each)), *conv.shape), conv.weight, dtype)


def _random(x: Sequence[int], weight: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = _generator()
    raster = torch.rand(*x, generator=generator, device="cpu") < DENSITY
    return raster.to(dtype), torch.rand(*weight, generator=generator, device="cpu", dtype=dtype)


def _generator() -> torch.Generator:
    """Numbers of our own: what the user draws next is not changed by a measurement."""
    return torch.Generator("cpu").manual_seed(0)


def _sides(conv: Convolution) -> list[tuple[int, int, int]]:
    """Size, dilation and kernel of each side of an image."""
    return list(zip(conv.shape[1:], conv.dilation, conv.weight[2:]))


def _power(n: int) -> int:
    """The power of two nearest to a size, on a scale of ratios."""
    return 1 << round(math.log2(max(1, n)))


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
