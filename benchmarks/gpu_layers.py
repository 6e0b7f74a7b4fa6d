"""Whole layers on a GPU against the eager engine: recurrent ones, precisions, noise, rules, and captured steps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import spikeloom as sl

DEVICE = "cuda"


def checks() -> dict[str, Callable[[], None]]:
    """What is looked at: a title, and a function that raises where something is wrong."""
    from tables import NEURONS

    found: dict[str, Callable[[], None]] = {}
    for name in NEURONS:
        found[f"{name}, layer"] = lambda n=name: layer(n)
        found[f"{name}, recurrent, one kernel"] = lambda n=name: recurrent(n, 37)
        found[f"{name}, captured step"] = lambda n=name: captured(n)
    for name in ("LIF", "ALIF", "AdLIF"):
        found[f"{name}, recurrent, step by step"] = lambda n=name: recurrent(n, 150)
        found[f"{name}, recurrent, float64"] = lambda n=name: recurrent(n, 37, torch.float64)
    found["recurrent, full width"] = lambda: recurrent("CubaLIF", 128)
    found["recurrent, captured step"] = lambda: captured("LIF", recurrent=True)
    found["autocast"] = autocast
    found["gradient of a gradient"] = twice
    found["no seed, captured"] = noise_is_drawn_again
    found["batches of two shapes, captured"] = two_shapes
    for kind, reset in (("CubaLIF", "zero"), ("CubaLIF", "subtract"), ("CubaALIF", "subtract")):
        found[f"EventProp, {kind}, {reset}"] = lambda k=kind, r=reset: eventprop(k, r)
        found[f"EventProp, {kind}, {reset}, recurrent"] = lambda k=kind, r=reset: eventprop(k, r, True)
    return found


def outcome(subject: Any, x: Tensor, engine: str, **more: Any) -> tuple[list[Tensor], list[Tensor | None]]:
    """What a run in two pieces yields, and the gradients of the input and of all parameters."""
    subject.zero_grad()
    x = x.detach().requires_grad_()
    start = sl.run(subject, x[:5], engine=engine, seed=3, **more)
    run = sl.run(subject, x[5:], start.state, engine=engine)
    tensors = [start.output, run.output, *run.state.neuron]
    tensors = [t for t in tensors if isinstance(t, Tensor) and t.is_floating_point()]
    torch.manual_seed(1)
    loss = sum((t * torch.randn_like(t)).sum() for t in tensors)
    assert isinstance(loss, Tensor)
    loss.backward()
    assert set(run.engines.values()) == {engine}, run.engines
    return [t.detach() for t in tensors], [x.grad, *(p.grad for p in subject.parameters())]


def agree(subject: Any, x: Tensor, exact: bool = True, **more: Any) -> None:
    (ours, found), (reference, wanted) = (outcome(subject, x, e, **more) for e in ("gpu", "eager"))
    for k, (a, b) in enumerate(zip(ours, reference, strict=True)):
        close = (
            torch.equal(a, b) if exact else torch.allclose(a, b, rtol=1e-4, atol=1e-4 * max(1.0, float(b.abs().max())))
        )
        assert close, f"value {k} differs by {float((a - b).abs().max()):.3g}"
    for k, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert (a is None) == (b is None), f"gradient {k} is missing"
        if a is not None and b is not None:
            difference, scale = float((a - b).abs().max()), float(b.abs().max())
            assert difference <= 1e-3 * max(scale, 1e-3), f"gradient {k} differs by {difference:.3g} of {scale:.3g}"


def make(name: str, size: int, dtype: torch.dtype = torch.float32, back: bool = False) -> Any:
    """A layer on the device whose weights are sums of few powers of two: any order of a sum gives the same."""
    from parity import learned
    from tables import layer

    torch.manual_seed(0)
    subject = layer(name, size, inputs=8, dtype=dtype, learn=learned(name))
    recurrence = torch.nn.Linear(size, size, dtype=dtype) if back else None
    with torch.no_grad():
        for part in (subject.connection, recurrence):
            for p in () if part is None else part.parameters():
                torch.nn.init.normal_(p, 0, 0.3 if subject.neuron.spiking else 0.05)
                p.mul_(64).round_().div_(64)
    return sl.Layer(subject.connection, subject.neuron, recurrence).to(DEVICE)


def raster(steps: int = 21, batch: int = 7, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(5)
    return (torch.randint(-16, 48, (steps, batch, 8)) / 32).to(DEVICE, dtype)


# After a capture that failed, torch's generator is unusable in the process: this one has a process of its own.
APART = "a step that cannot be captured"


# Their steps hold functions, which two engines round differently, or they feed back what is not a spike.
INEXACT = ("Rate", "Rate tanh", "Rate sigmoid", "StochasticLIF", "LI", "CubaLI")


def layer(name: str) -> None:
    agree(make(name, 37), raster(), exact=name not in INEXACT)
    agree(make(name, 37), raster(), exact=name not in INEXACT, lengths=torch.arange(7) % 6)


def recurrent(name: str, size: int, dtype: torch.dtype = torch.float32) -> None:
    subject = make(name, size, dtype, back=True)
    agree(subject, raster(dtype=dtype), exact=name not in INEXACT)
    agree(subject, raster(dtype=dtype), exact=name not in INEXACT, lengths=torch.arange(7) % 6)


def autocast() -> None:
    found = []
    for engine in ("gpu", "eager"):
        subject = make("CubaLIF", 64)
        with torch.autocast("cuda", torch.bfloat16):
            run = sl.run(subject, raster(), engine=engine)
        run.output.float().square().mean().backward()
        assert run.output.dtype == torch.bfloat16 and run.state.neuron.v.dtype == torch.float32
        found.append([run.output, *(p.grad for p in subject.parameters())])
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=2e-2, atol=2e-3), float((a - b).abs().max())


def twice() -> None:
    found = []
    for engine in ("gpu", "eager"):
        x = raster().requires_grad_()
        y = sl.run(make("LI", 5), x, engine=engine).output
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    assert torch.allclose(*found, rtol=1e-3) and found[0].any()


def trainer(name: str, seed: int | None, recurrent: bool = False) -> tuple[Any, Callable[[Tensor], Tensor]]:
    subject = make(name, 37, back=recurrent)
    optimizer = torch.optim.Adam(subject.parameters(), 1e-3, capturable=True)

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        run = sl.run(subject, x, engine="gpu", seed=seed)
        loss = (run.output.mean((0, 1)) - 0.3).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return subject, step


def captured(name: str, recurrent: bool = False) -> None:
    """Training as a graph is training."""
    batches = [raster() + k / 32 for k in range(8)]
    plain, step = trainer(name, 3, recurrent)
    losses = [float(step(x).detach()) for x in batches]
    subject, step = trainer(name, 3, recurrent)
    graph = sl.CapturedStep(step, warmup=2)
    again = [float(graph(x)) for x in batches]
    assert len(set(losses)) == len(losses), "the loss stands still"
    assert all(abs(a - b) <= 1e-5 * max(1.0, abs(a)) for a, b in zip(losses, again, strict=True)), (losses, again)
    for a, b in zip(plain.parameters(), subject.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), float((a - b).abs().max())


def noise_is_drawn_again() -> None:
    subject = make("StochasticLIF", 37)
    graph = sl.CapturedStep(lambda x: sl.run(subject, x.detach(), engine="gpu").output, warmup=1)
    x = raster()
    with torch.no_grad():
        outputs = [graph(x) for _ in range(5)]
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(outputs))


def two_shapes() -> None:
    _, step = trainer("LIF", 3)
    graph = sl.CapturedStep(step, warmup=1)
    for _ in range(3):
        for batch in (7, 3):
            assert graph(raster(batch=batch)).isfinite()
    assert "graphs=2" in repr(graph)


def refused() -> None:
    graph = sl.CapturedStep(lambda x: x * float(x.sum()), warmup=1)
    graph(raster())
    said = ""
    try:
        graph(raster())
    except RuntimeError as error:
        said = str(error)
    assert "gpu_layers.py" in said and "float(x.sum())" in said, said or "a step that reads a value was captured"
    assert graph.step(raster()).isfinite().all()


def eventprop(kind: str, reset: str, back: bool = False) -> None:
    from tables import make as neuron

    torch.manual_seed(0)
    found = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        recurrence = torch.nn.Linear(19, 19, bias=False) if back else None
        first = torch.nn.Linear(8, 19, bias=False)
        torch.nn.init.normal_(first.weight, 0.4, 0.2)
        inner = neuron(kind, 19, reset=reset, learn=("tau_mem", "tau_syn", "v_th"))
        subject = sl.Layer(first, inner, recurrence).double().to(device)
        x = (torch.rand(60, 5, 8, generator=torch.Generator().manual_seed(1)) < 0.1).double().to(device)
        run = sl.run(subject, x, gradient=sl.EventProp())
        sl.decoding.first_spike_time(run.output, dt=1e-3, gradient="event").square().sum().backward()
        assert float(run.output.detach().sum()) > 10
        found.append([run.output.detach().cpu(), *(p.grad.cpu() for p in subject.parameters() if p.grad is not None)])
    assert len(found[0]) > 3
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10 * float(b.abs().max())), float((a - b).abs().max())


def check(title: str) -> tuple[str, str, float]:
    """A check's title, "" or what is wrong, and the seconds it took."""
    start, wrong = time.perf_counter(), ""
    try:
        (refused if title == APART else checks()[title])()
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"[:500]
    return title, wrong, time.perf_counter() - start
