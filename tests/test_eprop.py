"""Online rules: against autodiff with stopped gradients in plain torch, BPTT, the factorisation, and in chunks."""

import gc
import itertools
import weakref

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.engine import ENGINES
from tables import NEURONS, layer, raster

SURROGATE = sl.Triangle(width=0.8, amplitude=0.7)
HERE = sorted(set(ENGINES) - {"gpu"})
KAPPA = 0.9
READOUT_TAU = -1e-3 / torch.tensor(KAPPA, dtype=torch.float64).log()  # whose leak a step is KAPPA


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def network(depth=2, *, recurrent=True, feedback=False, readout_port="current", learn=True, refractory=0):
    """Six inputs, `depth` layers (LIF, then ALIF) of four neurons, two readouts; every parameter learns."""
    torch.manual_seed(1)
    layers, size = [], 6
    for k in range(depth):
        given = {"tau_mem": 8e-3 + 4e-3 * torch.rand(4), "v_th": 0.7 + 0.2 * torch.rand(4), "refractory": refractory}
        names = ("tau_mem", "v_th", "v_init")
        if k % 2 or depth == 1:
            given, names = given | {"tau_adapt": 30e-3, "increment": 0.3}, (*names, "tau_adapt", "increment")
            kind = sl.ALIF
        else:
            kind = sl.LIF
        first, back = nn.Linear(size, 4), nn.Linear(4, 4) if recurrent else None
        nn.init.normal_(first.weight, 0.3, 0.5)
        if feedback:
            sl.with_feedback(first)
        layers.append(sl.Layer(first, kind(4, learn=names if learn else (), **given), back, surrogate=SURROGATE))
        size = 4
    last = nn.Linear(4, 2)
    layers.append(sl.Layer(sl.with_feedback(last) if feedback else last, sl.LI(2, tau_mem=READOUT_TAU), port="current"))
    return sl.Sequential(*layers, dt=1e-3).double()


def inputs(steps=40, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, 3, 6, generator=generator) < 0.3).double()


def weights(steps=40):
    return torch.randn(steps, 3, 2, generator=torch.Generator().manual_seed(7))


def gradients(net):
    found = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad()
    return found


def assert_equal(found, expected, without=(), tolerance=1e-10):
    names = {n for n in expected if not n.endswith(without or ("-",))}
    assert names <= found.keys() and names
    for name in names:
        assert expected[name] is not None and expected[name].any(), f"{name} has no gradient to compare"
        torch.testing.assert_close(found[name], expected[name], rtol=tolerance, atol=tolerance, msg=name)


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


@pytest.mark.parametrize("name", [n for n in NEURONS if n not in ("EIF", "Izhikevich")])
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


def test_adaptive_feedback_gets_the_gradient_of_the_weight():
    net, x, weight = network(feedback=True), inputs(), weights()
    state = None
    for a, b in ((0, 13), (13, 40)):
        run = sl.run(net, x[a:b], state, gradient=sl.EProp(feedback="adaptive", kappa=KAPPA))
        state = run.state
        (run.output * weight[a:b]).sum().backward()
    found = gradients(net)
    assert found["0.connection.feedback"] is None, "no learning signal goes to the network's input"
    for k in (1, 2):
        assert torch.equal(found[f"{k}.connection.feedback"], found[f"{k}.connection.weight"])
    (sl.run(net, x, gradient=sl.EProp(feedback="random")).output * weight).sum().backward()
    assert gradients(net)["2.connection.feedback"] is None


def test_a_loss_on_recorded_spikes_passes_by_the_filter():
    # A rate regulariser's gradient is sum_t c e_t: that of the same rule without kappa, for that layer.
    net, found = network(depth=1), []
    for kappa in (0.0, KAPPA):
        run = sl.run(net, inputs(), gradient=sl.EProp(kappa=kappa), record=("0.spikes", "0.v"))
        assert torch.equal(run.records["0.spikes"], run.records["0.spikes"].round())
        (run.records["0.spikes"].mean(0).square().sum() + run.records["0.v"].square().sum()).backward()
        found.append(gradients(net)["0.connection.weight"])
    torch.testing.assert_close(*found)


def test_samples_of_different_lengths_are_those_samples_alone():
    net, x, weight, lengths = network(), inputs(), weights(), torch.tensor([40, 21, 0])
    rule = sl.EProp(kappa=KAPPA)
    (sl.run(net, x, lengths=lengths, gradient=rule, record="0.spikes").output * weight).sum().backward()
    together = gradients(net)
    for b, steps in enumerate(lengths.tolist()):
        (sl.run(net, x[:steps, b : b + 1], gradient=rule).output * weight[:steps, b : b + 1]).sum().backward()
    assert_equal(gradients(net), together)


def test_events_convolutions_and_general_recurrence():
    torch.manual_seed(4)
    x, weight = inputs(), torch.randn(40, 3, 4)
    linear, back = nn.Linear(6, 4, bias=False), nn.Linear(4, 4, bias=False)
    nn.init.normal_(linear.weight, 0.4, 0.5)
    conv, general = nn.Sequential(nn.Conv1d(6, 4, 1, bias=False), nn.Flatten()), nn.Sequential(back)
    with torch.no_grad():
        conv[0].weight.copy_(linear.weight[..., None])
    found = []
    for module, recurrent, given in (
        (linear, back, x),
        (linear, back, sl.Events.from_dense(x)),
        (conv, general, x[..., None]),
    ):
        subject = sl.Layer(module, sl.LIF(4, tau_mem=10e-3), recurrent, surrogate=SURROGATE)
        (sl.run(subject, given, gradient=sl.EProp(carry=module is linear)).output * weight).sum().backward()
        found.append((next(module.parameters()).grad.reshape(4, 6).clone(), back.weight.grad.clone()))
        subject.zero_grad()
    for pair in found[1:]:
        for a, b in zip(pair, found[0], strict=True):
            torch.testing.assert_close(a, b)


def test_self_connections_get_no_gradient():
    back = nn.Linear(4, 4, bias=False)
    subject = sl.Layer(nn.Linear(6, 4), sl.LIF(4, v_th=0.3), back, self_connections=False, surrogate=SURROGATE)
    state = None
    for a, b in ((0, 20), (20, 40)):
        run = sl.run(subject, inputs()[a:b], state, gradient=sl.EProp())
        state = run.state
        run.output.sum().backward()
    assert not back.weight.grad.diagonal().any() and back.weight.grad.any()


def test_a_stream_has_constant_memory_and_may_learn_on_its_way():
    net = network()
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3)

    def stream(chunks):
        state, sizes, outputs = None, [], []

        def count(tensor):
            sizes[-1] += tensor.numel() * tensor.element_size()
            return tensor

        for k in range(chunks):
            sizes.append(0)
            with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
                run = sl.run(net, inputs(20, seed=k), state, gradient=sl.EProp(kappa=KAPPA))
                loss = run.output.square().sum()
            state = run.state
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            outputs.append(weakref.ref(run.output))
            leaves = torch.utils._pytree.tree_leaves(state)
            assert not any(t.requires_grad for t in leaves)
            sizes[-1] += sum(t.numel() * t.element_size() for t in leaves)
        del run, loss
        gc.collect()
        assert not any(output() for output in outputs), "nothing of a chunk outlives it"
        return sizes

    sizes = stream(30)
    assert len(set(sizes[1:])) == 1, sizes
