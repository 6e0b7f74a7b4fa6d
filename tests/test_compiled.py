"""torch.compile: a layer's steps are one node of the graph, which computes what the layer does."""

import shutil
import threading

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

import spikeloom as sl
from spikeloom.network import compiled
from tables import NEURONS, layer, make, raster

pytestmark = [
    # Dynamo looks at .grad of what it traces, and warns itself of it.
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
    pytest.mark.skipif(not compiled.KNOWN, reason="layers join graphs from torch 2.13 on"),
]
WHOLE = [name for name in NEURONS if not make(name).noises]
INPUT = raster(10).float()


@pytest.fixture(autouse=True)
def _afresh():
    torch._dynamo.reset()
    counters.clear()


def compile_whole(module, **more):
    return torch.compile(module, **{"backend": "aot_eager", "fullgraph": True, **more})


def breaks():
    return sum(counters["graph_break"].values())


def gradients(module, *outputs):
    module.zero_grad()
    weights = [torch.linspace(-1, 1, o[0].numel(), dtype=o.dtype).reshape(o[0].shape) for o in outputs]
    sum((o * w).sum() for o, w in zip(outputs, weights, strict=True)).backward()
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def same(graph, plain, x=INPUT, calls=1):
    """Outputs, states and gradients, each call from the state of the one before."""
    found = []
    for module in (graph, plain):
        outputs, state = [], None
        for _ in range(calls):
            output, state = module(x, state)
            outputs.append(output)
        found.append((outputs, state, gradients(plain, *outputs)))
    torch.testing.assert_close(*found)
    assert found[1][0][0].abs().sum() > 0


@pytest.mark.parametrize("name", WHOLE)
def test_each_neuron(name):
    kind, _ = NEURONS[name]
    learn = tuple(n for n, p in kind.declared_params.items() if not p.optional)[:2]
    subject = layer(name, recurrent=WHOLE.index(name) % 2 == 0, learn=learn, dtype=torch.float32)
    same(compile_whole(subject), subject)


@pytest.mark.parametrize("options", [{}, {"refractory": 2, "reset": "zero"}, {"max_spikes": 3}, {"comparator": ">="}])
def test_states_go_on(options):
    subject = layer("LIF", recurrent=True, dtype=torch.float32, learn=("v_init", "tau_mem"), **options)
    same(compile_whole(subject), subject, calls=3)


def network():
    net = sl.Sequential(
        sl.Layer(
            nn.Linear(4, 6),
            sl.CubaLIF(6, v_th=0.05, tau_mem=sl.LogNormal(20e-3, 0.3), learn="tau_mem"),
            nn.Linear(6, 6),
        ),
        nn.BatchNorm1d(6),
        sl.Layer(nn.Linear(6, 2), sl.LI(2)),
    )
    nn.init.uniform_(net[0].connection.weight, 0.0, 0.3)  # so that it fires
    return net


def test_all_steps_are_one_node_for_any_length():
    made: list[list[str]] = []

    def keep(graph, _):
        made.append([str(node.target) for node in graph.graph.nodes])
        return make_boxed_func(graph.forward)

    net = network().eval()
    graph = compile_whole(net, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), dynamic=True)
    for steps in (5, 9, 40):
        same(graph, net, torch.rand(steps, steps + 1, 4))
    assert counters["stats"]["unique_graphs"] == 1
    assert [names.count("spikeloom.loop.default") for names in made] == [2, 0]
    assert [names.count("spikeloom.loop_backward.default") for names in made] == [0, 2]


def test_training_moves_what_it_moves_without():
    torch.manual_seed(0)
    one = network()
    torch.manual_seed(0)
    other = network()
    graph, x = compile_whole(one), torch.rand(20, 8, 4)
    for module, net in ((graph, one), (other, other)):
        optimiser = torch.optim.Adam(sl.parameter_groups(net, lr=1e-2))
        for _ in range(3):
            optimiser.zero_grad()
            module(x)[0].square().mean().backward()
            optimiser.step()
    torch.testing.assert_close(one.state_dict(), other.state_dict())


class Scaled(sl.LIF):
    """With an attribute of its own that its coefficients depend on."""

    scale = 1.0

    def coefficients(self, dt):
        found = dict(super().coefficients(dt))
        return found | {"v_th": found["v_th"] * self.scale}


CHANGES = [
    lambda layer: setattr(layer, "surrogate", sl.SuperSpike(width=3.0)),
    lambda layer: setattr(layer, "surrogate", sl.SuperSpike(width=5.0)),
    lambda layer: setattr(layer.neuron, "reset", "none"),
    lambda layer: setattr(layer.neuron, "scale", 0.5),
    lambda layer: setattr(layer.neuron, "scale", 0.25),
    lambda layer: setattr(layer.neuron, "v_th", 0.3),
    lambda layer: setattr(layer.neuron, "dt", 2e-3),
    lambda layer: layer.neuron.eval(),
]


def test_what_changes_is_seen():
    subject = sl.Layer(nn.Linear(4, 6), Scaled(6, v_th=0.6, learn="tau_mem"))
    nn.init.uniform_(subject.connection.weight, 0.0, 0.8)
    graph = compile_whole(subject)
    for change in (lambda _: None, *CHANGES):
        change(subject)
        same(graph, subject)


class Sorted(sl.LIF):
    """A step that no kernel is made of."""

    @staticmethod
    def step(c, z, x, fire):
        s, v = fire(c.beta * z.v + torch.special.zeta(x.impulse + 2.0, 2.0), c.v_th)
        return s, {"v": v}


APART = {
    "noise": lambda: sl.Layer(nn.Linear(4, 6), sl.StochasticLIF(6)),
    "delays": lambda: sl.Layer(sl.Delayed(nn.Linear(4, 6), 5), sl.LIF(6)),
    "a recurrent module": lambda: sl.Layer(nn.Linear(4, 6), sl.LIF(6), nn.Sequential(nn.Linear(6, 6), nn.Tanh())),
    "a step without a kernel": lambda: sl.Layer(nn.Linear(4, 6), Sorted(6)),
}


@pytest.mark.parametrize("what", APART)
@pytest.mark.filterwarnings("ignore:Sorted runs on the eager engine:UserWarning")
def test_what_cannot_join_runs_apart(what):
    subject = APART[what]()
    graph, found = torch.compile(subject, backend="aot_eager"), []
    for module in (graph, subject):
        torch.manual_seed(0)
        found.append(module(INPUT)[0])
    torch.testing.assert_close(*found)
    assert breaks() > 0


def test_a_run_of_a_compiled_network():
    net = network().eval()
    graph = torch.compile(net, backend="aot_eager")
    same(graph, net)
    assert breaks() == 0
    found = [sl.run(n, INPUT, record="v", lengths=torch.tensor([10, 3, 5, 0, 1])) for n in (graph, net)]
    torch.testing.assert_close(found[0].records, found[1].records)
    assert found[0].engines == {"0": "cpu", "2": "cpu"}
    assert breaks() > 0
    with pytest.raises(ValueError, match="lengths"):
        sl.run(graph, INPUT, lengths=torch.tensor([99]))
    counters.clear()
    same(graph, net)
    assert breaks() == 0


def test_mistakes_are_told_as_without():
    net = network().eval()
    graph = torch.compile(net, backend="aot_eager")
    _, state = net(INPUT[:, :2])
    with pytest.raises(ValueError, match=r"got a state whose .* expected shape \(5, 6\)"):
        graph(INPUT, state)
    with pytest.raises(TypeError, match="got str as state"):
        torch.compile(net[0], backend="aot_eager")(INPUT, "state")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    subject = sl.Layer(None, sl.CubaLIF(4, v_th=0.05))
    x = (INPUT * 3).to(dtype).requires_grad_()
    found = []
    for module in (compile_whole(subject), subject):
        y, state = module(x)
        (gradient,) = torch.autograd.grad((y * torch.arange(4)).sum(), x)
        found.append((y, state, gradient))
    torch.testing.assert_close(*found)
    assert found[0][0].dtype == dtype and found[0][0].sum() > 0


def test_autocast():
    net = network().eval()
    graph = compile_whole(net)
    with torch.autocast("cpu", torch.bfloat16):
        (found, state), (wanted, _) = graph(INPUT), net(INPUT)
    assert state[0].neuron.v.dtype == torch.float32 and found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted)


def test_ports():
    subject = sl.Layer({"exc": nn.Linear(4, 6), "inh": nn.Linear(4, 6)}, sl.CobaLIF(6))
    graph = compile_whole(subject)
    for x in (INPUT, {"exc": INPUT, "inh": 1 - INPUT}, {"exc": INPUT}):
        torch.testing.assert_close(graph(x), subject(x))


def test_gradients_of_samples():
    subject = layer("CubaLIF", dtype=torch.float32)
    parameters = {n: p.detach() for n, p in subject.named_parameters()}

    def loss(parameters, row):
        return torch.func.functional_call(subject, parameters, (row.unsqueeze(1),))[0].sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 1))
    found = torch.compile(each, backend="aot_eager")(parameters, INPUT)
    torch.testing.assert_close(found, each(parameters, INPUT))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's default backend needs a C++ compiler")
def test_with_the_default_backend():
    """Which relies on how results lie in memory."""
    net = sl.Sequential(
        nn.Conv2d(1, 4, 3), sl.LIF(), nn.AvgPool2d(2), nn.Flatten(), sl.Layer(nn.Linear(36, 3), sl.LI(3))
    )
    net = net.to(memory_format=torch.channels_last)
    same(torch.compile(net, fullgraph=True), net, torch.rand(5, 2, 1, 8, 8) * 9)
    flat = sl.Layer(None, sl.LIF(4))

    def batch_first(x):
        return flat(x.transpose(0, 1))[0].transpose(0, 1).flatten(0, 1)

    x = torch.rand(3, 12, 4) * 9
    assert torch.compile(batch_first, fullgraph=True)(x).equal(batch_first(x))


def test_many_threads_use_one_network():
    net = network().eval()
    wanted, found = net(INPUT)[0], []

    def call():
        for _ in range(20):
            found.append(sl.run(net, INPUT, engine="eager").output.equal(wanted))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80
