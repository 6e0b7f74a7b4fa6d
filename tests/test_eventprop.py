"""EventProp on layers: against the exact network as dt goes to 0, on every engine, and what it keeps and refuses."""

import itertools
import math

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.engine import ENGINES

DURATION = 0.03
ON_TIMES = torch.tensor([1.0, 1.4, 1.9], dtype=torch.float64)
ON_READOUT = torch.tensor([1.0, -0.7], dtype=torch.float64)
LEARNED = ("tau_mem", "tau_syn", "v_th", "bias", "v_init", "i_init")


class TimeLoss(torch.autograd.Function):
    """sum of c_n t_k over all spikes, with the gradient that a raster under EventProp has."""

    @staticmethod
    def forward(ctx, spikes, weight, dt):
        ctx.save_for_backward(spikes, weight)
        times = dt * torch.arange(1, len(spikes) + 1, dtype=spikes.dtype)
        return (spikes * weight * times[:, None, None]).sum()

    @staticmethod
    def backward(ctx, g):
        spikes, weight = ctx.saved_tensors
        return g * spikes * weight, None, None


def network(dt, *, adaptive=False, reset="zero", refractory=0.0, recurrent=True, seed=0, equal=False):
    """Four inputs, three hidden neurons (recurrent), two readouts; every parameter learns."""
    torch.manual_seed(seed)
    tau = 15e-3 + 10e-3 * torch.rand(3)
    given = {"tau_mem": tau, "tau_syn": tau if equal else 4e-3 + 3e-3 * torch.rand(3)}
    given |= {"v_th": 0.9 + 0.2 * torch.rand(3), "bias": 0.2 * torch.rand(3), "reset": reset, "v_init": 0.05}
    learn = LEARNED
    if reset == "zero":
        given["v_reset"], learn = -0.2 * torch.rand(3), (*learn, "v_reset")
    if adaptive:
        given |= {"tau_adapt": 30e-3, "increment": 0.2}
        learn = (*learn, "tau_adapt", "increment")
    kind = sl.CubaALIF if adaptive else sl.CubaLIF
    hidden = kind(3, refractory=round(refractory / dt), learn=learn, **given)
    first, back, second = (nn.Linear(a, b, bias=False, dtype=torch.float64) for a, b in ((4, 3), (3, 3), (3, 2)))
    for matrix, mean, deviation in ((first, 3.5, 0.8), (back, -0.3, 0.7), (second, 0.0, 2.0)):
        nn.init.normal_(matrix.weight, mean, deviation)
    readout = sl.CubaLI(2, tau_mem=15e-3, tau_syn=4e-3, learn=("tau_mem", "tau_syn"))
    net = sl.Sequential(sl.Layer(first, hidden, back if recurrent else None), sl.Layer(second, readout), dt=dt)
    return net.double()


TIMES = torch.tensor([0, 1, 3, 4, 8, 9, 12, 13], dtype=torch.float64) * 1e-3
CHANNELS = torch.arange(8) % 4


def on_grid(net, dt, engine="eager", duration=DURATION):
    """Loss, spikes and run of the network in steps."""
    x = torch.zeros(round(duration / dt), 1, 4, dtype=torch.float64)
    x[(TIMES / dt).round().long(), 0, CHANNELS] = 1
    x.requires_grad_()
    run = sl.run(net, x, gradient=sl.EventProp(), engine=engine, record=("0.spikes",))
    spikes = run.records["0.spikes"]
    readout = 30 * dt * (run.output * ON_READOUT).sum()
    return TimeLoss.apply(spikes, 20 * ON_TIMES, dt) + readout, spikes, run, x


def exactly(net):
    times = TIMES.clone().requires_grad_()
    found = sl.exact.simulate(sl.exact.from_layers(net), times, CHANNELS, duration=DURATION)
    hidden = found.neurons < 3
    on_times = (found.times[hidden] * ON_TIMES[found.neurons[hidden]]).sum()
    (20 * on_times + 30 * (found.integral[3:] * ON_READOUT).sum()).backward()
    return int(hidden.sum()), gradients(net), times.grad


def gradients(net):
    return {name: p.grad.double() for name, p in net.named_parameters()}


CASES = {
    "feed-forward": {"recurrent": False, "seed": 1},
    "recurrent, adaptive": {"adaptive": True, "seed": 3},
    "refractory": {"refractory": 2e-3, "seed": 1},
    "subtract, adaptive": {"adaptive": True, "reset": "subtract", "seed": 2},
    "equal time constants": {"equal": True, "refractory": 1e-3, "seed": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_converge_to_the_exact_ones(case):
    spikes, expected, at_inputs = exactly(network(1e-4, **CASES[case]))
    assert spikes >= 9
    errors = []
    for dt in (1e-4, 5e-5, 2.5e-5, 1.25e-5):
        net = network(dt, **CASES[case])
        loss, fired, run, x = on_grid(net, dt, engine="cpu")
        assert int(fired.sum()) == spikes == run.counts["0"]["spikes"]
        loss.backward()
        found = gradients(net)
        assert found.keys() == expected.keys()
        error = {name: float((found[name] - g).norm() / g.norm()) for name, g in expected.items()}
        arrived = x.grad[(TIMES / dt).round().long(), 0, CHANNELS]
        error["input times"] = float((arrived - at_inputs).norm() / at_inputs.norm())
        assert not x.grad[x.detach() == 0].any()
        errors.append(error)
    assert max(errors[-1].values()) < 0.05, errors[-1]
    total = [sum(e.values()) for e in errors]
    order = math.log2(total[0] / total[-1]) / 3
    assert 0.6 < order < 1.5, f"first order in dt, up to the luck of rounding: {order}, {total}"


@pytest.mark.parametrize("case", ["recurrent, adaptive", "refractory"])
def test_engines_agree(case):
    found = {}
    for engine in set(ENGINES) - {"gpu"}:
        net = network(1e-4, **CASES[case])
        loss, spikes, run, x = on_grid(net, 1e-4, engine)
        loss.backward()
        assert set(run.engines.values()) == {engine}
        found[engine] = [spikes.detach(), x.grad, *gradients(net).values()]
    for a, b in zip(found["eager"], found["cpu"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def small(kind=sl.CubaLIF, inputs=6, neurons=5, **more):
    torch.manual_seed(3)
    layer = sl.Layer(nn.Linear(inputs, neurons, bias=False, dtype=torch.float64), kind(neurons, **more))
    nn.init.normal_(layer.connection.weight, 2.0, 1.0)
    return layer


def rasters(steps=60, batch=3, inputs=6, density=0.05):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(steps, batch, inputs, generator=generator) < density).double()


def first_times(output):
    return sl.decoding.first_spike_time(output, 1e-3, gradient="event").sum()


def test_a_membrane_readout_is_differentiated_as_by_backpropagation():
    # A neuron that never fires has one gradient, whatever the rule.
    layer, x = small(sl.CubaLI, learn=("tau_mem", "tau_syn", "bias", "v_init"), bias=0.1), rasters()
    weight = torch.randn(60, 3, 5, dtype=torch.float64)
    found = []
    for rule in (sl.BPTT(), sl.EventProp()):
        layer.zero_grad()
        run = sl.run(layer, x, gradient=rule, record="i")
        ((run.output * weight).sum() + (run.records["i"] ** 2).sum() + run.state.neuron.v.sum()).backward()
        found.append([p.grad.clone() for p in layer.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_samples_of_different_lengths_are_those_samples_alone():
    x, lengths = rasters(), torch.tensor([60, 31, 0])
    layer = small(reset="zero", learn=("tau_mem", "v_init")).double()
    run = sl.run(layer, x, lengths=lengths, gradient=sl.EventProp(), record="v")
    (first_times(run.output) + run.records["v"].sum() + run.state.neuron.v.sum()).backward()
    together = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    for b, length in enumerate(lengths.tolist()):
        run = sl.run(layer, x[:length, b : b + 1], gradient=sl.EventProp(), record="v")
        loss = run.state.neuron.v.sum() + run.records["v"].sum()
        if length:
            loss = loss + first_times(run.output)
        loss.backward()
    for a, p in zip(together, layer.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_state_carries_gradients_to_the_run_before(recurrent):
    x = rasters()
    found = []
    for cuts in ([0, 60], [0, 23, 60]):
        layer = small(reset="zero", learn=("tau_mem", "tau_syn")).double()
        if recurrent:
            back = nn.Linear(5, 5, bias=False, dtype=torch.float64)
            nn.init.normal_(back.weight, 0.3, 0.5)
            layer = sl.Layer(layer.connection, layer.neuron, back)
        state, outputs = None, []
        for a, b in itertools.pairwise(cuts):
            run = sl.run(layer, x[a:b], state, gradient=sl.EventProp())
            state = run.state
            outputs.append(run.output)
        output = torch.cat(outputs)
        (TimeLoss.apply(output, torch.ones(5, dtype=torch.float64), 1e-3) + state.neuron.v.sum()).backward()
        found.append([output.detach(), *(p.grad for p in layer.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_events_dense_input_convolutions_and_stacks_agree():
    # The same matrix as Linear, as Linear behind Flatten (the general way), as a convolution, and fed with events.
    x, found = rasters(), []
    layer = small()
    weight = layer.connection.weight.detach()
    linear = nn.Sequential(nn.Flatten(), nn.Linear(6, 5, bias=False, dtype=torch.float64))
    conv = nn.Sequential(nn.Conv1d(6, 5, 1, bias=False, dtype=torch.float64), nn.Flatten())
    with torch.no_grad():
        linear[1].weight.copy_(weight)
        conv[0].weight.copy_(weight[..., None])
    dense = x.clone().requires_grad_()
    for module, given in (
        (layer.connection, dense),
        (layer.connection, sl.Events.from_dense(x)),
        (linear, dense),
        (conv, dense[..., None]),
    ):
        module.zero_grad()
        dense.grad = None
        first_times(sl.run(sl.Layer(module, layer.neuron), given, gradient=sl.EventProp()).output).backward()
        parameter = next(module.parameters())
        found.append((parameter.grad.reshape(5, 6).clone(), None if dense.grad is None else dense.grad.clone()))
    for weights, times in found:
        torch.testing.assert_close(weights, found[0][0], rtol=1e-9, atol=1e-12)
        if times is not None:
            torch.testing.assert_close(times, found[0][1], rtol=1e-9, atol=1e-12)
    assert found[0][0].any() and found[0][1].any() and not found[0][1][x == 0].any()


def test_a_general_recurrent_module_is_the_matrix_that_it_stands_for():
    x, found = rasters(), []
    matrix = torch.randn(5, 5, dtype=torch.float64) * 0.5
    for general in (False, True):
        inner = nn.Linear(5, 5, bias=False, dtype=torch.float64)
        back = nn.Sequential(inner, nn.Identity()) if general else inner
        with torch.no_grad():
            inner.weight.copy_(matrix)
        layer = sl.Layer(small().connection, small().neuron, back)
        first_times(sl.run(layer, x, gradient=sl.EventProp()).output).backward()
        found.append((layer.connection.weight.grad, inner.weight.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert found[0][1].any()


def test_what_is_kept_is_of_the_order_of_the_spikes():
    def kept(x):
        layers = [sl.Layer(nn.Linear(a, b, bias=False), sl.CubaLIF(b, learn="tau_mem")) for a, b in ((20, 50), (50, 4))]
        net = sl.Sequential(*layers)
        nn.init.constant_(net[0].connection.weight, 2.0)
        nn.init.constant_(net[1].connection.weight, 0.5)
        sizes = []

        def count(tensor):
            if not isinstance(tensor, nn.Parameter) and tensor.untyped_storage().data_ptr() not in seen:
                sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        seen = {x.untyped_storage().data_ptr()}
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            run = sl.run(net, x, gradient=sl.EventProp())
        spikes = sum(c["spikes"] for c in run.counts.values()) + int(x.sum())
        return sum(sizes), spikes, run

    short, long = torch.zeros(200, 8, 20), torch.zeros(2000, 8, 20)
    short[::40, :, :10] = long[:200:40, :, :10] = 1
    kept(short), kept(long)  # break-even densities are measured once, with products of their own
    (a, spikes, _), (b, same, run) = kept(short), kept(long)
    assert spikes == same > 500
    assert b == a, "silent steps cost nothing"
    assert a < 60 * spikes + 20_000
    dense = 2000 * 8 * 54 * 4
    assert b < dense / 10
    first_times(run.output).backward()


def test_clamped_spikes_are_counted():
    # One input of weight w: V peaks at w q^(-q/(q-1)); a little above the threshold it is grazed.
    peak = 4 ** (-4 / 3)
    counts = {}
    for excess in (1.00002, 2.0):
        layer = small(inputs=1, neurons=1, dt=1e-5)
        nn.init.constant_(layer.connection.weight, excess / peak)
        x = torch.zeros(2000, 1, 1, dtype=torch.float64)
        x[0] = 1
        run = sl.run(layer, x, gradient=sl.EventProp(epsilon=0.05))
        sl.decoding.first_spike_time(run.output, 1e-5, gradient="event").sum().backward()
        counts[excess] = run.counts[""] if "" in run.counts else next(iter(run.counts.values()))
        largest = 4e-3 * 20e-3 / (0.05 * 1e-3)
        assert layer.connection.weight.grad.abs().max() < largest
    assert counts[1.00002]["clamped"] >= 1 and counts[2.0]["clamped"] == 0


def test_counts_are_drawn_to_their_target():
    x, counts = rasters(steps=100, density=0.1), []
    for target in (2.0, 12.0):
        layer = small(reset="zero")
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
        rule = sl.EventProp(spike_count=target, spike_count_strength=1.0)
        for _ in range(60):
            optimiser.zero_grad()
            run = sl.run(layer, x, gradient=rule)
            (0.0 * first_times(run.output)).backward()
            optimiser.step()
        counts.append(float(run.output.detach().sum(0).mean()))
    assert counts[0] < 4 and counts[1] > 8


def test_silent_neurons_wake():
    layer, x = small(reset="zero"), rasters()
    nn.init.constant_(layer.connection.weight, 0.3)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        run = sl.run(layer, x, gradient=sl.EventProp(), record=("v", "spikes"))
        if _ == 0:
            assert not run.output.any()
        sl.regularizers.silence(run.records["v"], run.output, v_th=1.0).backward()
        optimiser.step()
    assert (run.output.sum(0) > 0).all()


def test_order_is_learned_without_gradients_where_none_are_needed():
    layer, x = small(), rasters()
    with torch.no_grad():
        run = sl.run(layer, x, gradient=sl.EventProp())
    assert not run.output.requires_grad
    assert torch.equal(run.output, sl.run(layer, x).output.detach())


class Odd(sl.CubaLIF):
    """A neuron whose step is its own."""

    @staticmethod
    def step(c, z, x, fire):
        s, v = fire(c.beta * z.v + x.impulse, c.v_th)
        return s, {"i": z.i, "v": v}


def linear(inputs=6, outputs=5):
    return nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: sl.Layer(linear(), sl.LIF(5)), "no adjoint of LIF: it needs a synaptic current"),
        (lambda: sl.Layer(linear(), Odd(5)), "no adjoint of Odd"),
        (lambda: sl.Layer(linear(), sl.CubaLIF(5, reset="none")), "reset='none'; write 'subtract' or 'zero'"),
        (lambda: sl.Layer(linear(), sl.CubaLIF(5, max_spikes=2)), "max_spikes=2"),
        (lambda: sl.Layer(linear(), sl.CubaLIF(5, noise=0.1)), "has noise; leave noise= out"),
        (lambda: sl.Layer(linear(), sl.CubaLIF(5), port="current"), "is fed at: current"),
        (lambda: sl.Layer(linear(), sl.CubaLI(5), linear(5)), "CubaLI never fires"),
        (lambda: sl.Layer(nn.Sequential(linear(), nn.ReLU()), sl.CubaLIF(5)), "linear connection.*got ReLU"),
        (lambda: sl.Layer(nn.Sequential(nn.Sequential(linear(), nn.Dropout())), sl.CubaLIF(5)), "got Dropout"),
        (lambda: sl.Layer(linear(), sl.CubaLIF(5), nn.Sequential(linear(5), nn.Tanh())), "got Tanh"),
        (
            lambda: sl.Sequential(sl.Layer(linear(), sl.CubaLIF(5)), linear(5, 5), sl.CubaLIF(5)),
            "a module with parameters has changed.*sl.Layer",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        sl.run(layer(), rasters(), gradient=sl.EventProp())


def test_a_count_has_no_gradient():
    run = sl.run(small(), rasters(), gradient=sl.EventProp())
    with pytest.raises(RuntimeError, match="a gradient of places without a spike"):
        run.output.sum().backward()


def test_pooling_belongs_to_the_next_layers_connection():
    first, last = sl.Layer(nn.Conv2d(1, 2, 3), sl.CubaLIF(v_th=0.1)), [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(18, 2)]
    nn.init.constant_(first.connection.weight, 0.3)
    x = (torch.rand(20, 2, 1, 8, 8) < 0.2).float()
    within = sl.Sequential(first, sl.Layer(nn.Sequential(*last), sl.CubaLI()))
    sl.run(within, x, gradient=sl.EventProp()).output.sum().backward()
    assert first.connection.weight.grad.any()
    apart = sl.Sequential(first, *last[:2], sl.Layer(last[2], sl.CubaLI()))
    with pytest.raises(RuntimeError, match="AvgPool2d, belongs to the next layer's connection"):
        sl.run(apart, x, gradient=sl.EventProp()).output.sum().backward()


def test_dropout_between_layers_is_allowed():
    net = sl.Sequential(small(), sl.Dropout(0.5), sl.Layer(linear(5, 2), sl.CubaLI(2)))
    sl.run(net, rasters(), gradient=sl.EventProp()).output.sum().backward()
    assert net[0].connection.weight.grad.any()


@pytest.mark.parametrize("given", [{"epsilon": 0.0}, {"spike_count": -1.0}, {"spike_count_strength": math.inf}])
def test_settings_out_of_range(given):
    with pytest.raises(ValueError, match=r"EventProp got \w+=.*; expected a number above 0"):
        sl.EventProp(**given)
