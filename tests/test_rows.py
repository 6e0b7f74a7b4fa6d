"""How a neuron's lanes and steps are cut into calls of its row function, and where what these write goes."""

import pytest
import torch
from torch import nn

import spikeloom as sl
from parity import SINGLE, compare, current, learned, poisoned  # noqa: F401
from spikeloom.engine import cpu, memory
from tables import NEURONS, make


@pytest.fixture
def calls(monkeypatch):
    """(steps of a call, whether it writes past the caches) of the time loops that ran."""
    seen, run = [], cpu.Call.run

    def noted(self, *given):
        seen.append((self.header["span"], bool(self.header["past"])))
        return run(self, *given)

    monkeypatch.setattr(cpu.Call, "run", noted)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_past_the_caches(name, dtype, calls, monkeypatch):
    monkeypatch.setattr(cpu, "PAST", 0)
    subject = sl.Layer(None, make(name, 16, learn=learned(name)))
    x = current(21, 5, 16, dtype=dtype)
    compare(
        subject, x, tolerance=1e-6 if dtype == SINGLE else 1e-11, record="v", lengths=torch.tensor([21, 8, 0, 9, 16])
    )
    tolerance = 4e-6 if dtype == SINGLE else 1e-11
    compare(subject, x, tolerance=tolerance, record="v", lengths=torch.tensor([21, 8, 0, 9, 16]))
    compare(subject, x, tolerance=tolerance)
    assert calls and all(span >= 8 and past for span, past in calls)


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("steps", [1, 7, 8, 9, 40])
@pytest.mark.parametrize(("batch", "neurons"), [(1, 1), (5, 13), (3, 43), (2, 128), (9, 115), (5, 1040), (9, 1100)])
def test_pieces_of_any_size(steps, batch, neurons, past, calls, monkeypatch):
    """Around the limits of a vector (16), a piece (128 lanes, or 256) and a block, of a chunk of steps (8)."""
    monkeypatch.setattr(cpu, "PAST", 0 if past else 1 << 40)
    subject = sl.Layer(None, make("CubaLIF", neurons, learn=learned("CubaLIF")))
    compare(subject, current(steps, batch, neurons), tolerance=4e-6)
    lines = batch * neurons % 16 == 0
    assert calls and all(call == (8, past and lines) for call in calls)


LAYOUTS = {
    "in order": (8, lambda x: x),
    "not on a line": (8, lambda x: torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape)),
    "the same at all steps": (8, lambda x: x[:1].expand_as(x)),
    "one number": (8, lambda x: x[:1, :1, :1].expand_as(x)),
    "one number for each neuron": (8, lambda x: x[:1, :1].expand_as(x)),
    "every second step": (8, lambda x: x.repeat_interleave(2, 0)[::2]),
    "back in time": (8, lambda x: x.flip(0).contiguous()),
    "one sample for all": (1, lambda x: x[:, :1].expand_as(x)),
    "one number for all neurons": (1, lambda x: x[:, :, :1].expand_as(x)),
    "sample by sample": (1, lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)),
    "part of each sample": (1, lambda x: torch.cat([x, x], 2)[:, :, 16:]),
}


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_in_any_layout(layout, past, calls, monkeypatch):
    """Several steps in a call where all can be read in place or is the same at all steps, else one."""
    monkeypatch.setattr(cpu, "PAST", 0 if past else 1 << 40)
    span, arranged = LAYOUTS[layout]
    x = arranged(current(21, 6, 16))
    subject = sl.Layer(None, make("LIF", 16, learn=learned("LIF")))
    leaf = x.detach().requires_grad_()
    runs = {engine: sl.run(subject, leaf, engine=engine) for engine in ("cpu", "eager")}
    assert torch.equal(runs["cpu"].output, runs["eager"].output)
    for given in (torch.randn_like(runs["cpu"].output), torch.ones(()).expand(21, 6, 16), torch.ones(21, 6, 1)):
        found = [
            torch.autograd.grad(run.output, leaf, given.expand_as(x), retain_graph=True)[0] for run in runs.values()
        ]
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
    assert calls[0] == (span, past and span == 8)


def test_results_lie_apart_from_what_they_are_made_of():
    """In their pages: arrays that begin at the same place of theirs get in each other's way."""

    def places(*tensors):
        return [tensor.data_ptr() % memory.PAGE for tensor in tensors]

    def apart(*tensors):
        found = sorted(places(*tensors))
        return min(b - a for a, b in zip(found, [*found[1:], found[0] + memory.PAGE], strict=True)) >= memory.PAGE // 5

    shape = (64, 32, 256)
    first = memory.empty(shape, SINGLE)
    second = memory.empty(shape, SINGLE, beside=[first])
    third = memory.empty(shape, SINGLE, beside=[first, second])
    assert apart(first, second, third) and all(place % 64 == 0 for place in places(first, second, third))
    x = torch.rand(shape, requires_grad=True)
    run = sl.run(sl.Layer(None, sl.LIF(256)), x, record="v")
    assert apart(x, run.output, run.records["v"])
    g = torch.rand(shape)
    (d,) = torch.autograd.grad(run.output, x, g)
    assert all(0.2 < (d.data_ptr() - t.data_ptr()) % memory.PAGE / memory.PAGE < 0.8 for t in (x, g))


def test_large_results_are_what_small_ones_are(calls):
    """At their own size, through two layers: what one writes past the caches, another thread reads."""
    torch.manual_seed(0)
    x = (torch.rand(70, 128, 32) < 0.1).float()
    net = sl.Sequential(
        sl.Layer(nn.Linear(32, 256), sl.CubaLIF(256, v_th=0.1)), sl.Layer(nn.Linear(256, 32), sl.LI(32))
    )
    whole = sl.run(net, x).output
    assert (8, True) in calls
    parts = torch.cat([sl.run(net, part).output for part in x.split(2, 1)], 1)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axes", [(0, 1, 2, 3, 4), (0, 1, 3, 4, 2), (1, 0, 4, 2, 3)])
@pytest.mark.parametrize("one", [False, True])
def test_hooks_may_lay_saved_tensors_out_in_another_order(axes, one):
    """To save a tensor elsewhere and fetch it may cost its strides, and the states that are kept have its order."""
    x = torch.randn(19, 5, 4, 6, 8)
    x = x.permute(axes).contiguous().permute(*(axes.index(k) for k in range(5)))
    x = x[:, :, :, :1].expand_as(x) if one else x
    subject, weights, found = sl.Layer(None, sl.LIF((4, 6, 8), v_th=0.6)), torch.randn(x.shape), []
    for lay in (lambda t: t, lambda t: t.contiguous(), lambda t: t.mT.contiguous().mT if t.dim() == 5 else t):
        leaf = x.detach().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lay):
            out = sl.run(subject, leaf, engine="cpu").output
        found.append(torch.autograd.grad(out, leaf, weights)[0])
    assert found[0].any() and torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
