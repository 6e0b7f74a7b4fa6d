"""Parameters: values in their unit, a raw tensor for the optimiser, ranges that hold, sentences for bad input."""

import pytest
import torch

import spikeloom as sl

CONSTRAINTS = {
    "time_constant": (sl.time_constant, 20e-3),
    "positive": (sl.positive, 0.3),
    "unit_interval": (sl.unit_interval, 0.9),
    "between": (sl.between(-2.0, 5.0), 1.0),
    "between_log": (sl.between(11e-3, 1.0, logarithmic=True), 20e-3),
    "unconstrained": (sl.unconstrained, -70e-3),
}


def neuron_with(constraint, value, shape=3):
    class Probe(sl.Neuron):
        p = sl.Param(value, constraint=constraint)
        v = sl.State()

        def coefficients(self, dt):
            return {"p": self.p}

        @staticmethod
        def step(c, z, x, fire):
            s, v = fire(z.v + c.p * x, 1.0)
            return s, {"v": v}

    return Probe(shape, p=torch.full((shape,), value, dtype=torch.float64), learn="p")


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_a_learning_rate_of_ten_leaves_values_finite_and_in_range(name, direction):
    constraint, value = CONSTRAINTS[name]
    neuron = neuron_with(constraint, value)
    optimiser = torch.optim.Adam(neuron.parameters(), lr=10.0)
    for _ in range(100):
        optimiser.zero_grad()
        (direction * neuron.p).sum().backward()
        optimiser.step()
    low, high = constraint.bounds(neuron.dt)
    for now in (neuron.p, neuron.p.float().double()):
        assert now.isfinite().all() and (now > low).all() and (now < high).all()
    assert ((neuron.p < value) if direction > 0 else (neuron.p > value)).all()
    # And it finds its way back: the gradient is not dead out there.
    held = neuron.params["p"]
    gradient = torch.autograd.grad(neuron.p.sum(), held.raw)[0]
    assert (gradient > 0).all()


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_raw_zero_is_the_initial_value_exactly_with_the_declared_slope(name):
    constraint, value = CONSTRAINTS[name]
    neuron = neuron_with(constraint, value)
    held = neuron.params["p"]
    assert (neuron.p == value).all() and (held.raw == 0).all() and neuron.p.dtype == torch.float64
    slope = torch.autograd.grad(neuron.p.sum(), held.raw)[0].double()
    expected = value if constraint.logarithmic else held.scale
    torch.testing.assert_close(slope, torch.full_like(slope, expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_the_map_is_smooth_and_increasing(name):
    constraint, value = CONSTRAINTS[name]
    raw = torch.linspace(-3, 3, 41, dtype=torch.float64, requires_grad=True)
    initial = torch.tensor(value, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r: constraint.apply(r, initial, 0.5, 1e-3), (raw,))
    assert (constraint.apply(raw, initial, 0.5, 1e-3).diff() > 0).all()


def test_values_are_read_and_set_in_their_unit():
    layer = sl.Layer(None, sl.LIF(4, tau_mem=30e-3, learn="tau_mem"))
    raw = layer.neuron.params["tau_mem"].raw
    raw.data.fill_(0.3)
    assert layer.neuron.tau_mem > 30e-3
    layer.neuron.tau_mem = 15e-3
    assert layer.neuron.tau_mem == 15e-3
    assert layer.neuron.params["tau_mem"].raw is raw, "an optimiser must go on with the same tensor"
    with pytest.raises(
        ValueError, match=r"got -1; expected finite values from 0.0001 to 10, which is 0.1 to 10000 steps"
    ):
        layer.neuron.tau_mem = -1.0
    with pytest.raises(ValueError, match=r"shape \(4,\) for a parameter of shape \(\)"):
        layer.neuron.tau_mem = torch.full((4,), 15e-3)
    with pytest.raises(ValueError, match=r"built without bias, so it cannot be set; write LIF\(\.\.\., bias="):
        layer.neuron.bias = 1.0


@pytest.mark.parametrize(
    "value",
    [torch.tensor([1e-2, 2e-2, 3e-2]), sl.LogNormal(20e-3, 0.2), sl.Normal(20e-3, 1e-3), sl.Uniform(1e-2, 2e-2)],
)
def test_one_value_for_each_neuron(value):
    neuron = sl.LIF(3, tau_mem=value)
    assert neuron.tau_mem.shape == (3,) and neuron.tau_mem.unique().numel() == 3
    assert sl.LIF(3, tau_mem=0.02).tau_mem.shape == ()


def test_distributions_have_their_moments():
    n = 200_000
    x = sl.LogNormal(20e-3, 0.3).sample((n,))
    assert abs(x.median() / 20e-3 - 1) < 0.01 and abs(x.log().std() / 0.3 - 1) < 0.01
    x = sl.Normal(2.0, 0.5).sample((n,))
    assert abs(x.mean() - 2) < 0.01 and abs(x.std() - 0.5) < 0.01
    x = sl.Uniform(1.0, 3.0).sample((n,))
    assert x.min() >= 1 and x.max() < 3 and abs(x.mean() - 2) < 0.01


@pytest.mark.parametrize(
    ("build", "error", "sentence"),
    [
        (
            lambda: sl.LIF(3, tau_mem=-1.0),
            ValueError,
            r"LIF's tau_mem got -1; expected finite values from 0\.0001 to 10",
        ),
        (lambda: sl.LIF(3, tau_mem=float("nan")), ValueError, "tau_mem got nan; expected finite"),
        (lambda: sl.LIF(3, tau_mem=sl.Normal(1e-3, 1.0)), ValueError, "LogNormal stays positive"),
        (
            lambda: sl.LIF(3, tau_mem=50.0, dt=1e-3),
            ValueError,
            "0.1 to 10000 steps of dt = 0.001 s. It is in seconds: 20 ms",
        ),
        (lambda: sl.LIF(3, tau_men=1.0), TypeError, r"no parameter 'tau_men'; did you mean 'tau_mem'\?"),
        (lambda: sl.LIF(3, learn=("v_t",)), TypeError, r"no parameter to learn 'v_t'; did you mean 'v_th'\?"),
        (lambda: sl.LIF(tau_mem=sl.LogNormal(0.02, 0.1)), ValueError, "has no shape to draw for; give it one"),
        (
            lambda: sl.LIF(3, v_th=torch.ones(4)),
            ValueError,
            r"got shape \(4,\); expected one that broadcasts to \(3,\)",
        ),
        (lambda: sl.LIF(3, reset="soft"), ValueError, "reset='soft'; expected 'subtract' or 'zero' or 'none'"),
        (lambda: sl.LI(3, reset="zero"), ValueError, "reset='zero'; expected 'none'"),
        (
            lambda: sl.LIF(3, refractory=2e-3),
            ValueError,
            r"refractory=0.002; expected a whole number of 0 or more \(2 ms",
        ),
        (lambda: sl.LI(3, refractory=2), ValueError, "LI never fires"),
        (lambda: sl.LIF(3, max_spikes=0), ValueError, "max_spikes=0; expected a whole number of 1 or more"),
        (lambda: sl.LIF(3, comparator="<"), ValueError, "comparator='<'; expected '>' or '>='"),
        (lambda: sl.LIF(3, dt=0), ValueError, "dt=0; expected a time step in seconds above zero"),
        (lambda: sl.between(1, 0), ValueError, r"between\(1, 0\) is empty"),
        (lambda: sl.between(0, 1, logarithmic=True), ValueError, "reaches zero"),
        (lambda: sl.Normal(0, -1), ValueError, "std=-1; expected zero or more"),
        (lambda: sl.LogNormal(0, 1), ValueError, "expected a median above zero"),
        (lambda: sl.Uniform(1, 0), ValueError, "expected low <= high"),
        (lambda: sl.Normal(float("inf"), 1), ValueError, "mean=inf; expected a finite number"),
        (
            lambda: sl.LIF(1, v_th=sl.Param(1.0, constraint=sl.unit_interval), learn="v_th"),
            ValueError,
            "inside, not on the bound, as it is learned",
        ),
    ],
)
def test_bad_values_are_refused_with_a_sentence(build, error, sentence):
    with pytest.raises(error, match=sentence):
        build()


def test_time_constants_are_judged_by_the_networks_dt():
    fast = sl.Layer(None, sl.LIF(2, tau_mem=5e-6))
    with pytest.raises(ValueError, match="LIF's tau_mem got 5e-06"):
        fast(torch.zeros(3, 1, 2))
    net = sl.Sequential(sl.Layer(None, sl.LIF(2, tau_mem=5e-6)), dt=1e-6)
    assert net[0].neuron.tau_mem == 5e-6 and net(torch.zeros(3, 1, 2))[0].shape == (3, 1, 2)
    with pytest.raises(ValueError, match=r"LIF's tau_mem got 0.02; expected finite values from 1e-07 to 0.01"):
        sl.Sequential(sl.LIF(2), dt=1e-6)


def test_a_parameter_given_as_a_declaration_narrows_its_range():
    neuron = sl.LIF(2, tau_mem=sl.Param(20e-3, constraint=sl.between(11e-3, 1.0, logarithmic=True)), learn="tau_mem")
    neuron.params["tau_mem"].raw.data.fill_(-1e6)
    assert 11e-3 <= neuron.tau_mem < 11.01e-3
    with pytest.raises(ValueError, match="got 0.002; expected finite values from 0.011 to 1"):
        sl.LIF(2, tau_mem=sl.Param(2e-3, constraint=sl.between(11e-3, 1.0)))


def test_optional_parameters_are_absent_until_given_or_learned():
    assert "bias" not in sl.LIF(2).params
    assert sl.LIF(2, bias=0.5).bias == 0.5
    assert sl.LIF(2, learn="bias").learned == ("bias",)


def test_dtype_changes_spare_the_value():
    neuron = sl.LIF(3, tau_mem=sl.LogNormal(20e-3, 0.2), learn="tau_mem")
    before = neuron.tau_mem
    neuron.half().float()
    assert neuron.tau_mem.dtype == torch.float64 and neuron.tau_mem.equal(before)
    assert neuron.params["tau_mem"].raw.dtype == torch.float32
    neuron.to("meta")
    assert neuron.tau_mem.is_meta


def test_parameter_groups():
    net = sl.Sequential(sl.Layer(torch.nn.Linear(4, 3), sl.LIF(3, learn=("tau_mem", "v_th"))), sl.LI(3))
    groups = {g["name"]: g for g in sl.parameter_groups(net, lr=1e-3, time_constant_lr=1e-2, weight_decay=0.1)}
    assert {n: (g["lr"], g["weight_decay"], len(g["params"])) for n, g in groups.items()} == {
        "weights": (1e-3, 0.1, 2),
        "neuron_parameters": (1e-3, 0.0, 1),
        "time_constants": (1e-2, 0.0, 1),
    }
    assert [g["name"] for g in sl.parameter_groups(torch.nn.Linear(1, 1))] == ["weights"]
