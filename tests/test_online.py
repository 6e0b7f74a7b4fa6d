"""Online rules: streams, states, feedback matrices, connections of all kinds, and what is refused in a sentence."""

import gc
import itertools
import weakref

import pytest
import torch
from torch import nn

import spikeloom as sl
from stacks import KAPPA, SURROGATE, assert_equal, gradients, inputs, network, weights


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


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


def test_a_saved_stream_goes_on_as_it_was(tmp_path):
    net, x, weight, found = network(), inputs(), weights(), []
    for saved in (False, True):
        run = sl.run(net, x[:20], gradient=sl.EProp(kappa=KAPPA))
        (run.output * weight[:20]).sum().backward()
        state = run.state
        if saved:
            torch.save(state, tmp_path / "state.pt")
            state = torch.load(tmp_path / "state.pt", weights_only=True)
        (sl.run(net, x[20:], state, gradient=sl.EProp(kappa=KAPPA)).output * weight[20:]).sum().backward()
        found.append(gradients(net))
    assert_equal(*found, tolerance=0)


@pytest.mark.parametrize("engine", ["eager", "cpu"])
@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (1, 1)])
def test_empty_and_single_pieces(shape, engine):
    net, state = network(), None
    for _ in range(2):
        run = sl.run(net, torch.rand(*shape, 6), state, gradient=sl.EProp(kappa=KAPPA), engine=engine, record="spikes")
        state = run.state
        assert run.output.shape == (*shape, 2)
        assert state[0].rule["impulse.weight"].shape == (2, shape[1], 4, 6)


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


class Delayed(nn.Linear):
    """A connection with memory."""

    def initial_state(self, x):
        return x[0]

    def forward(self, x, state):
        return super().forward(x), state


def lif(connection=None, neuron=None, recurrent=None):
    return sl.Layer(connection or nn.Linear(6, 4), neuron or sl.LIF(4), recurrent)


@pytest.mark.parametrize(
    ("net", "rule", "message"),
    [
        (lambda: lif(Delayed(6, 4)), sl.EProp(), "connections without memory of their own, and Delayed has one"),
        (lambda: lif(recurrent=Delayed(4, 4)), sl.RTRL(), "RTRL takes connections without memory"),
        (
            lambda: sl.Sequential(nn.Linear(6, 4), sl.LIF(4)),
            sl.EProp(),
            "a module with parameters has changed",
        ),
        (
            lambda: sl.Sequential(lif(), nn.Linear(4, 4), lif(nn.Linear(4, 4))),
            sl.EProp(),
            "make it the layer's own connection",
        ),
        (
            lambda: sl.Sequential(lif(), lif(nn.Linear(4, 4))),
            sl.EProp(feedback="random"),
            "feedback='random' sends learning signals back through a matrix B of the connection, which this Linear",
        ),
        (
            lambda: lif(nn.Sequential(nn.Linear(6, 4), nn.Dropout())),
            sl.EProp(),
            "calls a connection again in the backward pass, where Dropout would be another function",
        ),
        (
            lambda: lif(recurrent=nn.Sequential(nn.Linear(4, 4), nn.Dropout())),
            sl.EProp(),
            "calls a connection again in the backward pass, where Dropout would be another function",
        ),
        (lambda: lif(recurrent=nn.Linear(4, 4)), sl.OTTT(), "layers without a recurrent connection"),
        (lambda: lif(neuron=sl.ALIF(4)), sl.OTTT(), "which this ALIF does not allow"),
        (lambda: lif(neuron=sl.LIF(4, refractory=2)), sl.OTTT(), "without refractory period"),
        (lambda: lif(neuron=sl.LIF(4, tau_mem=torch.rand(4) + 0.01)), sl.OTTT(), "with one time constant"),
        (lambda: lif(neuron=sl.LIF(4, reset="zero")), sl.OTTT(), "reset='subtract' or 'none'"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_sentence(net, rule, message):
    with pytest.raises(ValueError, match=message):
        sl.run(net(), inputs(), gradient=rule)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sl.EProp(feedback="direct"), "EProp got feedback='direct'; expected one of 'symmetric', 'random'"),
        (lambda: sl.EProp(kappa=1.0), r"EProp got kappa=1.0; expected the filter's leak per step, 0 <= kappa < 1"),
        (lambda: sl.RTRL(kappa=20e-3 - 1), "RTRL got kappa"),
        (lambda: sl.OTTT(kappa=0.5), r"OTTT has no filter, so kappa stays 0; write EProp\(kappa=...\)"),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_feedback_matrix_is_for_linear_connections():
    with pytest.raises(TypeError, match=r"with_feedback got Conv1d; expected an nn.Linear"):
        sl.with_feedback(nn.Conv1d(1, 1, 1))
    with pytest.raises(ValueError, match=r"with_feedback got std=0; expected a number above 0"):
        sl.with_feedback(nn.Linear(1, 1), std=0)
    for std, expected in ((None, 0.1), (2.0, 2.0)):
        assert float(sl.with_feedback(nn.Linear(100, 400), std=std).feedback.detach().std()) == pytest.approx(
            expected, rel=0.03
        )


def test_a_state_that_does_not_fit_is_refused():
    conv = lif(nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 1, 3), nn.Flatten()))
    with pytest.raises(ValueError, match=r"the traces of Sequential are not carried from one run to the next"):
        sl.run(conv, inputs(), sl.run(conv, inputs(), gradient=sl.EProp()).state, gradient=sl.EProp())
    layer = lif()
    filtered = sl.run(layer, inputs(), gradient=sl.EProp(kappa=0.5)).state
    with pytest.raises(ValueError, match=r"a trace of shape \(2, 3, 4, 6\) of impulse.weight for this LIF; expected"):
        sl.run(layer, inputs(), filtered, gradient=sl.EProp())
    layer.connection.weight.requires_grad_(False)
    frozen = sl.run(layer, inputs(), gradient=sl.EProp()).state
    layer.connection.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"no trace of impulse.weight for this LIF; .* state._replace\(rule=\(\)\)"):
        sl.run(layer, inputs(), frozen, gradient=sl.EProp())
    for start, rule in ((frozen._replace(rule=()), sl.EProp()), (frozen, sl.EProp(carry=False))):
        assert sl.run(layer, inputs(), start, gradient=rule).output.requires_grad


def test_without_gradients_nothing_is_traced():
    layer = lif()
    state = sl.run(layer, inputs(), gradient=sl.EProp()).state
    with torch.no_grad():
        run = sl.run(layer, inputs(), state, gradient=sl.EProp())
    assert run.state.rule == () and torch.equal(run.output, sl.run(layer, inputs(), state).output)


def test_a_run_under_another_rule_ends_the_traces():
    net, x, weight = network(), inputs(), weights()
    rule = sl.RTRL(kappa=KAPPA)
    for middle in (sl.BPTT(), rule):
        state = sl.run(net, x[:10], gradient=rule).state
        with torch.no_grad():
            state = sl.run(net, x[10:20], state, gradient=middle).state
        (sl.run(net, x[20:], state, gradient=rule).output * weight[20:]).sum().backward()
        if middle is not rule:
            ended = gradients(net)
    assert_equal(gradients(net), ended, without=("v_init.raw",))


@pytest.mark.parametrize(
    ("neuron", "learned"),
    [
        *((sl.LIF(shape, learn="tau_mem"), "tau_mem") for shape in ((4, 5), (4, 4), (1, 5))),  # on two axes
        (sl.LI(4, learn="v_init"), "v_init"),  # alone: the first states are known to the first piece only
    ],
)
@pytest.mark.parametrize("rule", [sl.EProp(), sl.RTRL()])
def test_parameters_of_neurons_alone_learn_in_pieces_as_in_one(neuron, learned, rule):
    torch.manual_seed(0)
    x, weight = torch.rand(20, 3, *neuron.shape), torch.randn(20, 3, *neuron.shape)
    layer, raw = sl.Layer(None, neuron.double()), neuron.params[learned].raw
    found = []
    for pieces in ((0, 20), (0, 3, 4, 20)):
        layer.zero_grad()
        state = None
        for a, b in itertools.pairwise(pieces):
            run = sl.run(layer, x[a:b], state, gradient=rule)
            state = run.state
            (run.output * weight[a:b]).sum().backward()
        found.append(raw.grad.clone())
    assert found[0].any() and torch.allclose(*found, rtol=1e-12)


def test_learning_signals_pass_a_frozen_layer_in_pieces_as_in_one():
    torch.manual_seed(0)
    net, x, weight = network(), inputs(), weights()
    for layer in net[1:]:
        layer.requires_grad_(False)
    found = []
    for pieces in ((0, 40), (0, 13, 40)):
        net.zero_grad()
        state = None
        for a, b in itertools.pairwise(pieces):
            run = sl.run(net, x[a:b], state, gradient=sl.EProp())
            state = run.state
            (run.output * weight[a:b]).sum().backward()
        found.append({n: g for n, g in gradients(net).items() if n.startswith("0.connection")})
    assert_equal(*found)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("rule", [sl.EProp(), sl.EventProp()])
def test_parameters_put_in_for_one_call_are_refused(rule, frozen):
    convolution = nn.Sequential(nn.Conv1d(6, 4, 1, bias=False), nn.Flatten())
    first = sl.Layer(None, sl.CubaLIF(6, learn="tau_mem", v_th=1e-3))
    net = sl.Sequential(first, nn.Unflatten(1, (6, 1)), sl.Layer(convolution, sl.CubaLIF(4)), dt=1e-3)
    convolution.requires_grad_(not frozen)
    other = {name: p.detach().abs().requires_grad_(p.requires_grad) for name, p in net.named_parameters()}
    x = inputs()

    class Run(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return sl.run(self.net, x, gradient=rule).output

    y = torch.func.functional_call(Run(), {f"net.{n}": p for n, p in other.items()}, (x,))
    assert y.any()
    with pytest.raises(RuntimeError, match="are not those with which it ran, as under torch.func.functional_call"):
        (y * (y > 0)).sum().backward()
