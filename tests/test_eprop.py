"""Online rules: against autodiff with stopped gradients in plain torch, BPTT, the factorisation, and in chunks."""

import itertools

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.engine import ENGINES
from stacks import KAPPA, SURROGATE, assert_equal, gradients, inputs, network, weights
from tables import NEURONS, layer, raster

HERE = sorted(set(ENGINES) - {"gpu"})


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def value_of(x, way):
    """The value of x with the gradient of another tensor."""
    return x.detach() + (way - way.detach())


def reference(net, x, kappa=0.0, flow=False, feedback="symmetric"):
    """The same network in plain torch, with the gradients that the rules stop stopped one by one."""
    rows, dt = list(x), 1e-3
    for part in net:
        n, weight, bias = part.neuron, part.connection.weight, part.connection.bias
        back = weight if feedback == "symmetric" else part.connection.feedback
        beta = torch.exp(-dt / n.tau_mem)
        if not n.spiking:
            v, out = torch.zeros(len(x[0]), 2), []
            for pre in rows:
                arrived = nn.functional.linear(pre.detach(), weight, bias)
                now = beta * v.detach() + (1 - beta) * (arrived.detach() + (pre - pre.detach()) @ back.detach().T)
                v = beta * v + (1 - beta) * arrived
                out.append(v + (now - now.detach()))
            rows = out
            continue
        adapts = isinstance(n, sl.ALIF)
        rho, increment = (torch.exp(-dt / n.tau_adapt), n.increment) if adapts else (0.0, 0.0)
        v, a = n.v_init.expand(len(x[0]), 4), torch.zeros(len(x[0]), 4)
        s = filtered = torch.zeros_like(a)
        out = []
        for pre in rows:
            arrived = nn.functional.linear(pre.detach(), weight, bias)
            if part.recurrent is not None:
                arrived = arrived + part.recurrent(s.detach())
            u, threshold = beta * (v + arrived), n.v_th + rho * a
            s = SURROGATE(u - threshold)
            # The way from this step's input to this step's output, and nothing else.
            signal = beta.detach() * ((pre - pre.detach()) @ back.detach().T)
            now = SURROGATE(u.detach() + signal - threshold.detach())
            v, a = u - (s if flow else s.detach()) * n.v_th, rho * a + increment * s
            filtered = kappa * filtered + s
            out.append(value_of(s, filtered) + (now - now.detach()))
        rows = out
    return torch.stack(rows)


RULES = {
    "e-prop": (sl.EProp(), {}),
    "e-prop, filtered": (sl.EProp(kappa=KAPPA), {"kappa": KAPPA}),
    "e-prop, random": (sl.EProp(feedback="random", kappa=KAPPA), {"kappa": KAPPA, "feedback": "random"}),
    "RTRL": (sl.RTRL(kappa=KAPPA), {"kappa": KAPPA, "flow": True}),
}


@pytest.mark.parametrize("engine", HERE)
@pytest.mark.parametrize("rule", RULES)
def test_the_rule_is_autodiff_with_stopped_gradients(rule, engine):
    net = network(feedback=True)
    given, options = RULES[rule]
    expected_output = reference(net, inputs(), **options)
    (expected_output * weights()).sum().backward()
    expected = gradients(net)
    run = sl.run(net, inputs(), gradient=given, engine=engine)
    assert set(run.engines.values()) == {engine}
    assert run.output.allclose(expected_output, atol=1e-12)
    (run.output * weights()).sum().backward()
    assert_equal(gradients(net), expected, without=("feedback",))


def test_one_recurrent_layer_with_its_readout_is_e_prop_as_published():
    # Nothing is stopped but the recurrent spikes and the reset; kappa is the readout's leak.
    net = network(depth=1)
    part, last = net
    n, x = part.neuron, inputs()
    beta, rho = torch.exp(-1e-3 / n.tau_mem), torch.exp(-1e-3 / n.tau_adapt)
    v, a, y = n.v_init.expand(3, 4), torch.zeros(3, 4), torch.zeros(3, 2)
    s, out = torch.zeros(3, 4), []
    for row in x:
        u = beta * (v + part.connection(row) + part.recurrent(s.detach()))
        s = SURROGATE(u - n.v_th - rho * a)
        v, a = u - s.detach() * n.v_th, rho * a + n.increment * s
        y = KAPPA * y + (1 - KAPPA) * last.connection(s)
        out.append(y)
    ((torch.stack(out) - weights()) ** 2).sum().backward()
    expected = gradients(net)
    output = sl.run(net, x, gradient=sl.EProp(kappa=KAPPA)).output
    ((output - weights()) ** 2).sum().backward()
    assert_equal(gradients(net), expected)


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize(("rule", "reset"), [(sl.EProp(), "detach"), (sl.RTRL(), "flow")])
def test_one_layer_without_recurrence_is_backpropagation(name, rule, reset):
    # Any neuron, whole or in chunks.
    torch.manual_seed(2)
    subject = layer(name, surrogate=sl.ATan(width=0.5))
    x, weight, found = raster(30), torch.randn(30, 5, 3), []
    for cuts, given in (([0, 30], sl.BPTT(reset=reset)), ([0, 30], rule), ([0, 9, 10, 30], rule)):
        state = None
        for a, b in itertools.pairwise(cuts):
            run = sl.run(subject, x[a:b], state, gradient=given, seed=3)
            state = run.state
            (run.output * weight[a:b]).sum().backward()
        found.append(gradients(subject))
    for other in found[1:]:
        assert_equal(other, found[0])


def test_without_a_reset_e_prop_is_real_time_recurrent_learning():
    net, found = network(1), []
    net = sl.Sequential(sl.Layer(net[0].connection, sl.LIF(4, reset="none"), net[0].recurrent), net[1], dt=1e-3)
    for rule in (sl.EProp(kappa=KAPPA), sl.RTRL(kappa=KAPPA)):
        (sl.run(net, inputs(), gradient=rule).output * weights()).sum().backward()
        found.append(gradients(net))
    assert_equal(*found)


@pytest.mark.parametrize("engine", HERE)
@pytest.mark.parametrize("rule", RULES)
def test_chunks_of_any_length_are_one_run(rule, engine):
    net, (given, _) = network(feedback=True, refractory=2), RULES[rule]
    x, weight, found = inputs(), weights(), []
    for cuts in ([0, 40], [0, 1, 2, 17, 17, 40]):
        state, outputs = None, []
        for a, b in itertools.pairwise(cuts):
            run = sl.run(net, x[a:b], state, gradient=given, engine=engine)
            state = run.state
            if b > a:
                (run.output * weight[a:b]).sum().backward()
            outputs.append(run.output.detach())
        found.append((torch.cat(outputs), gradients(net), state))
    (whole, expected, end), (pieces, got, last) = found
    assert torch.equal(whole, pieces)
    assert_equal(got, expected, without=("feedback",))
    for one, other in zip(end, last, strict=True):
        assert one.rule.keys() == other.rule.keys() and one.rule
        for name in one.rule:
            torch.testing.assert_close(other.rule[name], one.rule[name], rtol=1e-10, atol=1e-12)


def test_the_total_derivative_of_spikes_times_eligibility_is_backpropagation():
    # dE/dW_ji = sum_t (dE/dz_j^t)_total e_ji^t, an identity in a recurrent network (Bellec et al. 2020, equation 1).
    net = network(depth=1, learn=False)
    hidden = sl.Layer(net[0].connection, sl.LIF(4, tau_mem=10e-3, v_th=0.8), net[0].recurrent, surrogate=SURROGATE)
    x, beta = inputs(), torch.exp(torch.tensor(-0.1))
    v = s = torch.zeros(3, 4)
    spikes = []
    for row in x:
        u = beta * (v + hidden.connection(row) + hidden.recurrent(s))
        s = SURROGATE(u - 0.8)
        s.retain_grad()
        v = u - 0.8 * s
        spikes.append(s)
    target = torch.randn(40, 3, 4)
    ((torch.stack(spikes) - target) ** 2).sum().backward()
    total, expected = torch.stack([s.grad for s in spikes]), gradients(hidden)
    run = sl.run(hidden, x, gradient=sl.EProp())
    (run.output * total).sum().backward()
    assert_equal(gradients(hidden), expected)


@pytest.mark.parametrize("engine", HERE)
def test_ottt_is_a_trace_of_the_input_times_signals_of_the_same_step(engine):
    # As the source writes it, without autograd: u = beta (u + W x), trace = beta (trace + x), dW = sum_t g_u trace^T.
    net, x, weight = network(1, recurrent=False), inputs(), weights()
    net = sl.Sequential(sl.Layer(net[0].connection, sl.LIF(4, v_th=0.7), surrogate=SURROGATE), net[1], dt=1e-3)
    (first, bias), second = net[0].connection.parameters(), net[1].connection.weight
    beta = torch.exp(torch.tensor(-1 / 20))
    u, trace, ones, filtered = (torch.zeros(3, n) for n in (4, 6, 1, 4))
    at_first, at_bias, at_second = torch.zeros_like(first), torch.zeros_like(bias), torch.zeros_like(second)
    with torch.no_grad():
        for row, g in zip(x, weight, strict=True):
            u = beta * (u + nn.functional.linear(row, first, bias))
            trace, ones = beta * (trace + row), beta * (ones + 1)
            s, psi = (u > 0.7).double(), SURROGATE.derivative(u - 0.7)
            u = u - 0.7 * s
            filtered = KAPPA * filtered + (1 - KAPPA) * s
            at_second += g.T @ filtered
            signal = psi * ((1 - KAPPA) * g @ second)
            at_first += signal.T @ trace
            at_bias += (signal * ones).sum(0)
    state = None
    for a, b in ((0, 25), (25, 40)):
        run = sl.run(net, x[a:b], state, gradient=sl.OTTT(), engine=engine)
        state = run.state
        (run.output * weight[a:b]).sum().backward()
    for p, expected in ((first, at_first), (bias, at_bias), (second, at_second)):
        torch.testing.assert_close(p.grad, expected, rtol=1e-10, atol=1e-12)
    assert state[0].rule["impulse.weight"].shape == (1, 3, 1, 6)


def test_a_loss_on_recorded_spikes_passes_by_the_filter():
    # A rate regulariser's gradient is sum_t c e_t: that of the same rule without kappa, for that layer.
    net, found = network(depth=1), []
    for kappa in (0.0, KAPPA):
        run = sl.run(net, inputs(), gradient=sl.EProp(kappa=kappa), record=("0.spikes", "0.v"))
        assert torch.equal(run.records["0.spikes"], run.records["0.spikes"].round())
        (run.records["0.spikes"].mean(0).square().sum() + run.records["0.v"].square().sum()).backward()
        found.append(gradients(net)["0.connection.weight"])
    torch.testing.assert_close(*found)
