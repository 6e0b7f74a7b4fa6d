"""Nonlinear, resonating, conductance-based and stochastic neurons against the solutions of their equations."""

import cmath
import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import solve_ivp

import spikeloom as sl
from spikeloom.neurons.exponential import exponential
from tables import NEURONS, make

DT, DOUBLE = 1e-3, torch.float64


def follow(neuron, x, dt=DT, port="current", record=("v",), **more):
    """Spikes [T, N] and the named records of one sample."""
    net = sl.Sequential(sl.Layer(None, neuron, port=port), dt=dt)
    run = sl.run(net, x[:, None], record=record, **more)
    return run.output[:, 0], *(run.records[f"0.{name}"][:, 0] for name in record)


def constant(value, steps, neurons=1):
    return torch.as_tensor(value, dtype=DOUBLE).expand(steps, neurons)


def times(steps, dt=DT):
    return torch.arange(1, steps + 1, dtype=DOUBLE) * dt


def spike_times(right_hand_side, start, peak, reset, until):
    """Times at which the first of several variables passes its peak, by an adaptive solver."""
    found, t, y = [], 0.0, list(start)
    event = lambda t, y: y[0] - peak  # noqa: E731
    event.terminal, event.direction = True, 1
    while t < until:
        solution = solve_ivp(right_hand_side, (t, until), y, events=event, rtol=1e-8, atol=1e-8, method="LSODA")
        if not len(solution.t_events[0]):
            return found
        t = float(solution.t_events[0][0])
        y = reset(solution.y_events[0][0])
        found.append(t)
    return found


def test_the_exponential_of_plus_minus_times_divide():
    x = torch.linspace(-40, 20, 100_001, dtype=DOUBLE)
    error, exact = (exponential(x) - x.exp()).abs(), x.exp()
    assert (error[x.abs() < 5] < 1e-14 * exact[x.abs() < 5]).all()
    assert (error[x.abs() < 10] < 1e-11 * exact[x.abs() < 10]).all() and (error[x < -5] < 1e-15).all()
    assert (error < 1e-7 * exact + 1e-15).all()
    single = exponential(x.float()).double()
    assert ((single - exact).abs() < 6e-6 * exact + 1e-9).all()
    y = torch.tensor([-3.0, 0.0, 2.0], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(exponential, y) and torch.autograd.gradgradcheck(exponential, y)
    _, tangent = torch.func.jvp(exponential, (y.detach(),), (torch.ones(3, dtype=DOUBLE),))
    assert torch.allclose(tangent, y.detach().exp())


def test_quadratic_membrane_below_the_critical_potential():
    start = torch.tensor([-3.0, -0.5, 0.3, 0.99], dtype=DOUBLE)
    _, v = follow(sl.QIF(4, v_init=start), constant(0.0, 100, 4))
    exact = 1 / (1 + (1 - start) / start * torch.exp(times(100)[:, None] / 20e-3))
    torch.testing.assert_close(v, exact, rtol=0, atol=1e-11)
    assert sl.QIF(v_rest=0.2).initial_state(1, (), DOUBLE, torch.device("cpu")).v == 0.2


def test_quadratic_membrane_and_its_period():
    tau, peak = 20e-3, 10.0
    j = torch.tensor([0.05, 0.75, 4.0, 40.0], dtype=DOUBLE)
    for reset in (-9.0, 0.0):  # -9 lies as far from the middle, 0.5, as the peak does
        spikes, v = follow(sl.QIF(4, v_peak=peak, v_reset=reset, v_init=reset), (j + 0.25).expand(3000, 4))
        phase = torch.atan((reset - 0.5) / j.sqrt()) + j.sqrt() * times(12)[:, None] / tau
        before = phase < torch.atan((peak - 0.5) / j.sqrt())
        exact = 0.5 + j.sqrt() * torch.tan(phase)
        torch.testing.assert_close(v[:12][before], exact[before], rtol=1e-7, atol=1e-7)
        period = tau / j.sqrt() * (torch.atan((peak - 0.5) / j.sqrt()) - torch.atan((reset - 0.5) / j.sqrt()))
        if reset == -9:
            torch.testing.assert_close(period, 2 * tau / j.sqrt() * torch.atan(9.5 / j.sqrt()))
        for k in range(4):
            gaps = spikes[:, k].nonzero().flatten().diff()
            assert (gaps == math.floor(period[k] / DT) + 1).all() and len(gaps) > 3


def test_exponential_membrane_rests_fires_above_rheobase_and_converges():
    rheobase = -59.9 + 65 - 3.48
    drive = torch.tensor([0.5, rheobase - 0.02, rheobase + 0.02], dtype=DOUBLE)
    spikes, v = follow(sl.EIF(3), drive.expand(2000, 3))
    assert (spikes.sum(0) > 0).tolist() == [False, False, True]
    rest = v[-1, 0]
    assert (-(rest + 65) + 3.48 * torch.exp((rest + 59.9) / 3.48) + 0.5).abs() < 1e-9
    right = lambda t, y: [(-(y[0] + 65) + 3.48 * math.exp((y[0] + 59.9) / 3.48) + 5.0) / 10e-3]  # noqa: E731
    exact = solve_ivp(right, (0, 8e-3), [-65.0], rtol=1e-10, atol=1e-10).y[0, -1]
    errors = [abs(float(follow(sl.EIF(1, substeps=k), constant(5.0, 8))[1][-1]) - exact) for k in (1, 2, 4, 8)]
    assert all(3.0 < a / b < 5.0 for a, b in pairwise(errors)), errors
    assert errors[0] < 0.05


def test_adaptive_exponential_spike_times():
    preset = sl.AdEx.presets["initial burst"]
    p = preset.parameters

    def right(t, y):
        surge = p["g_leak"] * 2 * math.exp(min((y[0] + 50) / 2, 30))
        v = (-p["g_leak"] * (y[0] - p["e_leak"]) + surge - y[1] + preset.current) / (1e-3 * p["c_m"])
        return [v, (p["a"] * (y[0] - p["e_leak"]) - y[1]) / p["tau_w"]]

    expected = spike_times(right, (p["e_leak"], 0.0), 0.0, lambda y: [p["v_reset"], y[1] + p["b"]], 0.2)
    dt = 2e-5
    spikes, _ = follow(sl.AdEx(1, preset="initial burst"), constant(preset.current, round(0.2 / dt)), dt)
    found = (spikes[:, 0].nonzero().flatten() + 1) * dt
    assert len(found) == len(expected) == 6
    # Each spike comes up to a step late; an early one moves those after it.
    assert all(abs(float(f) - e) < 3e-4 for f, e in zip(found, expected)), (found, expected)


def test_izhikevich_spike_times():
    right = lambda t, y: [0.04 * y[0] ** 2 + 5 * y[0] + 140 - y[1] + 14, 0.02 * (0.2 * y[0] - y[1])]  # noqa: E731
    expected = spike_times(right, (-63.0, -12.6), 30.0, lambda y: [-65.0, y[1] + 8], 150.0)
    for dt, late in ((1e-3, 3.0), (2e-5, 0.1)):
        spikes, _ = follow(sl.Izhikevich(1, preset="regular spiking"), constant(14.0, round(0.15 / dt)), dt)
        found = (spikes[:, 0].nonzero().flatten() + 1) * dt * 1e3
        assert len(found) == len(expected) == 6
        assert all(abs(float(f) - e) < late * (1 + k) for k, (f, e) in enumerate(zip(found, expected)))


def test_resonator_turns_and_decays_exactly():
    damped = complex(-1 / 30e-3, 150.0)
    neuron = sl.RF(1, omega=150.0, tau=30e-3, v_th=1e9, u_init=0.3, v_init=-0.2)
    _, u, v = follow(neuron, constant(7.0, 60), record=("u", "v"))
    turned = [
        complex(0.3, -0.2) * cmath.exp(damped * t) + 7 * (cmath.exp(damped * t) - 1) / damped
        for t in times(60).tolist()
    ]
    exact = torch.tensor(turned, dtype=torch.complex128)
    torch.testing.assert_close(torch.complex(u[:, 0], v[:, 0]), exact, rtol=0, atol=1e-12)


def test_resonator_answers_its_own_frequency_and_starts_from_i():
    omega = 2 * math.pi * 40
    asked = 2 * math.pi * torch.tensor([10.0, 20, 30, 36, 40, 44, 50, 60, 80], dtype=DOUBLE)
    drive = torch.sin(asked * (times(2000)[:, None] - DT / 2))
    _, v = follow(sl.RF(9, omega=omega, tau=100e-3, v_th=1e9), drive)
    amplitude = v[1000:].abs().amax(0)
    assert int(amplitude.argmax()) == 4
    # A sine is two vectors that turn against each other, each filtered by 1 / (+-i asked - lambda).
    right, left = (1 / (sign * 1j * asked + 10 - 1j * omega) for sign in (1, -1))
    expected = (right - left.conj()).abs() / 2
    torch.testing.assert_close(amplitude, expected, rtol=0.05, atol=0)
    x = torch.zeros(40, 1, dtype=DOUBLE)
    x[0] = 1.5
    spikes, u, v = follow(sl.RF(1, omega=omega), x, port="impulse", record=("u", "v"))
    at = int(spikes[:, 0].argmax())
    assert spikes.sum() == 1 and (u[at].item(), v[at].item()) == (0.0, 1.0)


def test_balanced_resonator_is_the_published_one():
    torch.manual_seed(1)
    dt, n, steps = 0.01, 12, 300
    omega, offset = 15 + 70 * torch.rand(n, dtype=DOUBLE), 0.1 + 0.9 * torch.rand(n, dtype=DOUBLE)
    x = 40 * torch.randn(steps, n, dtype=DOUBLE)
    neuron = sl.BRF(n, omega=omega, b_offset=offset, tau_q=-dt / math.log(0.9))
    spikes, v, q = follow(neuron, x, dt, record=("v", "q"))
    z, r = torch.zeros(n, dtype=torch.complex128), torch.zeros(n, dtype=DOUBLE)
    boundary = (-1 + torch.sqrt(1 - (dt * omega) ** 2)) / dt
    for t in range(steps):
        b = boundary - offset - r
        z = z + dt * (torch.complex(b, omega) * z + x[t])
        s = (z.real - 1 - r > 0).double()
        r = 0.9 * r + s
        assert torch.equal(s, spikes[t])
        torch.testing.assert_close(v[t], z.real, rtol=0, atol=1e-10)
        torch.testing.assert_close(q[t], r, rtol=0, atol=1e-12)
    assert 0.02 < spikes.mean() < 0.5


def test_balanced_resonator_stands_at_the_boundary_and_never_diverges():
    omega = torch.tensor([5.0, 40.0, 90.0], dtype=DOUBLE)
    start = {"v_init": 0.6, "u_init": -0.8, "v_th": 1e9}
    _, u, v = follow(sl.BRF(3, omega=omega, b_offset=0.0, **start), constant(0.0, 2000, 3), 0.01, record=("u", "v"))
    torch.testing.assert_close(u**2 + v**2, torch.ones_like(u), rtol=0, atol=1e-10)
    _, u, v = follow(sl.BRF(3, omega=omega, b_offset=0.5, **start), constant(0.0, 500, 3), 0.01, record=("u", "v"))
    factor = (torch.sqrt(1 - (0.01 * omega) ** 2) - 0.005) ** 2 + (0.01 * omega) ** 2
    assert (factor < 1).all()
    torch.testing.assert_close(u**2 + v**2, factor ** torch.arange(1, 501)[:, None], rtol=1e-9, atol=0)
    wild = sl.BRF(3, omega=omega, b_offset=99.0, q_init=1e4, **start)
    assert (follow(wild, constant(0.0, 500, 3), 0.01)[1].abs() <= 1).all()


def test_conductances_and_the_membrane_between_their_potentials():
    g, n = torch.tensor([0.7, 0.4], dtype=DOUBLE), 80
    tau = torch.tensor([5e-3, 10e-3], dtype=DOUBLE)
    held = torch.full((n, 1, 1), 1.0, dtype=DOUBLE) * (1 - torch.exp(-DT / tau)) * g
    held[0] = g  # each step begins with conductances of g
    net = sl.Layer(None, sl.CobaLIF(1, v_th=1e9, v_init=-75.0, bias=3.0))
    run = sl.run(net, {"exc": held[..., :1], "inh": held[..., 1:]}, record=("v", "g_exc"))
    mean = g * (1 - torch.exp(-DT / tau)) * tau / DT
    total = 1 + mean.sum()
    limit = (-60 + 3 - 80 * mean[1]) / total
    exact = limit + (-75 - limit) * torch.exp(-total * times(n) / 20e-3)
    torch.testing.assert_close(run.records["v"].flatten(), exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(run.records["g_exc"].flatten(), (g[0] * math.exp(-0.2)).expand(n), rtol=0, atol=1e-12)
    wild = {p: 50 * torch.randn(300, 4, 3, dtype=DOUBLE) for p in ("exc", "inh")}
    run = sl.run(sl.Layer(None, sl.CobaLIF(3, v_th=1e9)), wild, record=("v", "g_exc", "g_inh"))
    assert (run.records["g_exc"] >= 0).all() and (run.records["g_inh"] >= 0).all()
    assert run.records["v"].min() > -80 and run.records["v"].max() < 0 and run.records["v"].std() > 5


def test_conductance_potentials_converge():
    right = lambda t, y: [(-60 - y[0] - 0.6 * math.exp(-t / 5e-3) * y[0]) / 20e-3]  # noqa: E731
    exact = solve_ivp(right, (0, 12e-3), [-60.0], rtol=1e-10, atol=1e-10).y[0, -1]
    errors = []
    for dt in (1e-3, 5e-4, 2.5e-4):
        x = torch.zeros(round(12e-3 / dt), 1, dtype=DOUBLE)
        x[0] = 0.6
        errors.append(abs(float(follow(sl.CobaLIF(1, v_th=1e9), x, dt, port="exc")[1][-1]) - exact))
    assert errors[0] < 0.02 and errors[0] > 1.8 * errors[1] > 3.2 * errors[2]


@pytest.mark.parametrize(
    ("activation", "function"), [("relu", torch.relu), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid)]
)
def test_rate_network_is_the_leaky_recurrence(activation, function):
    into, back = torch.nn.Linear(4, 6, bias=False).double(), torch.nn.Linear(6, 6, bias=False).double()
    neuron = sl.Rate(6, activation=activation, tau_mem=10e-3, bias=0.2)
    layer = sl.Layer(into, neuron, back, port="current", recurrent_port="current")
    x = 3 * torch.randn(50, 2, 4, dtype=DOUBLE)
    beta, v, r = math.exp(-0.1), torch.zeros(2, 6, dtype=DOUBLE), torch.zeros(2, 6, dtype=DOUBLE)
    found, _ = layer(x)
    for t in range(50):
        v = beta * v + (1 - beta) * (into(x[t]) + back(r) + 0.2)
        r = function(v)
        torch.testing.assert_close(found[t], r, rtol=0, atol=1e-9)


def escaping(v, **more):
    """A neuron that stays at potential v."""
    return sl.StochasticLIF(reset="none", v_init=v, bias=v, **more)


def test_firing_probability_and_hazard():
    v = torch.tensor([0.5, 0.8, 1.0, 1.1, 1.3], dtype=DOUBLE)
    neuron = escaping(v.reshape(5, 1), rho_th=100.0, delta_u=0.15)
    x = torch.zeros(60, 20, 5, 200, dtype=DOUBLE)
    spikes = sl.run(sl.Layer(None, neuron), x, seed=0).output
    p = 1 - torch.exp(-100 * torch.exp((v - 1) / 0.15) * DT)
    n = 60 * 20 * 200
    assert ((spikes.mean((0, 1, 3)) - p).abs() < 4.5 * (p * (1 - p) / n).sqrt()).all()
    # A constant hazard: a spike says nothing of the next step.
    after = (spikes[1:] * spikes[:-1]).mean((0, 1, 3))
    assert ((after - p * p).abs() < 5 * (p * p * (1 - p * p) / n).sqrt() + 2e-4).all()


def test_escape_noise_repeats_by_its_seed_and_vanishes_with_its_width():
    layer, x = sl.Layer(None, sl.StochasticLIF(30), port="current"), 0.5 + torch.rand(200, 4, 30)
    runs = [sl.run(layer, x, seed=s, engine=e).output for s, e in ((1, "cpu"), (1, "eager"), (2, "cpu"))]
    assert runs[0].equal(runs[1]) and not runs[0].equal(runs[2]) and runs[0].mean() > 0.005
    sure = sl.run(sl.Layer(None, sl.StochasticLIF(30, delta_u=1e-12), port="current"), 2 * x, seed=1).output
    assert sure.equal(sl.run(sl.Layer(None, sl.LIF(30), port="current"), 2 * x).output) and sure.sum() > 0


def test_the_mean_gradient_is_that_of_the_probability():
    width = 0.01
    narrow = sl.Sigmoid(width=width, amplitude=1 / (4 * width))  # its integral is one
    layer = sl.Layer(None, sl.StochasticLIF(tau_mem=1.0, delta_u=0.1), surrogate=narrow)
    x = torch.full((1, 400, 500), 0.95 * math.exp(1e-3), dtype=DOUBLE, requires_grad=True)
    sl.run(layer, x, seed=0).output.mean().backward()
    rho = 100 * math.exp((0.95 - 1) / 0.1) * DT
    slope = rho * math.exp(-rho) / 0.1 * math.exp(-1e-3)
    assert float(x.grad.sum()) == pytest.approx(slope, rel=0.04)


def test_gumbel_numbers():
    x = torch.stack(_gumbel(40, (50, 101)))
    n = x.numel()
    assert abs(x.mean() - 0.5772157) < 4 * (math.pi**2 / 6 / n) ** 0.5
    assert abs(x.var() - math.pi**2 / 6) < 4 * (4.4 * (math.pi**2 / 6) ** 2 / n) ** 0.5
    assert abs((x < 0).double().mean() - math.exp(-1)) < 4 * (0.24 / n) ** 0.5


def _gumbel(steps, shape):
    from spikeloom.engine.noise import draw, streams

    stream = streams(0, "layer", shape[0], torch.device("cpu")).reshape(shape[0], 1)
    return draw(stream, torch.zeros_like(stream), 0, steps, shape, DOUBLE, "gumbel")


@pytest.mark.parametrize("neuron", [sl.EIF(300, noise=0.3, v_t=0.0), sl.CobaLIF(300, noise=0.3, v_th=0.0)])
def test_membrane_noise_in_millivolts(neuron):
    v = follow(neuron, constant(0.0, 2000, 300), seed=0)[1][500:]
    assert v.std().item() == pytest.approx(0.3, rel=0.02)


# AdLIF's own equations diverge where its coupling a is learned to be below zero.
@pytest.mark.parametrize("name", [n for n in NEURONS if n != "AdLIF"])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_finite_whatever_is_learned_and_given(name, size):
    kind = NEURONS[name][0]
    learned = tuple(p for p in kind.declared_params if p != "noise")
    for seed in range(4):
        torch.manual_seed(seed)
        layer = sl.Layer(None, make(name, 5, learn=learned))
        for p in layer.parameters():
            p.data.copy_(10 * torch.randn_like(p) if seed else torch.full_like(p, -30.0))
        x = (size * torch.randn(60, 3, 5)).requires_grad_()
        run = sl.run(layer, x, record=("v",), seed=0)
        assert run.output.isfinite().all() and run.records["v"].isfinite().all()
        run.output.sum().backward()
        assert x.grad.isfinite().all() and all(
            p.grad.isfinite().all() for p in layer.parameters() if p.grad is not None
        )


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: sl.EIF(substeps=0), "EIF got substeps=0; expected a whole number of 1 or more"),
        (lambda: sl.AdEx(substeps=1.5), r"AdEx got substeps=1.5; expected a whole number"),
        (lambda: sl.AdEx(preset="tonic"), "AdEx has no preset 'tonic'; did you mean 'tonic spiking'"),
        (lambda: sl.Izhikevich(preset="qqq"), "Izhikevich has no preset 'qqq'; It has: 'regular spiking'"),
        (lambda: sl.Rate(activation="gelu"), "Rate got activation='gelu'; expected 'relu' or 'tanh' or 'sigmoid'"),
        (lambda: sl.CobaLIF(max_spikes=2), "CobaLIF fires once in a step at most; leave max_spikes out"),
        (lambda: sl.BRF(omega=150.0, dt=0.01), "BRF's omega got 150; expected .* 1e-06 to 0.999 in one step of dt"),
        (lambda: sl.RF(omega=4000.0, dt=1e-3), "RF's omega got 4000; expected"),
        (lambda: sl.QIF(reset="subtract"), "QIF got reset='subtract'; expected 'zero'"),
    ],
)
def test_bad_values_are_refused_with_a_sentence(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_what_gives_a_step_its_form_is_seen_by_the_fused_engines():
    x = torch.full((30, 1, 2), 5.0)
    found = [sl.run(sl.Layer(None, sl.EIF(2, substeps=k), port="current"), x, record="v").records["v"] for k in (1, 4)]
    assert not found[0].equal(found[1])
