"""Recurrent layers of the GPU engine, and rules that run on it, under Triton's interpreter."""

import pytest
import torch

import spikeloom as sl
from cases import Case, compare
from interpreter import interpreter  # noqa: F401
from parity import learned
from spikeloom.engine import gpu, gpu_recurrent, operator
from spikeloom.gradients.costate import AdaptiveCostate, Costate
from tables import layer, raster

pytestmark = pytest.mark.usefixtures("interpreter")


@pytest.mark.parametrize("kind", [Costate, AdaptiveCostate])
def test_the_adjoint_of_eventprop_is_a_step_like_any_other(kind):
    names = ("alpha", "beta", "gain", "rate_syn", "rate_mem", "rho", "lift", "kept")

    class Numbered(kind):
        step = staticmethod(kind.step)

        def coefficients(self, dt):
            return {
                name: torch.tensor(0.3 + 0.1 * k) for k, name in enumerate(names[: 8 if kind is not Costate else 5])
            }

    case = Case("Costate", neuron=Numbered(5), ports=8, record=("pv", "pi"))
    compare(case, gpu, every=2)


def recurrent_outcome(subject, x, engine, **more):
    """Everything that a recurrent layer's run yields, and the gradients."""
    subject.zero_grad()
    x = x.detach().requires_grad_()
    first = sl.run(subject, x[:3], engine=engine, record="v", **more)
    run = sl.run(subject, x[3:], first.state, engine=engine, record="v")
    torch.manual_seed(2)
    tensors = [run.output, run.records["v"], first.output, *run.state.neuron]
    tensors = [t for t in tensors if isinstance(t, torch.Tensor) and t.is_floating_point()]
    sum((t * torch.randn_like(t)).sum() for t in tensors).backward()
    return tensors, [x.grad, *(p.grad for p in subject.parameters())]


def outcomes_agree(subject, more):
    """A run in two pieces, of a fused engine and of the reference."""
    x = torch.randint(-16, 48, (8, 3, 4)) / 32.0
    (ours, found), (reference, wanted) = (recurrent_outcome(subject, x, e, **more) for e in ("cpu", "eager"))
    for a, b in zip(ours, reference, strict=True):
        assert torch.equal(a, b) if not isinstance(subject.neuron, sl.Rate) else torch.allclose(a, b, atol=1e-6)
    assert [g is None for g in found] == [g is None for g in wanted] and len(wanted) > 4
    for a, b in zip(found, wanted, strict=True):
        assert a is None or torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


def on_a_grid(name, size=11):
    """A layer whose weights are sums of few powers of two, so that any order of a sum gives the same."""
    back = torch.nn.Linear(size, size)
    for p in back.parameters():
        torch.nn.init.normal_(p, 0, 0.4).data.mul_(64).round_().div_(64)
    subject = layer(name, size, dtype=torch.float32, learn=learned(name))
    subject.connection.weight.data.mul_(64).round_().div_(64)
    return sl.Layer(subject.connection, subject.neuron, back)


@pytest.mark.parametrize("widest", [128, 0], ids=["one kernel", "step by step"])
@pytest.mark.parametrize("name", ["LIF", "CubaLIF", "ALIF", "AdLIF", "RF", "Rate"])
def test_recurrent_layers(monkeypatch, name, widest):
    monkeypatch.setattr(gpu_recurrent, "WIDEST", widest)
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    subject = on_a_grid(name)
    for more in ({}, {"lengths": torch.tensor([3, 0, 1])}):
        outcomes_agree(subject, more)


@pytest.mark.parametrize("widest", [128, 0], ids=["one kernel", "step by step"])
def test_an_online_rule_learns_through_the_operator(monkeypatch, widest):
    monkeypatch.setattr(gpu_recurrent, "WIDEST", widest)
    monkeypatch.setitem(operator.BACKENDS, "cpu", gpu)
    net = sl.Sequential(on_a_grid("ALIF", 3), layer("LI", 2, 3, dtype=torch.float32))
    x, found = raster(5, batch=2, dtype=torch.float32), []
    for engine in ("cpu", "eager"):
        net.zero_grad()
        start = sl.run(net, x[:2], gradient=sl.EProp(kappa=0.9), engine=engine).state
        run = sl.run(net, x[2:], start, gradient=sl.EProp(kappa=0.9), engine=engine)
        run.output.square().sum().backward()
        found.append([run.output, run.state[0].rule["impulse.weight"], *(p.grad for p in net.parameters())])
    assert all(g is None or g.any() for g in found[0])
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-4, atol=1e-6)
