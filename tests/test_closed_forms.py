"""Neurons against the solutions of their equations."""

import math
from decimal import Decimal, getcontext

import pytest
import torch

import spikeloom as sl

DT = 1e-3


def membrane(neuron, x, port="impulse"):
    run = sl.run(sl.Layer(None, neuron, port=port), x, record=("v",))
    return run.records["v"][:, 0, 0]


def times(steps, dt=DT):
    """End of each step."""
    return torch.arange(1, steps + 1, dtype=torch.float64) * dt


def impulse(steps):
    x = torch.zeros(steps, 1, 1, dtype=torch.float64)
    x[0] = 1.0
    return x


@pytest.mark.parametrize("kind", [sl.LI, sl.LIF])
def test_membrane_under_constant_current_and_impulse(kind):
    tau, n = 13e-3, 80
    neuron = kind(1, tau_mem=tau) if kind is sl.LI else kind(1, tau_mem=tau, v_th=1e9)
    v = membrane(neuron, torch.full((n, 1, 1), 0.7, dtype=torch.float64), "current")
    torch.testing.assert_close(v, 0.7 * (1 - torch.exp(-times(n) / tau)), rtol=0, atol=1e-12)
    torch.testing.assert_close(membrane(neuron, impulse(n)), torch.exp(-times(n) / tau), rtol=0, atol=1e-12)
    biased = kind(1, tau_mem=tau, bias=0.7, v_init=0.2, **({} if kind is sl.LI else {"v_th": 1e9}))
    expected = 0.7 + (0.2 - 0.7) * torch.exp(-times(n) / tau)
    torch.testing.assert_close(membrane(biased, 0 * impulse(n)), expected, rtol=0, atol=1e-12)


def test_integrate_and_fire_without_leak():
    n = 50
    neuron = sl.IF(1, v_th=1e9, bias=3.0)
    v = membrane(neuron, torch.full((n, 1, 1), 7.0, dtype=torch.float64), "current")
    torch.testing.assert_close(v, 10.0 * times(n), rtol=0, atol=1e-12)
    torch.testing.assert_close(membrane(sl.IF(1, v_th=1e9), impulse(n)), torch.ones(n, dtype=torch.float64))


def post_synaptic_potential(t, tau_mem, tau_syn):
    if tau_mem == tau_syn:
        return t / tau_mem * torch.exp(-t / tau_mem)
    return tau_syn / (tau_mem - tau_syn) * (torch.exp(-t / tau_mem) - torch.exp(-t / tau_syn))


@pytest.mark.parametrize(
    ("tau_mem", "tau_syn"),
    [(20e-3, 5e-3), (5e-3, 20e-3), (10e-3, 10e-3), (10e-3, 10.001e-3), (1e-2, 1.1e-2), (1.0, 1e-4)],
)
@pytest.mark.parametrize("kind", [sl.CubaLI, sl.CubaLIF])
def test_current_based_potentials(kind, tau_mem, tau_syn):
    n, more = 90, {} if kind is sl.CubaLI else {"v_th": 1e9}
    neuron = kind(1, tau_mem=tau_mem, tau_syn=tau_syn, **more)
    t = times(n)
    expected = post_synaptic_potential(t, tau_mem, tau_syn)
    # The closed form itself cancels where the time constants are close; there the limit is the better reference.
    atol = 1e-12 if tau_mem == tau_syn or abs(tau_mem / tau_syn - 1) > 0.05 else 1e-10
    torch.testing.assert_close(membrane(neuron, impulse(n)), expected, rtol=0, atol=atol)
    held = membrane(neuron, torch.full((n, 1, 1), 0.7, dtype=torch.float64), "current")
    torch.testing.assert_close(held, 0.7 * step_response(t, tau_mem, tau_syn), rtol=0, atol=max(atol, 1e-11))
    biased = membrane(kind(1, tau_mem=tau_mem, tau_syn=tau_syn, bias=0.4, **more), 0 * impulse(n))
    torch.testing.assert_close(biased, 0.4 * (1 - torch.exp(-t / tau_mem)), rtol=0, atol=1e-12)


def step_response(t, tau_mem, tau_syn):
    """Membrane under tau_syn I' = -I + 1 from rest."""
    if tau_mem == tau_syn:
        return 1 - torch.exp(-t / tau_mem) * (1 + t / tau_mem)
    return 1 - (tau_mem * torch.exp(-t / tau_mem) - tau_syn * torch.exp(-t / tau_syn)) / (tau_mem - tau_syn)


@pytest.mark.parametrize("offset", [0.0, 1e-9, 1e-7, 1e-5, 1e-4, 3e-3])
def test_gain_and_its_gradient_at_and_near_equal_time_constants(offset):
    getcontext().prec = 60

    def gain(tau_mem, tau_syn):
        a, b, dt = Decimal(tau_syn), Decimal(tau_mem), Decimal(DT)
        if a == b:
            return dt / b * (-dt / b).exp()
        return a / (b - a) * ((-dt / b).exp() - (-dt / a).exp())

    tau_mem, tau_syn = 10e-3, 10e-3 * (1 + offset)
    neuron = sl.CubaLI(1, tau_mem=tau_mem, tau_syn=tau_syn, learn=("tau_mem", "tau_syn")).double()
    value = neuron.coefficients(DT)["gain"]
    assert value.item() == pytest.approx(float(gain(tau_mem, tau_syn)), rel=1e-13)
    raws = [neuron.params[p].raw for p in ("tau_mem", "tau_syn")]
    found = torch.autograd.grad(value.sum(), raws)
    h = Decimal("1e-20")
    for k, gradient in enumerate(found):
        up, down = [Decimal(tau_mem), Decimal(tau_syn)], [Decimal(tau_mem), Decimal(tau_syn)]
        # A raw step is a relative one: d tau / d raw = tau at raw = 0.
        up[k], down[k] = up[k] * (1 + h), down[k] * (1 - h)
        assert gradient.item() == pytest.approx(float((gain(*up) - gain(*down)) / (2 * h)), rel=1e-9, abs=1e-12)


def test_rate_against_current():
    """f(I) = 1 / (tau ln(I / (I - v_th))), up to the step's length."""
    tau, dt, n = 20e-3, 1e-4, 8_000
    current = torch.tensor([0.9, 1.0, 1.1, 1.5, 3.0], dtype=torch.float64)
    net = sl.Sequential(sl.Layer(None, sl.LIF(5, tau_mem=tau, reset="zero"), port="current"), dt=dt)
    spikes, _ = net(current.expand(n, 1, 5))
    counts = spikes.sum((0, 1))
    assert counts[0] == 0 and counts[1] == 0
    period = tau * torch.log(current[2:] / (current[2:] - 1))
    expected = (n * dt / period).floor()
    assert ((counts[2:] - expected).abs() <= 1 + expected * dt / period).all()


def test_spike_times_converge_with_the_first_power_of_dt():
    tau_mem, tau_syn, weight = 20e-3, 5e-3, 8.0
    grid = torch.linspace(0, 20e-3, 2_000_001, dtype=torch.float64)
    potential = weight * post_synaptic_potential(grid, tau_mem, tau_syn)
    exact = grid[(potential > 1).nonzero()[0]].item()
    errors = []
    for dt in (1e-3, 5e-4, 1e-4, 5e-5, 1e-5):
        neuron = sl.CubaLIF(1, tau_mem=tau_mem, tau_syn=tau_syn)
        net = sl.Sequential(sl.Layer(None, neuron), dt=dt)
        spikes, _ = net(weight * impulse(round(20e-3 / dt)))
        first = spikes.flatten().nonzero()[0].item()
        errors.append((first + 1) * dt - exact)  # output index t is stamped (t + 1) dt
        assert 0 <= errors[-1] <= dt * (1 + 1e-9)
    assert errors[-1] < 1e-5 < errors[0]


@pytest.mark.parametrize("refractory", [1, 3, 7])
def test_refractory_period_in_whole_steps(refractory):
    neuron = sl.LIF(1, reset="zero", refractory=refractory)
    spikes = sl.Layer(None, neuron)(torch.full((60, 1, 1), 5.0))[0].flatten()
    gaps = spikes.nonzero().flatten().diff()
    assert (gaps == refractory + 1).all() and len(gaps) > 5
    run = sl.run(sl.Layer(None, neuron), torch.full((60, 1, 1), 5.0), record=("v",))
    assert (run.records["v"][run.output == 0] == 0).all(), "the membrane is held at its reset value"


def test_a_membrane_held_above_threshold_does_not_fire():
    spikes, _ = sl.Layer(None, sl.IF(1, refractory=2))(torch.tensor([3.5, 0.0, 0.0, 0.0, 0.0, 0.0]).reshape(6, 1, 1))
    assert spikes.flatten().tolist() == [1, 0, 0, 1, 0, 0]  # 3.5 - 1 = 2.5 held, 2.5 - 1 = 1.5 held


def test_resets_and_records_before_and_after():
    x = torch.full((1, 1, 1), 3.0, dtype=torch.float64)
    for reset, after in (("subtract", 3 * math.exp(-0.05) - 1.2), ("zero", -0.3), ("none", 3 * math.exp(-0.05))):
        layer = sl.Layer(None, sl.LIF(1, v_th=1.2, v_reset=-0.3, reset=reset))
        run = sl.run(layer, x, record=("v", "v_before_reset", "spikes", "input"))
        assert run.records["spikes"].item() == 1 and run.records["input"].item() == 3
        assert run.records["v_before_reset"].item() == pytest.approx(3 * math.exp(-0.05), abs=1e-12)
        assert run.records["v"].item() == pytest.approx(after, abs=1e-12)


def test_several_spikes_in_a_step():
    layer = sl.Layer(None, sl.IF(1, max_spikes=4))
    spikes, state = layer(torch.tensor([2.5, 0.4, 0.2, 9.0]).reshape(4, 1, 1).double())
    assert spikes.flatten().tolist() == [2, 0, 1, 4]  # 2.5 - 2 = 0.5; 0.9; 1.1 - 1; 9.1 - 4
    assert state.neuron.v.item() == pytest.approx(5.1)


def test_comparators_differ_at_equality():
    for comparator, expected in ((">", 0), (">=", 1)):
        assert sl.Layer(None, sl.IF(1, comparator=comparator))(torch.ones(1, 1, 1))[0].item() == expected


def test_adaptive_threshold_step_by_step():
    neuron = sl.ALIF(1, tau_mem=20e-3, tau_adapt=50e-3, v_th=0.5, increment=0.3)
    x = torch.rand(60, 1, 1, dtype=torch.float64)
    run = sl.run(sl.Layer(None, neuron), x, record=("a", "v"))
    v = a = 0.0
    for t in range(60):
        v = math.exp(-1 / 20) * (v + x[t].item())
        a *= math.exp(-1 / 50)
        s = v > 0.5 + a
        v, a = v - 0.5 * s, a + 0.3 * s
        assert run.output[t].item() == s
        assert run.records["v"][t].item() == pytest.approx(v) and run.records["a"][t].item() == pytest.approx(a)
    assert 5 < run.output.sum() < 55


def test_adaptive_current_in_symplectic_order():
    neuron = sl.AdLIF(1, tau_mem=20e-3, tau_adapt=100e-3, a=0.4, b=1.5, q=2.0, v_th=0.3, reset="zero")
    x = torch.rand(80, 1, 1, dtype=torch.float64)
    run = sl.run(sl.Layer(None, neuron, port="current"), x, record=("w", "v"))
    u = w = 0.0
    du, dw = math.exp(-1 / 20), math.exp(-1 / 100)
    for t in range(80):
        u = du * u + (1 - du) * (x[t].item() - w)
        z = u > 0.3
        u = u * (1 - z)
        w = dw * w + (1 - dw) * 2.0 * (0.4 * u + 1.5 * z)
        assert run.output[t].item() == z
        assert run.records["w"][t].item() == pytest.approx(w) and run.records["v"][t].item() == pytest.approx(u)
    assert run.output.sum() > 2


def test_impulses_arrive_at_the_start_of_a_step_and_recurrent_spikes_at_the_next():
    back = torch.nn.Linear(1, 1, bias=False)
    back.weight.data.fill_(-0.25)
    layer = sl.Layer(None, sl.IF(1, reset="zero"), back)
    run = sl.run(layer, torch.tensor([1.5, 0.0, 0.0]).reshape(3, 1, 1), record=("v", "input"))
    assert run.output.flatten().tolist() == [1, 0, 0]
    assert run.records["input"].flatten().tolist() == [1.5, -0.25, 0]
    assert run.records["v"].flatten().tolist() == [0, -0.25, -0.25]
