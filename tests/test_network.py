"""Layers, Sequential and run: composition, state, lengths, records, sentences."""

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

import spikeloom as sl
from tables import layer, raster


def small(**more):
    return sl.Sequential(sl.Layer(nn.Linear(4, 3), sl.LIF(3, v_th=0.3)), sl.Layer(nn.Linear(3, 2), sl.LI(2)), **more)


class Block(nn.Module):
    """A user's module that calls layers and returns its output alone."""

    def __init__(self):
        super().__init__()
        self.first = sl.Layer(nn.Linear(4, 3), sl.LIF(3, v_th=0.3))
        self.second = sl.Layer(nn.Linear(3, 2), sl.CubaLI(2))

    def forward(self, x):
        s, _ = self.first(x)
        v, _ = self.second(s * 2)
        return v


def test_sequential_is_its_layers_one_after_the_other():
    net, x = small(), torch.rand(10, 5, 4)
    s, first = net[0](x)
    v, second = net[1](s)
    output, state = net(x)
    assert output.equal(v) and state[0].neuron.v.equal(first.neuron.v) and state[1].neuron.v.equal(second.neuron.v)
    assert len(net) == 2 and list(net)[1] is net[1] and net[:1](x)[0].equal(s)


def test_stateless_modules_see_time_and_batch_folded():
    net = sl.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), sl.LIF(v_th=0.2), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5),
        sl.Layer(nn.Linear(36, 5), sl.LI(5)),
    ).eval()  # fmt: skip
    x = torch.rand(6, 3, 1, 8, 8)
    output, state = net(x)
    assert output.shape == (6, 3, 5) and state[0] == () and state[2].neuron.v.shape == (3, 4, 6, 6)
    steps = torch.stack([net[1](net[0](x[t])) for t in range(6)])
    torch.testing.assert_close(net[:2](x)[0], steps)
    alone, _ = net(x[:, 1:2])
    torch.testing.assert_close(alone, output[:, 1:2])


def test_convolution_and_recurrence_compose():
    connection, back = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    subject = sl.Layer(connection, sl.CubaLIF((16, 8, 8), v_th=0.05), back)
    spikes, state = subject(torch.rand(5, 2, 3, 8, 8))
    assert spikes.shape == (5, 2, 16, 8, 8) and state.feedback.equal(spikes[-1]) and spikes.mean() > 0


def test_dropout_shared_over_time():
    x = torch.ones(20, 50, 8)
    shared, fresh = sl.Dropout(0.25), sl.Dropout(0.25, shared_over_time=False)
    y = shared(x)
    assert (y == y[0]).all() and abs(y.mean() - 1) < 0.1 and y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert not (fresh(x) == fresh(x)[0]).all()
    assert shared.eval()(x).equal(x) and shared.train()(x[:0]).shape == (0, 50, 8)
    net = sl.Sequential(sl.Dropout(0.5), sl.LI(8, tau_mem=1e-3))
    v = net(x)[0]
    assert ((v[-1] == 0) == (v[0] == 0)).all() and (v[-1] == 0).any()
    with pytest.raises(ValueError, match=r"Dropout got p=1; expected 0 <= p < 1"):
        sl.Dropout(1)


@pytest.mark.parametrize("self_connections", [True, False])
def test_recurrence_with_and_without_self_connections(self_connections):
    back = nn.Linear(3, 3, bias=False)
    back.weight.data = torch.tensor([[9.0, 0, 0], [1, 9, 0], [0, 0, 9]])
    subject = sl.Layer(None, sl.IF(3, reset="zero"), back, self_connections=self_connections)
    x = torch.zeros(3, 1, 3)
    x[0, 0, 0] = 1.5
    run = sl.run(subject, x, record=("input", "spikes"))
    expected = [9.0, 1, 0] if self_connections else [0.0, 1, 0]
    assert run.records["input"][1, 0].tolist() == expected
    run.records["input"].sum().backward()
    assert (back.weight.grad.diagonal() == 0).all() != self_connections


class Leaky(nn.Module):
    """A connection with memory: a first-order filter."""

    def initial_state(self, x):
        return torch.zeros_like(x[0])

    def forward(self, x, state):
        y = []
        for row in x.unbind(0):
            state = 0.9 * state + row
            y.append(state)
        return torch.stack(y), state


def test_connections_with_memory_are_threaded():
    net = sl.Sequential(Leaky(), sl.Layer(Leaky(), sl.LI(3), Leaky()))
    x = torch.rand(12, 2, 3)
    whole, end = net(x)
    first, state = net(x[:5])
    second, last = net(x[5:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(last[1].connection["impulse"], end[1].connection["impulse"])
    torch.testing.assert_close(last[1].recurrent, end[1].recurrent)
    with pytest.raises(ValueError, match="does not reach into a connection with memory"):
        sl.run(net, x, lengths=torch.tensor([3, 12]))


def test_several_ports():
    ports = {"impulse": nn.Linear(4, 3), "current": nn.Linear(4, 3)}
    subject = sl.Layer(ports, sl.LI(3, tau_mem=2e-3))
    x = torch.rand(1, 2, 4)
    beta = torch.exp(torch.tensor(-0.5))
    expected = beta * ports["impulse"](x) + (1 - beta) * ports["current"](x)
    torch.testing.assert_close(subject(x)[0], expected)
    separate, _ = subject({"impulse": x, "current": 2 * x})
    torch.testing.assert_close(separate, beta * ports["impulse"](x) + (1 - beta) * ports["current"](2 * x))
    plain = sl.Layer(None, sl.LI(3, tau_mem=2e-3), port="current")
    y = torch.rand(1, 2, 3)
    torch.testing.assert_close(plain(y)[0], (1 - beta) * y)
    both, _ = plain({"impulse": y, "current": y})
    torch.testing.assert_close(both, y)


def test_events_are_input_to_a_layer_and_a_network():
    x = (torch.rand(10, 5, 4) < 0.3).float()
    net = small()
    assert net(sl.Events.from_dense(x))[0].equal(net(x)[0])
    assert sl.Sequential(nn.Flatten(), *net)(sl.Events.from_dense(x))[0].equal(net(x)[0])
    assert net(x.bool())[0].equal(net(x)[0]) and net(x.long())[0].equal(net(x)[0])


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("name", ["CubaLIF", "LI", "ALIF"])
def test_lengths_stop_each_sample_where_it_ends(name, recurrent):
    subject, x = layer(name, recurrent=recurrent, learn="tau_mem"), raster(steps=20, batch=4)
    lengths = torch.tensor([20, 0, 7, 13])
    x[13:, 3] = torch.nan  # padding may hold anything
    run = sl.run(subject, x, lengths=lengths, record=("v", "input", "output"))
    for b, n in enumerate(lengths.tolist()):
        alone = sl.run(subject, x[:n, b : b + 1])
        torch.testing.assert_close(run.output[:n, b : b + 1], alone.output)
        assert (run.output[n:, b] == 0).all() and (run.records["input"][n:, b] == 0).all()
        torch.testing.assert_close(run.state.neuron.v[b], alone.state.neuron.v[0])
        if recurrent:
            torch.testing.assert_close(run.state.feedback[b], alone.state.feedback[0])
    run.output.sum().backward()
    assert all(p.grad.isfinite().all() for p in subject.parameters())


@pytest.mark.parametrize(
    "lengths", [[20, 3], [20, 3, 4, 21], [-1, 3, 4, 5], [1.0, 2.0, 3.0, 4.0], [True, True, True, True]]
)
def test_bad_lengths(lengths):
    with pytest.raises(ValueError, match=r"got lengths \[.*expected 4 whole numbers from 0 to 20, one a sample"):
        sl.run(layer("LIF"), raster(steps=20, batch=4), lengths=torch.tensor(lengths))


def test_records_and_what_ran():
    net, x = small(), torch.rand(10, 5, 4)
    run = sl.run(net, x, record=("v", "0.spikes", "presynaptic"))
    assert sorted(run.records) == ["0.presynaptic", "0.spikes", "0.v", "1.presynaptic", "1.v"]
    assert run.records["1.v"].equal(run.output) and run.records["0.presynaptic"] is x
    assert run.records["1.presynaptic"].equal(run.records["0.spikes"])
    assert run.engines == {"0": "cpu", "1": "cpu"} and run.dt == 1e-3
    assert "output=(10, 5, 2)" in repr(run)
    run.records["0.v"].sum().backward()
    assert net[0].connection.weight.grad.abs().sum() > 0, "records are part of the graph"


def test_a_users_module_in_a_run():
    net, x = Block(), torch.rand(12, 5, 4)
    whole = sl.run(net, x, record=("v",))
    assert whole.output.equal(net(x)) and sorted(whole.records) == ["first.v", "second.v"]
    part = sl.run(net, x[:5])
    assert sorted(part.state) == ["first", "second"]
    rest = sl.run(net, x[5:], part.state)
    torch.testing.assert_close(torch.cat([part.output, rest.output]), whole.output)
    with pytest.raises(ValueError, match=r"got states of \['typo'\], which no layer used"):
        sl.run(net, x, {"typo": part.state["first"]})


def test_a_module_that_steps_its_layer_by_hand_goes_on_under_one_path():
    class Stepped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = sl.Layer(nn.Linear(4, 3), sl.LIF(3, v_th=0.1, noise=0.3))

        def forward(self, x):
            state, y = None, []
            for row in x.split(1):
                s, state = self.inner(row, state)
                y.append(s)
            return torch.cat(y)

    net, x = Stepped(), torch.rand(12, 5, 4)
    whole = sl.run(net.inner, x, seed=1, record=("v",))
    stepped = sl.run(net, x, seed=1, record=("v",))
    assert list(stepped.engines) == ["inner"] and stepped.records["inner.v"].shape == (12, 5, 3)
    assert not whole.records["v"].equal(stepped.records["inner.v"]), "its path is another there, hence its noise"
    at_once = sl.run(sl.Sequential(OrderedDict(inner=net.inner)), x, seed=1, record=("v",))
    torch.testing.assert_close(stepped.records["inner.v"], at_once.records["inner.v"])


def test_a_layer_used_twice_has_two_states():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = sl.Layer(nn.Linear(3, 3), sl.LIF(3, v_th=0.2))

        def forward(self, x):
            return self.inner(self.inner(x)[0])[0]

    net, x = Twice(), torch.rand(12, 2, 3)
    whole, part = sl.run(net, x), sl.run(net, x[:4])
    assert sorted(part.state) == ["inner", "inner[1]"]
    torch.testing.assert_close(torch.cat([part.output, sl.run(net, x[4:], part.state).output]), whole.output)


def test_a_block_inside_a_sequential_threads_its_state():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = sl.Layer(nn.Linear(4, 4), sl.LIF(4, v_th=0.2))

        def forward(self, x, state=None):
            s, state = self.inner(x, state)
            return x + s, state

    net, x = sl.Sequential(Stateful(), sl.LI(4)), torch.rand(9, 2, 4)
    part, state = net(x[:4])
    torch.testing.assert_close(torch.cat([part, net(x[4:], state)[0]]), net(x)[0])
    with pytest.raises(
        TypeError, match=r"Block holds spiking layers and returned Tensor; write forward\(x, state=None\)"
    ):
        block = Block()
        block.forward = lambda x, state=None: Block.forward(block, x)
        sl.Sequential(block)(x)


@pytest.mark.parametrize("recurrent", [False, True])
def test_truncation_is_detaching_between_chunks(recurrent):
    subject, x = layer("CubaLIF", recurrent=recurrent, v_init=0.1, learn=("v_init", "tau_mem")), raster(steps=20)
    sl.run(subject, x, gradient=sl.BPTT(truncate=6, checkpoint=4)).output.square().sum().backward()
    found = [p.grad.clone() for p in subject.parameters()]
    subject.zero_grad()
    state = None
    for chunk in x.split(6):
        output, state = subject(chunk, state)
        output.square().sum().backward(retain_graph=True)
        state = sl.detach(state)
    torch.testing.assert_close(found, [p.grad for p in subject.parameters()])


def test_detaching_the_reset_changes_gradients_only():
    subject, x = layer("LIF", surrogate=sl.SuperSpike(1.0)), raster()
    outputs, gradients = [], []
    for reset in ("flow", "detach"):
        subject.zero_grad()
        run = sl.run(subject, x, gradient=sl.BPTT(reset=reset))
        run.output.sum().backward()
        outputs.append(run.output)
        gradients.append(subject.connection.weight.grad.clone())
    assert outputs[0].equal(outputs[1]) and not torch.allclose(gradients[0], gradients[1], rtol=0.01)
    # By hand: with the reset cut, dV_t/dw is the filtered input alone.
    trace, total, weight = torch.zeros(5, 4).double(), torch.zeros_like(gradients[1]), subject.connection.weight
    v, beta, v_th = torch.zeros(5, 3).double(), math.exp(-0.05), 0.6
    for row in x:
        v, trace = beta * (v + row @ weight.T), beta * (trace + row)
        total += torch.einsum("bn,bi->ni", subject.surrogate.derivative(v - v_th), trace)
        v = v - (v > v_th).double() * v_th
    torch.testing.assert_close(gradients[1], total)


def test_surrogate_of_a_call_overrides_the_layers():
    subject, x = layer("LIF"), raster()
    sl.run(subject, x, surrogate=sl.Custom(of_derivative=torch.zeros_like)).output.sum().backward()
    assert (subject.connection.weight.grad == 0).all()


@pytest.mark.parametrize("where", [0, 1])
def test_one_dt_for_a_network(where):
    net = small(dt=5e-4)
    assert net.dt == 5e-4 and net[0].dt == 5e-4 and net[1].neuron.dt == 5e-4
    assert sl.run(net, torch.zeros(2, 1, 4), dt=5e-4).dt == 5e-4
    with pytest.raises(ValueError, match="run got dt=0.001 s for a network with dt=0.0005 s"):
        sl.run(net, torch.zeros(2, 1, 4), dt=1e-3)
    neurons = [sl.LIF(2), sl.LIF(2)]
    neurons[where] = sl.LIF(2, dt=2e-3)
    assert sl.Sequential(*neurons).dt == 2e-3, "what one of them was given is the network's"
    with pytest.raises(ValueError, match=r"built with dt=0.002 s and stands in a network with dt=0.001 s"):
        sl.Sequential(*neurons, dt=1e-3)


LSTM = nn.LSTM(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: sl.Layer(nn.Linear(4, 3), nn.ReLU()),
            TypeError,
            "got ReLU as neuron; expected a neuron, such as sl.LIF",
        ),
        (lambda: sl.Layer(sl.LIF(3), sl.LIF(3)), TypeError, "got LIF as connection; expected a torch module"),
        (lambda: sl.Layer(nn.Linear(4, 3), sl.LIF(3), True), TypeError, "got bool as recurrent connection"),
        (lambda: sl.Layer(None, sl.LIF(3), surrogate="atan"), TypeError, "got str as surrogate; expected one such as"),
        (lambda: sl.Layer(None, sl.LIF(3), port="exc"), ValueError, "LIF has no port 'exc'; it has: impulse, current"),
        (lambda: sl.Layer(None, sl.LIF(3), self_connections=False), ValueError, "needs a recurrent nn.Linear"),
        (lambda: sl.Sequential("x"), TypeError, "got str at '0'; expected a layer, a neuron or a torch module"),
        (lambda: sl.LIF(3)(torch.rand(2, 2, 3)), TypeError, "LIF is a neuron and has no time loop; call a layer of it"),
        (lambda: small()(torch.rand(3, 4)), ValueError, r"shape \(3, 4\) for Linear; expected \[T, B, N\], 3 axes"),
        (
            lambda: small()(torch.rand(3, 2, 5)),
            ValueError,
            r"shape \(3, 2, 5\) for Linear\(4, 3\); expected \[T, B, 4\]",
        ),
        (lambda: small()(torch.rand(3)), ValueError, r"got input of shape \(3,\); expected \[T, B, ...\], time first"),
        (lambda: small()([1.0]), TypeError, "got list as input; expected a tensor"),
        (
            lambda: sl.Layer(nn.Linear(4, 3), sl.LIF(5))(torch.rand(3, 2, 4)),
            ValueError,
            r"expected \[T, B, 5\]: let the",
        ),
        (
            lambda: sl.Layer(None, sl.LIF(tau_mem=torch.full((5,), 0.02)))(torch.rand(3, 2, 1)),
            ValueError,
            "does not fit",
        ),
        (lambda: sl.Layer(LSTM, sl.LIF(3))(torch.rand(3, 2, 4)), TypeError, "LSTM returned tuple; expected a tensor"),
        (lambda: sl.Sequential(nn.Sequential(sl.LIF(3)))(torch.rand(3, 2, 3)), TypeError, "write sl.Sequential"),
        (lambda: small()(torch.rand(3, 2, 4), ()), ValueError, "got a state of 0 parts for 2 modules"),
        (lambda: small()(torch.rand(3, 2, 4), 7), ValueError, "got a state of int parts for 2 modules"),
        (
            lambda: small()(torch.rand(3, 2, 4), small()(torch.rand(3, 5, 4))[1]),
            ValueError,
            r"whose v has shape \(5, 3\)",
        ),
        (lambda: layer("LIF")(raster(), layer("ALIF")(raster())[1]), ValueError, "state of another neuron, ALIFState"),
        (
            lambda: layer("LIF", recurrent=True)(raster(), layer("LIF")(raster())[1]),
            ValueError,
            "without the last output",
        ),
        (
            lambda: layer("LIF", refractory=2)(raster(), layer("LIF")(raster())[1]),
            ValueError,
            "whose refractory has noth",
        ),
        (lambda: sl.Layer(None, sl.LIF(3))(torch.rand(3, 2, 3), 3), TypeError, "got int as state"),
        (lambda: sl.Layer(None, sl.LIF(3))({}), ValueError, "empty dictionary of inputs"),
        (lambda: sl.run(small(), torch.rand(3, 2, 4), record="w"), ValueError, "nothing to record is named 'w'"),
        (lambda: sl.run(small(), torch.rand(3, 2, 4), record="0.spike"), ValueError, "Did you mean '0.spikes'"),
        (
            lambda: sl.run(small(), torch.rand(3, 2, 4), engine="tpu"),
            ValueError,
            "engine='tpu'; this version has 'auto'",
        ),
        (lambda: sl.run(Block(), torch.rand(3, 2, 4), (1, 2)), TypeError, "got tuple as state"),
        (lambda: sl.BPTT(reset="cut"), ValueError, "reset='cut'; expected 'flow' or 'detach'"),
        (lambda: sl.BPTT(truncate=0), ValueError, "truncate=0; expected a whole number of steps"),
        (
            lambda: sl.Layer(None, sl.LIF(3), nn.Linear(3, 1))(torch.rand(3, 2, 3)),
            ValueError,
            "expected the same shape",
        ),
    ],
)
def test_mistakes_get_a_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


@pytest.mark.parametrize("gradient", ["eventprop", sl.EventProp, sl.BPTT])
def test_a_gradient_that_is_no_rule_is_refused(gradient):
    with pytest.raises(TypeError, match="expected a rule, such as sl.BPTT"):
        sl.run(sl.Layer(None, sl.LIF(3)), torch.ones(2, 1, 3), gradient=gradient)
