"""Networks are plain torch modules: saving, copying, functional calls, compilation, autocast, DDP, transforms."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import spikeloom as sl
from tables import NEURONS, layer, raster


class Quiet(sl.LIF):
    """At module level, so that pickle finds it."""


def network(dt=1e-3, learn=("tau_mem", "v_th"), **more):
    net = sl.Sequential(
        sl.Layer(
            nn.Linear(4, 6),
            sl.CubaLIF(6, v_th=0.05, tau_mem=sl.LogNormal(20e-3, 0.3), learn=learn, **more),
            nn.Linear(6, 6),
        ),
        nn.BatchNorm1d(6),
        sl.Layer(nn.Linear(6, 2), sl.LI(2)),
        dt=dt,
    )
    nn.init.uniform_(net[0].connection.weight, 0.0, 0.3)  # so that it fires
    return net


def saved(obj):
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_state_dict_holds_all_there_is():
    net, x = network().eval(), torch.rand(10, 3, 4)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.rand_like(p) * 0.1)
    other = network().eval()
    assert not other(x)[0].equal(net(x)[0])
    assert str(other.load_state_dict(saved(net.state_dict()))) == "<All keys matched successfully>"
    assert other(x)[0].equal(net(x)[0]) and other[0].neuron.tau_mem.equal(net[0].neuron.tau_mem)
    fixed = network(learn=()).eval()
    fixed.load_state_dict(net.state_dict())
    assert fixed(x)[0].equal(net(x)[0]), "what was learned serves where nothing is learned"


def test_a_checkpoint_of_another_dt_or_range_is_refused():
    net = network()
    with pytest.raises(ValueError, match=r"saved at dt=0.001 s, and this CubaLIF has dt=0.0005 s; build"):
        network(dt=5e-4).load_state_dict(net.state_dict())
    narrow = sl.LIF(3, tau_mem=sl.Param(20e-3, constraint=sl.between(11e-3, 40e-3)), learn="tau_mem")
    with pytest.raises(ValueError, match="range or scale of LIF's tau_mem is not the one these parameters were saved"):
        sl.LIF(3, learn="tau_mem").load_state_dict(narrow.state_dict())


def test_a_raw_step_means_the_same_whatever_the_initial_value():
    a = sl.LIF(3, v_th=0.5, learn="v_th")
    a.params["v_th"].raw.data += 0.2
    b = sl.LIF(3, v_th=sl.Normal(1.0, 0.2), learn="v_th")
    c = sl.LIF(3, learn="v_th")
    c.load_state_dict(a.state_dict())
    assert c.v_th.equal(a.v_th) and b.params["v_th"].scale == a.params["v_th"].scale


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_compute_the_same_and_are_independent(make_copy):
    net, x = network(), torch.rand(10, 3, 4)
    twin = make_copy(net)
    assert twin(x)[0].equal(net(x)[0])
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
        twin[0].neuron.tau_mem = 5e-3
    assert not twin(x)[0].equal(net(x)[0]) and (net[0].neuron.tau_mem != 5e-3).all()


def test_states_are_pickled_and_loaded_safely():
    subject = sl.Sequential(sl.Layer(None, Quiet(3, refractory=2, noise=0.1)), nn.Flatten(), sl.LI(3))
    _, state = subject(torch.rand(4, 2, 3))
    for again in (pickle.loads(pickle.dumps(state)), saved(sl.detach(state))):
        assert type(again[0].neuron) is Quiet.state_type
        torch.testing.assert_close(again[0].neuron.v, state[0].neuron.v)
        subject(torch.rand(4, 2, 3), again)


class Seeded(nn.Module):
    """A layer whose noise is the same in every call."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return sl.run(self.inner, x, seed=1).output


@pytest.mark.parametrize("name", NEURONS)
def test_functional_call_and_func_grad(name):
    subject, x = Seeded(layer(name, learn=("v_init",), surrogate=sl.SuperSpike(1.0))), raster(10)
    parameters = {n: p.detach() for n, p in subject.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(subject, parameters, (x,)).square().sum()

    found = torch.func.grad(loss)(parameters)
    subject(x).square().sum().backward()
    for n, p in subject.named_parameters():
        torch.testing.assert_close(found[n], p.grad)
    many = torch.func.vmap(lambda w: loss({**parameters, "inner.connection.weight": w}))(
        torch.stack([parameters["inner.connection.weight"], 2 * parameters["inner.connection.weight"]])
    )
    torch.testing.assert_close(many[0], loss(parameters))


def test_per_sample_gradients_by_vmap():
    subject, x = layer("CubaLIF", surrogate=sl.SuperSpike(1.0)), raster(10)
    parameters = {n: p.detach() for n, p in subject.named_parameters()}

    def loss(parameters, row):
        return torch.func.functional_call(subject, parameters, (row.unsqueeze(1),))[0].sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 1))(parameters, x)["connection.weight"]
    for b in range(x.shape[1]):
        subject.zero_grad()
        subject(x[:, b : b + 1])[0].sum().backward()
        torch.testing.assert_close(found[b], subject.connection.weight.grad)


def test_double_backward():
    subject = layer("CubaLIF", surrogate=sl.Smooth(sl.Sigmoid(0.5)), learn=("tau_mem", "v_th")).double()
    x = torch.rand(5, 1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: subject(x)[0], (x,), fast_mode=True)


# Dynamo looks at .grad of what it traces, and warns itself of it.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiled_networks_compute_the_same():
    net = network().eval()
    compiled = torch.compile(net, backend="aot_eager")
    for steps in (4, 7):
        x = torch.rand(steps, 3, 4)
        output, state = compiled(x)
        torch.testing.assert_close(output, net(x)[0])
        torch.testing.assert_close(compiled(x, state)[0], net(x, net(x)[1])[0])
        net.zero_grad()
        output.sum().backward()
        found = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        net(x)[0].sum().backward()
        torch.testing.assert_close(found, [p.grad for p in net.parameters()])
    run = sl.run(compiled, x, record="v")
    assert sorted(run.records) == ["0.v", "2.v"]


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiling_does_not_start_again_for_each_length():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(network().eval(), backend=counter, dynamic=True)
    compiled(torch.rand(4, 3, 4))
    compiled(torch.rand(5, 3, 4))
    once = counter.frame_count
    for steps in range(6, 12):
        compiled(torch.rand(steps, 3, 4))
    assert counter.frame_count == once


def test_autocast_keeps_states_in_single_precision():
    net, x = network(), (torch.rand(20, 8, 4) < 0.5).float()
    with torch.autocast("cpu", torch.bfloat16):
        output, state = net(x)
        assert state[0].neuron.v.dtype == torch.float32 and state[0].feedback.dtype == torch.bfloat16
        output.float().square().mean().backward()
    assert output.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in net.parameters()) and net[0].connection.weight.grad.abs().sum() > 0


def test_half_precision_input_is_widened_before_any_sum():
    per_neuron, shared = (sl.LIF(50, tau_mem=t) for t in (torch.full((50,), 20e-3), 20e-3))
    x = torch.rand(50, 4, 50).bfloat16() * 3
    first, _ = sl.Layer(None, per_neuron, port="current")(x)
    second, _ = sl.Layer(None, shared, port="current")(x)
    assert first.equal(second) and first.dtype == torch.bfloat16


def _ddp(rank, world, path, results):
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world)
    net = nn.parallel.DistributedDataParallel(network())
    torch.manual_seed(10)
    x = torch.rand(10, 2 * world, 4)
    run = sl.run(net, x[:, rank * 2 : rank * 2 + 2], record="v")
    assert sorted(run.records) == ["0.v", "2.v"] and net(x[:, :2])[0].shape == (10, 2, 2)
    net(x[:, rank * 2 : rank * 2 + 2])[0].square().mean().backward()
    results[rank] = [p.grad.numpy() for p in net.parameters()] + [net.module[0].neuron.tau_mem.detach().numpy()]
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_ddp_averages_gradients_over_processes(tmp_path):
    results = torch.multiprocessing.Manager().dict()
    torch.multiprocessing.spawn(_ddp, (2, tmp_path / "meet", results), nprocs=2)
    for a, b in zip(results[0], results[1], strict=True):
        torch.testing.assert_close(torch.tensor(a), torch.tensor(b))
    assert any((torch.tensor(g) != 0).any() for g in results[0][:-1])


def test_training_lowers_a_loss_with_any_optimiser():
    x, target = raster(30, 16, dtype=torch.float32), torch.randint(2, (16,))
    net = network()
    optimiser = torch.optim.AdamW(sl.parameter_groups(net, lr=1e-2, time_constant_lr=2e-2, weight_decay=1e-4))
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(net(x)[0].amax(0), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert net[0].neuron.tau_mem.isfinite().all()
