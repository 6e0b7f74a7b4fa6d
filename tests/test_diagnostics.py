"""Each finding on a network built to have it, none on a healthy one, and counts against counting by hand."""

import pytest
import torch
from torch import nn

import spikeloom as sl

X = (torch.rand(50, 4, 20, generator=torch.Generator().manual_seed(1)) < 0.1).float()


def network(neuron=None, readout=None, surrogate=None, gain=1.0, **layer):
    connection = nn.Linear(20, 30, bias=False)
    nn.init.normal_(connection.weight, 0.0, gain)
    first = sl.Layer(connection, neuron or sl.LIF(30, learn=("tau_mem",)), surrogate=surrogate, **layer)
    return sl.Sequential(first, readout or sl.Layer(nn.Linear(30, 2, bias=False), sl.LI(2)))


def mean_square(output):
    return (output - 1).square().mean()


def watched(net, x=X, loss=mean_square):
    with sl.diagnostics.watch(net) as report:
        output, _ = net(x)
        if loss is not None:
            loss(output).backward()
    return report


def kinds(report):
    return [(finding.path, finding.kind) for finding in report.problems]


def test_a_healthy_network_has_no_problems():
    report = watched(network(recurrent=nn.Linear(30, 30), self_connections=False))
    assert report.problems == []
    assert "no problems found" in str(report)


def test_a_layer_that_never_fires_is_silent_and_what_it_feeds_is_undriven():
    report = watched(network(sl.LIF(30, v_th=1e3)))
    assert kinds(report)[0] == ("0", "silent")
    assert "layer '0' (LIF) fired no spike in 4 samples" in str(report)
    assert "fluctuation_driven_" in report.problems[0].advice
    (readout,) = [f for f in report.problems if f.path == "1"]
    assert readout.kind == "zero gradient"
    assert "1.connection.weight got a gradient that is zero everywhere" in readout.what
    assert "mend what feeds it" in readout.advice


def test_silent_for_want_of_input_is_told_apart():
    report = watched(network(), torch.zeros_like(X))
    assert kinds(report)[0] == ("0", "silent")
    assert "Its input is all zero" in report.problems[0].advice


def test_every_layer_of_an_all_silent_network_is_named():
    net = sl.Sequential(*(sl.Layer(nn.Linear(20, 20, bias=False), sl.LIF(20, v_th=1e3)) for _ in range(3)))
    report = watched(net)
    assert [path for path, kind in kinds(report) if kind == "silent"] == ["0", "1", "2"]


@pytest.mark.parametrize("surrogate", [sl.Custom(of_derivative=torch.zeros_like), sl.Boxcar(width=1e-9)])
def test_a_surrogate_without_slope(surrogate):
    report = watched(network(surrogate=surrogate))
    assert kinds(report) == [("0", "zero gradient")]
    (finding,) = report.problems
    assert "0.connection.weight" in finding.what
    assert "0.neuron.tau_mem" in finding.what
    assert "sl.SuperSpike(width=1.0)" in finding.advice


def test_a_silent_layer_behind_a_surrogate_that_reaches_no_lower_than_the_threshold():
    report = watched(network(sl.LIF(30, v_th=1e3), surrogate=sl.ReLU()))
    assert ("0", "silent") in kinds(report)
    (finding,) = [f for f in report.problems if f.path == "0" and f.kind == "zero gradient"]
    assert "derivative is zero wherever" in finding.advice


def test_nothing_comes_back_through_a_readout_of_zeros():
    net = network()
    nn.init.zeros_(net[1].connection.weight)
    report = watched(net)
    assert kinds(report) == [("0", "zero gradient")]
    assert "None comes back to the layer's output" in report.problems[0].advice


def test_a_convolution_before_a_layer_without_slope_is_named_by_its_own_path():
    layer = sl.Layer(None, sl.LIF(), surrogate=sl.Custom(of_derivative=torch.zeros_like))
    report = watched(sl.Sequential(nn.Conv1d(1, 3, 5), layer, nn.Flatten(), nn.Linear(48, 2)), X.unsqueeze(2))
    finding = next(f for f in report.problems if f.kind == "zero gradient")
    assert finding.path == "0"
    assert "'0': 0.weight, 0.bias got a gradient that is zero" in finding.what
    assert "the layer that follows" in finding.advice


@pytest.mark.parametrize("refractory", [0, 3])
def test_a_layer_that_fires_whenever_it_can_is_saturated(refractory):
    report = watched(network(sl.LIF(30, bias=1e3, refractory=refractory)))
    assert kinds(report)[0] == ("0", "saturated")
    assert "100% of its neurons fired in nearly every step" in report.problems[0].what
    assert report.rates["0"] == pytest.approx(1000 / (1 + refractory), rel=0.05)


def test_a_share_of_dead_neurons():
    threshold = torch.ones(30)
    threshold[:27] = 1e3
    report = watched(network(sl.LIF(30, v_th=threshold), gain=3.0))
    assert kinds(report) == [("0", "dead")]
    assert "90% of its neurons never fired" in report.problems[0].what
    net = network(sl.LIF(30, v_th=threshold), gain=3.0)
    with torch.no_grad(), sl.diagnostics.watch(net, share=0.95) as report:
        net(X)
    assert report.problems == []


def test_a_dead_neuron_is_one_that_fires_in_none_of_the_passes():
    net = sl.Sequential(sl.Layer(None, sl.IF(2)))
    left = torch.tensor([2.0, 0.0]).expand(5, 1, 2)
    with torch.no_grad(), sl.diagnostics.watch(net, share=0.5) as report:
        net(left)
        net(left.flip(-1))
    assert report.problems == []
    with torch.no_grad(), sl.diagnostics.watch(net, share=0.5) as report:
        net(left)
    assert kinds(report) == [("0", "dead"), ("0", "saturated")]


def test_values_that_are_not_finite():
    x = X.clone()
    x[3, 0, 0] = torch.nan
    report = watched(network(), x)
    assert ("0", "not finite") in kinds(report)
    assert "NaN or infinite output or state" in str(report)
    (gradient,) = [f for f in report.problems if "1.connection.weight" in f.what or "0.connection.weight" in f.what]
    assert "got a gradient that is NaN or infinite" in gradient.what


def test_a_parameter_that_the_loss_does_not_depend_on():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = sl.Layer(nn.Linear(20, 30), sl.LIF(30))
            self.out = sl.Layer(nn.Linear(30, 2), sl.LI(2))

        def forward(self, x):
            return self.out(self.hidden(x)[0].detach())

    report = watched(Detached())
    assert kinds(report) == [("hidden", "no gradient")]
    assert "hidden.connection.weight, hidden.connection.bias got no gradient" in report.problems[0].what
    assert "detach()" in report.problems[0].advice


def test_a_block_without_backward_pass_and_one_that_needs_none():
    net = network()
    report = watched(net, loss=None)
    assert kinds(report) == [("", "no gradient")]
    assert "loss.backward()" in report.problems[0].advice
    with torch.no_grad():
        assert watched(net, loss=None).problems == []


def test_layers_that_were_not_called():
    with sl.diagnostics.watch(network()) as report:
        pass
    assert kinds(report) == [("0", "unused"), ("1", "unused")]


@pytest.mark.parametrize(("self_connections", "fan_out"), [(True, 30), (False, 29)])
def test_rates_and_synaptic_operations_are_those_counted_by_hand(self_connections, fan_out):
    net = network(recurrent=nn.Linear(30, 30, bias=False), self_connections=self_connections)
    with torch.no_grad():
        net[0].connection.weight[:, 0] = 0.0  # pruned: no synapses
    report = watched(net)
    spikes = net[0](X)[0]
    assert spikes.sum() > 0
    assert report.rates == {"0": pytest.approx(spikes.mean().item() / net.dt)}
    expected = {
        "0.connection": X[..., 1:].sum().item() * 30 / 4,
        "0.recurrent": spikes.sum().item() * fan_out / 4,
        "1.connection": spikes.sum().item() * 2 / 4,
    }
    assert report.synaptic_operations == pytest.approx(expected)


def test_operations_of_a_convolution_know_its_edges_and_stride():
    net = sl.Sequential(sl.Layer(nn.Conv2d(1, 3, 3, stride=2, padding=1), sl.LIF()))
    x = torch.zeros(2, 1, 1, 4, 4)
    x[0, 0, 0, 1, 1] = x[1, 0, 0, 0, 0] = 1
    with torch.no_grad():
        report = watched(net, x, loss=None)
    # (1, 1) lies in the fields of all 4 outputs, the corner (0, 0) in that of one.
    assert report.synaptic_operations == {"0.connection": 3 * (4 + 1)}


def test_rates_leave_padding_out():
    net = sl.Sequential(sl.Layer(None, sl.IF(1, bias=2e3)))
    with torch.no_grad(), sl.diagnostics.watch(net) as report:
        sl.run(net, torch.zeros(10, 2, 1), lengths=torch.tensor([10, 5]))
    assert report.rates["0"] == pytest.approx(1000)
    assert kinds(report) == [("0", "saturated")]


def test_events_and_ports_count_as_input():
    net = sl.Sequential(sl.Layer({"current": nn.Linear(20, 30)}, sl.LIF(30, v_th=1e3)))
    with torch.no_grad():
        assert "Raise its weights" in watched(net, sl.Events.from_dense(X), loss=None).problems[0].advice
        silence = sl.Events.from_dense(torch.zeros_like(X))
        assert "Its input is all zero" in watched(net, silence, loss=None).problems[0].advice
    layer = sl.Layer(None, sl.LIF(20, v_th=1e3))
    with torch.no_grad(), sl.diagnostics.watch(layer) as report:
        layer({"impulse": X})
    assert "Raise its weights" in report.problems[0].advice


def test_a_smooth_spike_is_not_counted():
    report = watched(network(sl.LIF(30), surrogate=sl.Smooth(sl.Sigmoid())))
    assert report.rates == {}
    assert report.problems == []


def test_a_layer_alone_and_one_called_step_by_step():
    layer = sl.Layer(nn.Linear(20, 30), sl.LIF(30, v_th=1e3))
    with sl.diagnostics.watch(layer) as report:
        state, loss = None, torch.zeros(())
        for x in X.split(1):
            spikes, state = layer(x, state)
            loss = loss + spikes.sum()
        loss.backward()
    assert kinds(report) == [("", "silent")]


def test_under_torch_compile():
    net = network(sl.LIF(30, v_th=1e3))
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        compiled(X)  # compiled before anything watches
    report = watched(compiled)
    assert kinds(report) == kinds(watched(net))
    assert ("0", "silent") in kinds(report)
    assert watched(compiled).synaptic_operations == watched(net).synaptic_operations


def test_under_distributed_data_parallel():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        net = network(surrogate=sl.Custom(of_derivative=torch.zeros_like))
        report = watched(nn.parallel.DistributedDataParallel(net))
        assert kinds(report) == [("0", "zero gradient")]
        assert "0.neuron.tau_mem" in report.problems[0].what
    finally:
        torch.distributed.destroy_process_group()


def test_watching_leaves_nothing_behind():
    net = network(recurrent=nn.Linear(30, 30))
    mean_square(net(X)[0]).backward()
    plain = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    report = watched(net)
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), plain))
    before = (dict(report.rates), dict(report.synaptic_operations))
    net(X)
    assert (report.rates, report.synaptic_operations) == before
    assert not any(m._forward_hooks for m in net.modules())
    assert not any(p._backward_hooks for p in net.parameters())


def test_old_gradients_do_not_hide_a_zero_one():
    net = network()
    mean_square(net(X)[0]).backward()
    assert ("0", "zero gradient") in kinds(watched(net, loss=lambda output: mean_square(output) * 0))


def test_an_error_in_the_block_comes_through_and_hooks_go():
    net = network()
    with pytest.raises(ValueError, match="expected"), sl.diagnostics.watch(net) as report:
        net(X[..., :3])
    assert kinds(report) == [("0", "unused"), ("1", "unused")]
    assert not any(m._forward_hooks for m in net.modules())


def test_bad_arguments():
    with pytest.raises(TypeError, match="watch got str; expected the network"), sl.diagnostics.watch("net"):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueError, match=r"watch got Linear, which holds no sl\.Layer"):
        sl.diagnostics.watch(nn.Linear(2, 2)).__enter__()
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"share=.*expected a part of the neurons"):
            sl.diagnostics.watch(network(), share=share).__enter__()
