"""A learned neuron's coefficients by compiled functions, against its own formulas in torch."""

import pytest
import torch
from torch import Tensor

import spikeloom as sl
from parity import learned
from spikeloom.engine import coefficients, generated
from spikeloom.engine.coefficients import rounded_coefficients
from tables import NEURONS, make


def moved(neuron):
    """The neuron with its learned tensors away from zero, in double precision so that gradients show small errors."""
    neuron = neuron.double()
    with torch.no_grad():
        for held in neuron.params.values():
            if held.learned:
                held.raw.copy_(torch.randn_like(held.raw) * 0.1)
    return neuron


def gradients(neuron, c, graph=False):
    weights = torch.Generator().manual_seed(1)
    parts = [v for v in c if isinstance(v, Tensor)]
    weighed = [(torch.randn(v.shape, generator=weights) * v).sum() for v in parts]
    total = sum(w for w, v in zip(weighed, parts, strict=True) if v.requires_grad)
    raw = [held.raw for held in neuron.params.values() if held.learned]
    return torch.autograd.grad(total, raw, allow_unused=True, create_graph=graph)


def compare(neuron, compiled=True):
    neuron = moved(neuron)
    assert (coefficients._formulas(neuron) is not None) == compiled
    plain, fast = neuron.rounded_coefficients(torch.float32), rounded_coefficients(neuron, torch.float32)
    assert type(plain) is type(fast)
    for name, a, b in zip(plain._fields, plain, fast, strict=True):
        assert isinstance(a, Tensor) == isinstance(b, Tensor), name
        if isinstance(a, Tensor):
            assert torch.equal(a, b) and a.shape == b.shape and a.requires_grad == b.requires_grad, name
    for a, b in zip(gradients(neuron, plain), gradients(neuron, fast), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            # What is rounded on its way is a coefficient's gradient, which is single precision in both.
            torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-9)
    return neuron


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron(name):
    if learned(name):
        compare(make(name, 5, learn=learned(name)))


@pytest.mark.parametrize("each", [{"tau_mem": (6,)}, {"tau_syn": (6,)}, {"tau_mem": (3, 1), "tau_syn": (6,)}, {}])
def test_a_number_that_neurons_share_counts_once(each):
    values = {name: torch.rand(shape) * 0.01 + 0.01 for name, shape in each.items()}
    neuron = compare(sl.CubaLIF((3, 6), learn=("tau_mem", "tau_syn"), **values))
    c = rounded_coefficients(neuron, torch.float32)
    assert c.alpha.shape == values.get("tau_syn", torch.zeros(())).shape
    assert c.beta.shape == values.get("tau_mem", torch.zeros(())).shape


def test_what_is_learned_and_read_by_no_coefficient():
    assert coefficients._formulas(sl.CubaLIF(3, learn="v_init")) is None
    neuron = compare(sl.CubaLIF(3, learn=("v_init", "tau_mem")))
    assert gradients(neuron, rounded_coefficients(neuron, torch.float32))[1] is None


def test_another_size_step_or_value_compiles_nothing():
    compare(sl.CubaLIF(5, learn="tau_mem"))
    before = len(generated.COMPILED)
    compare(sl.CubaLIF(7, learn="tau_mem", tau_mem=torch.full((7,), 11e-3), dt=3e-4))
    compare(sl.CubaLIF(2, learn="tau_mem", tau_syn=1e-3))
    assert len(generated.COMPILED) == before


class Shared(sl.LIF):
    """Coefficients that mix neurons."""

    def coefficients(self, dt):
        found = super().coefficients(dt)
        return {**found, "v_th": found["v_th"] - found["v_th"].mean() + 1}


class Branching(sl.LIF):
    """Coefficients whose formula depends on a value."""

    def coefficients(self, dt):
        found = super().coefficients(dt)
        factor = 2 if bool((self.v_th > 1).all()) else 3
        return {**found, "v_th": factor * found["v_th"]}


class Buffered(sl.LIF):
    """Coefficients that depend on a tensor beside the parameters."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.register_buffer("factor", torch.tensor(2.0, dtype=torch.float64))

    def coefficients(self, dt):
        found = super().coefficients(dt)
        return {**found, "v_th": self.factor * found["v_th"]}


@pytest.mark.parametrize("kind", [Shared, Branching, Buffered])
def test_what_is_not_elementwise_stays_with_torch(kind):
    neuron = compare(kind(4, v_th=torch.rand(4) + 0.6, learn=("tau_mem", "v_th")), compiled=False)
    if kind is Buffered:
        neuron.factor.fill_(5.0)
        compare(neuron, compiled=False)


class Tempered(sl.LIF):
    """Coefficients that depend on a number which a user changes from step to step."""

    temperature = 1.0

    def coefficients(self, dt):
        found = super().coefficients(dt)
        return {**found, "v_th": self.temperature * found["v_th"]}


def test_an_attribute_that_changes_is_followed_and_fills_no_memory():
    neuron = Tempered(3, learn=("tau_mem", "v_th"))
    for k in range(coefficients.MOST_KINDS + 5):
        neuron.temperature = 1.0 + k / 64
        assert rounded_coefficients(neuron, torch.float32).v_th.item() == 1.0 + k / 64
    assert sum(key[0] is Tempered for key in coefficients._known) == coefficients.MOST_KINDS


def test_derivatives_of_derivatives():
    neuron = moved(sl.CubaLIF(3, learn=("tau_mem", "v_th")))
    both = []
    for c in (neuron.rounded_coefficients(torch.float32), rounded_coefficients(neuron, torch.float32)):
        first = gradients(neuron, c, graph=True)
        both.append(torch.autograd.grad(first[0].sum() ** 2, neuron.params["tau_mem"].raw)[0])
    torch.testing.assert_close(both[1], both[0], rtol=1e-6, atol=0)


def test_without_a_compiler_torch_computes_them(monkeypatch):
    def build(*_):
        raise ImportError("numba")

    monkeypatch.setattr(coefficients, "_known", {})
    monkeypatch.setattr(coefficients, "build", build)
    compare(sl.CubaLIF(3, learn="tau_mem"), compiled=False)


def test_the_reference_engine_computes_them_in_torch(monkeypatch):
    monkeypatch.setattr(coefficients, "_formulas", lambda neuron: pytest.fail("compiled"))
    layer = sl.Layer(None, sl.LIF(3, learn="tau_mem"))
    sl.run(layer, torch.rand(4, 2, 3), engine="eager").output.sum().backward()
    assert layer.neuron.params["tau_mem"].raw.grad is not None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_evaluation_has_the_numbers_of_the_training(monkeypatch, mode):
    neuron = moved(sl.CubaLIF(300, tau_mem=sl.LogNormal(20e-3, 0.5), learn=("tau_mem", "tau_syn", "v_th")))
    trained = rounded_coefficients(neuron, torch.float32)
    monkeypatch.setattr(type(neuron), "rounded_coefficients", lambda *_: pytest.fail("computed by torch"))
    with mode():
        found = rounded_coefficients(neuron, torch.float32)
    for a, b in zip(trained, found, strict=True):
        assert a is b or (a.equal(b) and not b.requires_grad)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_kind_of_neuron_may_be_evaluated_first(mode):
    class Fresh(sl.LIF):
        pass

    layer, x = sl.Layer(None, Fresh(3, learn="tau_mem")), torch.rand(4, 2, 3)
    with mode():
        layer(x)
    assert [known is not None for key, known in coefficients._known.items() if key[0] is Fresh] == [True]
    layer(x)[0].sum().backward()
    assert layer.neuron.params["tau_mem"].raw.grad is not None


def test_a_parameter_that_is_written_between_the_passes_is_refused_where_it_matters():
    neuron = moved(sl.LIF(3, learn="tau_mem"))
    c = rounded_coefficients(neuron, torch.float32)
    with torch.no_grad():
        neuron.params["tau_mem"].raw.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(neuron, c)
