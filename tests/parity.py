"""Comparing the fused engines with the eager reference."""

import pytest
import torch

import spikeloom as sl
from spikeloom.engine import memory, threads
from tables import NEURONS

SINGLE = torch.float32


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that a kernel forgets to write shows as NaN."""
    plain = memory.empty

    def empty(shape, dtype, *more, **beside):
        return plain(shape, dtype, *more, **beside).fill_(float("nan") if dtype.is_floating_point else -1)

    monkeypatch.setattr(memory, "empty", empty)
    monkeypatch.setattr(threads, "scratch", lambda size: torch.full((size,), 255, dtype=torch.uint8, device="cpu"))


def learned(name):
    return tuple(p for p, d in NEURONS[name][0].declared_params.items() if not d.optional)


def current(*shape, dtype=SINGLE, scale=0.8):
    return torch.randn(shape, dtype=dtype) * scale + 0.2


def outcome(subject, x, engine, *, record=(), state=None, weigh=None, **more):
    """Everything a run yields and every gradient it has, for one engine."""
    subject.zero_grad()
    more = {"seed": 3, **more}
    inputs = (
        {k: v.detach().requires_grad_() for k, v in x.items()} if isinstance(x, dict) else x.detach().requires_grad_()
    )
    run = sl.run(subject, inputs, state, engine=engine, record=record, **more)
    tensors = [run.output, *run.records.values()]
    # All, for a state that nothing reaches has a gradient with one engine and none with the other.
    tensors += [s for s in run.state.neuron if isinstance(s, torch.Tensor) and s.is_floating_point()]
    torch.manual_seed(7)
    loss = sum((t * torch.randn_like(t)).sum() for t in tensors)
    loss.backward()
    given_gradients = [v.grad for v in inputs.values()] if isinstance(x, dict) else [inputs.grad]
    gradients = [*given_gradients, *(p.grad for p in subject.parameters())]
    assert set(run.engines.values()) == {engine}
    return [
        t.detach() for t in (run.output, *run.records.values(), *(s for s in run.state.neuron if s != ()))
    ], gradients


def flat(found):
    return [t for t in (*found[0], *found[1]) if t is not None]


def compare(subject, x, *, exact=True, tolerance=1e-6, **more):
    """Both engines: values equal bit for bit (or to rounding), gradients to a part of the largest.

    In single precision the reference's own sums over samples and steps, which parameters' gradients are, are rounded
    ten times as much.
    """
    ours, reference = (outcome(subject, x, engine, **more) for engine in ("cpu", "eager"))
    for got, wanted in zip(ours[0], reference[0], strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        assert torch.equal(got, wanted) if exact else torch.allclose(got, wanted, rtol=1e-5, atol=1e-6)
    inputs = len(x) if isinstance(x, dict) else 1
    for k, (got, wanted) in enumerate(zip(ours[1], reference[1], strict=True)):
        if wanted is None or got is None:
            assert (wanted is None or not wanted.any()) and (got is None or not got.any())
            continue
        part = tolerance * (20 if k >= inputs and wanted.dtype == SINGLE else 1)
        close = (got - wanted).abs().max() <= part * wanted.abs().max().clamp(min=1e-3)
        assert close, (float((got - wanted).abs().max()), float(wanted.abs().max()))
    return reference[0][0]
