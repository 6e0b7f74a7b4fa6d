"""Delays are learned: by the exact gradient, through a Gaussian, and by the difference of neighbouring steps."""

import gc
import itertools
import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom as sl
from spikeloom.connections import delayed as delayed_module
from test_delays import called, linear, rasters
from test_eventprop import CHANNELS, ON_READOUT, ON_TIMES, TIMES, TimeLoss, on_grid


@pytest.mark.parametrize("per", ["axon", "synapse"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_gradients_of_spike_times_reach_the_run_before(per, recurrent):
    layer = sl.Layer(sl.Delayed(linear(), 6.4e-3, per=per), sl.CubaLIF(3, reset="zero", learn="tau_mem"))
    nn.init.constant_(layer.connection.weight, 3.0)
    if recurrent:
        layer = sl.Layer(layer.connection, layer.neuron, sl.Delayed(linear(3, 3), 4e-3, per=per))
    net = sl.Sequential(layer, sl.Layer(sl.Delayed(linear(3, 2), 5e-3, per=per), sl.CubaLI(2))).double()
    x, found = rasters().requires_grad_(), []
    for cuts in ([0, 40], [0, 3, 25, 40]):
        net.zero_grad()
        x.grad, state, outputs, spikes = None, None, [], []
        for a, b in itertools.pairwise(cuts):
            run = sl.run(net, x[a:b], state, gradient=sl.EventProp(), record="0.spikes")
            state = run.state
            outputs.append(run.output)
            spikes.append(run.records["0.spikes"])
        y, s = torch.cat(outputs), torch.cat(spikes)
        (y.square().sum() + TimeLoss.apply(s, torch.ones(3, dtype=y.dtype), 1e-3)).backward()
        found.append([y.detach(), x.grad, *(p.grad for p in net.parameters())])
    for a, b in zip(*found, strict=True):
        assert a.any()
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("per", ["axon", "synapse"])
def test_the_gaussian_is_differentiated_as_it_is(per):
    connection = sl.Delayed(linear(), 6.4e-3, per=per, width=1.5e-3).double()
    x, raw = rasters(12, 2, density=0.3).requires_grad_(), connection.parameter.raw

    def output(x, weight, raw):
        values = {"connection.weight": weight, "params.delay.raw": raw}
        return torch.func.functional_call(connection, values, (x, torch.zeros(7, 2, 4, dtype=x.dtype)))[0]

    assert torch.autograd.gradcheck(output, (x, connection.weight, torch.randn_like(raw, requires_grad=True)))


@pytest.mark.parametrize("per", ["axon", "synapse"])
def test_whole_steps_have_the_central_difference(per):
    connection, x = sl.Delayed(linear(), 20e-3, per=per, initial=sl.Uniform(3e-3, 15e-3)).double(), rasters(60)
    smooth = torch.cos(torch.arange(60.0) / 20)[:, None, None] * torch.randn(3, 3, dtype=torch.float64)
    (called(connection, x) * smooth).sum().backward()
    slope = connection.parameter.raw.grad / (20e-3 / 4)  # per second
    difference = torch.zeros_like(slope)
    for index in itertools.product(*map(range, slope.shape)):
        for sign in (-1, 1):
            moved = sl.Delayed(connection.connection, 20e-3, per=per, initial=connection.delay.detach())
            moved.delay = connection.delay.detach() + sign * 1e-3 * F.one_hot(torch.tensor(index[-1]), 4) * (
                1 if per == "axon" else F.one_hot(torch.tensor(index[0]), 3)[:, None]
            )
            difference[index] += sign * (called(moved, x) * smooth).sum().detach() / 2e-3
    torch.testing.assert_close(slope, difference)


DURATION = 0.025


def timed(dt, per, recurrent=False, seed=1, wrap=lambda m: m):
    """Four inputs, three hidden neurons, two readouts, with delays between and within them."""
    torch.manual_seed(seed)
    first, back, second = (linear(a, b) for a, b in ((4, 3), (3, 3), (3, 2)))
    for matrix, mean, deviation in ((first, 3.5, 0.8), (back, -0.3, 0.7), (second, 0.0, 2.0)):
        nn.init.normal_(matrix.weight, mean, deviation)
    connections = [sl.Delayed(m, d, per=per) for m, d in ((first, 9.03e-3), (second, 6.07e-3), (back, 3.07e-3))]
    for connection in connections:
        connection.connection = wrap(connection.connection)
    hidden = sl.CubaLIF(3, reset="zero", learn=("tau_mem", "v_th"))
    readout = sl.CubaLI(2, tau_mem=15e-3, tau_syn=4e-3)
    layers = sl.Layer(connections[0], hidden, connections[2] if recurrent else None), sl.Layer(connections[1], readout)
    return sl.Sequential(*layers, dt=dt).double()


def gradients_on_grid(net, dt, engine="cpu"):
    """Hidden spikes of the network in steps, and its gradients."""
    loss, spikes, _, x = on_grid(net, dt, engine, DURATION)
    loss.backward()
    found = {name: p.grad.double() for name, p in net.named_parameters()}
    return int(spikes.sum()), found | {"input times": x.grad[(TIMES / dt).round().long(), 0, CHANNELS]}


def exactly(net):
    times = TIMES.clone().requires_grad_()
    found = sl.exact.simulate(sl.exact.from_layers(net), times, CHANNELS, duration=DURATION)
    hidden = found.neurons < 3
    on_times = (found.times[hidden] * ON_TIMES[found.neurons[hidden]]).sum()
    (20 * on_times + 30 * (found.integral[3:] * ON_READOUT).sum()).backward()
    gradients = {name: p.grad.double() for name, p in net.named_parameters()}
    return int(hidden.sum()), gradients | {"input times": times.grad}


@pytest.mark.parametrize(
    ("per", "recurrent", "seed", "steps"),
    [
        ("axon", False, 4, (1e-4, 5e-5, 2.5e-5)),
        ("synapse", False, 4, (1e-4, 5e-5, 2.5e-5)),
        # A recurrent connection with delays is applied step by step, in Python.
        ("axon", True, 7, (2e-4, 5e-5)),
        ("synapse", True, 0, (2e-4, 5e-5)),
    ],
)
def test_gradients_converge_to_the_exact_ones(per, recurrent, seed, steps):
    spikes, expected = exactly(timed(1e-4, per, recurrent, seed))
    assert spikes >= 9
    errors = []
    for dt in steps:
        fired, found = gradients_on_grid(timed(dt, per, recurrent, seed), dt, engine="eager" if recurrent else "cpu")
        assert fired == spikes and found.keys() == expected.keys()
        errors.append({name: float((found[name] - g).norm() / g.norm()) for name, g in expected.items()})
    assert max(errors[-1].values()) < 0.06, errors[-1]
    total = [sum(e.values()) for e in errors]
    order = math.log(total[0] / total[-1]) / math.log(steps[0] / steps[-1])
    assert 0.6 < order < 1.5, f"first order in dt, up to the luck of rounding: {order}, {total}"


def test_every_way_to_the_same_gradient(monkeypatch):
    # Event by event, by convolution, and through any module; on either engine.
    for per in ("axon", "synapse"):
        expected, found = gradients_on_grid(timed(4e-4, per, recurrent=True), 4e-4)[1], []
        monkeypatch.setattr(delayed_module, "SPARSE", 0.0)
        found.append(gradients_on_grid(timed(4e-4, per, recurrent=True), 4e-4)[1])
        monkeypatch.undo()
        found.append(gradients_on_grid(timed(4e-4, per, recurrent=True), 4e-4, engine="eager")[1])
        if per == "axon":
            found.append(
                gradients_on_grid(timed(4e-4, per, True, wrap=lambda m: nn.Sequential(m, nn.Identity())), 4e-4)[1]
            )
        for other in found:
            for a, b in zip(other.values(), expected.values(), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("delayed", [False, True])
def test_no_raster_is_kept_for_the_way_back(delayed):
    def connection(inputs, outputs):
        return sl.Delayed(linear(inputs, outputs), 4e-3, per="synapse") if delayed else linear(inputs, outputs)

    net = sl.Sequential(
        sl.Layer(connection(4, 3), sl.CubaLIF(3)), sl.Layer(connection(3, 2), sl.CubaLI(2, learn="tau_mem"))
    ).double()
    nn.init.constant_(net[0].connection.weight, 3.0)
    rasters_seen, sizes = [], []
    net[0].register_forward_hook(lambda module, args, found: rasters_seen.append(weakref.ref(found[0])))
    for steps in (100, 400):
        x = torch.cat([rasters(50), torch.zeros(steps - 50, 3, 4, dtype=torch.float64)])
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            run = sl.run(net, x, gradient=sl.EventProp())
        gc.collect()
        sizes.append(sum(kept))
        assert rasters_seen.pop()() is None, "spikes between layers live on as places"
        run.output.square().sum().backward()
        assert net[0].connection.weight.grad.any()
    assert sizes[0] == sizes[1], "silent steps cost nothing"


def test_a_delay_moves_an_exact_spike_by_itself():
    layer = sl.Layer(sl.Delayed(linear(1, 1), 10e-3, initial=3.21e-3), sl.CubaLIF(1, reset="zero"))
    nn.init.constant_(layer.connection.weight, 8.0)
    found = sl.exact.simulate(sl.exact.from_layers(layer), [0.0], [0], duration=0.03)
    layer.connection.delay = 4.44e-3
    later = sl.exact.simulate(sl.exact.from_layers(layer), [0.0], [0], duration=0.03)
    assert float((later.times[0] - found.times[0]).detach()) == pytest.approx(1.23e-3, rel=1e-9)
    later.times[0].backward()
    assert float(layer.connection.parameter.raw.grad) == pytest.approx(10e-3 / 4)  # dt/dd = 1


def in_order(samples, generator):
    """Two inputs spike 10 ms apart, from a random time on; the class is which comes first."""
    labels, onset = (torch.randint(0, high, (samples,), generator=generator) for high in (2, 10))
    x, each = torch.zeros(40, samples, 2), torch.arange(samples)
    x[onset, each, labels] = 1
    x[onset + 10, each, 1 - labels] = 1
    return x, labels


@pytest.mark.parametrize(
    ("rule", "width"),
    [(sl.EventProp(), 0.0), (sl.BPTT(), 7e-3), (sl.BPTT(), 0.0)],
    ids=["exact", "gauss", "difference"],
)
def test_order_is_detected_by_delays_alone(rule, width):
    generator = torch.Generator().manual_seed(0)
    weights = nn.Linear(2, 2, bias=False).requires_grad_(False)
    nn.init.ones_(weights.weight)
    connection = sl.Delayed(weights, 15e-3, per="synapse", initial=0.1e-3, width=width)
    net = sl.Sequential(sl.Layer(connection, sl.CubaLI(2, tau_mem=5e-3, tau_syn=2e-3)), dt=1e-3)
    test, labels = in_order(200, generator)
    before = sl.decoding.max_over_time(net(test)[0])
    assert before.std(1).max() < 1e-6, "all delays are equal, and so are the readouts"
    optimiser, steps = torch.optim.Adam(net.parameters(), lr=0.1), 50
    for step in range(steps):
        sl.anneal_delays(net, step / steps, until=0.5)
        x, target = in_order(32, generator)
        optimiser.zero_grad()
        peak = sl.decoding.max_over_time(sl.run(net, x, gradient=rule).output)
        F.cross_entropy(20 * peak, target).backward()
        optimiser.step()
    assert weights.weight.eq(1).all()
    with torch.no_grad():
        peak = sl.decoding.max_over_time(sl.round_delays(net)(test)[0])
    assert peak.argmax(1).equal(labels)


def test_delays_have_a_learning_rate_of_their_own():
    net = sl.Sequential(sl.Layer(sl.Delayed(nn.Linear(4, 3), 5e-3), sl.LIF(3, learn=("tau_mem", "v_th"))))
    groups = {g["name"]: g for g in sl.parameter_groups(net, 1e-3, 1e-2, weight_decay=0.1, delay_lr=0.3)}
    assert [groups[n]["lr"] for n in ("weights", "neuron_parameters", "time_constants", "delays")] == [
        1e-3,
        1e-3,
        1e-2,
        0.3,
    ]
    assert groups["delays"]["params"] == [net[0].connection.parameter.raw] and groups["delays"]["weight_decay"] == 0
    assert {g["name"]: g["lr"] for g in sl.parameter_groups(net, 1e-3, 1e-2)}["delays"] == 1e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("per", ["axon", "synapse"])
def test_a_gpu_gives_the_same(per, monkeypatch):
    found = []
    for device, sparse in (("cpu", 1e9), ("cuda", 1e9), ("cuda", 0.0)):
        monkeypatch.setattr(delayed_module, "SPARSE", sparse)
        for rule, width in ((sl.EventProp(), 0.0), (sl.BPTT(), 0.0), (sl.BPTT(), 2e-3)):
            net = timed(1e-3, per, recurrent=True)
            for layer in net:
                layer.connection.width = width
            net[0].recurrent.width = width
            net.to(device)
            x = rasters(60).to(device).requires_grad_()
            run = sl.run(net, x, gradient=rule, lengths=None)
            again = sl.run(net, x.detach(), run.state, gradient=rule)
            (run.output.square().sum() + again.output.square().sum()).backward()
            found.append([run.output.detach(), x.grad, *(p.grad for p in net.parameters())])
    for ours, reference in zip(found[3:], found[:3] * 2, strict=True):
        for a, b in zip(ours, reference, strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning.*")
def test_experiments_narrow_delays_as_they_train():
    pytest.importorskip("lightning")
    from spikeloom.training import Task

    net = sl.Sequential(sl.Layer(sl.Delayed(nn.Linear(4, 3), 10e-3, width=5e-3), sl.LI(3)))
    widths = []

    def anneal(network, done):
        sl.anneal_delays(network, done, until=0.5)
        widths.append((done, net[0].connection.width))

    import lightning.pytorch as lightning

    task = Task(net, lambda v, y: F.cross_entropy(v.amax(0), y), lr=0.1, anneal=anneal)
    batches = [(x, torch.zeros(4).long()) for x in rasters(20, 16).float().split(4, 1)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    lightning.Trainer(max_epochs=2, accelerator="cpu", **quiet).fit(task, loader)
    assert [round(done, 3) for done, _ in widths] == [k / 8 for k in range(8)]
    assert widths[0][1] == 5e-3 and widths[2][1] == pytest.approx(math.sqrt(5e-3 * 0.5e-3)) and widths[-1][1] == 0.5e-3
