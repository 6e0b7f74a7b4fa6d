"""The exact simulator: closed forms of spike times, trajectories by another integrator, its adjoint by differences."""

import math

import numpy as np
import pytest
import torch

import spikeloom as sl
from spikeloom.exact import Network, simulate
from spikeloom.exact.flow import Rates, first_crossing

T = 0.016


def random_network(seed, *, refractory=0.0, increment=0.0, equal=False, neurons=3, inputs=3, spikes=5):
    """Numbers of a recurrent network with delays, and input for it."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    def normal(mean, deviation, *shape):
        return mean + deviation * torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = neurons
    tau_mem = uniform(12e-3, 25e-3, n)
    given = {
        "weight": normal(8.0, 2.0, n, inputs),
        "recurrent": normal(-1.0, 2.0, n, n),
        "delay": uniform(0.5e-3, 4e-3, n, inputs),
        "recurrent_delay": uniform(0.5e-3, 4e-3, n, n),
        "tau_mem": tau_mem,
        "tau_syn": tau_mem.clone() if equal else uniform(3e-3, 7e-3, n),
        "v_th": uniform(0.9, 1.1, n),
        "v_reset": uniform(-0.3, 0.1, n),
        "bias": uniform(0.0, 0.3, n),
        "refractory": torch.full((n,), refractory, dtype=torch.float64),
        "tau_adapt": uniform(20e-3, 40e-3, n),
        "increment": increment * uniform(1.0, 2.0, n),
        "v_init": uniform(-0.2, 0.2, n),
        "i_init": uniform(0.0, 0.5, n),
    }
    times = torch.cumsum(uniform(0.5e-3, 4e-3, spikes), 0)
    channels = torch.randint(0, inputs, (spikes,), generator=generator)
    return given, times, channels, generator


def random_loss(generator, neurons=3):
    """A loss on spike times, sampled membranes, their integral and the last state, and the number of spikes."""
    on_times = torch.randn(500, generator=generator, dtype=torch.float64)
    on_samples = torch.randn(3, neurons, generator=generator, dtype=torch.float64)
    on_integral = torch.randn(neurons, generator=generator, dtype=torch.float64)

    def loss(given, times, channels, reset):
        found = simulate(Network(**given, reset=reset), times, channels, duration=T, samples=[0.005, 0.0113, 0.015])
        total = 10 * (found.times * on_times[: len(found.times)]).sum() + (found.membrane * on_samples).sum()
        return total + 100 * (found.integral * on_integral).sum() + (found.v + found.i + found.a).sum(), found.neurons

    return loss


CASES = {
    "plain": (0, {}, "zero"),
    "refractory, adaptive": (1, {"refractory": 2e-3, "increment": 0.2}, "zero"),
    "subtract, adaptive": (2, {"increment": 0.2}, "subtract"),
    "equal time constants": (3, {"equal": True, "refractory": 3e-3, "increment": 0.3, "spikes": 3}, "zero"),
}


@pytest.mark.parametrize("case", CASES)
def test_adjoint_equals_central_differences(case):
    seed, options, reset = CASES[case]
    given, times, channels, generator = random_network(seed, **options)
    loss = random_loss(generator)
    leaves = {name: value.clone().requires_grad_() for name, value in (given | {"times": times}).items()}
    total, fired = loss({k: v for k, v in leaves.items() if k != "times"}, leaves["times"], channels, reset)
    total.backward()
    assert len(set(fired.tolist())) == 3 and 5 <= len(fired) < 40
    checked = 0
    for name, leaf in leaves.items():
        base = leaf.detach()
        if (not options.get("increment") and name == "tau_adapt") or (reset == "subtract" and name == "v_reset"):
            assert leaf.grad is None or not leaf.grad.any(), name
            continue
        if not base.any():
            continue
        direction = torch.randn(base.shape, generator=generator, dtype=torch.float64) * base.abs().mean()
        values = []
        for step in (-2, -1, 1, 2):
            moved = given | {"times": times} | {name: base + 1e-5 * step * direction}
            with torch.no_grad():
                value, order = loss({k: v for k, v in moved.items() if k != "times"}, moved["times"], channels, reset)
            assert torch.equal(order, fired), "the step is small enough to keep all spikes in their order"
            values.append(float(value))
        difference = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * 1e-5)
        assert leaf.grad is not None
        error = abs(float((leaf.grad * direction).sum()) - difference)
        assert error <= 1e-7 * float(leaf.grad.norm() * direction.norm()), name
        checked += 1
    assert checked >= 11


def test_spike_times_have_closed_forms():
    # tau_mem = 2 tau_syn, one input of weight w at 0 (Göltz et al. 2021).
    tau_syn, w = 5e-3, 6.0
    network = Network(torch.tensor([[w]]), tau_mem=2 * tau_syn, tau_syn=tau_syn)
    first = simulate(network, [0.0], [0], duration=0.02).times[0]
    assert float(first) == pytest.approx(2 * tau_syn * math.log(2 * w / (w + math.sqrt(w * w - 4 * w))), rel=1e-13)
    # A constant current: regular, with period tau ln((b - v_reset) / (b - v_th)) and the refractory period.
    network = Network(torch.zeros(1, 1), tau_mem=20e-3, bias=1.5, v_reset=-0.5, v_init=-0.5, refractory=3e-3)
    times = simulate(network, [], [], duration=0.2).times
    period = 20e-3 * math.log(2.0 / 0.5) + 3e-3
    assert torch.allclose(times, period * torch.arange(1, len(times) + 1).double() - 3e-3, rtol=1e-13, atol=0)
    assert len(times) == int((0.2 + 3e-3) / period)


def test_membranes_follow_their_equations():
    given, times, channels, _ = random_network(4, refractory=2e-3, increment=0.2, neurons=2)
    given["recurrent_delay"] = torch.tensor(1e-3)
    samples = [0.006, 0.012, T]
    found = simulate(Network(**given), times, channels, duration=T, samples=samples)
    assert len(found.times) >= 5
    assert torch.equal(found.times, found.times.sort().values)
    h, v, i, a, area = 2e-6, given["v_init"].clone(), given["i_init"].clone(), torch.zeros(2), torch.zeros(2)
    arrivals = [
        (float(t + given["delay"][j, c]), j, float(given["weight"][j, c]))
        for t, c in zip(times, channels)
        for j in range(2)
    ]
    arrivals += [
        (float(t) + 1e-3, j, float(given["recurrent"][j, n]))
        for t, n in zip(found.times, found.neurons)
        for j in range(2)
    ]
    fired = list(zip(found.times.tolist(), found.neurons.tolist()))
    read, release = [], [0.0, 0.0]
    v, i, a, area = (x.double().numpy().copy() for x in (v, i, a, area))
    p = {k: x.numpy() for k, x in given.items()}
    arrivals.sort()
    for k in range(round(T / h)):
        t = (k + 1) * h
        free = np.array([t > r for r in release])
        area += h * v
        v = np.where(free, v + h * (i + p["bias"] - v) / p["tau_mem"], v)
        i, a = i - h * i / p["tau_syn"], a - h * a / p["tau_adapt"]
        while arrivals and arrivals[0][0] <= t:
            _, j, w = arrivals.pop(0)
            i[j] += w
        while fired and fired[0][0] <= t:
            time, n = fired.pop(0)
            assert abs(v[n] - p["v_th"][n] - a[n]) < 5e-3, "fires where the membrane meets the threshold"
            v[n], a[n], release[n] = p["v_reset"][n], a[n] + p["increment"][n], time + 2e-3
        if len(read) < 3 and t >= samples[len(read)] - h / 2:
            read.append(v.copy())
    assert np.allclose(found.membrane.numpy(), np.stack(read), atol=3e-3)
    assert np.allclose(found.integral.numpy(), area, atol=1e-4)


def test_no_crossing_is_missed():
    # The first crossing on a grid of 20,000 points is never earlier than the one found, and grazing peaks are seen.
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        mem, syn, adapt = 1 / generator.uniform(2e-3, 30e-3, 3)
        syn = mem if generator.random() < 0.2 else syn
        r = Rates(*(np.array([x]) for x in (mem, syn, adapt, generator.normal() * 0.5, 1.0)))
        v, i, a = (np.array([generator.normal() * s]) for s in (0.5, 6.0, 0.5))
        if v[0] - 1 - a[0] >= 0:
            continue
        t = np.linspace(0, 0.06, 20_001)
        kappa = t * np.exp(-mem * t) if mem == syn else (np.exp(-mem * t) - np.exp(-syn * t)) / (syn - mem)
        g = r.bias + (v - r.bias) * np.exp(-mem * t) + i * mem * kappa - 1 - a * np.exp(-adapt * t)
        over = np.flatnonzero(g >= 0)
        found = first_crossing(v, i, a, r, np.array([True]), 0.06)
        if len(over):
            assert found is not None and t[over[0] - 1] - 1e-12 <= found[0] <= t[over[0]] + 1e-12
            hits += 1
        elif found is not None:
            assert g.max() > -1e-4, "only a peak between two points of the grid"
    assert hits > 50


def test_layers_are_a_network_of_blocks():
    torch.manual_seed(0)
    hidden = sl.CubaLIF(4, tau_mem=sl.LogNormal(20e-3, 0.2), bias=0.1, reset="zero", v_reset=-0.1, refractory=2)
    net = sl.Sequential(
        sl.Layer(torch.nn.Linear(3, 4, bias=False), hidden, torch.nn.Linear(4, 4, bias=False), self_connections=False),
        sl.Layer(torch.nn.Linear(4, 2, bias=False), sl.CubaLI(2)),
    )
    found = sl.exact.from_layers(net)
    assert found.weight.shape == (6, 3) and found.recurrent is not None and found.recurrent.shape == (6, 6)
    assert torch.equal(found.recurrent[4:, :4], net[1].connection.weight.double())
    assert not found.recurrent[:4, :4].diagonal().any() and found.recurrent[0, 1] == net[0].recurrent.weight[0, 1]
    assert found.refractory.tolist() == pytest.approx([2e-3] * 4 + [0] * 2)
    assert found.v_th[-1] == math.inf and torch.equal(found.tau_mem[:4], hidden.tau_mem)
    assert found.reset == "zero" and found.v_reset[0] == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight": torch.zeros(3)}, r"weight of shape \(3,\); expected \[N, M\]"),
        ({"recurrent": torch.zeros(1, 2)}, r"recurrent weights of shape \(1, 2\); expected \(2, 2\)"),
        ({"delay": torch.zeros(2)}, r"delay of shape \(2,\); expected a number or its weights' shape"),
        ({"recurrent_delay": torch.zeros(2, 2)}, "recurrent_delay of shape"),
        ({"delay": -1e-3}, "delay=-0.001 s; expected 0 or more"),
        ({"tau_mem": 0.0}, "tau_mem=0 s; expected a time above 0"),
        ({"bias": torch.zeros(3)}, r"bias of shape \(3,\); expected a number or \[2\]"),
        ({"refractory": -1.0}, "negative refractory period"),
        ({"v_reset": 1.0}, "v_reset at or above v_th"),
        ({"v_init": 1.0}, "v_init at or above v_th"),
        ({"reset": "none"}, "reset='none'; expected 'zero' or 'subtract'"),
    ],
)
def test_networks_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        Network(**{"weight": torch.zeros(2, 1), **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"duration": 0.0}, "duration=0.0; expected seconds above 0"),
        ({"times": [0.1, 0.2]}, "one channel for each time"),
        ({"times": [-0.1]}, "an input spike at -0.1 s"),
        ({"channels": [1]}, "channels up to 1; expected 0 to 0"),
        ({"samples": [2.0]}, "samples outside 0 to 1 s"),
    ],
)
def test_input_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        simulate(Network(torch.zeros(2, 1)), **{"times": [0.1], "channels": [0], "duration": 1.0, **given})


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: sl.Layer(torch.nn.Linear(2, 2, bias=False), sl.LIF(2)), "got LIF; expected layers of CubaLI"),
        (lambda: sl.Layer(torch.nn.Linear(2, 2), sl.CubaLIF(2)), r"got Linear as a connection; expected nn.Linear\("),
        (lambda: sl.Layer(torch.nn.Linear(2, 2, bias=False), sl.CubaLIF(2, reset="none")), "got reset='none'"),
    ],
)
def test_layers_that_have_no_exact_network(layer, message):
    with pytest.raises(ValueError, match=message):
        sl.exact.from_layers(layer())
