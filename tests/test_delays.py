"""Delays: by their definition, across calls, in the limit of a narrow Gaussian, and learned by either rule."""

import itertools
import math

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.connections import delayed as delayed_module

WAYS = [(per, width) for per in ("axon", "synapse") for width in (0.0, 2.3e-3)]


def linear(inputs=4, outputs=3, bias=False):
    return nn.Linear(inputs, outputs, bias=bias, dtype=torch.float64)


def rasters(steps=40, batch=3, inputs=4, density=0.1):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(steps, batch, inputs, generator=generator) < density).double()


def called(connection, x):
    return connection(x, connection.initial_state(x))[0]


def by_definition(connection, x):
    """y_m[t] = sum_n w_mn sum_k K_k(d_mn) x_n[t - k], one number at a time."""
    weight = connection.weight.detach()
    delay = connection.delay.detach().expand_as(weight) / connection.dt
    y = torch.zeros(*x.shape[:2], len(weight), dtype=x.dtype)
    for m, n in itertools.product(*map(range, weight.shape)):
        ks = range(connection.most + 1)
        if connection.width:
            kernel = [
                math.exp(-((k - float(delay[m, n])) ** 2) / 2 / (connection.width / connection.dt) ** 2) for k in ks
            ]
            kernel = [k / sum(kernel) for k in kernel]
        else:
            kernel = [float(k == round(float(delay[m, n]))) for k in ks]
        for k, t in itertools.product(ks, range(len(x))):
            if t >= k:
                y[t, :, m] += weight[m, n] * kernel[k] * x[t - k, :, n]
    return y if connection.connection.bias is None else y + connection.connection.bias.detach()


@pytest.mark.parametrize(("per", "width"), WAYS)
def test_spikes_arrive_after_their_delays(per, width, monkeypatch):
    connection, x = sl.Delayed(linear(bias=True), 6.4e-3, per=per, width=width), rasters()
    expected = by_definition(connection, x)
    torch.testing.assert_close(called(connection, x), expected)
    for sparse in (0.0, 1e9):  # by convolution, and event by event
        monkeypatch.setattr(delayed_module, "SPARSE", sparse)
        with torch.no_grad():
            torch.testing.assert_close(called(connection, x), expected)


def test_convolutions_have_a_delay_for_each_channel():
    conv = nn.Conv2d(2, 3, 3, dtype=torch.float64)
    connection = sl.Delayed(conv, 5e-3, initial=torch.tensor([1e-3, 3e-3])[:, None, None])
    x = torch.rand(9, 2, 2, 6, 6, dtype=torch.float64)
    late = torch.zeros_like(x)
    late[1:, :, 0], late[3:, :, 1] = x[:-1, :, 0], x[:-3, :, 1]
    torch.testing.assert_close(called(connection, x), conv(late.flatten(0, 1)).unflatten(0, (9, 2)))
    line = sl.Delayed(nn.Identity(), 5e-3, shape=(1, 6, 6), initial=2e-3, learn=False)
    torch.testing.assert_close(called(line, x)[2:], x[:-2])


@pytest.mark.parametrize(("per", "width"), WAYS)
@pytest.mark.parametrize("recurrent", [False, True])
def test_calls_in_a_row_are_one_call(per, width, recurrent):
    back = sl.Delayed(linear(3, 3), 3e-3, per=per, width=width) if recurrent else None
    net = sl.Sequential(
        sl.Layer(sl.Delayed(linear(), 6.4e-3, per=per, width=width), sl.CubaLIF(3), back),
        sl.Delayed(linear(3, 2), 4e-3, per=per, width=width),
        sl.LI(2),
    ).double()
    nn.init.constant_(net[0].connection.weight, 3.0)
    x, found = rasters().requires_grad_(), []
    for cuts in ([0, 40], [0, 3, 3, 25, 40]):
        net.zero_grad()
        x.grad, state, outputs = None, None, []
        for a, b in itertools.pairwise(cuts):
            y, state = net(x[a:b], state)
            outputs.append(y)
        y = torch.cat(outputs)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
        found.append([y.detach(), x.grad, *(p.grad for p in net.parameters())])
    for a, b in zip(*found, strict=True):
        assert a.any()
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("rule", [sl.BPTT(), sl.EventProp()], ids=["bptt", "eventprop"])
def test_samples_of_different_lengths_are_those_samples_alone(rule):
    x, lengths = rasters(), torch.tensor([40, 17, 2])
    net = sl.Sequential(
        sl.Layer(sl.Delayed(linear(), 6.4e-3, per="synapse"), sl.CubaLIF(3)),
        sl.Layer(sl.Delayed(linear(3, 2), 4e-3), sl.CubaLI(2)),
    ).double()
    nn.init.constant_(net[0].connection.weight, 3.0)
    run = sl.run(net, x, lengths=lengths, gradient=rule)
    again = sl.run(net, x, run.state, gradient=rule)
    (run.output.square().sum() + again.output.square().sum()).backward()
    together = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    for b, length in enumerate(lengths.tolist()):
        alone = sl.run(net, x[:length, b : b + 1], gradient=rule)
        torch.testing.assert_close(alone.output[:, 0], run.output[:length, b])
        more = sl.run(net, x[:, b : b + 1], alone.state, gradient=rule)
        torch.testing.assert_close(more.output[:, 0], again.output[:, b])
        (alone.output.square().sum() + more.output.square().sum()).backward()
    for a, p in zip(together, net.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


@pytest.mark.parametrize("per", ["axon", "synapse"])
def test_rounded_delays_are_the_limit_of_narrow_ones(per):
    net = sl.Sequential(sl.Layer(sl.Delayed(linear(), 6.4e-3, per=per, width=3e-3), sl.LI(3))).double()
    x, before = rasters(), net.state_dict()
    rounded = sl.round_delays(net)
    assert rounded[0].connection.width == 0 and not rounded[0].connection.parameter.learned
    assert [name for name, _ in rounded.named_parameters()] == ["0.connection.connection.weight"]
    assert net[0].connection.width == 3e-3 and all(torch.equal(a, net.state_dict()[n]) for n, a in before.items())
    steps = rounded[0].connection.delay / 1e-3
    torch.testing.assert_close(steps, (net[0].connection.delay / 1e-3).detach().round())
    errors = []
    for width in (1e-3, 1e-4, 1e-5):
        net[0].connection.width = width
        errors.append(float((net(x)[0] - rounded(x)[0]).detach().abs().max()))
    assert errors[0] > 1e-2 and errors[2] < 1e-12
    fixed = sl.Sequential(sl.Layer(sl.Delayed(linear(), 6.4e-3, per=per, learn=False), sl.LI(3))).double()
    fixed.load_state_dict(rounded.state_dict())
    assert torch.equal(fixed(x)[0], rounded(x)[0])


def test_pieces_of_time_give_the_same_gradients():
    net = sl.Sequential(sl.Layer(sl.Delayed(linear(), 6.4e-3, width=2e-3), sl.LIF(3, v_th=0.2))).double()
    found = []
    for rule in (sl.BPTT(), sl.BPTT(checkpoint="time")):
        net.zero_grad()
        sl.run(net, rasters(), gradient=rule, lengths=torch.tensor([40, 20, 3])).output.sum().backward()
        found.append([p.grad for p in net.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_recorded_is_what_set_out():
    layer, x = sl.Layer(sl.Delayed(linear(), 5e-3), sl.LIF(3).double()), rasters()
    assert sl.run(layer, x, record="presynaptic").records["presynaptic"].equal(x)


@pytest.mark.parametrize("rule", [sl.BPTT(), sl.EventProp()], ids=["bptt", "eventprop"])
@pytest.mark.parametrize("per", ["axon", "synapse"])
def test_operations_are_counted(per, rule):
    layer = sl.Layer(
        sl.Delayed(nn.Linear(4, 3), 5e-3, per=per), sl.CubaLIF(3), sl.Delayed(nn.Linear(3, 3), 2e-3, per=per)
    )
    nn.init.constant_(layer.connection.weight, 3.0)
    x = rasters().float()
    x[-5:] = 0  # whatever sets out arrives
    with sl.diagnostics.watch(layer) as report:
        fired = sl.run(layer, x, gradient=rule).output
    found = report.synaptic_operations  # per sample, of which there are 3
    assert found["connection.connection"] == float(x.sum())
    assert 0 < found["recurrent.connection"] <= float(fired.detach().sum())


def test_events_are_taken():
    layer, x = sl.Layer(sl.Delayed(nn.Linear(4, 3), 5e-3, per="synapse"), sl.LIF(3)), rasters().float()
    run = sl.run(layer, sl.Events.from_dense(x))
    torch.testing.assert_close(run.output, layer(x)[0])
    assert "does not take events" in next(iter(run.products.values()))


def test_delays_stay_in_range_whatever_an_optimiser_does():
    connection = sl.Delayed(nn.Linear(4, 3), 5e-3, per="synapse")
    with torch.no_grad():
        connection.parameter.raw.copy_(torch.tensor([1e30, -1e30, 1e3, -1e3]).expand(3, 4))
    assert bool(((connection.delay >= 0) & (connection.delay <= 5e-3)).all())
    torch.testing.assert_close(connection.delay[0, :2].detach(), torch.tensor([5e-3, 0.0], dtype=torch.float64))
    x = torch.ones(20, 1, 4)
    assert called(connection, x).isfinite().all()


def test_one_dt_for_the_network():
    connection = sl.Delayed(nn.Linear(4, 3), 6.4e-3, initial=3e-3)
    assert connection.most == 7
    sl.Sequential(sl.Layer(connection, sl.LIF(3)), dt=1e-4)
    assert (
        connection.dt == 1e-4
        and connection.most == 64
        and torch.allclose(connection.in_steps, torch.tensor(30.0).double())
    )
    with pytest.raises(ValueError, match=r"built with dt=0.0001 s and stands in a network with dt=0.001 s"):
        sl.Layer(connection, sl.LIF(3, dt=1e-3))
    given = sl.Delayed(nn.Linear(4, 3), 6e-3, dt=5e-4)
    assert sl.Layer(given, sl.LIF(3)).dt == 5e-4


def test_saved_delays_come_back():
    def net(maximum=6e-3):
        return sl.Layer(sl.Delayed(nn.Linear(4, 3), maximum, width=2e-3), sl.LIF(3))

    saved = net()
    sl.anneal_delays(saved, 0.1)
    other = net()
    other.load_state_dict(saved.state_dict())
    assert (
        torch.equal(other.connection.delay, saved.connection.delay) and other.connection.width == saved.connection.width
    )
    with pytest.raises(ValueError, match=r"saved with maximum=0.006 s, and this Delayed has 0.008 s"):
        net(8e-3).load_state_dict(saved.state_dict())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"maximum": 0.0}, "maximum=0.0; expected seconds above 0"),
        ({"maximum": 5e-3, "per": "neuron"}, "per='neuron'; expected 'axon' or 'synapse'"),
        ({"maximum": 5e-3, "width": -1.0}, "width=-1.0; expected seconds, 0 or more"),
        (
            {"maximum": 5e-3, "initial": 6e-3},
            "got values from 0.006 to 0.006; expected finite values from 0 to",
        ),
        ({"maximum": 5e-3, "initial": 0.0}, "inside, not on the bound, as it is learned"),
        ({"maximum": 5e-3, "initial": torch.ones(3)}, r"delays of shape \(3,\); expected one number or \(4,\)"),
    ],
)
def test_arguments_that_do_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        sl.Delayed(nn.Linear(4, 3), **given)


def test_what_has_no_meaning_is_refused():
    with pytest.raises(TypeError, match=r"per='synapse' with Conv1d; expected nn.Linear"):
        sl.Delayed(nn.Conv1d(2, 3, 1), 5e-3, per="synapse")
    with pytest.raises(TypeError, match=r"got Delayed; expected a connection without memory"):
        sl.Delayed(sl.Delayed(nn.Linear(4, 3), 5e-3), 5e-3)
    with pytest.raises(ValueError, match=r"cannot know the inputs of Identity; write shape="):
        sl.Delayed(nn.Identity(), 5e-3)
    connection = sl.Delayed(nn.Linear(4, 3), 5e-3, width=1e-3)
    with pytest.raises(ValueError, match=r"a Delayed inside another module; it stands outermost"):
        sl.Layer(nn.Sequential(nn.Flatten(), connection), sl.LIF(3))
    layer = sl.Layer(connection, sl.CubaLIF(3))
    with pytest.raises(ValueError, match=r"width=0.001 s, which spreads each spike; write width=0"):
        sl.run(layer, rasters().float(), gradient=sl.EventProp())
    with pytest.raises(ValueError, match=r"without memory of their own, and Delayed has one"):
        sl.run(layer, rasters().float(), gradient=sl.EProp())
    for lengths in ([6, 1], [1, 2, 3]):
        with pytest.raises(ValueError, match="got lengths .*expected 2 whole numbers from 0 to 5"):
            sl.run(layer, torch.rand(5, 2, 4), lengths=torch.tensor(lengths))
    _, state = layer(torch.rand(5, 2, 4))
    with pytest.raises(ValueError, match=r"state of shape \(5, 2, 4\); expected \(5, 3, 4\)"):
        layer(torch.rand(5, 3, 4), state)
    per_synapse = sl.Delayed(nn.Linear(4, 3), 5e-3, per="synapse")
    for wrong in (connection, per_synapse):
        with pytest.raises(ValueError, match=r"Delayed (has delays of shape \(4,\) and )?got input of \(6,\) neurons"):
            called(wrong, torch.rand(5, 2, 6))
    for done, until in ((1.5, 0.25), (0.5, 0.0)):
        with pytest.raises(ValueError, match=rf"anneal_delays got done={done}, until={until}"):
            sl.anneal_delays(layer, done, until=until)
