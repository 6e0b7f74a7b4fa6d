"""What is timed on a GPU: the works, and how each system does them. Run in a process of its own for each system.

Every work is built as a function that takes one step, forward and backward. All neurons decay by the same factor, fire
above 1, are reset by subtraction and have the arc tangent's surrogate of width 1 / pi.
"""

from __future__ import annotations

import importlib.metadata
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

DT, TAU = 1e-3, 20e-3
BETA = math.exp(-DT / TAU)
RHO, INCREMENT = 0.99, 0.1  # of the user's neuron, whose threshold adapts


@dataclass(frozen=True)
class Work:
    """One thing to time: kind of network, T, B, size, precision."""

    kind: str
    steps: int
    batch: int
    size: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        short = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{self.kind} T={self.steps} B={self.batch} N={self.size}{short}"

    @property
    def neuron_steps(self) -> int:
        return self.steps * self.batch * self.size


def works(quick: bool) -> list[Work]:
    if quick:
        kinds = ("neuron", "user", "feed-forward", "recurrent", "conv")
        return [Work(kind, 3, 2, 16) for kind in kinds]
    lanes = ((16, 1 << 20), (16, 1 << 22), (100, 2048), (100, 1 << 17), (500, 2048), (500, 16384), (2000, 16384))
    found = [Work("neuron", steps, count // 512, 512) for steps, count in lanes]
    found += [Work("neuron", 16, 1 << 13, 512, "bfloat16"), Work("neuron", 4, 1 << 14, 512)]
    found += [Work("user", 16, 1 << 11, 512)]
    found += [Work("feed-forward", 500, 16, n) for n in (512, 4096)]
    found += [Work("recurrent", 100, 256, n) for n in (128, 512, 1024)]
    # Last, for a library that writes out all steps compiles this for minutes.
    return [*found, Work("conv", 16, 64, 64), Work("user", 100, 256, 512)]


class System:
    """How a system builds each work's network; a subclass says what its neurons are."""

    packages: tuple[str, ...] = ()

    def lif(self, size: int) -> nn.Module:
        """A module from [T, B, *N] to spikes."""
        raise Unavailable("has no such neuron")

    def user(self, size: int) -> nn.Module:
        """The same for a neuron as a user writes it, with an adaptive threshold."""
        raise Unavailable("has no such neuron")

    def recurrent(self, size: int) -> nn.Module:
        """The same, with a matrix from the spikes to the next step's input."""
        raise Unavailable("has no such layer")

    def reset(self, net: nn.Module) -> None:
        """Forget the state of the last step."""

    def network(self, work: Work) -> nn.Module:
        if work.kind in ("neuron", "user"):
            return self.lif(work.size) if work.kind == "neuron" else self.user(work.size)
        if work.kind == "conv":
            stages = [Folded(conv(3, 64)), self.lif(64), Folded(nn.MaxPool2d(2)), Folded(conv(64, 128))]
            side = max(1, work.size // 4)
            stages += [self.lif(128), Folded(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128 * side * side, 1024))]
            return nn.Sequential(*stages, self.lif(1024), Folded(nn.Linear(1024, 10)), self.lif(10))
        inner = self.lif(work.size) if work.kind == "feed-forward" else self.recurrent(work.size)
        return nn.Sequential(nn.Linear(work.size, work.size, bias=False), inner)

    def step(self, work: Work) -> Callable[[], Any]:
        """One step of a work: forward, and backward to the weights, or to the input where there are none."""
        torch.manual_seed(0)
        dtype = getattr(torch, work.dtype)
        alone = work.kind in ("neuron", "user")
        net = self.network(work).to("cuda", dtype if not alone else None)
        shape = (work.batch, 3, work.size, work.size) if work.kind == "conv" else (work.batch, work.size)
        # A generator of its own: torch's stays unusable after a capture that failed.
        noise = torch.Generator("cuda").manual_seed(0)
        x = torch.randn(work.steps, *shape, device="cuda", dtype=dtype, generator=noise)
        leaves = [x.requires_grad_()] if alone else [p for p in net.parameters() if p.requires_grad and p.dim() > 1]
        with torch.no_grad():
            y = self._forward(net, x)
            g = torch.randn(y.shape, device="cuda", dtype=y.dtype, generator=noise)

        def step() -> Any:
            return torch.autograd.grad(self._forward(net, x), leaves, g)

        return step

    def _forward(self, net: nn.Module, x: Tensor) -> Tensor:
        self.reset(net)
        y = net(x)
        return y[0] if isinstance(y, tuple) else y


class Unavailable(RuntimeError):
    """A system does not do a work; the message says why."""


class Folded(nn.Module):
    """Modules on all steps at once, time folded into the batch."""

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.inner = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))


class Floor(System):
    """The same network without neurons: what the products alone take."""

    def lif(self, size: int) -> nn.Module:
        return nn.Identity()

    def network(self, work: Work) -> nn.Module:
        if work.kind in ("neuron", "user", "recurrent"):
            raise Unavailable("is not defined for it")
        return super().network(work)


class Spikeloom(System):
    """This library, whatever its layers choose; `engine` names another."""

    packages = ("triton",)

    def __init__(self, engine: str = "gpu"):
        self.engine = engine

    def lif(self, size: int) -> nn.Module:
        import spikeloom as sl

        return _Output(sl.Layer(None, sl.LIF(tau_mem=TAU), surrogate=sl.ATan()), self.engine)

    def user(self, size: int) -> nn.Module:
        import spikeloom as sl

        tau = -DT / math.log(RHO)
        return _Output(
            sl.Layer(None, sl.ALIF(tau_mem=TAU, tau_adapt=tau, increment=INCREMENT), surrogate=sl.ATan()), self.engine
        )

    def recurrent(self, size: int) -> nn.Module:
        import spikeloom as sl

        back = nn.Linear(size, size, bias=False)
        return _Output(sl.Layer(None, sl.LIF(tau_mem=TAU), back, surrogate=sl.ATan()), self.engine)


class _Output(nn.Module):
    def __init__(self, layer: nn.Module, engine: str):
        super().__init__()
        self.layer, self.engine = layer, engine

    def forward(self, x: Tensor) -> Tensor:
        import spikeloom as sl

        return sl.run(self.layer, x, engine=self.engine).output


class SpikingJelly(System):
    """Its LIFNode over all steps, which picks its own kernel, and FlexSN for a user's neuron."""

    packages = ("spikingjelly", "triton")

    def lif(self, size: int) -> nn.Module:
        from spikingjelly.activation_based import neuron, surrogate

        tau = 1 / (1 - BETA)
        return neuron.LIFNode(tau, False, v_reset=None, surrogate_function=surrogate.ATan(2.0), step_mode="m")

    def user(self, size: int) -> nn.Module:
        from spikingjelly.activation_based import surrogate
        from spikingjelly.activation_based.neuron.flexsn import FlexSN

        def core(x: Tensor, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            a = RHO * a
            v = BETA * (v + x)
            s = surrogate.atan.apply(v - (1.0 + a), 2.0)
            return s, v - s, a + INCREMENT * s

        return FlexSN(core, num_states=2, step_mode="m")

    def recurrent(self, size: int) -> nn.Module:
        from spikingjelly.activation_based import layer, neuron, surrogate

        tau = 1 / (1 - BETA)
        node = neuron.LIFNode(tau, False, v_reset=None, surrogate_function=surrogate.ATan(2.0), step_mode="s")
        return layer.LinearRecurrentContainer(node, size, size, bias=False, step_mode="m")

    def reset(self, net: nn.Module) -> None:
        from spikingjelly.activation_based import functional

        functional.reset_net(net)


class SnnTorch(System):
    """Leaky, step by step."""

    packages = ("snntorch",)

    def lif(self, size: int) -> nn.Module:
        import snntorch as snn
        from snntorch import surrogate

        return _Stepped(snn.Leaky(beta=BETA, spike_grad=surrogate.atan(2.0), reset_mechanism="subtract"))

    def recurrent(self, size: int) -> nn.Module:
        import snntorch as snn
        from snntorch import surrogate

        return _Stepped(snn.RLeaky(beta=BETA, linear_features=size, spike_grad=surrogate.atan(2.0)))


class _Stepped(nn.Module):
    def __init__(self, neuron: nn.Module):
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        zero = torch.zeros_like(x[0])
        state = (zero, zero) if hasattr(self.neuron, "recurrent") else (zero,)
        spikes = []
        for row in x.unbind(0):
            s, *state = self.neuron(row, *state)
            spikes.append(s)
        return torch.stack(spikes)


class Norse(System):
    """LIFBoxCell, the neuron with the least work per step, and LIFRecurrent."""

    packages = ("norse",)

    def lif(self, size: int) -> nn.Module:
        import norse.torch as norse

        return _Cell(norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=torch.as_tensor((1 - BETA) / DT))))

    def recurrent(self, size: int) -> nn.Module:
        import norse.torch as norse

        return _First(norse.LIFRecurrent(size, size))


class _Cell(nn.Module):
    def __init__(self, cell: nn.Module):
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state, spikes = None, []
        for row in x.unbind(0):
            s, state = self.cell(row, state)
            spikes.append(s)
        return torch.stack(spikes)


class _First(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


SYSTEMS: dict[str, Callable[[], System]] = {
    "floor": Floor,
    "spikeloom": Spikeloom,
    "SpikingJelly": SpikingJelly,
    "snnTorch": SnnTorch,
    "Norse": Norse,
    "spikeloom eager": lambda: Spikeloom("eager"),
}


def measure(name: str, chosen: list[Work]) -> Iterator[dict[str, Any]]:
    """Time a system on works, one row for each: {"work", "first", "eager", "graphed", ...} in seconds, or a reason."""
    system = SYSTEMS[name]()
    for package in system.packages:
        yield {"package": package, "version": importlib.metadata.version(package)}
    for work in chosen:
        row: dict[str, Any] = {"work": work.name}
        try:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            step = system.step(work)
            before, start = torch.cuda.memory_allocated(), time.perf_counter()
            step()
            torch.cuda.synchronize()
            row["first"] = time.perf_counter() - start
            torch.cuda.reset_peak_memory_stats()
            step()
            row["bytes"] = torch.cuda.max_memory_allocated() - before
            row |= _spread("eager", timed(step))
            found = graphed(step)
            # What a process loads when it captures for the first time can spoil that capture.
            row |= graphed(step) if "not graphed" in found else found
        except Exception as error:  # a row that cannot be measured says why, and the others go on
            row["reason"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        yield row


def _spread(name: str, samples: list[float]) -> dict[str, float]:
    return {name: statistics.median(samples), f"{name} fastest": min(samples), f"{name} slowest": max(samples)}


def timed(step: Callable[[], Any], seconds: float = 0.5) -> list[float]:
    """Seconds of single steps, each between two events, with the device idle before it."""
    samples: list[float] = []
    stop = time.perf_counter() + seconds
    for _ in range(3):
        step()
    while len(samples) < 50 and (len(samples) < 5 or time.perf_counter() < stop):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        step()
        end.record()
        end.synchronize()
        samples.append(begin.elapsed_time(end) / 1e3)
    return samples


def graphed(step: Callable[[], Any]) -> dict[str, Any]:
    """The same step captured in a CUDA graph: what the device takes, without Python."""
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        found = _spread("graphed", timed(graph.replay))
        del graph
        return found
    except Exception as error:
        torch.cuda.synchronize()
        return {"not graphed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
